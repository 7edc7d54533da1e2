// Memory for blocks. Each kind of layer has one size of block for each form, and an ObjectPool (base/pool) of
// its own for each size, whose slabs are single blocks: memory is taken and given back a block at a time, as
// the budget counts it. A few freed blocks are kept for reuse, because a block fresh from the operating
// system costs page faults. What is kept counts as used; so of rows beside a codec none are kept.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "base/memory.h"
#include "base/pool/object_pool.h"
#include "base/result.h"
#include "kv/shape.h"

namespace larder {

// A number for every kind and form.
using BlockCounts = std::array<std::array<uint64_t, kMaxKvForms>, kMaxKvKinds>;

class BlockPool {
 public:
  // For blocks of at most `limit_bytes` together.
  BlockPool(const KvShape& shape, uint64_t limit_bytes);

  // kExhausted when the operating system refuses; contents are arbitrary. The block goes back by Return and
  // before this pool ends.
  Result<AlignedBuffer> Take(int kind, KvForm form);
  void Return(int kind, AlignedBuffer block);

  // Bytes one block really costs: rounded up to pages, and its part of the pool's tables.
  uint64_t Cost(int kind, KvForm form) const { return SizeOf(kind, form).cost; }
  uint64_t CostOf(int kind, const AlignedBuffer& block) const;  // 0: it is empty
  size_t free_blocks(int kind, KvForm form) const { return SizeOf(kind, form).free; }
  uint64_t bytes() const { return bytes_; }  // everything taken from the operating system and not given back
  uint64_t free_bytes() const;               // the part of it that is kept for reuse
  // Gives free blocks back to the operating system until at most keep[kind][form] of each are left.
  void Trim(const BlockCounts& keep);
  // Of bytes(), how many lie in large pages now.
  uint64_t LargePageBytes() const;

 private:
  struct Size {
    size_t payload = 0;
    uint64_t cost = 0;
    uint32_t most = 0;                   // blocks
    size_t keep_free = 0;                // more go back to the operating system
    std::unique_ptr<ObjectPool<>> pool;  // null until the first block is taken
    size_t free = 0;                     // blocks in it that have memory and are not taken
  };
  void TrimSize(Size& size, size_t keep);
  static size_t IndexOf(int kind, KvForm form) {
    return static_cast<size_t>(kind) * kMaxKvForms + static_cast<size_t>(form);
  }
  const Size& SizeOf(int kind, KvForm form) const { return sizes_[IndexOf(kind, form)]; }
  size_t IndexOf(int kind, const AlignedBuffer& block) const;

  std::vector<Size> sizes_;  // [kind][form]
  uint64_t bytes_ = 0;
};

// What an allocation of `size` bytes costs in physical memory.
uint64_t AllocationCost(uint64_t size);

}  // namespace larder
