#include "kv/pool.h"

#include <algorithm>
#include <utility>

#include "base/params.h"

namespace larder {
namespace {

constexpr size_t kKeepFree = 8;  // blocks of a kind; more go back to the operating system
constexpr uint64_t kMostBlocks = 1u << 30;
constexpr uint64_t kSystemPage = 4096;
constexpr uint64_t kAllocatorHeader = 64;  // for alignment and bookkeeping of what is not its own mapping

}  // namespace

uint64_t AllocationCost(uint64_t size) {
  const uint64_t unit = size >= kSystemPage ? kSystemPage : kVectorAlign;
  return (size + unit - 1) / unit * unit + kAllocatorHeader;
}

BlockPool::BlockPool(const KvShape& shape, uint64_t limit_bytes) {
  for (size_t kind = 0; kind < shape.kinds().size(); ++kind) {
    for (int form = 0; form < kMaxKvForms; ++form) {
      const size_t payload = shape.BlockBytes(static_cast<int>(kind), static_cast<KvForm>(form));
      // The pool's tables have some 30 bytes for each block that it may have.
      const uint64_t pages = (payload + kSystemPage - 1) / kSystemPage * kSystemPage;
      const uint64_t cost = pages + kAllocatorHeader;
      const uint64_t most = std::min(limit_bytes / cost + 1, kMostBlocks);
      const bool passing = shape.codec() != nullptr && static_cast<KvForm>(form) == KvForm::kRows;
      sizes_.push_back({payload, cost, static_cast<uint32_t>(most), passing ? 0 : kKeepFree, nullptr, 0});
    }
  }
}

uint64_t BlockPool::CostOf(int kind, const AlignedBuffer& block) const {
  return block.size() == 0 ? 0 : sizes_[IndexOf(kind, block)].cost;
}

size_t BlockPool::IndexOf(int kind, const AlignedBuffer& block) const {
  size_t index = IndexOf(kind, KvForm::kRows);
  const size_t end = index + kMaxKvForms;
  while (index < end && sizes_[index].payload != block.size()) ++index;
  LARDER_CHECK(block.size() > 0 && index < end);
  return index;
}

Result<AlignedBuffer> BlockPool::Take(int kind, KvForm form) {
  Size& size = sizes_[IndexOf(kind, form)];
  if (size.pool == nullptr) {
    LARDER_ASSIGN(
        size.pool,
        ObjectPool<>::Create({.object_bytes = size.payload, .max_objects = size.most, .slab_objects = 1}));
  }
  const uint32_t block = size.pool->Get();
  if (block == kNoObject)
    return Fail(ErrorKind::kExhausted, "the operating system has no {} more for a block of KV memory",
                FormatSize(size.cost));
  if (size.free > 0) {
    --size.free;
  } else {
    bytes_ += size.cost;
  }
  return AlignedBuffer::OfPool(size.pool->At(block), size.payload);
}

void BlockPool::Return(int kind, AlignedBuffer block) {
  Size& size = sizes_[IndexOf(kind, block)];
  size.pool->Put(size.pool->Find(block.data()).object);
  ++size.free;
  if (size.free > size.keep_free) TrimSize(size, size.keep_free);
}

uint64_t BlockPool::free_bytes() const {
  uint64_t sum = 0;
  for (const Size& size : sizes_) sum += size.cost * size.free;
  return sum;
}

void BlockPool::TrimSize(Size& size, size_t keep) {
  if (size.free <= keep) return;
  const uint32_t given = size.pool->Trim(static_cast<uint32_t>(size.free - keep));
  size.free -= given;
  bytes_ -= size.cost * given;
}

void BlockPool::Trim(const BlockCounts& keep) {
  for (size_t i = 0; i < sizes_.size(); ++i) TrimSize(sizes_[i], keep[i / kMaxKvForms][i % kMaxKvForms]);
}

uint64_t BlockPool::LargePageBytes() const {
  uint64_t sum = 0;
  for (const Size& size : sizes_) sum += size.pool == nullptr ? 0 : size.pool->LargePageBytes();
  return sum;
}

}  // namespace larder
