// What every handler gets: the engine, the keys, and the state of the server.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>

#include "serve/auth.h"
#include "serve/backend.h"
#include "serve/lmcache_calls.h"
#include "serve/options.h"

namespace larder {

class EventWaits;

struct ServeContext {
  ServeBackend* backend = nullptr;
  ServeOptions options;
  ApiKeys keys;
  int64_t started_unix_s = 0;
  int64_t longest_token_bytes = 1;
  std::atomic<bool> draining = false;
  EventWaits* waits = nullptr;  // readers of events who wait for the next one
  LmcacheCalls lmcache_calls;

  // Counted for the metrics.
  std::atomic<uint64_t> connections_open = 0, connections_accepted = 0, clients_gone = 0;
  std::array<std::atomic<uint64_t>, 6> responses{};  // by the status' first digit
};

// Seconds after which a refused client should come back: longer the longer the queue.
int RetryAfterSeconds(const ServeContext& context);
// "prefix-" and 24 random hexadecimal digits.
std::string NewId(std::string_view prefix);

}  // namespace larder
