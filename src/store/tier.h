// The seam between the cache in memory and what lies below it: disk, network. A tier moves named records; it
// does not know what a token is. The block pool in memory is the top tier itself and does not go through this
// interface.
//
// Rules for every tier: a failing tier is a miss, never a failed request; a quota is checked before it is
// used; every group that a get delivers has been verified against its checksum (and tag, when encrypted);
// names and metadata are opaque. All calls may come from any thread and return at once; answers come through
// callbacks, from a thread of the tier, never from inside the call. A callback must be quick and must not
// call back into the tier.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "base/hash.h"
#include "base/result.h"

namespace larder {

inline constexpr size_t kMaxRecordGroups = 64;
inline constexpr size_t kMaxRecordMetadata = 64 * 1024;
inline constexpr uint64_t kMaxRecordBytes = uint64_t{1} << 30;

// Who a record belongs to: the random id of a tenant's key. Wiping works on it.
using SpaceId = std::array<uint8_t, 16>;

// What a record is, apart from its payload.
struct RecordHeader {
  Digest name;
  Digest parent;  // what Children lists by; all zero: none
  SpaceId space{};
  uint32_t kind = 0;                // what the payload is: block of pages, chunk, ...; the asker's business
  std::vector<std::byte> metadata;  // tokens, rows, parent: compared by whoever asked
  std::vector<uint64_t>
      group_bytes;  // the payload's parts in order, each a run of layers; 1..kMaxRecordGroups

  uint64_t payload_bytes() const {
    uint64_t total = 0;
    for (const uint64_t bytes : group_bytes) total += bytes;
    return total;
  }
};

// The bytes of a record that is to be written.
struct RecordPayload {
  std::vector<std::span<const std::byte>> groups;
  std::shared_ptr<const void> owner;  // keeps them as they are until they are written or dropped
};

// One record to be read.
struct RecordRead {
  Digest name;
  uint32_t first_group = 0, end_group = kMaxRecordGroups;  // [first, end), cut to what the record has
  // For the whole payload, also if only some groups are wanted. Stays valid until `done` was called for every
  // item, also after a deadline or a cancellation: an I/O may still be on its way.
  std::span<std::byte> destination;
};

// What becomes of a get.
struct GetCallbacks {
  // Once for each item before any of its groups, with the verified header; an error refuses the item (other
  // tokens under this name, another size), and becomes the status of all of its groups.
  std::function<Status(size_t item, const RecordHeader& header)> accept;
  // Group `group` of all items is final: one status an item, in item order (an item without that group: ok).
  // Called once for every group from the smallest first_group to the largest end, in order.
  std::function<void(uint32_t group, std::span<const Status> items)> group_done;
  // Last, after which no destination is touched.
  std::function<void()> done;
};

// What a tier had and has no longer. No name: it was too damaged to tell which of the space's records it was.
struct RemovedRecord {
  std::optional<Digest> name;
  SpaceId space{};
};
using RemovalListener = std::function<void(std::vector<RemovedRecord>)>;

// kPrefetch reads give way to kRequest reads.
enum class ReadPriority : uint8_t { kRequest, kPrefetch };

struct TierStats {
  uint64_t used_bytes = 0, limit_bytes = 0;  // limit 0: not known
  uint64_t pending_bytes = 0, records = 0;
  uint64_t hits = 0, misses = 0;                // of names looked for
  uint64_t read_records = 0, read_bytes = 0;    // delivered
  uint64_t write_records = 0, write_bytes = 0;  // committed; bytes as they left this process
  uint64_t dropped_writes = 0;                  // refused or given up: no room, too many pending, a fault
  uint64_t evicted_records = 0, bad_records = 0, failures = 0, slow_reads = 0;
  uint64_t read_ns = 0, write_ns = 0;  // sums of latencies, of read_records and write_records
  bool healthy = true;
};

class Tier {
 public:
  virtual ~Tier() = default;  // waits for what is on its way; callbacks come before it returns
  virtual std::string_view name() const = 0;  // "disk", "redis"

  // Which of these names are here. kSlow after the deadline (monotonic, base/clock.h).
  using FindDone = std::function<void(Result<std::vector<bool>>)>;
  virtual void Find(std::vector<Digest> names, int64_t deadline_ns, FindDone done) = 0;
  // The records whose parent this is, newest first, at most `limit`: partial tails and the blocks of texts
  // that part here.
  using ChildrenDone = std::function<void(Result<std::vector<RecordHeader>>)>;
  virtual void Children(const Digest& parent, size_t limit, int64_t deadline_ns, ChildrenDone done) = 0;

  // Reads in batches; see GetCallbacks. After the deadline, groups that have not arrived fail with kSlow.
  // Returns a ticket for Cancel, which makes what has not arrived fail with kCancelled soon.
  virtual uint64_t Get(std::vector<RecordRead> items, int64_t deadline_ns, ReadPriority priority,
                       GetCallbacks callbacks) = 0;
  virtual void Cancel(uint64_t ticket) = 0;

  // Writes later, in the order of calls.
  // A name that is here already is not written again. `done` (may be null): committed, or why not: kExhausted
  // (quota or pending bytes), kIo, kConflict (the name is here with another payload digest: an alarm, counted
  // and logged).
  virtual void Put(RecordHeader header, RecordPayload payload, std::function<void(Status)> done) = 0;
  // Somebody waits for the memory of what was put: it is written without delay.
  virtual void Hurry() {}
  // He has waited long enough: what was put and is not on its way yet is given up (kExhausted).
  virtual void DropPending() {}
  // Used in a higher tier: these stay longer. In any order; who calls includes the ancestors.
  virtual void Touch(std::span<const Digest> names) = 0;
  // Not evicted for ttl_ms (monotonic; 0 ends a pin). Pins are soft: they end with the process.
  virtual Status Pin(const Digest& name, int64_t ttl_ms) = 0;
  // Durable when they return ok: a crash cannot bring the records back.
  virtual Status Remove(std::span<const Digest> names) = 0;
  virtual Status Wipe(const SpaceId& space) = 0;
  // Records in no particular order, of one space or (null) of all, from `cursor` (0 first) on; sets it to
  // where the next call goes on, 0 at the end. A page may be empty before the end.
  virtual std::vector<RecordHeader> List(uint64_t& cursor, size_t limit, const SpaceId* space) = 0;
  // Tells in batches what has been evicted, removed or found damaged, though not what Wipe took. Of one name
  // these calls and the `done` of puts come in the order in which it went and came. One listener at a time;
  // with null there is none, and no call is under way when it returns. false: this tier does not see what
  // goes.
  virtual bool ListenForRemovals(RemovalListener) { return false; }
  // Everything that was put before is committed or dropped when it returns.
  virtual void Flush() = 0;
  virtual TierStats stats() const = 0;
};

}  // namespace larder
