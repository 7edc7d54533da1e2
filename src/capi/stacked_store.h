// One or two tiers and their keyring as one store: asked from the nearest down, written to all.
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/clock.h"
#include "capi/stacked_get.h"
#include "store/disk/disk_tier.h"
#include "store/redis/redis_tier.h"
#include "store/redis/shared_keyring.h"
#include "store/replaced_spaces.h"
#include "store/sealer.h"
#include "store/tier.h"

namespace larder {

struct StackedOptions {
  DiskOptions disk;            // directory "": no such tier
  RedisOptions redis;          // url "": no such tier
  std::string store_key_file;  // "": nothing is sealed
  std::string keyring_file;  // "": `keyring` in the disk's directory; without a disk in memory and Redis only
};

// Thread-safe. A tier that fails is a miss in everything that reads.
class StackedStore {
 public:
  enum Place : uint8_t { kNowhere, kDisk, kRedis };

  static Result<std::unique_ptr<StackedStore>> Open(const StackedOptions& options);
  ~StackedStore();  // callbacks come before it returns
  StackedStore(const StackedStore&) = delete;
  StackedStore& operator=(const StackedStore&) = delete;

  // Made at the first call, which may wait for Redis (store/redis/shared_keyring.h).
  Result<SpaceId> SpaceOf(const std::string& tenant);
  int64_t NowNs() { return clock_.NowNs(); }

  // The nearest tier that has each name. Waits.
  std::vector<Place> Match(const std::vector<Digest>& names, int64_t deadline_ns);
  // By name: what is here of it, of this space. Waits.
  std::vector<std::optional<RecordHeader>> Describe(const std::vector<Digest>& names, const SpaceId& space,
                                                    int64_t deadline_ns);
  // Of all tiers, each child once. Waits.
  std::vector<RecordHeader> Children(const Digest& parent, size_t limit, const SpaceId& space,
                                     int64_t deadline_ns);

  // As Tier::Get, over all tiers. Records of another space are not here; a record of another size than its
  // destination is refused.
  uint64_t Get(std::vector<RecordRead> items, const SpaceId& space, int64_t deadline_ns,
               ReadPriority priority, GetCallbacks callbacks);
  bool Cancel(uint64_t ticket);  // false: it has ended

  // `done` comes once, when nobody holds the payload any more. ok: committed in one tier at least; kConflict
  // if any tier says so.
  void Put(const RecordHeader& header, RecordPayload payload, std::function<void(Status)> done);

  void Touch(std::span<const Digest> names);
  Status Pin(const Digest& name, int64_t ttl_ms);
  Status Remove(std::span<const Digest> names);
  // With a sealer the key goes first; without one the id goes last, so that an error can be tried again.
  Status Wipe(const std::string& tenant);
  void Flush();
  Result<TierStats> Stats(Place place) const;

 private:
  StackedStore() = default;
  // The first error of all tiers, after all were asked.
  template <class Call>
  Status InAll(Call call);

  SystemClock clock_;
  // Ids that tenants had until another server forgot them; told by the keyring's thread. Their records on
  // this disk go when somebody next asks for an id.
  ReplacedSpaces replaced_;
  std::unique_ptr<Keyring> keyring_;
  std::unique_ptr<Tier> disk_, redis_;
  std::vector<Tier*> tiers_;  // nearest first

  std::atomic<uint64_t> last_ticket_ = 0;
  std::mutex mutex_;
  std::map<uint64_t, std::weak_ptr<StackedGet>> gets_;  // guarded by mutex_
};

}  // namespace larder
