// What readers of events learn of the tiers: from events and listings, also of tiers that do not see what
// goes.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <set>

#include "tiers_server.h"

namespace larder {
namespace {

// What a reader of one tenant's events knows of a tier, from events and listings.
class TierReader {
 public:
  TierReader(std::string tenant, EventTier tier) : tenant_(std::move(tenant)), tier_(tier) {}

  void CatchUp(KvCache& cache, MemoryTier& tier, const SpaceId& space) {
    auto page = cache.events().Read(tenant_, false, after_, 1 << 20);
    if (page.gap || after_ == 0) {
      ++snapshots_;
      blocks_.clear();
      after_ = cache.events().last(tenant_, false);
      uint64_t cursor = 0;
      do {
        for (const RecordHeader& header : tier.List(cursor, 3, &space)) {
          const auto event = cache.StoredEvent(header, tier_, tenant_);
          if (event) Apply(*event);
        }
      } while (cursor != 0);
      page = cache.events().Read(tenant_, false, after_, 1 << 20);
    }
    for (const KvEvent& event : page.events) Apply(event);
    after_ = page.last;
  }
  // The full blocks among the records; of the kind that names are of.
  static std::set<Digest> There(const MemoryRecords& records, const SpaceId& space) {
    std::set<Digest> names;
    for (const auto& [name, record] : records.by_name) {
      const auto tokens = DecodeBlockMetadata(record.header.metadata);
      const bool named = record.header.parent != Digest{};
      if (record.header.space == space && named && tokens->size() == kPageTokens)
        names.insert(record.header.name);
    }
    return names;
  }
  const std::set<Digest>& blocks() const { return blocks_; }
  int snapshots() const { return snapshots_; }

 private:
  void Apply(const KvEvent& event) {
    if (event.tier != tier_) return;
    if (event.type == EventType::kCleared) blocks_.clear();
    if (event.type == EventType::kRemoved) blocks_.erase(event.name);
    if (event.type != EventType::kStored) return;
    EXPECT_EQ(event.tokens.size(), 64u);
    EXPECT_EQ(event.tenant, tenant_);
    EXPECT_EQ(event.kinds, 1u);
    blocks_.insert(event.name);
  }

  const std::string tenant_;
  const EventTier tier_;
  std::set<Digest> blocks_;
  uint64_t after_ = 0;
  int snapshots_ = 0;
};

TEST(Tiers, AReaderOfEventsKnowsWhatTheyHave) {
  for (uint32_t seed = 1; seed <= 6; ++seed) {
    std::mt19937 random(seed);
    KvSetup setup;
    setup.windows = seed % 2 == 0 ? std::vector{0, 70} : std::vector{0, 0};
    setup.events = 60;
    MemoryRecords disk;
    Server server({&disk}, setup);
    TierReader a("a", EventTier::kDisk), b("b", EventTier::kDisk);
    for (int round = 0; round < 300; ++round) {
      const std::string tenant = random() % 2 == 0 ? "a" : "b";
      server.Run(tenant, Join(Text(static_cast<int>(random() % 4), 64 * static_cast<int>(random() % 4)),
                              Text(static_cast<int>(random() % 9), static_cast<int>(random() % 150))));
      for (uint32_t n = random() % 4; n > 0 && !disk.by_name.empty(); --n) {
        auto victim = disk.by_name.begin();
        std::advance(victim, random() % disk.by_name.size());
        server.tier().Evict(victim->second.header.name, random() % 8 != 0);
      }
      if (random() % 5 == 0) server.cache().Clear(tenant);
      if (random() % 2 == 0) continue;
      server.Settle();
      a.CatchUp(server.cache(), server.tier(), kSpaceA);
      if (random() % 4 == 0) b.CatchUp(server.cache(), server.tier(), kSpaceB);
      ASSERT_EQ(a.blocks(), TierReader::There(disk, kSpaceA)) << "seed " << seed << " round " << round;
    }
    server.Settle();
    b.CatchUp(server.cache(), server.tier(), kSpaceB);
    EXPECT_EQ(b.blocks(), TierReader::There(disk, kSpaceB));
    EXPECT_GT(a.snapshots(), 1);
    // A tenant that is forgotten, or has another space, has nothing below.
    if (seed % 2 == 0) {
      server.cache().Forget("a");
    } else {
      server.cache().SetSpace("a", {9});
    }
    a.CatchUp(server.cache(), server.tier(), seed % 2 == 0 ? SpaceId{8} : SpaceId{9});
    EXPECT_TRUE(a.blocks().empty());
  }
}

TEST(Tiers, ATierThatDoesNotSeeWhatGoesIsToldOfAllTheSame) {
  MemoryRecords disk, redis;
  Server server({&disk, &redis});
  server.Run("a", Text(1, 130));
  server.Settle();
  std::map<EventTier, int> stored;
  for (const KvEvent& event : server.cache().events().Read("a", false, 0, 100).events) ++stored[event.tier];
  EXPECT_EQ(stored, (std::map<EventTier, int>{
                        {EventTier::kMemory, 2}, {EventTier::kDisk, 2}, {EventTier::kRedis, 2}}));
  EXPECT_EQ(server.cache().NextTellingTier(0), 0u);
  EXPECT_EQ(server.cache().NextTellingTier(1), 2u) << "only the disk can be listed";
}

}  // namespace
}  // namespace larder
