// How often blocks were used that are not here any more (or never were), by name, in two bytes each. Answers
// are almost right: about one unseen name in a thousand is taken for another one.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "store/evict/policy.h"

namespace larder {

class UseHistory {
 public:
  static constexpr uint64_t kMostUses = 7;

  explicit UseHistory(uint64_t names = 0) { Grow(names); }

  // Room for at least so many, and for less than twice as many; what it has stays.
  void Grow(uint64_t names);
  uint64_t Uses(uint64_t name) const;  // 0: not known
  // More than kMostUses count as so many. The name of its bucket that was set longest ago makes room.
  void Set(uint64_t name, uint64_t uses);

  uint64_t bytes() const { return buckets_.capacity() * sizeof(Bucket); }

 private:
  static constexpr size_t kBucket = 8;
  using Bucket = std::array<uint16_t, kBucket>;  // 13 bits of the name, then 3 of uses; 0: empty
  const uint16_t* Find(uint64_t name) const;     // null: not known
  size_t Home(uint64_t name) const;

  std::vector<Bucket> buckets_ = std::vector<Bucket>(1);
};

// A policy for which a block that comes back goes on where it was when it was evicted. Of the published
// policies below this one some count the uses of a block from its birth in the cache; on traces of prompts,
// where most blocks are gone before their second use, that is a large part of what they lose.
class PolicyWithHistory : public EvictPolicy {
 public:
  EvictRank Enter(const BlockMeta& block) override {
    history_.Grow(++blocks_);
    EvictRank rank;
    rank.mark = block.key == 0 ? 0 : static_cast<uint8_t>(history_.Uses(block.key));
    Begin(block, rank);
    return rank;
  }
  void Leave(const BlockMeta& block, bool evicted, const EvictRank& rank) override {
    --blocks_;
    if (evicted && block.key != 0) history_.Set(block.key, Uses(block, rank));
  }
  uint64_t bytes() const override { return history_.bytes(); }

 protected:
  // The rank of a new block; its mark stays as it is.
  virtual void Begin(const BlockMeta& block, EvictRank& rank) = 0;
  // Also those before it was evicted.
  static uint64_t Uses(const BlockMeta& block, const EvictRank& rank) { return block.uses + rank.mark; }

 private:
  uint64_t blocks_ = 0;
  UseHistory history_;
};

}  // namespace larder
