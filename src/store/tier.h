// The seam between the cache in memory and what lies below it: disk, network. A tier moves named bytes; it
// does not know what a token is. The block pool in memory is the top tier itself and does not go through this
// interface.
//
// Rules for every tier: a failing tier is a miss, never a failed request; a quota is checked before it is
// used; what a get delivers has been verified; names and metadata are opaque.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string_view>
#include <vector>

#include "base/hash.h"
#include "base/result.h"

namespace larder {

struct TierRecord {
  Digest name;
  std::vector<std::byte> metadata;  // tokens, parent, rows: compared by whoever asked
  uint64_t bytes;                   // of the payload
};

// Part of a record: a run of layers, so that layers can be used as they arrive.
struct TierRead {
  Digest name;
  uint64_t offset;  // in the payload
  std::span<std::byte>
      destination;  // stays pinned and charged until `done` was called, also after a deadline
  uint32_t group;   // reads of one group complete together
};

class Tier {
 public:
  virtual ~Tier() = default;
  virtual std::string_view name() const = 0;  // "disk", "redis"

  // How many of the chain's names, from the first on, are here; then the records of partly filled blocks that
  // follow.
  struct Match {
    size_t contiguous;
    std::vector<TierRecord> tails;
  };
  virtual Match Find(std::span<const Digest> chain) = 0;

  // Starts reading; `done(group, status)` is called once for every group, from any thread. Returns a ticket
  // for Cancel.
  virtual uint64_t Get(std::span<const TierRead> reads, int64_t deadline_ns, int priority,
                       std::function<void(uint32_t group, Status)> done) = 0;
  virtual void Cancel(uint64_t ticket) = 0;

  virtual Status Put(const TierRecord& record, std::span<const std::byte> payload) = 0;  // copies or refuses
  virtual void Touch(
      std::span<const Digest> names) = 0;  // used in a higher tier: they and their ancestors stay
  virtual Status Pin(const Digest& name, int64_t ttl_ms) = 0;
  virtual Status Remove(const Digest& name) = 0;
  virtual Status Wipe(std::string_view tenant) = 0;  // durable
  virtual std::vector<TierRecord> List(size_t limit) const = 0;
};

}  // namespace larder
