// Memory that is aligned for vectors and asked for in one place.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>

#include "base/result.h"

namespace larder {

inline constexpr size_t kVectorAlign = 64;

// Owns `size` bytes aligned to 64, zeroed. Move only. Large buffers come straight from the operating system
// and go back to it on destruction, so that what is freed is no longer resident.
class AlignedBuffer {
 public:
  AlignedBuffer() = default;
  ~AlignedBuffer() { Reset(); }
  AlignedBuffer(AlignedBuffer&& other) noexcept { swap(other); }
  AlignedBuffer& operator=(AlignedBuffer&& other) noexcept {
    AlignedBuffer(std::move(other)).swap(*this);
    return *this;
  }
  AlignedBuffer(const AlignedBuffer&) = delete;
  AlignedBuffer& operator=(const AlignedBuffer&) = delete;

  static Result<AlignedBuffer> Allocate(size_t size);  // kExhausted
  void Reset();

  std::byte* data() { return data_; }
  const std::byte* data() const { return data_; }
  size_t size() const { return size_; }
  template <class T>
  T* as() {
    return reinterpret_cast<T*>(data_);
  }
  template <class T>
  const T* as() const {
    return reinterpret_cast<const T*>(data_);
  }
  void swap(AlignedBuffer& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
  }

 private:
  std::byte* data_ = nullptr;
  size_t size_ = 0;
};

// Bytes of this process that are in physical memory now, as the operating system counts them; 0 if it does
// not say.
uint64_t ResidentBytes();
// Bytes that can still be taken without swapping, as the operating system and the cgroup see it.
uint64_t AvailableBytes();

}  // namespace larder
