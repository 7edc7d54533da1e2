// Pages of events for readers: what has changed, or, for who knows nothing or missed something, what is
// there: memory's blocks first, then what each tier lists.
#include <algorithm>
#include <utility>

#include "engine/hints.h"
#include "kv/cache.h"

namespace larder {
namespace {

constexpr size_t kMostListed = 1000;  // records whose heads are read from the disk for one page

// Where the listing goes on after the tiers before place `from`.
void GoOn(const KvCache& cache, const std::vector<Tier*>& tiers, size_t from, EventCursor& next) {
  const size_t place = cache.NextTellingTier(from);
  next.snapshot = 0;
  next.tier = place < tiers.size() ? place + 1 : 0;
}

}  // namespace

bool ReadEvents(KvEvents& events, const std::string& tenant, bool all, const EventCursor& cursor,
                size_t limit, EventPage& page) {
  if (cursor.fresh || cursor.epoch != events.epoch() || cursor.snapshot != 0 || cursor.tier != 0)
    return false;
  KvEvents::Page read = events.Read(tenant, all, cursor.sequence, limit);
  if (read.gap) return false;
  page.events = std::move(read.events);
  page.next = {.fresh = false, .epoch = cursor.epoch, .sequence = read.last};
  return true;
}

EventPage ReadSnapshot(KvCache& cache, const std::vector<Tier*>& tiers, const std::string& tenant, bool all,
                       const EventCursor& cursor, size_t limit) {
  EventPage page;
  const bool goes_on =
      !cursor.fresh && cursor.epoch == cache.events().epoch() && cursor.snapshot != 0 && cursor.tier == 0;
  page.reset = !goes_on;
  page.next = cursor;
  // What happens from here on is told after the snapshot, whichever page of it has it already.
  if (!goes_on) page.next = {.epoch = cache.events().epoch(), .sequence = cache.events().last(tenant, all)};
  page.next.fresh = false;
  page.events = cache.Snapshot(all ? "" : tenant, page.next.snapshot, limit);
  if (page.next.snapshot == 0) GoOn(cache, tiers, 0, page.next);
  return page;
}

bool InListing(KvEvents& events, const std::vector<Tier*>& tiers, const EventCursor& cursor) {
  return !cursor.fresh && cursor.epoch == events.epoch() && cursor.tier > 0 && cursor.tier <= tiers.size();
}

EventPage ReadListed(const KvCache& cache, const std::vector<Tier*>& tiers,
                     const std::map<SpaceId, std::string>& owners, const EventCursor& cursor, size_t limit) {
  EventPage page;
  page.next = cursor;
  Tier& tier = *tiers[cursor.tier - 1];
  std::vector<RecordHeader> headers;
  // One space is found without reading others' records.
  const SpaceId* one = owners.size() == 1 ? &owners.begin()->first : nullptr;
  page.next.snapshot = owners.empty() ? 0 : cursor.snapshot;
  if (!owners.empty()) headers = tier.List(page.next.snapshot, std::min(limit, kMostListed), one);
  for (const RecordHeader& header : headers) {
    const auto owner = owners.find(header.space);
    if (owner == owners.end()) continue;
    auto event = cache.StoredEvent(header, EventTierOf(tier.name()), owner->second);
    if (event) page.events.push_back(*std::move(event));
  }
  if (page.next.snapshot == 0) GoOn(cache, tiers, cursor.tier, page.next);
  return page;
}

}  // namespace larder
