// What has happened to blocks, for routers that want to know where a prefix lies: a log of the last events,
// kept in a ring of fixed size. Whoever fell behind what it remembers, or saw another run of the program, is
// told so and asks for what is there now (KvCache::Snapshot) before going on.
//
// Events are numbered from 1 on, for each tenant by itself: nobody learns from the numbers what others do.
// The operator's view has numbers of its own. Writing is for the cache and its tiers, reading for any thread.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/hash.h"
#include "kv/shape.h"

namespace larder {

enum class EventType : uint8_t { kStored, kRemoved, kCleared, kLost };  // kLost is never read
enum class EventTier : uint8_t { kMemory, kDisk, kRedis };
std::string_view EventTypeName(EventType type);     // "stored", "removed", "cleared"
std::string_view EventTierName(EventTier tier);     // as Tier::name(); "memory"
EventTier EventTierOf(std::string_view tier_name);  // of one below memory

struct KvEvent {
  uint64_t sequence = 0;
  EventType type = EventType::kStored;
  EventTier tier = EventTier::kMemory;
  std::string tenant;
  Digest name, parent;          // of kCleared: all zero. Removed ones have no parent
  uint32_t kinds = 0;           // bit k: the block of kind k
  int32_t rows = 0;             // kStored
  std::vector<int32_t> tokens;  // kStored
};

class KvEvents {
 public:
  // The last `capacity` events, of a cache with these kinds of layers.
  explicit KvEvents(size_t capacity);
  KvEvents(const KvEvents&) = delete;
  KvEvents& operator=(const KvEvents&) = delete;

  // tokens: 1..64. Rows of kinds that were stored before may be told again with others.
  void Stored(EventTier tier, const std::string& tenant, const Digest& name, const Digest& parent,
              std::span<const int32_t> tokens, uint32_t kinds);
  void Removed(EventTier tier, const std::string& tenant, const Digest& name, uint32_t kinds);
  // Something was missed: who reads the tenant's events, or all, has to ask for what is there.
  void Lost(const std::string& tenant);
  // All of the tenant's blocks in this tier are gone; what is still there is told as stored behind it.
  void Cleared(EventTier tier, const std::string& tenant);

  // Random, of this run.
  uint64_t epoch() const { return epoch_; }

  struct Page {
    bool gap = false;   // events after `after` are no longer remembered, or were never written
    uint64_t last = 0;  // number of the last event of the page; without any: `after`
    std::vector<KvEvent> events;
  };
  // Events after number `after` of one tenant, or of all (then numbered over all), at most `limit`.
  Page Read(const std::string& tenant, bool all, uint64_t after, size_t limit) const;
  uint64_t last(const std::string& tenant, bool all) const;  // number of the newest

  static uint64_t BytesFor(size_t capacity) { return capacity * sizeof(Entry); }
  uint64_t bytes() const { return BytesFor(ring_.size()); }

 private:
  struct Owner {
    std::string name;
    uint64_t last = 0;  // number of its newest event
    uint64_t lost = 0;  // and of its newest one that is no longer remembered
  };
  struct Entry {
    Owner* owner = nullptr;
    uint64_t number = 0;  // of the owner's
    EventType type;
    EventTier tier;
    uint8_t rows;
    uint32_t kinds;
    Digest name, parent;
    std::array<int32_t, kPageTokens> tokens;
  };

  Entry& Next(EventType type, EventTier tier, const std::string& tenant);
  const Entry& At(uint64_t number) const { return ring_[(number - 1) % ring_.size()]; }

  const uint64_t epoch_;
  mutable std::mutex mutex_;
  std::vector<Entry> ring_;
  uint64_t written_ = 0;                 // over all
  uint64_t lost_ = 0;                    // over all: the last that says so
  std::map<std::string, Owner> owners_;  // kept for good: there are as many as there are keys
};

}  // namespace larder
