// Memory for blocks. Each kind of layer has one size of block; a few freed blocks are kept for reuse, because
// a block fresh from the operating system costs a page fault every 4 KiB. What is kept counts as used.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/memory.h"
#include "base/result.h"
#include "kv/shape.h"

namespace larder {

class BlockPool {
 public:
  explicit BlockPool(const KvShape& shape);

  Result<AlignedBuffer> Take(
      int kind);  // kExhausted when the operating system refuses; contents are arbitrary
  void Return(int kind, AlignedBuffer block);

  // Bytes one block of a kind really costs: rounded up to pages or allocator slack.
  uint64_t Cost(int kind) const { return sizes_[static_cast<size_t>(kind)].cost; }
  size_t free_blocks(int kind) const { return sizes_[static_cast<size_t>(kind)].free.size(); }
  uint64_t bytes() const { return bytes_; }  // everything taken from the operating system and not given back
  uint64_t free_bytes() const;               // the part of it that is kept for reuse
  // Gives free blocks back to the operating system until at most keep[kind] of each kind are left.
  void Trim(std::span<const size_t> keep);

 private:
  struct Size {
    size_t payload = 0;
    uint64_t cost = 0;
    std::vector<AlignedBuffer> free;
  };
  std::vector<Size> sizes_;
  uint64_t bytes_ = 0;
};

// What an allocation of `size` bytes costs in physical memory.
uint64_t AllocationCost(uint64_t size);

}  // namespace larder
