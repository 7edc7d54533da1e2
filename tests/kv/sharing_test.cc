// Who shares which rows, when rows are copied, and what happens to two that computed the same.
#include "kv_fixture.h"

namespace larder {
namespace {

TEST(Sharing, AnEmptyCacheKnowsNothing) {
  KvWorld world;
  const auto text = Text(1, 100);
  auto opened = world.OpenFull("a", text);
  EXPECT_EQ(opened.sequence->length(), 0);
  EXPECT_EQ(opened.sequence->capacity(), 0);
  EXPECT_EQ(opened.outcome.reason, MissReason::kNeverSeen);
  EXPECT_EQ(opened.outcome.token, 0);
}

TEST(Sharing, EveryRowOfAClosedSequenceIsFoundAgain) {
  KvWorld world;
  const auto text = Text(1, 200);
  EXPECT_EQ(world.Run("a", text), 0);
  for (size_t n = 0; n <= text.size(); ++n) {
    auto opened = world.OpenFull("a", First(text, n));
    ASSERT_EQ(opened.sequence->length(), static_cast<int64_t>(n));
    ASSERT_EQ(opened.outcome.reason, MissReason::kNone);
    ASSERT_TRUE(world.Reads(*opened.sequence));
  }
  EXPECT_TRUE(world.Sound());
  EXPECT_EQ(world.cache().stats().held_blocks, 0u);
}

TEST(Sharing, RowsOfARunningWriterAreSharedAtOnce) {
  KvWorld world;
  const auto text = Text(1, 130);
  auto writer = world.Open("a", text);
  ASSERT_TRUE(world.Write(*writer, First(text, 70)));
  const uint64_t used = world.cache().used_bytes();
  auto reader = world.Open("a", text);
  EXPECT_EQ(reader->length(), 70);
  EXPECT_TRUE(world.Reads(*reader));
  EXPECT_LT(world.cache().used_bytes() - used, world.BlockBytes());
  EXPECT_EQ(reader->Page(0, 0, 0, nullptr).k, writer->Page(0, 0, 0, nullptr).k);
  EXPECT_EQ(reader->Page(1, 1, 1, nullptr).k, writer->Page(1, 1, 1, nullptr).k);

  ASSERT_TRUE(world.Write(*writer, std::span(text).subspan(70)));
  EXPECT_EQ(reader->length(), 70);
  EXPECT_TRUE(world.Reads(*reader));
  EXPECT_TRUE(world.Sound());
}

TEST(Sharing, DivergenceInsideABlockCopiesRowsOnly) {
  KvWorld world;
  const auto shared = Text(1, 100);
  const auto one = Join(shared, Text(2, 60));
  const auto two = Join(shared, Text(3, 60));
  world.Run("a", one);
  const auto before = world.cache().stats();
  EXPECT_EQ(world.Run("a", two), 100);
  const auto after = world.cache().stats();
  EXPECT_EQ(after.copied_rows - before.copied_rows, 36u);
  EXPECT_EQ(after.nodes - before.nodes, 2u);  // the block of rows 64..127 and the one after it
  EXPECT_EQ(world.cache().Probe("a", one), 160);
  EXPECT_EQ(world.cache().Probe("a", two), 160);
  EXPECT_TRUE(world.Sound());
}

TEST(Sharing, TheNextTurnAppendsInPlace) {
  KvWorld world;
  const auto text = Text(1, 100);
  world.Run("a", First(text, 70));
  EXPECT_EQ(world.Run("a", text), 70);
  EXPECT_EQ(world.cache().stats().copied_rows, 0u);
  EXPECT_EQ(world.cache().stats().nodes, 2u);
}

TEST(Sharing, OnlyOneOfTwoAppendsInPlace) {
  KvWorld world;
  const auto text = Text(1, 10);
  world.Run("a", text);
  auto one = world.Open("a", text);
  auto two = world.Open("a", text);
  ASSERT_TRUE(world.Write(*one, Text(2, 5)));
  ASSERT_TRUE(world.Write(*two, Text(3, 5)));
  EXPECT_EQ(world.cache().stats().copied_rows, 10u);
  EXPECT_TRUE(world.Reads(*one));
  EXPECT_TRUE(world.Reads(*two));
  EXPECT_TRUE(world.Sound());
}

TEST(Sharing, TwoThatComputedTheSameBlockEndWithOne) {
  KvWorld world;
  const auto text = Text(1, 64);
  auto one = world.Open("a", text);
  auto two = world.Open("a", text);
  ASSERT_TRUE(world.Write(*one, text));
  ASSERT_TRUE(world.Write(*two, text));
  EXPECT_EQ(world.cache().stats().deduplicated_blocks, 1u);
  EXPECT_EQ(world.cache().stats().nodes, 1u);
  EXPECT_EQ(one->Page(0, 0, 0, nullptr).k, two->Page(0, 0, 0, nullptr).k);
  EXPECT_TRUE(world.Reads(*two));
  // The block after it hangs under the one that stayed.
  ASSERT_TRUE(world.Write(*two, Text(2, 30)));
  EXPECT_TRUE(world.Reads(*two));
  EXPECT_EQ(world.cache().Probe("a", Join(text, Text(2, 30))), 94);
  EXPECT_TRUE(world.Sound());
}

TEST(Sharing, WhoeverHoldsADoubleMovesOver) {
  KvWorld world;
  const auto text = Text(1, 64);
  auto one = world.Open("a", text);
  auto two = world.Open("a", text);
  ASSERT_TRUE(world.Write(*one, First(text, 40)));
  ASSERT_TRUE(world.Write(*two, First(text, 40)));
  auto fork = world.cache().Fork(*two);
  ASSERT_TRUE(fork);
  ASSERT_TRUE(world.Write(*one, std::span(text).subspan(40)));
  ASSERT_TRUE(world.Write(*two, std::span(text).subspan(40)));
  EXPECT_EQ(world.cache().stats().deduplicated_blocks, 1u);
  EXPECT_EQ(world.cache().stats().nodes, 1u);
  EXPECT_EQ((*fork)->Page(0, 0, 0, nullptr).k, one->Page(0, 0, 0, nullptr).k);
  EXPECT_TRUE(world.Reads(**fork));
  EXPECT_TRUE(world.Sound());
  ASSERT_TRUE(world.Write(*two, Text(4, 100)));
  EXPECT_EQ(world.cache().Probe("a", Join(text, Text(4, 100))), 164);
  EXPECT_TRUE(world.Reads(*two));
  EXPECT_TRUE(world.Reads(**fork));
  EXPECT_TRUE(world.Sound());
  world.cache().Close(std::move(one));
  world.cache().Close(std::move(two));
  world.cache().Close(*std::move(fork));
  EXPECT_TRUE(world.Sound());
}

TEST(Sharing, ALongerTailReplacesAShorterOne) {
  KvWorld world;
  const auto text = Text(1, 30);
  auto one = world.Open("a", text);
  auto two = world.Open("a", text);
  ASSERT_TRUE(world.Write(*one, First(text, 20)));
  ASSERT_TRUE(world.Write(*two, text));
  world.cache().Close(std::move(one));  // the shorter ends first or last: only the longer stays
  EXPECT_EQ(world.cache().stats().nodes, 1u);
  world.cache().Close(std::move(two));
  EXPECT_EQ(world.cache().stats().nodes, 1u);
  EXPECT_EQ(world.cache().Probe("a", text), 30);
  EXPECT_TRUE(world.Sound());
}

TEST(Sharing, SealingDropsIdleTailsThatItContains) {
  KvWorld world;
  const auto text = Text(1, 64);
  // Three idle tails of 10, 20 and 30 rows, and one that parts from them.
  std::vector<std::unique_ptr<KvSequence>> tails;
  for (const size_t n : {10, 20, 30}) {
    tails.push_back(world.Open("a", {}));
    ASSERT_TRUE(world.Write(*tails.back(), First(text, n)));
  }
  auto other = world.Open("a", {});
  ASSERT_TRUE(world.Write(*other, Join(First(text, 15), Text(2, 5))));
  auto full = world.Open("a", {});
  ASSERT_TRUE(world.Write(*full, First(text, 63)));
  EXPECT_EQ(world.cache().stats().nodes, 5u);
  world.cache().Close(std::move(other));
  for (auto& tail : tails) world.cache().Close(std::move(tail));
  ASSERT_TRUE(world.Write(*full, std::span(text).subspan(63)));
  EXPECT_EQ(world.cache().stats().nodes, 2u);
  EXPECT_EQ(world.cache().Probe("a", Join(First(text, 15), Text(2, 5))), 20);
  EXPECT_TRUE(world.Sound());
}

TEST(Sharing, ForksShareEverythingAndPartAtTheirFirstRow) {
  KvWorld world;
  auto source = world.Open("a", {});
  ASSERT_TRUE(world.Write(*source, Text(1, 90)));
  const auto before = world.cache().stats();
  std::vector<std::unique_ptr<KvSequence>> forks;
  for (int i = 0; i < 8; ++i) {
    auto fork = world.cache().Fork(*source);
    ASSERT_TRUE(fork);
    EXPECT_EQ((*fork)->length(), 90);
    forks.push_back(*std::move(fork));
  }
  EXPECT_EQ(world.cache().stats().blocks, before.blocks);
  for (int i = 0; i < 8; ++i) ASSERT_TRUE(world.Write(*forks[static_cast<size_t>(i)], Text(10 + i, 10)));
  EXPECT_EQ(world.cache().stats().nodes, before.nodes + 8);
  EXPECT_EQ(world.cache().stats().copied_rows, 8u * 26);
  for (const auto& fork : forks) EXPECT_TRUE(world.Reads(*fork));
  EXPECT_TRUE(world.Reads(*source));
  EXPECT_TRUE(world.Sound());
}

TEST(Sharing, TruncateForgetsWithoutLosing) {
  KvWorld world;
  const auto text = Text(1, 150);
  auto sequence = world.Open("a", {});
  ASSERT_TRUE(world.Write(*sequence, text));
  ASSERT_TRUE(world.cache().Truncate(*sequence, 100));
  EXPECT_EQ(sequence->length(), 100);
  EXPECT_EQ(sequence->capacity(), 100);
  EXPECT_TRUE(world.Reads(*sequence));
  EXPECT_EQ(world.cache().Probe("a", text), 150);
  ASSERT_TRUE(world.Write(*sequence, Text(2, 50)));
  EXPECT_TRUE(world.Reads(*sequence));
  EXPECT_EQ(world.cache().Probe("a", text), 150);
  ASSERT_TRUE(world.cache().Truncate(*sequence, 0));
  EXPECT_EQ(sequence->length(), 0);
  EXPECT_EQ(world.cache().stats().held_blocks, 0u);
  EXPECT_TRUE(world.Sound());
}

TEST(Sharing, ReservedRowsAreFreedWhenNobodyWroteThem) {
  KvWorld world;
  auto sequence = world.Open("a", {});
  const uint64_t blocks = world.cache().stats().blocks;
  ASSERT_TRUE(world.cache().Reserve(*sequence, 1000));
  EXPECT_EQ(sequence->capacity(), 1000);
  EXPECT_EQ(sequence->Entries(0, 0), 1000);
  EXPECT_EQ(sequence->Page(0, 0, 15, nullptr).entries, 1000 - 15 * 64);
  EXPECT_TRUE(world.Sound());
  world.cache().Close(std::move(sequence));
  EXPECT_EQ(world.cache().stats().blocks, blocks);
  EXPECT_EQ(world.cache().stats().tenants, 0u);
  EXPECT_TRUE(world.Sound());
}

TEST(Sharing, SequencesThatGoOutOfScopeLetGo) {
  KvWorld world;
  {
    ASSERT_TRUE(world.Write(*world.Open("a", {}), Text(1, 100)));
  }
  EXPECT_EQ(world.cache().stats().sequences, 0u);
  EXPECT_EQ(world.cache().stats().held_blocks, 0u);
  EXPECT_EQ(world.cache().Probe("a", Text(1, 100)), 100);
}

TEST(Sharing, TenantsDoNotSeeEachOther) {
  KvWorld world;
  const auto text = Text(1, 130);
  world.Run("a", text);
  auto opened = world.OpenFull("b", text);
  EXPECT_EQ(opened.sequence->length(), 0);
  EXPECT_EQ(opened.outcome.reason, MissReason::kOtherTenant);
  EXPECT_TRUE(opened.outcome.cached.empty());
  EXPECT_EQ(world.Run("b", text), 0);
  EXPECT_EQ(world.cache().Clear("a"), 3u);
  EXPECT_EQ(world.cache().Probe("a", text), 0);
  EXPECT_EQ(world.cache().Probe("b", text), 130);
}

TEST(Sharing, ThousandsOfBranchesAreFoundRight) {
  KvWorld world({.limit_bytes = 512 << 20});
  const auto prefix = Text(1, 64);
  for (int i = 0; i < 3000; ++i) {
    const std::vector<int32_t> tail = {i * 7 % 3000, i, 5};
    ASSERT_EQ(world.Run("a", Join(prefix, tail)), i == 0 ? 0 : 64);
  }
  for (int i = 0; i < 3000; i += 17) {
    const std::vector<int32_t> tail = {i * 7 % 3000, i, 6};
    ASSERT_EQ(world.cache().Probe("a", Join(prefix, tail)), 66);
  }
  EXPECT_TRUE(world.Sound());
}

TEST(Sharing, BranchesOfOnePrefixCostLittleMoreThanOne) {
  KvWorld world;
  const auto prefix = Text(1, 2048);
  world.Run("a", prefix);
  std::vector<std::unique_ptr<KvSequence>> branches;
  for (int i = 0; i < 32; ++i) {
    branches.push_back(world.Open("a", prefix));
    ASSERT_EQ(branches.back()->length(), 2048);
    ASSERT_TRUE(world.Write(*branches.back(), Text(10 + i, 40)));
  }
  EXPECT_EQ(world.cache().stats().blocks, 32u + 32u);  // the prefix once, and a tail each
}

}  // namespace
}  // namespace larder
