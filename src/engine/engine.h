// The engine: one model, one cache, one thread that steps. Everything public may be called from any thread.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "engine/hints.h"
#include "engine/request.h"
#include "engine/scheduler.h"
#include "kv/cache.h"
#include "kv/evict/states.h"
#include "kv/reuse/chunks.h"
#include "model/model.h"
#include "store/admit/policy.h"
#include "store/sealer.h"
#include "store/tier.h"

namespace larder {

struct EngineOptions {
  int64_t context = 0;  // longest sequence; 0: the model's own
  int64_t max_running = 64;
  int64_t max_waiting = 1024;  // further requests get kUnavailable
  double step_ms = 60;         // a step with decoders in it aims to stay below
  int64_t max_batch_rows = 512;
  std::string policy = "fcfs";  // scheduling policy
  KvCacheOptions cache;
  // Below memory, fastest first, and whose records are whose. They outlive the engine. Without a keyring
  // nothing goes below.
  std::vector<Tier*> tiers;
  Keyring* keyring = nullptr;
  std::vector<AdmitPolicy*> admit;  // as KvTiersOptions::admit; shorter: the rest take everything
  std::string evict;                // eviction method of requests that name none (kv/evict); "": none
  std::string reuse;                // reuse method of requests that name none (kv/reuse); "": prefix
  std::string lease_file;           // where leases outlive the process (engine/lease_file.h); "": they do not
  // Rows from below are read also where computing them is estimated to be faster.
  bool always_restore = false;
  uint64_t tier_group_bytes = 256 << 10;  // kv/tiers.h
};

struct EngineStats {
  int64_t running = 0, waiting = 0, preemptions = 0;
  uint64_t prompt_tokens = 0, generation_tokens = 0, cached_tokens = 0, steps = 0;
  uint64_t requests_finished = 0, requests_cancelled = 0, requests_failed = 0;
  uint64_t attention_pages_read = 0;
  double ttft_ms_sum = 0;                                     // over finished requests
  double scheduling_us_last = 0;                              // of the last step, without the model
  double model_us_last = 0;                                   // of the last step: rows and logits
  std::vector<std::pair<std::string_view, uint64_t>> misses;  // by reason
  KvStats kv{};
  KvLeaseStats leases{};
  ChunkStats chunks{};
  EvictStateStats states{};
  uint64_t private_bytes = 0;   // pages and tables of running requests whose rows are their own
  uint64_t borrowed_bytes = 0;  // shared pages that these read
  uint64_t events = 0;          // of the cache's blocks, so far
  std::vector<std::pair<std::string, TierStats>> tiers;
  std::optional<KeyringStats> keyring;  // where there are tiers
};

// Chunks of a tenant by their names.
struct ChunkPage {
  std::vector<ChunkListing> chunks;
  bool pending = false;  // a tier has not said yet which ones it has
};

class Engine {
 public:
  // Takes the model; starts the thread.
  static Result<std::unique_ptr<Engine>> Create(std::unique_ptr<Model> model, const EngineOptions& options,
                                                Clock* clock);
  ~Engine();  // cancels what is left and joins

  const Model& model() const;
  int64_t context() const;

  using RequestId = uint64_t;
  // kInvalid: empty or too long prompt, tokens outside the vocabulary; kUnavailable: the queue is full or the
  // engine is draining. After success the sink hears of the request until OnFinish or OnError.
  Result<RequestId> Submit(Request request, std::shared_ptr<RequestSink> sink);
  // In any state; the sink gets OnFinish with FinishReason::kCancelled choices. What was computed stays
  // cached. Unknown or finished ids are ignored.
  void Cancel(RequestId id);
  // Refuses new requests and returns when all others have ended, or after the timeout (false).
  bool Drain(int64_t timeout_ms);

  EngineStats Stats() const;
  // Runs on the engine's thread between two steps.
  std::vector<KvBlockInfo> Blocks(const std::string& tenant, size_t limit);
  uint64_t ClearCache(const std::string& tenant);
  // Durably forgets everything that was stored for a tenant, in memory and below: its key first, so that
  // nothing that is left anywhere can be read, then what is pending, then the records. Running requests end
  // undisturbed.
  Status Wipe(const std::string& tenant);
  // The chunk that a request with `chunk_from` would store, if it is in memory.
  std::optional<ChunkInfo> FindChunk(Request request);
  // From behind `after` (nothing: from the first) on.
  ChunkPage Chunks(const std::string& tenant, const std::optional<Digest>& after, size_t limit);
  // Removes a chunk durably from below, then from memory. Running requests that use it end undisturbed.
  // kNotFound: the tenant has none of this name. After another error it can be tried again.
  Status RemoveChunk(const std::string& tenant, const Digest& name);
  std::vector<EvictStateListing> States(const std::string& tenant, const std::optional<Digest>& after,
                                        size_t limit);
  HintAnswer Apply(Hint hint);
  // Whether the prefetch that answered with this ticket is still under way.
  bool Fetching(uint64_t ticket);
  // Tokens of the text that each tier has, memory first.
  std::vector<std::pair<std::string, int64_t>> Lookup(const std::string& tenant, std::vector<int32_t> tokens);
  std::vector<KvLeaseInfo> Leases(const std::string& tenant, size_t limit);
  int64_t CachedRows(const std::string& tenant);  // in memory
  // What happened to blocks of the tenant, or of `all`, since the cursor, or what is there now.
  EventPage Events(const std::string& tenant, bool all, const EventCursor& cursor, size_t limit);
  // The same without waiting for anything. false: it would take a snapshot.
  bool EventsNow(const std::string& tenant, bool all, const EventCursor& cursor, size_t limit,
                 EventPage& page);
  // Called from the engine's thread after a step with events; quick, no calls to the engine but EventsNow.
  // With null nobody is, and no call is under way when it returns.
  void OnEvents(std::function<void()> listener);
  Status CheckCacheInvariants();
  // The last decisions of the scheduler, oldest first.
  std::vector<SchedulerDecision> Decisions(size_t limit);

 private:
  struct Impl;
  explicit Engine(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace larder
