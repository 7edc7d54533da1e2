// Which record goes first when the disk is full: the order of a policy, over records that no other one
// follows. So suffixes go before prefixes, whatever the policy; without that rule fifo and cost lose a tenth
// of their hits, since what is left of a text without its beginning is found by nobody. Not thread-safe.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>

#include "store/disk/index.h"
#include "store/evict/order.h"

namespace larder {

class DiskOrder {
 public:
  DiskOrder(DiskIndex* index, std::unique_ptr<EvictPolicy> policy)
      : index_(index), order_(std::move(policy), {index}) {}

  // A record came into the index: just written, or read from the catalog, then in the order of last use.
  void Add(uint32_t slot);
  // The index knows of the use already.
  void Use(uint32_t slot) { order_.Use(slot, true); }
  // Takes it out of the index, too. `evicted`: because Next named it.
  void Erase(uint32_t slot, bool evicted);
  // The record to go first. A pinned one is set aside while another one is looked for, and put back.
  std::optional<uint32_t> Next() { return order_.Next(); }
  void SetAside(uint32_t slot) { order_.Withdraw(slot); }
  void PutBack(uint32_t slot) { OfferIfLeaf(slot); }
  bool Sound() { return order_.Sound(); }            // for tests
  uint64_t bytes() const { return order_.bytes(); }  // of memory, besides the index

 private:
  struct Host {
    using Handle = uint32_t;
    BlockMeta Meta(uint32_t slot) const;
    uint64_t LastUse(uint32_t slot) const { return index->at(slot).used; }
    int32_t Class(uint32_t) const { return 0; }
    EvictRank Rank(uint32_t slot) const {
      const IndexSlot& record = index->at(slot);
      return {record.rank, record.rank_queue, record.rank_mark};
    }
    void SetRank(uint32_t slot, const EvictRank& rank) { index->SetRank(slot, rank); }
    uint32_t Place(uint32_t slot) const { return index->at(slot).order_place; }
    void SetPlace(uint32_t slot, uint32_t place) { index->SetOrderPlace(slot, place); }
    DiskIndex* index;
  };
  void OfferIfLeaf(uint32_t slot) {
    if (!index_->HasChildren(slot)) order_.Offer(slot);
  }

  DiskIndex* index_;
  EvictOrder<Host> order_;
};

}  // namespace larder
