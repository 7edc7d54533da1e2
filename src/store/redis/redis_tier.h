// Blocks shared between servers through Redis or Valkey, single or Cluster. docs/formats/redis.md says what
// lies under which key.
//
// What Redis decides and this tier cannot: eviction (maxmemory-policy; a lost part makes a record a miss),
// and durability (Remove and Wipe are as durable as the server's own persistence). Pins are therefore
// kUnsupported. A server that is dead, slow or lying costs a miss: every call is bounded by a timeout, every
// answer by a size, and after failures a circuit breaker refuses at once (kUnavailable) until a back-off has
// passed.
//
// Servers that share a Redis share tenants' ids and keys through it too (shared_keyring.h); what another
// keyring sealed is unreadable (kUnsupported) and left alone. With TLS and a cluster, certificates must name
// the nodes as CLUSTER SLOTS does, mostly by address.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "base/clock.h"
#include "base/result.h"
#include "store/sealer.h"
#include "store/tier.h"

namespace larder {

struct RedisOptions {
  std::string url;         // redis://[user:password@]host:port[,host:port...], rediss:// with TLS
  std::string ca_file;     // certificates that TLS trusts, PEM; "": the system's
  bool tls_verify = true;  // false: any certificate (a test, a trusted network)
  int64_t ttl_ms = int64_t{7} * 24 * 3600 * 1000;  // of a record since written or touched; 0: none

  int64_t connect_timeout_ms = 1000;  // name, TCP, TLS and login together
  int64_t command_timeout_ms = 5000;  // from sent to answered, once it is first in line
  int64_t put_timeout_ms = 30'000;    // of a record from Put to committed; also bounds Flush
  int64_t admin_timeout_ms = 10'000;  // Remove, one List
  int64_t wipe_timeout_ms = 600'000;  // looks at every key

  uint64_t max_in_flight_bytes = 8u << 20;  // for each node, requests and expected answers together
  uint64_t max_pending_bytes = 256u << 20;  // of payloads given to Put and not yet committed

  int failures_to_open = 3;
  int64_t backoff_ms = 500;  // doubles up to
  int64_t max_backoff_ms = 30'000;
};

// A server that is not there is no error: the circuit is open. kInvalid: malformed URL (the message has the
// right form); kIo: the CA file cannot be read. `sealer` (null: plain) and `clock` outlive the tier.
//
// Notes on Tier's calls. hits and misses count what Find was asked. Get: a record that was not found or
// refused is reported for its groups as they were asked for, up to end_group. List: by SCAN; may give
// somewhat more than `limit`, and twice what is written meanwhile. Wipe: also drops queued puts of the space.
// stats(): used_bytes and limit_bytes are the server's memory, fetched in the background at most once a
// second; records is not known and stays 0; evicted_records are those found with a part missing.
Result<std::unique_ptr<Tier>> OpenRedisTier(const RedisOptions& options, const Sealer* sealer, Clock* clock);

}  // namespace larder
