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

// Whether the operating system may back memory with pages of 2 MiB: they save address translations, but one
// byte written may take all of it.
enum class LargePages : uint8_t { kNo, kYes };
inline constexpr size_t kLargePageBytes = 2 << 20;

// Merges the small pages of this memory into large ones now, where the operating system can (Linux 6.1) and
// at least one is there. A refusal changes the speed and nothing else. REQUIRES: whole large pages.
void MergeIntoLargePages(std::byte* data, size_t size);

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

  static Result<AlignedBuffer> Allocate(size_t size, LargePages pages = LargePages::kYes);  // kExhausted
  // A handle to memory that a pool owns; to be given back there, since nothing is freed here.
  static AlignedBuffer OfPool(std::byte* data, size_t size);
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
    std::swap(of_pool_, other.of_pool_);
  }

 private:
  std::byte* data_ = nullptr;
  size_t size_ = 0;
  bool of_pool_ = false;
};

// Bytes of this process that are in physical memory now, as the operating system counts them; 0 if it does
// not say.
uint64_t ResidentBytes();
// What the process has from the allocator and has not given back, by the allocator's own count; memory of the
// operating system's taken past it is not in it.
uint64_t AllocatedBytes();
// Bytes that can still be taken without swapping, as the operating system and the cgroup see it.
uint64_t AvailableBytes();

}  // namespace larder
