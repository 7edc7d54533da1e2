#include "store/disk/order.h"

namespace larder {
namespace {

// Of a block of the cache, as far as the cost of computing one depends on how deep it lies.
constexpr int64_t kRowsARecord = 64;

}  // namespace

BlockMeta DiskOrder::Host::Meta(uint32_t slot) const {
  const IndexSlot& record = index->at(slot);
  return {.key = record.key.words[0],
          .last_use = record.used,
          .uses = record.uses,
          .birth = record.born,
          .start = record.depth * kRowsARecord,
          .bytes = record.pages * kPage};
}

void DiskOrder::Add(uint32_t slot) {
  order_.Enter(slot);
  if (const uint32_t parent = index_->ParentOf(slot); parent != kNoSlot) order_.Withdraw(parent);
  OfferIfLeaf(slot);
}

void DiskOrder::Erase(uint32_t slot, bool evicted) {
  const uint32_t parent = index_->ParentOf(slot);
  order_.Leave(slot, evicted);
  index_->Erase(slot);
  if (parent != kNoSlot) OfferIfLeaf(parent);
}

}  // namespace larder
