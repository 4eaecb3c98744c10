// The memory of one call.
#pragma once

#include <sys/mman.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

#include "engine/kernels.hpp"
#include "engine/program.hpp"

namespace dirprune {

// Aligned floats, zeroed, because vectors also read what lies behind an array, and NaN or denormal
// numbers there would be slow. Large buffers use huge pages if the system has them: channels are
// further apart than small pages are long, so that nearly every channel would miss the TLB.
class Buffer {
  public:
    float* ensure(std::int64_t size) {
        if (size > size_) {
            data_.reset();
            size_ = 0;
            constexpr std::size_t line = 64, page = 2 << 20;
            const auto needed = static_cast<std::size_t>(size) * sizeof(float);
            const std::size_t step = needed < page ? line : page;
            const std::size_t bytes = (needed + step - 1) / step * step;
            data_.reset(static_cast<float*>(std::aligned_alloc(step, bytes)));
            if (data_ == nullptr) throw std::bad_alloc();
#if defined(MADV_HUGEPAGE)
            if (step == page) madvise(data_.get(), bytes, MADV_HUGEPAGE);
#endif
            std::memset(data_.get(), 0, bytes);
            size_ = size;
        }
        return data_.get();
    }
    float* get() const { return data_.get(); }

  private:
    struct Free {
        void operator()(float* p) const { std::free(p); }
    };
    std::unique_ptr<float, Free> data_;
    std::int64_t size_ = 0;
};

// Floats to reserve for an array: the next one begins at a cache line, behind what vectors touch.
inline std::int64_t padded(std::int64_t size) { return (size + 15) / 16 * 16 + slack; }

struct Program::Arena {
    int batch = 1;
    std::int64_t first = 0, total = 1;  // of the images in it: their place in the batch of the call
    Buffer values, transposed;
    std::vector<Buffer> scratch;  // by thread
};

}  // namespace dirprune
