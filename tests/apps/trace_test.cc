// Reading traces, and replaying them: small ones whose figures can be counted by hand, and random ones for
// what must hold of all.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "larder/trace_file.h"
#include "larder/trace_replay.h"
#include "store/evict/policy.h"

namespace larder {
namespace {

std::string Line(int64_t time, int64_t tokens, const std::string& ids) {
  return fmt::format(R"({{"timestamp": {}, "input_length": {}, "output_length": 1, "hash_ids": [{}]}})", time,
                     tokens, ids) +
         "\n";
}

Trace Parsed(const std::string& text) {
  auto trace = ParseTrace(text);
  EXPECT_TRUE(trace) << trace.error().message;
  return trace ? *std::move(trace) : Trace{};
}

TEST(TraceFile, ReadsBlocksAndTheirPlaces) {
  const Trace trace = Parsed(Line(0, 1100, "7, 8, 9") + "\n" + Line(5, 600, "7, 20"));
  EXPECT_EQ(trace.block_tokens, 512);
  ASSERT_EQ(trace.requests.size(), 2u);
  EXPECT_EQ(trace.requests[1].timestamp_ms, 5);
  EXPECT_EQ(trace.requests[1].blocks, (std::vector<uint32_t>{0, 3}));
  ASSERT_EQ(trace.blocks.size(), 4u);
  EXPECT_EQ(trace.blocks[2].tokens, 1100 - 1024);
  EXPECT_EQ(trace.blocks[2].parent, 1u);
  EXPECT_EQ(trace.blocks[3].start, 512);
  EXPECT_EQ(Parsed("{\"block_size\": 16}\n" + Line(0, 20, "1, 2")).block_tokens, 16);
}

TEST(TraceFile, SaysWhichLineIsWrong) {
  const std::string good = Line(10, 512, "1");
  const auto message = [&](const std::string& line) {
    const auto trace = ParseTrace(good + line);
    EXPECT_FALSE(trace) << line;
    return trace ? "" : trace.error().message;
  };
  for (const std::string& line :
       {std::string("TIMESTAMP,ContextTokens,GeneratedTokens"), Line(9, 512, "1"), Line(-1, 512, "2"),
        Line(10, 513, "1"), Line(10, 0, ""), Line(10, 1024, "2, 1"), Line(10, 1024, "2, 2"),
        Line(10, 500, "1"), Line(10, 512, "-3"), Line(10, 512, "1.5"), std::string("[]"),
        std::string("{\"timestamp\": 3}"), std::string("{\"block_size\": 16}")}) {
    EXPECT_TRUE(message(line).starts_with("line 2: ")) << message(line);
  }
  EXPECT_NE(message("{\"timestamp\": 1, \"input_length\": 5}").find("lengths alone"), std::string::npos);
  EXPECT_FALSE(ParseTrace(""));
}

ReplayFigures Replayed(const Trace& trace, const ReplaySetup& setup) {
  auto figures = Replay(trace, setup);
  EXPECT_TRUE(figures);
  return figures ? *figures : ReplayFigures{};
}

TEST(Replay, CountsWhatALargeCacheFinds) {
  const Trace trace = Parsed(Line(0, 1100, "1, 2, 3") + Line(1, 1100, "1, 2, 3") + Line(2, 1000, "1, 4"));
  const ReplayFigures figures = Replayed(trace, {.memory_blocks = 100});
  EXPECT_EQ(figures.tokens, 3200);
  EXPECT_EQ(figures.hit_tokens, 1100 + 512);
  EXPECT_EQ(figures.hit_blocks, 4);
  EXPECT_EQ(figures.blocks, 8);
  EXPECT_EQ(figures.evicted_blocks, 0);
  EXPECT_EQ(figures.written_tokens, 0);
}

TEST(Replay, TheEndOfATextGoesFirst) {
  // 4 takes the place of 3, whatever the policy; then 1 and 2 are found.
  const Trace trace = Parsed(Line(0, 1536, "1, 2, 3") + Line(1, 512, "4") + Line(2, 1536, "1, 2, 3"));
  for (const EvictPolicyEntry& entry : EvictPolicies()) {
    EXPECT_EQ(Replayed(trace, {.memory_blocks = 3, .policy = std::string(entry.name)}).hit_blocks, 2)
        << entry.name;
  }
}

TEST(Replay, APromptThatDoesNotFitKeepsItsBeginning) {
  const Trace trace = Parsed(Line(0, 1536, "1, 2, 3") + Line(1, 1536, "1, 2, 3"));
  EXPECT_EQ(Replayed(trace, {.memory_blocks = 2}).hit_blocks, 2);
}

TEST(Replay, TheDiskGivesBackWhatMemoryLost) {
  const std::string text =
      Line(0, 1024, "1, 2") + Line(1, 1024, "3, 4") + Line(2, 1024, "1, 2") + Line(3, 1024, "1, 2");
  const ReplayFigures all = Replayed(Parsed(text), {.memory_blocks = 2, .disk_blocks = 10});
  EXPECT_EQ(all.hit_tokens, 2048);
  EXPECT_EQ(all.disk_tokens, 1024);
  EXPECT_EQ(all.written_tokens, 2048);
  // Written when they came back, and found in memory after that.
  const ReplayFigures hits = Replayed(Parsed(text), {.memory_blocks = 2, .disk_blocks = 10, .admit = "hits"});
  EXPECT_EQ(hits.hit_tokens, 1024);
  EXPECT_EQ(hits.disk_tokens, 0);
  EXPECT_EQ(hits.written_tokens, 1024);
}

// Sessions that go on, and texts that part; many end soon.
Trace RandomTrace(uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<std::vector<int>> sessions;
  std::string text;
  int next = 0;
  for (int i = 0; i < 400; ++i) {
    std::vector<int> chain;
    if (!sessions.empty() && random() % 2 == 0) {
      chain = sessions[sessions.size() - 1 - std::min<size_t>(random() % sessions.size(), random() % 30)];
      if (random() % 4 == 0) chain.resize(1 + random() % chain.size());
    }
    for (uint32_t grow = 1 + random() % 8; grow > 0; --grow) chain.push_back(next++);
    sessions.push_back(chain);
    text += Line(i, static_cast<int64_t>(chain.size()) * 512, fmt::format("{}", fmt::join(chain, ", ")));
  }
  return Parsed(text);
}

TEST(Replay, NobodyBeatsBelady) {
  for (uint32_t seed = 1; seed <= 4; ++seed) {
    const Trace trace = RandomTrace(seed);
    for (const uint64_t capacity : {100, 300, 1000}) {
      const ReplayFigures bound = ReplayBelady(trace, capacity);
      int64_t best = 0;
      for (const EvictPolicyEntry& entry : EvictPolicies()) {
        const std::string policy(entry.name);
        const int64_t hits = Replayed(trace, {.memory_blocks = capacity, .policy = policy}).hit_blocks;
        EXPECT_LE(hits, bound.hit_blocks) << policy << " " << capacity;
        best = std::max(best, hits);
        const ReplaySetup both{
            .memory_blocks = capacity / 4, .disk_blocks = capacity - capacity / 4, .policy = policy};
        EXPECT_LE(Replayed(trace, both).hit_blocks, bound.hit_blocks) << policy << " " << capacity;
      }
      EXPECT_GT(best, 0);
    }
  }
}

TEST(Replay, WithRoomForAllEverybodyFindsEverything) {
  const Trace trace = RandomTrace(9);
  const ReplayFigures bound = ReplayBelady(trace, trace.blocks.size());
  EXPECT_GT(bound.hit_blocks, 0);
  for (const EvictPolicyEntry& entry : EvictPolicies()) {
    const ReplayFigures figures =
        Replayed(trace, {.memory_blocks = trace.blocks.size(), .policy = std::string(entry.name)});
    EXPECT_EQ(figures.hit_blocks, bound.hit_blocks);
    EXPECT_EQ(figures.hit_tokens, bound.hit_tokens);
    EXPECT_DOUBLE_EQ(figures.work_saved, bound.work_saved);
  }
  const ReplayFigures disk = Replayed(trace, {.memory_blocks = 60, .disk_blocks = trace.blocks.size()});
  EXPECT_EQ(disk.hit_blocks, bound.hit_blocks);
  EXPECT_EQ(disk.written_tokens, static_cast<int64_t>(trace.blocks.size()) * 512);
}

}  // namespace
}  // namespace larder
