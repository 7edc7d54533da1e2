// Sliding-window layers: what is held, what is kept for later, and where a sequence can resume.
#include "kv_fixture.h"

namespace larder {
namespace {

// One layer that sees everything and one with a window of `window`.
KvSetup Windowed(int window, int64_t stride, uint64_t limit = 64 << 20) {
  return {.windows = {0, window}, .limit_bytes = limit, .resume_stride = stride};
}

// Window blocks of tenant "a" that are in memory.
size_t ResidentWindows(const KvCache& cache) {
  size_t count = 0;
  for (const auto& block : cache.List("a", 1 << 20)) count += block.kinds.size() == 2;
  return count;
}

TEST(Window, APassedWindowIsLetGoButStaysWhileThereIsRoom) {
  KvWorld world(Windowed(100, 0));
  auto sequence = world.Open("a", {});
  ASSERT_TRUE(world.Write(*sequence, Text(1, 640)));
  EXPECT_EQ(sequence->Page(1, 0, 7, nullptr).k, nullptr);
  EXPECT_NE(sequence->Page(1, 0, 8, nullptr).k, nullptr);  // rows 540..639 are seen, block 8 starts at 512
  EXPECT_NE(sequence->Page(0, 0, 0, nullptr).k, nullptr);
  EXPECT_EQ(sequence->Page(1, 0, 7, nullptr).entries, 64);
  EXPECT_TRUE(world.Reads(*sequence));
  EXPECT_EQ(ResidentWindows(world.cache()), 10u);
  EXPECT_EQ(world.cache().stats().held_blocks, 10u + 2u);
  // Any prefix can still be resumed, since nothing was evicted.
  for (const size_t n : {1, 64, 100, 101, 333, 639}) {
    EXPECT_EQ(world.cache().Probe("a", First(sequence->tokens(), n)), static_cast<int64_t>(n));
  }
  EXPECT_TRUE(world.Sound());
}

TEST(Window, TheLastRowCanBeRunAgainAtEveryOffset) {
  KvWorld world(Windowed(64, 0));
  const auto text = Text(1, 300);
  world.Run("a", text);
  for (size_t n = 1; n <= text.size(); ++n) {
    auto sequence = world.Open("a", First(text, n));
    ASSERT_EQ(sequence->length(), static_cast<int64_t>(n));
    ASSERT_TRUE(world.Reads(*sequence));
  }
}

// Room for 40 pairs of blocks, and a few idle texts that are older than what a test puts in: whole texts go
// in LRU order, so these are the first to go once no window block is to spare.
KvSetup Small(int window, int64_t stride) { return Windowed(window, stride, 40 * 16384 + 100'000); }
void Age(KvWorld& world) {
  for (int i = 0; i < 6; ++i) world.Run("old", Text(900 + i, 64));
}

// Fills the cache with other text until `done`.
template <class Done>
void Squeeze(KvWorld& world, Done done) {
  for (int i = 0; i < 100 && !done(); ++i) world.Run("squeeze", Text(1000 + i, 64));
}

TEST(Window, BlocksThatNoResumePointNeedsGoFirst) {
  KvWorld world(Small(100, 0));
  Age(world);
  const auto text = Text(1, 1280);  // 20 blocks; the end needs rows 1180.., that is blocks 18 and 19
  world.Run("a", text);
  Squeeze(world, [&] { return ResidentWindows(world.cache()) <= 2; });
  const auto blocks = world.cache().List("a", 1000);
  ASSERT_EQ(blocks.size(), 20u);
  for (const auto& block : blocks) EXPECT_EQ(block.kinds.size(), block.depth >= 18 ? 2u : 1u) << block.depth;
  EXPECT_EQ(world.cache().Probe("a", text), 1280);
  EXPECT_TRUE(world.Sound());
}

TEST(Window, ResumingFallsBackToTheLastCompletePoint) {
  KvWorld world(Small(100, 256));
  Age(world);
  const auto text = Text(1, 1280);
  world.Run("a", text);
  // What is left are the two blocks before each of 256, 512, 768, 1024 and 1280.
  Squeeze(world, [&] { return ResidentWindows(world.cache()) <= 10; });
  ASSERT_EQ(ResidentWindows(world.cache()), 10u);
  auto asked = text;
  asked[900] = 7;
  auto opened = world.OpenFull("a", asked);
  EXPECT_EQ(opened.sequence->length(), 768);
  EXPECT_EQ(opened.outcome.reason, MissReason::kWindow);
  EXPECT_EQ(opened.outcome.token, 768);
  EXPECT_TRUE(world.Reads(*opened.sequence));
  ASSERT_TRUE(world.Write(*opened.sequence, std::span(asked).subspan(768)));
  EXPECT_TRUE(world.Reads(*opened.sequence));
  EXPECT_TRUE(world.Sound());
}

TEST(Window, ABranchIsAResumePoint) {
  KvWorld world(Small(60, 0));
  Age(world);
  const auto shared = Text(1, 500);
  world.Run("a", Join(shared, Text(2, 500)));
  world.Run("a", Join(shared, Text(3, 500)));
  // Blocks 6 and 7 (twice, the texts part inside it) before row 500, two at each end.
  Squeeze(world, [&] { return ResidentWindows(world.cache()) <= 7; });
  ASSERT_EQ(ResidentWindows(world.cache()), 7u);
  EXPECT_EQ(world.cache().Probe("a", Join(shared, Text(4, 10))), 500);
  EXPECT_EQ(world.cache().Probe("a", First(shared, 400)), 0);
}

TEST(Window, ALoneLongSequenceMayUseItsOwnPastWindows) {
  // Every window block is wanted by the stride, nothing else can go: the running sequence still gets its
  // blocks.
  const int blocks = 30;
  KvWorld world(Windowed(64, 64, blocks * 16384 + 100'000));
  auto sequence = world.Open("a", {});
  int written = 0;
  while (world.Write(*sequence, Text(1 + written, 64))) ++written;
  EXPECT_GT(written, blocks * 3 / 2);
  EXPECT_TRUE(world.Reads(*sequence));
  EXPECT_TRUE(world.Sound());
}

TEST(Window, ModelsWithoutAFullLayerWork) {
  KvWorld world({.windows = {64, 64}, .limit_bytes = 20 * 16384 + 100'000, .resume_stride = 0});
  const auto text = Text(1, 2000);
  auto sequence = world.Open("a", {});
  for (int at = 0; at < 2000; at += 100) {
    ASSERT_TRUE(world.Write(*sequence, std::span(text).subspan(static_cast<size_t>(at), 100)));
    ASSERT_TRUE(world.Reads(*sequence));
    ASSERT_TRUE(world.Sound());
  }
  world.cache().Close(std::move(sequence));
  EXPECT_EQ(world.cache().Probe("a", text), 2000);
  for (int i = 0; i < 50; ++i) world.Run("b", Text(2 + i, 100));
  EXPECT_EQ(world.cache().Probe("a", text), 0);
  EXPECT_TRUE(world.Sound());
}

TEST(Window, TruncateRefusesWhereTheWindowIsGone) {
  KvWorld world(Small(64, 0));
  Age(world);
  const auto text = Text(1, 640);
  auto sequence = world.Open("a", {});
  ASSERT_TRUE(world.Write(*sequence, text));
  ASSERT_TRUE(world.cache().Truncate(*sequence, 400));  // still resident
  EXPECT_TRUE(world.Reads(*sequence));
  EXPECT_TRUE(world.Sound());
  ASSERT_TRUE(world.Write(*sequence, std::span(text).subspan(400)));
  Squeeze(world, [&] { return ResidentWindows(world.cache()) < 4; });
  const auto refused = world.cache().Truncate(*sequence, 300);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().kind, ErrorKind::kInvalid);
  EXPECT_EQ(sequence->length(), 640);
  EXPECT_TRUE(world.Reads(*sequence));
  EXPECT_TRUE(world.Sound());
}

TEST(Window, ADoubleGivesItsWindowToTheOneThatLostIt) {
  KvWorld world(Small(64, 0));
  Age(world);
  const auto text = Text(1, 640);
  world.Run("a", text);
  Squeeze(world, [&] { return world.cache().Probe("a", First(text, 320)) == 0; });
  ASSERT_EQ(world.cache().Probe("a", First(text, 320)), 0);
  ASSERT_EQ(world.cache().Probe("a", text), 640);
  EXPECT_EQ(world.Run("a", First(text, 320)), 0);
  EXPECT_EQ(world.cache().Probe("a", First(text, 320)), 320);
  EXPECT_EQ(world.cache().Probe("a", text), 640);
  EXPECT_GE(world.cache().stats().deduplicated_blocks, 5u);
  EXPECT_TRUE(world.Sound());
}

}  // namespace
}  // namespace larder
