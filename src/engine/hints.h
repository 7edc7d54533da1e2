// What clients may say about the future of a text, and what becomes of it. Hints never change an answer: they
// take and end leases (kv/leases.h) and move blocks.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kv/events.h"
#include "kv/leases.h"

namespace larder {

class KvCache;

// Part of a request: what is to stay in memory when it has ended.
struct Retention {
  int64_t rows = -1;  // the first rows of the prompt; -1: all of it with the answer
  int64_t ttl_ms = kDefaultLeaseMs;
  int32_t priority = kDefaultLeasePriority;
};
struct CacheHints {
  // One run of an agent. The end of a turn stays for its next one, which takes the protection from what it
  // does not continue.
  std::string program;
  bool last_step = false;  // no next turn will come
  Retention turn;          // for how long, and how important
  std::string key;         // whose `retain` is, where there is no program
  std::vector<Retention> retain;
};

// A lease that a request took, or wanted.
struct LeaseReport {
  int64_t rows = 0;  // 0: refused
  int64_t ttl_ms = 0;
  int32_t priority = 0;
  std::string reason;  // why not all of it
};

// When a request with hints comes, and before its sequence is closed after an answer that was not cancelled.
void FollowHints(KvCache& cache, const std::string& tenant, const CacheHints& hints,
                 std::span<const int32_t> prompt);
// `first`: of the choices of one request, which differ in their ends only.
std::vector<LeaseReport> RetainByHints(KvCache& cache, const KvSequence& sequence, const CacheHints& hints,
                                       bool first);

// A call without generation.
enum class HintAction : uint8_t { kPin, kUnpin, kPrefetch, kDemote, kEvict };
struct Hint {
  HintAction action = HintAction::kPin;
  std::string tenant;
  KvTarget target;
  std::string holder;  // of a pin
  int64_t ttl_ms = kDefaultLeaseMs;
  int32_t priority = kDefaultLeasePriority;
  bool hard = true;                   // a pin that is not evicted at all, within the budget for pins
  std::optional<SpaceId> space = {};  // as Request::space
};

enum class HintStatus : uint8_t { kAccepted, kClipped, kDeferred, kRejected };
std::string_view HintStatusName(HintStatus status);  // "accepted", "clipped", ...
struct HintAnswer {
  HintStatus status = HintStatus::kRejected;
  int64_t tokens = 0;   // that it had an effect on
  std::string reason;   // unless accepted
  uint64_t ticket = 0;  // of a deferred kPrefetch: Engine::Fetching tells whether it is still under way
};
// All but kPrefetch, which takes time: EngineCore::Apply. `tiers`: there is something below memory.
HintAnswer ApplyHint(KvCache& cache, bool tiers, const Hint& hint);

// Where a reader of events is.
struct EventCursor {
  bool fresh = true;  // has read nothing yet
  uint64_t epoch = 0, sequence = 0;
  // While it reads what is there: the cursor of KvCache::Snapshot, then those of Tier::List.
  uint64_t snapshot = 0;
  uint64_t tier = 0;  // whose turn it is: 0 memory, else one more than its place in EngineOptions::tiers
};
struct EventPage {
  bool reset = false;  // forget what you know: what follows is what is there now, then what happens
  std::vector<KvEvent> events;
  EventCursor next;
};
// On the engine's thread, unless only events since the cursor are wanted: then see ReadEvents.
EventPage ReadSnapshot(KvCache& cache, const std::vector<Tier*>& tiers, const std::string& tenant, bool all,
                       const EventCursor& cursor, size_t limit);
// The part of a snapshot that a tier lists: from any thread but the engine's, since it reads the disk.
// `tiers` as in EngineOptions; `owners` says whose blocks are wanted.
EventPage ReadListed(const KvCache& cache, const std::vector<Tier*>& tiers,
                     const std::map<SpaceId, std::string>& owners, const EventCursor& cursor, size_t limit);
// Whether this cursor goes on with ReadListed.
bool InListing(KvEvents& events, const std::vector<Tier*>& tiers, const EventCursor& cursor);
// From any thread. false: the cursor is too old, or in the middle of a snapshot.
bool ReadEvents(KvEvents& events, const std::string& tenant, bool all, const EventCursor& cursor,
                size_t limit, EventPage& page);

}  // namespace larder
