// Memory for blocks. Each kind of layer has one size of block, and an ObjectPool (base/pool) of its own whose
// slabs are single blocks: memory is taken and given back a block at a time, as the budget counts it. A few
// freed blocks are kept for reuse, because a block fresh from the operating system costs page faults. What is
// kept counts as used.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/memory.h"
#include "base/pool/object_pool.h"
#include "base/result.h"
#include "kv/shape.h"

namespace larder {

class BlockPool {
 public:
  // For blocks of at most `limit_bytes` together.
  BlockPool(const KvShape& shape, uint64_t limit_bytes);

  // kExhausted when the operating system refuses; contents are arbitrary. The block goes back by Return and
  // before this pool ends.
  Result<AlignedBuffer> Take(int kind);
  void Return(int kind, AlignedBuffer block);

  // Bytes one block of a kind really costs: rounded up to pages, and its part of the pool's tables.
  uint64_t Cost(int kind) const { return sizes_[static_cast<size_t>(kind)].cost; }
  size_t free_blocks(int kind) const { return sizes_[static_cast<size_t>(kind)].free; }
  uint64_t bytes() const { return bytes_; }  // everything taken from the operating system and not given back
  uint64_t free_bytes() const;               // the part of it that is kept for reuse
  // Gives free blocks back to the operating system until at most keep[kind] of each kind are left.
  void Trim(std::span<const size_t> keep);
  // Of bytes(), how many lie in large pages now.
  uint64_t LargePageBytes() const;

 private:
  struct Size {
    size_t payload = 0;
    uint64_t cost = 0;
    uint32_t most = 0;                   // blocks
    std::unique_ptr<ObjectPool<>> pool;  // null until the first block is taken
    size_t free = 0;                     // blocks in it that have memory and are not taken
  };
  void TrimSize(Size& size, size_t keep);

  std::vector<Size> sizes_;
  uint64_t bytes_ = 0;
};

// What an allocation of `size` bytes costs in physical memory.
uint64_t AllocationCost(uint64_t size);

}  // namespace larder
