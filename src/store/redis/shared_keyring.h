// Tenants' ids and keys that are the same on all servers with one Redis, so that they find each other's
// blocks.
//
// Each tenant has an entry in Redis (docs/formats/redis.md): a ring of one, sealed under the store key if
// there is one. Whoever asks first makes it. Entries are kept in memory and, with a ring file, on disk.
//
//   - Without Redis at hand the file's entry counts, else a new one is made here. When Redis answers again
//     and has another entry of the same generation, that one counts: what was stored meanwhile is lost, which
//     is a miss.
//   - Forgetting makes an entry of the next generation. A higher generation always wins and is written to
//     Redis again if an older one stands there (an old snapshot, a server that was away).
//   - Other servers read all entries anew every refresh_ms, and at once when a record does not open. Until
//     then they may still write under the old id, which nobody reads any more.
//   - With a store key nothing from Redis is believed that was not sealed under it. What is refused is left
//     alone, since another store key may have made it; it is counted and logged with its Redis key. Without a
//     store key Redis is trusted.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "store/redis/redis_tier.h"
#include "store/sealer.h"

namespace larder {

struct KeyringOptions {
  std::string ring_file;       // "": memory and Redis only
  std::string store_key_file;  // "": ids without encryption
  RedisOptions redis;          // url "": one server alone

  // Of a ring shared through Redis.
  int64_t lookup_timeout_ms = 250;
  int64_t refresh_ms = 60'000;
  // A tenant's id was replaced by another server's, in most cases because it was forgotten there: what is
  // stored under the old id wants wiping here too. From the ring's thread; quick, no calls to the ring.
  std::function<void(const std::string& tenant, const SpaceId& old)> replaced;
};

// The ring that fits: a file, Redis, or Redis with a file. A Redis that is not there is no error.
//
// Of a ring with Redis: SpaceOf waits for Redis, at most lookup_timeout_ms, when it sees a tenant for the
// first time, and for the disk; it is for threads that handle requests, never for the engine's. A known
// tenant costs a look into memory. Forget waits for Redis too, at most redis.admin_timeout_ms; it succeeds
// once the key is durably gone in the ring file, and tells Redis later if it has to. Without a ring file it
// fails with kUnavailable unless Redis was told.
//
// kInvalid: neither file nor Redis; a malformed URL or key file; see Keyring::Open for the ring file.
Result<std::unique_ptr<Keyring>> OpenKeyring(const KeyringOptions& options);

}  // namespace larder
