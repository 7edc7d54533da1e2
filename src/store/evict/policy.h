// Eviction policies, of the cache in memory and of the disk tier alike. A policy is one .cc file in this
// folder without a header, one line in list.cc and its test.
//
// A policy sees each block from Enter to Leave and gives it a rank: a queue and a value. Who keeps the blocks
// (store/evict/order.h) stores the rank beside the block, says which blocks may go at the moment (nobody
// holds them, nothing follows them), and takes the lowest value of the queue that the policy names. What is
// only a function of the block overrides Score; the other hooks are for policies with queues or a clock of
// their own.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "base/params.h"
#include "base/result.h"

namespace larder {

// What a policy may know about a block. Times are values of its keeper's counter, which every use advances.
struct BlockMeta {
  uint64_t key = 0;       // first 8 bytes of its name; 0: it has no name (yet)
  uint64_t last_use = 0;  // of a chain's blocks the first is the most recent
  uint64_t uses = 1;      // requests that used it, the one that computed it included
  uint64_t birth = 0;     // when it was made
  int64_t start = 0;      // rows of its text before it
  int32_t rows = 0;       // its own; 0: not known, as many as others
  uint64_t bytes = 0;
};

inline constexpr int kEvictQueues = 2;

struct EvictRank {
  double value = 0;   // in its queue the lowest goes first, then the least recently used
  uint8_t queue = 0;  // below kEvictQueues
  uint8_t mark = 0;   // the policy's own
  bool operator==(const EvictRank&) const = default;
};

class EvictPolicy {
 public:
  virtual ~EvictPolicy() = default;
  virtual std::string_view name() const = 0;

  // The block came. After a restart that is what is still there, in the order of last use.
  virtual EvictRank Enter(const BlockMeta& block) { return {.value = Score(block)}; }
  // Its last_use moved on. `again`: for another request; else the same request is done with it.
  virtual void Use(const BlockMeta& block, bool again, EvictRank& rank) { rank.value = Score(block); }
  // It is no more. `evicted`: because the policy chose it.
  virtual void Leave(const BlockMeta& block, bool evicted, const EvictRank& rank) {}

  // The queue that gives the next victim, by how many blocks each has. One without a block that may go is
  // passed over.
  virtual int Queue(const std::array<uint64_t, kEvictQueues>& blocks) const { return 0; }
  // The first of its queue is about to go. True: it stays, with the new rank; must be false after finitely
  // many calls.
  virtual bool Spare(const BlockMeta& block, EvictRank& rank) { return false; }

  // Memory of its own: at most 4 for each block of the most there ever were, and kEvictPolicyBytes.
  virtual uint64_t bytes() const { return 0; }

 protected:
  virtual double Score(const BlockMeta& block) const { return static_cast<double>(block.last_use); }
};
inline constexpr uint64_t kEvictPolicyBytes = 1024;

struct EvictPolicyEntry {
  std::string_view name;
  std::string_view help;
  Result<std::unique_ptr<EvictPolicy>> (*create)(std::string_view parameters);  // "key=value,..."
};
std::span<const EvictPolicyEntry> EvictPolicies();
std::string EvictPolicyNames();  // "lru, lfu, ...", for help texts
// "lru" or "name:key=value,..."; unknown names list the known ones.
Result<std::unique_ptr<EvictPolicy>> CreateEvictPolicy(std::string_view spec);

}  // namespace larder
