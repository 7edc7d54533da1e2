// Every token that is not reused has the right reason.
#include "kv_fixture.h"

namespace larder {
namespace {

TEST(Outcome, ReasonsHaveNames) {
  EXPECT_EQ(MissReasonName(MissReason::kNeverSeen), "never seen");
  EXPECT_EQ(MissReasonName(MissReason::kDiverged), "diverged");
  EXPECT_EQ(MissReasonName(MissReason::kEvicted), "evicted");
  EXPECT_EQ(MissReasonName(MissReason::kOtherTenant), "other tenant");
  EXPECT_EQ(MissReasonName(MissReason::kMethod), "method");
}

TEST(Outcome, ANewTurnIsNeverSeenFromItsFirstToken) {
  KvWorld world;
  const auto text = Text(1, 100);
  world.Run("a", First(text, 80));
  const auto outcome = world.OpenFull("a", text).outcome;
  EXPECT_EQ(outcome.reason, MissReason::kNeverSeen);
  EXPECT_EQ(outcome.token, 80);
  EXPECT_EQ(outcome.rows_in_memory, 80);
}

TEST(Outcome, DivergenceShowsBothTexts) {
  KvWorld world;
  const auto cached = Text(1, 200);
  world.Run("a", cached);
  for (const int at : {1, 63, 64, 100, 128, 190}) {
    auto asked = cached;
    asked[static_cast<size_t>(at)] = 7;
    const auto outcome = world.OpenFull("a", asked).outcome;
    ASSERT_EQ(outcome.reason, MissReason::kDiverged) << at;
    EXPECT_EQ(outcome.token, at);
    const size_t n = std::min<size_t>(16, 200 - static_cast<size_t>(at));
    const auto expect = [&](const std::vector<int32_t>& text) {
      return std::vector<int32_t>(text.begin() + at, text.begin() + at + static_cast<ptrdiff_t>(n));
    };
    EXPECT_EQ(outcome.cached, expect(cached));
    EXPECT_EQ(outcome.requested, expect(asked));
  }
}

TEST(Outcome, AnotherBeginningIsNeverSeen) {
  KvWorld world;
  world.Run("a", Text(1, 100));
  EXPECT_EQ(world.OpenFull("a", Text(2, 100)).outcome.reason, MissReason::kNeverSeen);
}

TEST(Outcome, DivergenceNeverShowsAnotherTenantsText) {
  KvWorld world;
  const auto text = Text(1, 64);
  world.Run("a", text);
  world.Run("b", Join(text, Text(2, 20)));
  const auto outcome = world.OpenFull("a", Join(text, Text(3, 20))).outcome;
  EXPECT_EQ(outcome.reason, MissReason::kNeverSeen);
  EXPECT_TRUE(outcome.cached.empty());
}

TEST(Outcome, EvictedSaysByWhomAndWhen) {
  KvWorld world({.limit_bytes = 1 << 20});
  const auto text = Text(1, 150);
  world.Run("a", text);
  world.clock().AdvanceNs(5'000'000'000);
  int series = 2;
  while (world.cache().Probe("a", text) == 150) world.Run("a", Text(series++, 200));
  const auto outcome = world.OpenFull("a", text).outcome;
  EXPECT_EQ(outcome.reason, MissReason::kEvicted);
  EXPECT_EQ(outcome.token, world.cache().Probe("a", text));
  EXPECT_EQ(outcome.policy, "lru");
  EXPECT_EQ(outcome.evicted_wall_ms, 5000);
}

TEST(Outcome, AShorterRequestOfAnEvictedBlockIsEvictedToo) {
  KvWorld world({.limit_bytes = 1 << 20});
  const auto text = Text(1, 64);
  world.Run("a", text);
  for (int series = 2; world.cache().Probe("a", text) > 0; ++series) world.Run("a", Text(series, 200));
  EXPECT_EQ(world.OpenFull("a", First(text, 30)).outcome.reason, MissReason::kEvicted);
  EXPECT_EQ(world.OpenFull("a", Join(First(text, 30), Text(9, 60))).outcome.reason, MissReason::kEvicted);
  // Other text after the same place is not.
  EXPECT_EQ(world.OpenFull("a", Text(1'000'000, 64)).outcome.reason, MissReason::kNeverSeen);
}

TEST(Outcome, AnEvictedShorterPrefixDoesNotHideADivergence) {
  KvWorld world({.limit_bytes = 1 << 20});
  const auto text = Text(1, 60);
  world.Run("a", Join(First(text, 20), Text(2, 30)));
  for (int series = 3; world.cache().Probe("a", text) > 0; ++series) world.Run("a", Text(series, 200));
  world.Run("a", Join(First(text, 40), Text(4, 20)));
  const auto outcome = world.OpenFull("a", text).outcome;
  EXPECT_EQ(outcome.reason, MissReason::kDiverged);
  EXPECT_EQ(outcome.token, 40);
}

TEST(Outcome, NoGhostsMeansNeverSeen) {
  KvWorld world({.limit_bytes = 1 << 20, .ghosts = 0});
  const auto text = Text(1, 64);
  world.Run("a", text);
  for (int series = 2; world.cache().Probe("a", text) > 0; ++series) world.Run("a", Text(series, 200));
  EXPECT_EQ(world.OpenFull("a", text).outcome.reason, MissReason::kNeverSeen);
}

TEST(Outcome, PlantedCollisionsAreCaughtAndCounted) {
  // All names are the same: every full block collides with the first.
  KvWorld world({.weaken_name = [](const Digest&) { return Digest{}; }});
  const auto one = Text(1, 64), two = Text(2, 64);
  world.Run("a", one);
  const auto outcome = world.OpenFull("a", two).outcome;
  EXPECT_EQ(outcome.rows_in_memory, 0);
  EXPECT_EQ(outcome.reason, MissReason::kCollision);
  EXPECT_GE(world.cache().stats().collisions, 1u);
  // Both still work: the second has no name, but is found by its tokens.
  EXPECT_EQ(world.Run("a", two), 0);
  EXPECT_EQ(world.Run("a", one), 64);
  EXPECT_EQ(world.Run("a", two), 64);
  EXPECT_EQ(world.Run("b", one), 0);
  EXPECT_TRUE(world.Sound());
}

TEST(Outcome, HitsAndMissesAreCounted) {
  KvWorld world;
  const auto text = Text(1, 100);
  world.Run("a", First(text, 80));
  world.Run("a", text);
  EXPECT_EQ(world.cache().stats().hits_rows, 80u);
  EXPECT_EQ(world.cache().stats().missed_rows, 100u);
}

TEST(Outcome, ListTellsWhatIsThere) {
  KvWorld world;
  world.Run("a", Text(1, 100));
  world.Run("b", Text(2, 10));
  const auto all = world.cache().List("", 100);
  ASSERT_EQ(all.size(), 3u);
  const auto mine = world.cache().List("a", 100);
  ASSERT_EQ(mine.size(), 2u);
  EXPECT_EQ(mine[0].depth, 0);
  EXPECT_TRUE(mine[0].sealed);
  EXPECT_EQ(mine[0].children, 1);
  EXPECT_EQ(mine[1].parent, mine[0].name);
  EXPECT_EQ(mine[1].rows, 36);
  EXPECT_EQ(mine[1].tokens.front(), 1064);
  EXPECT_EQ(mine[1].tenant, "a");
  EXPECT_EQ(mine[1].kinds, std::vector<std::string>{"full"});
  EXPECT_EQ(world.cache().List("", 2).size(), 2u);
}

}  // namespace
}  // namespace larder
