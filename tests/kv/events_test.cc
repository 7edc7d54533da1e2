// Can a router that reads the events know what is in memory, and never what is not its to know?
#include "kv/events.h"

#include <map>
#include <random>
#include <thread>

#include "kv/leases.h"
#include "kv_fixture.h"

namespace larder {
namespace {

constexpr EventTier kMemory = EventTier::kMemory;

Digest Name(uint64_t number) { return Sha256(std::as_bytes(std::span(&number, 1))); }

void Store(KvEvents& events, const std::string& tenant, uint64_t number) {
  events.Stored(kMemory, tenant, Name(number), {}, Text(1, 64), 1);
}

TEST(Events, AreNumberedForEachTenantByItself) {
  KvEvents events(100);
  Store(events, "a", 1);
  Store(events, "b", 2);
  Store(events, "b", 3);
  events.Removed(EventTier::kDisk, "a", Name(1), 1);
  events.Cleared(EventTier::kRedis, "a");
  const auto a = events.Read("a", false, 0, 10);
  EXPECT_FALSE(a.gap);
  ASSERT_EQ(a.events.size(), 3u);
  EXPECT_EQ(a.last, 3u);
  for (size_t i = 0; i < 3; ++i) EXPECT_EQ(a.events[i].sequence, i + 1);
  EXPECT_EQ(a.events[0].type, EventType::kStored);
  EXPECT_EQ(a.events[0].tokens, Text(1, 64));
  EXPECT_EQ(a.events[1].type, EventType::kRemoved);
  EXPECT_EQ(a.events[1].tier, EventTier::kDisk);
  EXPECT_EQ(a.events[1].name, Name(1));
  EXPECT_EQ(a.events[2].type, EventType::kCleared);
  EXPECT_EQ(events.last("a", false), 3u);
  EXPECT_EQ(events.last("b", false), 2u);
  EXPECT_EQ(events.last("", true), 5u);
  EXPECT_EQ(events.last("nobody", false), 0u);
  const auto all = events.Read("", true, 2, 2);
  ASSERT_EQ(all.events.size(), 2u);
  EXPECT_EQ(all.events[0].tenant, "b");
  EXPECT_EQ(all.events[0].sequence, 3u);
  EXPECT_EQ(all.last, 4u);
}

TEST(Events, PagesFollowEachOther) {
  KvEvents events(1000);
  std::mt19937 random(3);
  std::map<std::string, std::vector<Digest>> written;
  for (uint64_t i = 0; i < 700; ++i) {
    const std::string tenant(1, static_cast<char>('a' + random() % 3));
    Store(events, tenant, i);
    written[tenant].push_back(Name(i));
  }
  for (const auto& [tenant, names] : written) {
    std::vector<Digest> read;
    for (uint64_t after = 0;;) {
      const auto page = events.Read(tenant, false, after, 1 + random() % 7);
      ASSERT_FALSE(page.gap);
      if (page.events.empty()) break;
      for (const KvEvent& event : page.events) {
        ASSERT_EQ(event.sequence, ++after);
        read.push_back(event.name);
      }
      ASSERT_EQ(page.last, after);
    }
    EXPECT_EQ(read, names);
  }
}

TEST(Events, WhatIsForgottenIsAGapForItsTenantOnly) {
  KvEvents events(10);
  Store(events, "quiet", 0);
  Store(events, "quiet", 1);
  for (uint64_t i = 0; i < 9; ++i) Store(events, "loud", i);
  EXPECT_TRUE(events.Read("quiet", false, 0, 10).gap);
  EXPECT_FALSE(events.Read("quiet", false, 1, 10).gap);
  EXPECT_EQ(events.Read("quiet", false, 1, 10).events.size(), 1u);
  for (uint64_t i = 0; i < 20; ++i) Store(events, "loud", i);
  EXPECT_TRUE(events.Read("quiet", false, 1, 10).gap);
  EXPECT_FALSE(events.Read("quiet", false, 2, 10).gap) << "it has missed nothing";
  EXPECT_TRUE(events.Read("quiet", false, 3, 10).gap) << "a number that was never given";
  EXPECT_TRUE(events.Read("", true, 20, 100).gap);
  EXPECT_EQ(events.Read("", true, 21, 100).events.size(), 10u);
  EXPECT_FALSE(events.Read("nobody", false, 0, 10).gap);
}

TEST(Events, EveryRunHasAnEpochOfItsOwn) { EXPECT_NE(KvEvents(1).epoch(), KvEvents(1).epoch()); }

TEST(Events, AreReadWhileTheyAreWritten) {
  KvEvents events(64);
  std::jthread writer([&](const std::stop_token& stop) {
    for (uint64_t i = 0; !stop.stop_requested(); ++i) Store(events, i % 2 == 0 ? "a" : "b", i);
  });
  uint64_t after = 0;
  for (int reads = 0; reads < 20'000; ++reads) {
    const auto page = events.Read("a", false, after, 8);
    if (page.gap) {
      after = events.last("a", false);
      continue;
    }
    for (const KvEvent& event : page.events) {
      ASSERT_EQ(event.sequence, ++after);
      ASSERT_EQ(event.name, Name(2 * (after - 1)));
    }
  }
}

// A reader that follows one tenant and compares with what the cache says. It may fall behind.
class Mirror {
 public:
  explicit Mirror(std::string tenant) : tenant_(std::move(tenant)) {}

  void CatchUp(KvCache& cache, size_t limit) {
    for (;;) {
      const auto page = cache.events().Read(tenant_, false, after_, limit);
      if (page.gap || fresh_) {
        fresh_ = false;
        blocks_.clear();
        after_ = cache.events().last(tenant_, false);
        uint64_t cursor = 0;
        do {
          for (const KvEvent& event : cache.Snapshot(tenant_, cursor, limit)) Apply(event);
        } while (cursor != 0);
        ++snapshots_;
        continue;
      }
      if (page.events.empty()) return;
      for (const KvEvent& event : page.events) Apply(event);
      after_ = page.last;
    }
  }
  void Compare(const KvCache& cache) const {
    uint64_t cursor = 0;
    std::map<Digest, uint32_t> now;
    for (const KvEvent& event : cache.Snapshot(tenant_, cursor, 1 << 20)) now[event.name] = event.kinds;
    ASSERT_EQ(blocks_, now);
  }
  int snapshots() const { return snapshots_; }

 private:
  void Apply(const KvEvent& event) {
    ASSERT_EQ(event.tenant, tenant_);
    if (event.type == EventType::kCleared) return blocks_.clear();
    uint32_t& kinds = blocks_[event.name];
    if (event.type == EventType::kStored) {
      kinds |= event.kinds;
      ASSERT_EQ(event.tokens.size(), 64u);
    } else {
      kinds &= ~event.kinds;
      if (kinds == 0) blocks_.erase(event.name);
    }
  }
  std::string tenant_;
  std::map<Digest, uint32_t> blocks_;
  uint64_t after_ = 0;
  bool fresh_ = true;
  int snapshots_ = 0;
};

TEST(Events, AReaderKnowsExactlyWhatIsInMemory) {
  for (const auto& windows : {std::vector<int>{0, 0}, std::vector<int>{0, 100}}) {
    KvSetup setup{.windows = windows, .limit_bytes = 30 * 16384 + 90'000, .resume_stride = 192};
    setup.events = 40;
    KvWorld world(setup);
    std::mt19937 random(7);
    const auto upto = [&](uint32_t n) { return static_cast<int>(random() % n); };
    Mirror x("x"), y("y");
    for (int step = 0; step < 3000; ++step) {
      const std::string tenant(1, static_cast<char>('x' + upto(2)));
      if (upto(60) == 0) {
        auto held = world.Open(tenant, Text(upto(5), 300));
        world.cache().Clear(tenant);
      } else {
        world.Run(tenant, Join(Text(upto(5), upto(200)), Text(upto(5), upto(200))));
      }
      if (upto(3) == 0) x.CatchUp(world.cache(), 1 + random() % 9);
      if (upto(30) == 0) y.CatchUp(world.cache(), 1 + random() % 9);
      if (step % 50 == 0) {
        x.CatchUp(world.cache(), 5);
        y.CatchUp(world.cache(), 5);
        x.Compare(world.cache());
        y.Compare(world.cache());
        if (HasFatalFailure()) FAIL() << "at step " << step;
      }
    }
    EXPECT_GT(y.snapshots(), 5) << "it has never fallen behind";
    EXPECT_GT(world.cache().stats().evicted_blocks, 0u);
  }
}

}  // namespace
}  // namespace larder
