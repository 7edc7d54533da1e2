// Eviction policies. A policy is one .cc file in kv/evict without a header, one line in kv/evict/list.cc and
// its test. Candidates are blocks nobody holds: leaves of the prefix tree (so suffixes go before prefixes),
// and window blocks that no resume point needs (those go first, whatever the policy says). Among leaves the
// lowest score goes.
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

// What a policy may know about a block. Times are the cache's own counter: every touch of any block gets a
// new value.
struct BlockMeta {
  uint64_t last_use;  // counter value of the last touch; of a chain's blocks the first is the most recent
  uint64_t uses;      // touches so far
  uint64_t birth;     // counter value when it was created
  int32_t depth;      // index in its chain, 0 = first
  int32_t rows;       // published rows
  uint64_t bytes;
};

using EvictScore = std::array<double, 2>;  // compared lexicographically, lowest leaves first

class EvictPolicy {
 public:
  virtual ~EvictPolicy() = default;
  virtual std::string_view name() const = 0;
  // Must change only when the block's meta changes.
  virtual EvictScore Score(const BlockMeta& meta) const = 0;
};

struct EvictPolicyEntry {
  std::string_view name;
  std::string_view help;
  Result<std::unique_ptr<EvictPolicy>> (*create)(std::string_view parameters);  // "key=value,..."
};
std::span<const EvictPolicyEntry> EvictPolicies();
// "lru" or "name:key=value,..."; unknown names list the known ones.
Result<std::unique_ptr<EvictPolicy>> CreateEvictPolicy(std::string_view spec);

}  // namespace larder
