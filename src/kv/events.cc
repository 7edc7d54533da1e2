#include "kv/events.h"

#include <algorithm>
#include <random>

#include "base/result.h"

namespace larder {
namespace {

uint64_t RandomEpoch() {
  std::random_device random;
  return uint64_t{random()} << 32 | random();
}

}  // namespace

std::string_view EventTypeName(EventType type) {
  switch (type) {
    case EventType::kStored:
      return "stored";
    case EventType::kRemoved:
      return "removed";
    case EventType::kCleared:
      return "cleared";
    case EventType::kLost:
      break;
  }
  return "unknown";
}

std::string_view EventTierName(EventTier tier) {
  switch (tier) {
    case EventTier::kMemory:
      return "memory";
    case EventTier::kDisk:
      return "disk";
    case EventTier::kRedis:
      return "redis";
  }
  return "unknown";
}

EventTier EventTierOf(std::string_view tier_name) {
  return tier_name == EventTierName(EventTier::kRedis) ? EventTier::kRedis : EventTier::kDisk;
}

KvEvents::KvEvents(size_t capacity) : epoch_(RandomEpoch()), ring_(std::max<size_t>(capacity, 1)) {}

KvEvents::Entry& KvEvents::Next(EventType type, EventTier tier, const std::string& tenant) {
  auto owner = owners_.find(tenant);
  if (owner == owners_.end()) owner = owners_.emplace(tenant, Owner{.name = tenant}).first;
  ++written_;
  Entry& entry = ring_[(written_ - 1) % ring_.size()];
  if (entry.owner != nullptr) entry.owner->lost = std::max(entry.owner->lost, entry.number);
  entry.owner = &owner->second;
  entry.number = ++owner->second.last;
  entry.type = type;
  entry.tier = tier;
  entry.rows = 0;
  entry.kinds = 0;
  entry.name = entry.parent = {};
  return entry;
}

void KvEvents::Stored(EventTier tier, const std::string& tenant, const Digest& name, const Digest& parent,
                      std::span<const int32_t> tokens, uint32_t kinds) {
  LARDER_CHECK(tokens.size() <= kPageTokens);
  const std::lock_guard lock(mutex_);
  Entry& entry = Next(EventType::kStored, tier, tenant);
  entry.name = name;
  entry.parent = parent;
  entry.kinds = kinds;
  entry.rows = static_cast<uint8_t>(tokens.size());
  std::ranges::copy(tokens, entry.tokens.begin());
}

void KvEvents::Removed(EventTier tier, const std::string& tenant, const Digest& name, uint32_t kinds) {
  const std::lock_guard lock(mutex_);
  Entry& entry = Next(EventType::kRemoved, tier, tenant);
  entry.name = name;
  entry.kinds = kinds;
}

void KvEvents::Cleared(EventTier tier, const std::string& tenant) {
  const std::lock_guard lock(mutex_);
  Next(EventType::kCleared, tier, tenant);
}

void KvEvents::Lost(const std::string& tenant) {
  const std::lock_guard lock(mutex_);
  const Entry& entry = Next(EventType::kLost, EventTier::kMemory, tenant);
  entry.owner->lost = entry.number;
  lost_ = written_;
}

KvEvents::Page KvEvents::Read(const std::string& tenant, bool all, uint64_t after, size_t limit) const {
  const std::lock_guard lock(mutex_);
  const auto owner = owners_.find(tenant);
  const uint64_t kept = std::min<uint64_t>(written_, ring_.size());
  uint64_t newest = written_, lost = std::max(written_ - kept, lost_);
  if (!all) {
    newest = owner == owners_.end() ? 0 : owner->second.last;
    lost = owner == owners_.end() ? 0 : owner->second.lost;
  }
  Page page{.last = after};
  page.gap = after < lost || after > newest;
  if (page.gap || after == newest) return page;
  // The first event after `after`: from the newest back, since most readers are nearly up to date.
  uint64_t first = all ? after + 1 : written_ - kept + 1;
  if (!all) {
    for (uint64_t number = written_; number > written_ - kept; --number) {
      const Entry& entry = At(number);
      if (entry.owner != &owner->second) continue;
      if (entry.number == after) break;
      first = number;
      if (entry.number == after + 1) break;
    }
  }
  for (uint64_t number = first; number <= written_ && page.events.size() < limit; ++number) {
    const Entry& entry = At(number);
    if (!all && entry.owner != &owner->second) continue;
    const auto tokens = std::span(entry.tokens).first(entry.rows);
    page.last = all ? number : entry.number;
    page.events.push_back({.sequence = page.last,
                           .type = entry.type,
                           .tier = entry.tier,
                           .tenant = entry.owner->name,
                           .name = entry.name,
                           .parent = entry.parent,
                           .kinds = entry.kinds,
                           .rows = entry.rows,
                           .tokens = {tokens.begin(), tokens.end()}});
  }
  return page;
}

uint64_t KvEvents::last(const std::string& tenant, bool all) const {
  const std::lock_guard lock(mutex_);
  if (all) return written_;
  const auto owner = owners_.find(tenant);
  return owner == owners_.end() ? 0 : owner->second.last;
}

}  // namespace larder
