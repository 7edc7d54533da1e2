// Memory that direct I/O accepts.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <memory>
#include <span>

#include "base/file_system.h"

namespace larder {

// Aligned to kDirectAlign and a multiple of it; not initialised. Move only.
class DirectBuffer {
 public:
  DirectBuffer() = default;
  explicit DirectBuffer(size_t bytes) { Reserve(bytes); }

  // At least `bytes`; what it held is lost when it has to grow.
  void Reserve(size_t bytes) {
    const size_t rounded = (bytes + kDirectAlign - 1) / kDirectAlign * kDirectAlign;
    if (rounded <= size_) return;
    Release();
    data_.reset(static_cast<std::byte*>(std::aligned_alloc(kDirectAlign, rounded)));
    LARDER_CHECK(data_ != nullptr);
    size_ = rounded;
  }
  void Release() {
    data_.reset();
    size_ = 0;
  }
  std::byte* data() const { return data_.get(); }
  size_t size() const { return size_; }
  std::span<std::byte> first(size_t bytes) const { return {data_.get(), bytes}; }

 private:
  struct Free {
    void operator()(std::byte* p) const { std::free(p); }
  };
  std::unique_ptr<std::byte, Free> data_;
  size_t size_ = 0;
};

inline bool IsDirectAligned(const void* p) { return reinterpret_cast<uintptr_t>(p) % kDirectAlign == 0; }

}  // namespace larder
