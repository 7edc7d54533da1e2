// Which records there are and where, in little memory: the rest of a record stays on disk. Not thread-safe.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "store/disk/format.h"
#include "store/evict/policy.h"

namespace larder {

inline constexpr uint32_t kNoSlot = UINT32_MAX;

// One record. Slots keep their number as long as the record lives; later ones use it again.
struct IndexSlot {
  RecordKey key;
  uint64_t parent = 0;  // key of the parent; 0: none
  uint64_t digest = 0;  // of the payload
  uint64_t born = 0, used = 0;
  double rank = 0;  // EvictRank's value; queue and mark are below
  uint32_t segment = 0, page = 0, pages = 0;
  uint32_t space = 0;                         // number in the index's list of spaces
  uint32_t older = kNoSlot, newer = kNoSlot;  // records with this parent
  uint32_t order_place = UINT32_MAX;          // in the order of eviction; UINT32_MAX: it may not go now
  uint16_t uses = 1, depth = 0;               // as far as they go; ancestors that were here when it came
  uint8_t head_pages = 0, rank_queue = 0, rank_mark = 0;
  bool live = false, sealed = false;

  RecordPlace place() const { return {segment, page, pages, head_pages}; }
};

static_assert(sizeof(IndexSlot) == 96);  // at most 128 bytes a record, tables and order of eviction included

class DiskIndex {
 public:
  DiskIndex();

  uint32_t Find(const RecordKey& key) const;  // kNoSlot
  const IndexSlot& at(uint32_t slot) const { return (*slabs_[slot / kSlab])[slot % kSlab]; }
  // REQUIRES: no record with entry.key is here. `entry` is of type kPut.
  uint32_t Insert(const LogEntry& entry);
  void Erase(uint32_t slot);
  void Move(uint32_t slot, const RecordPlace& place);
  void Use(uint32_t slot, uint64_t sequence);
  void SetRank(uint32_t slot, const EvictRank& rank);
  void SetOrderPlace(uint32_t slot, uint32_t place) { Mutable(slot).order_place = place; }
  // Depths anew; for records that came in another order than they were born.
  void SetDepths();
  LogEntry EntryOf(uint32_t slot) const;  // kPut, as Insert took it

  // At most `limit` records with this parent, the last born first.
  std::vector<uint32_t> ChildrenOf(uint64_t parent, size_t limit) const;
  // The record it follows, and whether any follows it. Only what was born earlier counts as a parent: names
  // are what somebody says they are, and must not form a circle.
  uint32_t ParentOf(uint32_t slot) const;  // kNoSlot
  bool HasChildren(uint32_t slot) const;
  const SpaceId& SpaceOf(uint32_t slot) const { return spaces_[at(slot).space].id; }

  uint32_t slots() const { return slots_; }  // every live slot is below
  bool live(uint32_t slot) const { return slot < slots_ && at(slot).live; }
  size_t size() const { return live_; }
  uint64_t bytes() const;  // everything it holds on to

 private:
  static constexpr uint32_t kSlab = 1024;
  using Slab = std::vector<IndexSlot>;
  struct Space {
    SpaceId id{};
    uint32_t records = 0;
  };
  // Slot numbers by a key's hash: linear probing, no tombstones, at most 3/4 full.
  struct Table {
    std::vector<uint32_t> cells;
    size_t used = 0;
  };

  IndexSlot& Mutable(uint32_t slot) { return (*slabs_[slot / kSlab])[slot % kSlab]; }
  void SetDepth(uint32_t slot);
  uint32_t TakeSlot();
  uint32_t TakeSpace(const SpaceId& id);
  void DropSpace(uint32_t number);
  uint64_t HashIn(const Table& table, uint32_t slot) const;
  size_t HomeIn(const Table& table, uint32_t slot) const;
  void AddTo(Table& table, uint32_t slot);
  void RemoveFrom(Table& table, uint32_t slot);
  size_t ParentCell(uint64_t parent) const;  // of the newest child; the first empty cell if there is none

  std::vector<std::unique_ptr<Slab>> slabs_;
  std::vector<uint32_t> free_;
  uint32_t slots_ = 0;
  size_t live_ = 0;
  Table names_, parents_;  // parents_ has the newest child of each
  std::vector<Space> spaces_;
  std::map<SpaceId, uint32_t> space_numbers_;
};

}  // namespace larder
