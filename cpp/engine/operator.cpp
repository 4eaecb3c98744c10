#include "engine/operator.hpp"

#include "engine/operators/shared.hpp"

namespace dirprune {

const Operator& entry(Op op) {
    static const OperatorTable table = [] {
        OperatorTable result;
        ops::add_layers(result);
        ops::add_pointwise(result);
        ops::add_arithmetic(result);
        ops::add_normalisation(result);
        ops::add_moves(result);
        ops::add_pooling(result);
        ops::add_reductions(result);
        ops::add_resizing(result);
        ops::add_functions(result);
        ops::add_comparison(result);
        ops::add_indexing(result);
        ops::add_attention(result);
        return result;
    }();
    return table[static_cast<std::size_t>(op)];
}

}  // namespace dirprune
