// What one call works in.
#pragma once

#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

#include "engine/kernels.hpp"
#include "engine/program.hpp"

namespace dirprune {

// Aligned floats, zeroed: what vectors touch behind an array must not be slow to compute with.
class Buffer {
  public:
    float* ensure(std::int64_t size) {
        if (size > size_) {
            data_.reset();
            size_ = 0;
            const auto bytes = static_cast<std::size_t>(size) * sizeof(float);
            data_.reset(static_cast<float*>(::operator new(bytes, std::align_val_t{64})));
            std::memset(data_.get(), 0, bytes);
            size_ = size;
        }
        return data_.get();
    }
    float* get() const { return data_.get(); }

  private:
    struct Delete {
        void operator()(float* p) const { ::operator delete(p, std::align_val_t{64}); }
    };
    std::unique_ptr<float, Delete> data_;
    std::int64_t size_ = 0;
};

// Floats to keep for so many: the next array begins at a cache line, beyond what vectors touch.
inline std::int64_t padded(std::int64_t size) { return (size + 15) / 16 * 16 + slack; }

struct Program::Arena {
    int batch = 1;
    Buffer values, transposed;
    std::vector<Buffer> scratch;  // by thread
};

}  // namespace dirprune
