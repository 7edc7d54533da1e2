// What lies below the cache in memory, as the command line says it: a directory, a Redis, and who may read
// it.
#pragma once

#include <memory>
#include <string>

#include "base/clock.h"
#include "base/params.h"
#include "engine/engine.h"
#include "store/admit/policy.h"
#include "store/disk/disk_tier.h"
#include "store/replaced_spaces.h"
#include "store/sealer.h"

namespace larder {

struct TierFlags {
  std::string disk, redis, redis_ca, store_key, keyring;
  std::string disk_evict_policy = "lru", disk_admit = "all";
  uint64_t disk_limit_bytes = 0;  // 0: half of what is free in the file system
  int64_t redis_ttl_s = 7 * 24 * 3600;

  void Declare(Params& params);
  // What contradicts itself, before a large model is loaded.
  Status Check() const;
};

// In the order in which they are made; they go in the reverse one.
struct Tiers {
  std::unique_ptr<ReplacedSpaces> replaced;
  std::unique_ptr<Keyring> keyring;
  std::unique_ptr<Tier> disk, redis;
  std::unique_ptr<Keyring> wiping;  // the ring that the engine sees
  std::unique_ptr<AdmitPolicy> admit;
  std::string lease_file;

  void AddTo(EngineOptions& options) const;
};

// Opens what the flags name; recovery of the directory is over when it returns. Says what is trusted.
Result<Tiers> OpenTiers(const TierFlags& flags, uint64_t kv_limit_bytes, Clock* clock);

}  // namespace larder
