"""Products with matrices."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dirprune.deploy.graph.operators.convolution import Filters
from dirprune.deploy.graph.operators.lazy_torch import F
from dirprune.deploy.graph.operators.record import (
    EPILOGUE,
    Attributes,
    Operator,
    Shape,
    TensorShapes,
    check_rank,
    check_vectors,
)
from dirprune.deploy.graph.values import Constant

if TYPE_CHECKING:
    from dirprune.deploy.graph.builder import Builder
    from dirprune.deploy.graph.values import Arguments, Value
    from dirprune.deploy.onnx_writer import OnnxNode, Writer


def _linear_shape(x: Sequence[Shape], tensors: TensorShapes, attrs: Attributes) -> Shape:
    weight = tensors["weight"]
    check_rank(weight, 2)
    if len(x[0]) < 2 or x[0][-1] != weight[1]:
        raise ValueError(f"a weight {weight} does not fit {x[0]}")
    check_vectors(tensors, {"bias": weight[0]})
    return (*x[0][:-1], weight[0])


def _capture_linear(b: "Builder", a: "Arguments", results: Any) -> "Value":
    b.axis(a.input, -1)
    return b.add("linear", [a.input], {}, {"weight": a.weight, "bias": a.bias})


def _capture_bilinear(b: "Builder", a: "Arguments", results: Any) -> "Value":
    """Write x^T W_o y for every output o."""
    outputs, left, right = a.weight.tensor.shape
    rows = a.weight.tensor.permute(0, 2, 1).reshape(outputs * right, left).contiguous()
    b.axis(a.input1, -1)
    products = b.add("linear", [a.input1], {}, {"weight": Constant(rows)})
    ahead = b.sizes(a.input1)[:-1]
    products = b.reshape(products, (*ahead, outputs, right))
    products = b.combine("mul", [products, b.reshape(a.input2, (*ahead, 1, right))])
    y = b.reduce("sum", products, -1, False)
    return y if a.bias is None else b.combine("add", [y, a.bias])


def _write_linear(w: "Writer", n: "OnnxNode") -> None:
    if len(n.shape) == 2:
        w.add("Gemm", n.weighted_inputs, n.name, transB=1)
        return
    product = [n.inputs[0], w.add("Transpose", [n.tensors["weight"]], perm=[1, 0])]
    if "bias" in n.tensors:
        w.add("Add", [w.add("MatMul", product), n.tensors["bias"]], n.name)
    else:
        w.add("MatMul", product, n.name)


LINEAR = {
    "linear": Operator(
        _linear_shape,
        lambda x, t, a: F.linear(x[0], t["weight"], t.get("bias")),
        inputs=(1, 2),
        tensors=("weight",),
        optional_tensors=("bias",),
        optional_attrs=EPILOGUE,
        captured={"linear": _capture_linear, "bilinear": _capture_bilinear},
        onnx=_write_linear,
        channels=Filters(-1),
        epilogue=True,
    ),
}
