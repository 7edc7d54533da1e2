#include "kv/pool.h"

#include <utility>

namespace larder {
namespace {

constexpr size_t kKeepFree = 8;  // blocks of a kind; more go back to the operating system
constexpr uint64_t kSystemPage = 4096;
constexpr uint64_t kAllocatorHeader = 64;  // for alignment and bookkeeping of what is not its own mapping

}  // namespace

uint64_t AllocationCost(uint64_t size) {
  const uint64_t unit = size >= kSystemPage ? kSystemPage : kVectorAlign;
  return (size + unit - 1) / unit * unit + kAllocatorHeader;
}

BlockPool::BlockPool(const KvShape& shape) {
  for (size_t kind = 0; kind < shape.kinds().size(); ++kind) {
    const size_t payload = shape.BlockBytes(static_cast<int>(kind));
    sizes_.push_back({payload, AllocationCost(payload), {}});
    sizes_.back().free.reserve(kKeepFree);
  }
}

Result<AlignedBuffer> BlockPool::Take(int kind) {
  Size& size = sizes_[static_cast<size_t>(kind)];
  if (!size.free.empty()) {
    AlignedBuffer block = std::move(size.free.back());
    size.free.pop_back();
    return block;
  }
  LARDER_ASSIGN(AlignedBuffer block, AlignedBuffer::Allocate(size.payload));
  bytes_ += size.cost;
  return block;
}

void BlockPool::Return(int kind, AlignedBuffer block) {
  Size& size = sizes_[static_cast<size_t>(kind)];
  LARDER_CHECK(block.size() == size.payload);
  if (size.free.size() < kKeepFree) {
    size.free.push_back(std::move(block));
  } else {
    bytes_ -= size.cost;
  }
}

uint64_t BlockPool::free_bytes() const {
  uint64_t sum = 0;
  for (const Size& size : sizes_) sum += size.cost * size.free.size();
  return sum;
}

void BlockPool::Trim(std::span<const size_t> keep) {
  for (size_t kind = 0; kind < sizes_.size(); ++kind) {
    Size& size = sizes_[kind];
    while (size.free.size() > keep[kind]) {
      size.free.pop_back();
      bytes_ -= size.cost;
    }
  }
}

}  // namespace larder
