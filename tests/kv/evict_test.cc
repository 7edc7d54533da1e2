// The limit is never exceeded, the right blocks go, and who is held stays.
#include "base/memory.h"
#include "kv_fixture.h"

namespace larder {
namespace {

constexpr uint64_t kBlock = 16384;  // of the fixture's two layers

std::vector<int32_t> Depths(const KvCache& cache, const std::string& tenant) {
  std::vector<int32_t> depths;
  for (const auto& block : cache.List(tenant, 1000)) depths.push_back(block.depth);
  return depths;
}

TEST(Evict, UsedBytesNeverExceedTheLimit) {
  const uint64_t limit = 20 * kBlock + 50'000;
  KvWorld world({.limit_bytes = limit});
  for (int i = 0; i < 200; ++i) {
    auto sequence = world.Open("t" + std::to_string(i % 7), Text(i % 50, 10 + i % 300));
    while (sequence->length() < 10 + i % 300) {
      ASSERT_TRUE(world.Write(*sequence, Text(i, 1 + i % 90)));
      ASSERT_LE(world.cache().used_bytes(), limit);
    }
    world.cache().Close(std::move(sequence));
    ASSERT_LE(world.cache().used_bytes(), limit);
    ASSERT_TRUE(world.Sound());
  }
  EXPECT_GT(world.cache().stats().evicted_blocks, 100u);
}

TEST(Evict, SuffixesGoBeforePrefixes) {
  KvWorld world({.limit_bytes = 20 * kBlock + 50'000});
  world.Run("a", Text(1, 640));
  for (int i = 0; i < 15; ++i) world.Run("b", Text(10 + i, 64));
  const auto depths = Depths(world.cache(), "a");
  ASSERT_FALSE(depths.empty());
  ASSERT_LT(depths.size(), 10u);
  for (size_t i = 0; i < depths.size(); ++i) EXPECT_EQ(depths[i], static_cast<int32_t>(i));
}

TEST(Evict, LruKeepsTheRecentAndLfuTheFrequent) {
  for (const std::string policy : {"lru", "lfu"}) {
    KvWorld world({.limit_bytes = 20 * kBlock + 50'000, .policy = policy});
    for (int i = 0; i < 5; ++i) world.Run("a", Text(1, 128));
    world.Run("b", Text(2, 128));
    int series = 10;
    while (world.cache().Probe("a", Text(1, 128)) + world.cache().Probe("b", Text(2, 128)) > 128) {
      world.Run("c", Text(series++, 64));
    }
    EXPECT_EQ(world.cache().Probe("a", Text(1, 128)), policy == "lfu" ? 128 : 0) << policy;
    EXPECT_EQ(world.cache().Probe("b", Text(2, 128)), policy == "lfu" ? 0 : 128) << policy;
  }
}

TEST(Evict, AUseMakesRecent) {
  KvWorld world({.limit_bytes = 20 * kBlock + 50'000});
  world.Run("a", Text(1, 128));
  world.Run("b", Text(2, 128));
  world.Run("a", Text(1, 128));
  int series = 10;
  while (world.cache().Probe("a", Text(1, 128)) + world.cache().Probe("b", Text(2, 128)) > 128) {
    world.Run("c", Text(series++, 64));
  }
  EXPECT_EQ(world.cache().Probe("a", Text(1, 128)), 128);
}

TEST(Evict, WhenAllIsHeldNothingChanges) {
  KvWorld world({.limit_bytes = 20 * kBlock + 50'000});
  auto one = world.Open("a", {});
  ASSERT_TRUE(world.Write(*one, Text(1, 640)));
  auto two = world.Open("a", {});
  ASSERT_TRUE(world.Write(*two, Text(2, 400)));
  world.Run("b", Text(3, 64));  // idle, but not enough
  const auto before = world.cache().stats();
  const auto status = world.cache().Reserve(*two, 1000);
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().kind, ErrorKind::kExhausted);
  const auto after = world.cache().stats();
  EXPECT_EQ(after.used_bytes, before.used_bytes);
  EXPECT_EQ(after.evicted_blocks, before.evicted_blocks);
  EXPECT_EQ(two->capacity(), 400);
  EXPECT_EQ(world.cache().Probe("b", Text(3, 64)), 64);
  EXPECT_TRUE(world.Reads(*two));
  EXPECT_TRUE(world.Sound());
  world.cache().Close(std::move(one));
  EXPECT_TRUE(world.Write(*two, Text(4, 600)));
  EXPECT_TRUE(world.Reads(*two));
}

TEST(Evict, OpeningHoldsWhatItFoundBeforeItMakesRoom) {
  // The tables of a new sequence have to evict something: not the prefix it came for.
  KvWorld world({.limit_bytes = 20 * kBlock + 50'000});
  const auto wanted = Text(1, 640);
  world.Run("a", wanted);
  int series = 10;
  std::vector<std::unique_ptr<KvSequence>> holders;
  while (true) {  // fill up, keeping `wanted` the oldest idle text
    auto opened = world.cache().Open("b", Text(series, 1));
    if (!opened || !world.Write(*opened->sequence, Text(series++, 1))) break;
    holders.push_back(std::move(opened->sequence));
    if (world.cache().Probe("a", wanted) < 640) break;
  }
  const int64_t there = world.cache().Probe("a", wanted);
  for (int i = 0; i < 5; ++i) {
    auto opened = world.cache().Open("a", wanted);
    if (!opened) break;
    EXPECT_EQ(opened->sequence->length(), there);
    EXPECT_TRUE(world.Reads(*opened->sequence));
    EXPECT_TRUE(world.Sound());
    holders.push_back(std::move(opened->sequence));
  }
}

TEST(Evict, TenThousandBlocksAreNoScan) {
  // 10,000 one-block texts, then 10,000 more that evict them one by one: a scan would compare 10^8
  // candidates.
  KvWorld world({.windows = {0}, .limit_bytes = 10'000 * 8192 + (20 << 20), .ghosts = 1000});
  const auto prefix = Text(1, 64);
  for (int i = 0; i < 20'000; ++i) {
    const auto text = Join(prefix, std::vector<int32_t>{i});
    auto sequence = world.Open("a", text);
    ASSERT_TRUE(world.Write(*sequence, std::span(text).subspan(static_cast<size_t>(sequence->length()))));
    world.cache().Close(std::move(sequence));
  }
  EXPECT_GT(world.cache().stats().evicted_blocks, 5'000u);
  EXPECT_EQ(world.cache().Probe("a", prefix), 64);
}

TEST(Evict, ClearDropsWhatNobodyHolds) {
  KvWorld world;
  const uint64_t start = world.cache().used_bytes();
  world.Run("a", Text(1, 640));
  auto held = world.Open("a", Text(1, 100));
  EXPECT_EQ(world.cache().Clear(""), 8u);
  EXPECT_TRUE(world.Reads(*held));
  EXPECT_TRUE(world.Sound());
  world.cache().Close(std::move(held));
  EXPECT_EQ(world.cache().Clear(""), 2u);
  EXPECT_EQ(world.cache().used_bytes(), start);
  EXPECT_TRUE(world.Sound());
}

TEST(Evict, ResidentMemoryStaysNearWhatIsCounted) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "a sanitizer's own memory would be counted";
#endif
  const uint64_t before = ResidentBytes();
  const uint64_t limit = 64 << 20;
  KvWorld world({.windows = std::vector<int>(40, 0), .limit_bytes = limit});  // blocks of 320 KiB
  for (int i = 0; i < 60; ++i) world.Run("a", Text(i, 640));
  EXPECT_GT(world.cache().stats().evicted_blocks, 200u);
  EXPECT_GT(world.cache().used_bytes(), limit / 2);
  EXPECT_LT(ResidentBytes() - before, limit + (8 << 20));
}

TEST(Evict, ALimitThatHoldsNothingIsRefused) {
  ManualClock clock;
  auto shape = KvShape::Create({0, 0}, 2, 8, KvType::kF32);
  const auto cache = KvCache::Create(*shape, {}, {.limit_bytes = 20'000}, &clock);
  ASSERT_FALSE(cache);
  EXPECT_EQ(cache.error().kind, ErrorKind::kInvalid);
}

// Under every policy: the limit, the order of the tree, and nothing that is counted twice or not at all.
TEST(Evict, EveryPolicyKeepsTheTreeAndTheLimit) {
  for (const EvictPolicyEntry& entry : EvictPolicies()) {
    const uint64_t limit = 20 * kBlock + 60'000;
    KvWorld world(
        {.windows = {0, 128}, .limit_bytes = limit, .policy = std::string(entry.name), .resume_stride = 128});
    for (int i = 0; i < 300; ++i) {
      const auto text = Join(Text(i % 3, 64 * (i % 5)), Text(100 + i * 7 % 23, 1 + i * 29 % 200));
      world.Run("t" + std::to_string(i % 2), text);
      ASSERT_LE(world.cache().used_bytes(), limit);
      ASSERT_TRUE(world.Sound()) << entry.name << " " << i;
    }
    EXPECT_GT(world.cache().stats().evicted_blocks, 100u) << entry.name;
  }
}

// One text that comes back among many that do not: who tells them apart keeps it.
TEST(Evict, PoliciesThatCountUsesResistAScan) {
  for (const std::string policy : {"lru", "fifo", "lfu", "slru", "s3-fifo", "cost"}) {
    KvWorld world({.limit_bytes = 20 * kBlock + 60'000, .policy = policy});
    for (int i = 0; i < 4; ++i) world.Run("a", Text(1, 128));
    for (int i = 0; i < 30; ++i) world.Run("b", Text(10 + i, 64));
    const bool plain = policy == "lru" || policy == "fifo";
    EXPECT_EQ(world.cache().Probe("a", Text(1, 128)), plain ? 0 : 128) << policy;
  }
}

// The beginning of a text is not forgotten with the text: when it comes back it counts as used before.
TEST(Evict, WhatComesBackAfterAnEvictionIsKnown) {
  for (const std::string policy : {"slru", "s3-fifo"}) {
    KvWorld world({.limit_bytes = 20 * kBlock + 60'000, .policy = policy});
    world.Run("a", Text(1, 128));
    int series = 10;
    while (world.cache().Probe("a", Text(1, 128)) > 0) world.Run("b", Text(series++, 64));
    world.Run("a", Text(1, 128));
    for (int i = 0; i < 30; ++i) world.Run("b", Text(series++, 64));
    EXPECT_EQ(world.cache().Probe("a", Text(1, 128)), 128) << policy;
  }
}

}  // namespace
}  // namespace larder
