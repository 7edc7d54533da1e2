// Does a tier that says late, or not at all, which chunks it has hold up the requests that could use them?
#include "base/clock.h"
#include "kv/reuse/chunk_record.h"
#include "tests/engine/blend_fixture.h"
#include "tests/kv/memory_tier.h"

namespace larder::testing {
namespace {

class BlendLists : public BlendTest {};

// What a silent tier has is waited for no longer than computing would take, once; when it answers after all,
// it is known to whoever comes then.
TEST_P(BlendLists, ATierThatKeepsSilentAboutItsChunksHoldsNobodyUp) {
  constexpr int64_t kMs = 1'000'000;
  const auto model = Load(2);
  const SpaceId space = {1};
  const Tokens prompt = system_ + a_ + question_;
  MemoryRecords records;
  const auto add = [&](EngineCore& core, Request r) {
    r.space = space;
    return Add(core, std::move(r));
  };
  const auto start = [&](MemoryTier& tier, Clock& clock) {
    EngineOptions options;
    options.tiers = {&tier};
    return EngineCore::Create(model.get(), options, &clock).value();
  };
  {
    MemoryTier tier(&records);
    const auto core = start(tier, clock_);
    Request chunk = Make(Tokens{1} + a_, "prefix", 0);
    chunk.chunk_from = 1;
    add(*core, chunk);
    for (int i = 0; i < 10'000 && core->unfinished() > 0; ++i) {
      core->Step();
      tier.DeliverAll();
    }
    core->cache().FlushTiers();
  }
  std::erase_if(records.by_name, [](const auto& r) { return r.second.header.kind != kKvChunkRecord; });
  ASSERT_EQ(records.by_name.size(), 1u);

  ManualClock clock;
  MemoryTier tier(&records);
  tier.silent = &clock;
  const auto core = start(tier, clock);
  // Milliseconds until it is answered.
  const auto wait = [&](const Answer& answer) {
    const int64_t begin = clock.NowNs();
    for (int i = 0; i < 100'000 && !answer.finished; ++i) {
      if (core->Step() || tier.DeliverAll()) continue;
      clock.AdvanceNs(kMs);
    }
    EXPECT_TRUE(answer.finished);
    return (clock.NowNs() - begin) / kMs;
  };
  const Request request = Make(prompt, "blend:ratio=0.2");
  const auto first = add(*core, request);
  // At first a row is believed to take a millisecond.
  EXPECT_FALSE(core->Step());
  EXPECT_EQ(core->wake_ns(), std::ssize(prompt) * kMs) << "nobody else would call it";
  // Blocks are asked for after the chunks, twice.
  EXPECT_LE(wait(*first), 2 * std::ssize(prompt) + 20);
  EXPECT_TRUE(core->ListChunks("t", std::nullopt, 10).pending) << "the list is still to come";
  EXPECT_EQ(first->report.outcome.reason, MissReason::kSlow);
  ExpectSame(*first, *Ask(*Start(*model), prompt, "prefix"), "computed");
  core->cache().Clear("t");
  const int64_t asked_ns = clock.NowNs();
  const auto second = add(*core, request);
  wait(*second);
  EXPECT_TRUE(core->ListChunks("t", std::nullopt, 10).pending);
  // Blocks have their two questions of ten milliseconds; nothing is waited for the list any more.
  EXPECT_LE(clock.NowNs() - asked_ns, 30 * kMs);

  // It says that it cannot tell, later that it can.
  clock.AdvanceNs(10'000 * kMs);
  tier.DeliverAll();
  core->Step();
  EXPECT_FALSE(core->ListChunks("t", std::nullopt, 10).pending);
  tier.silent = nullptr;
  core->cache().Clear("t");
  wait(*add(*core, request));
  for (int i = 0; i < 100 && core->Step() | tier.DeliverAll(); ++i) {
  }
  EXPECT_EQ(core->ListChunks("t", std::nullopt, 10).chunks.size(), 1u) << "it was asked again";
  core->cache().Clear("t");
  const auto last = add(*core, request);
  wait(*last);
  EXPECT_EQ(last->report.blend.covered, std::ssize(a_));
}

INSTANTIATE_TEST_SUITE_P(, BlendLists, ::testing::Values("tiny-llama.gguf"));

}  // namespace
}  // namespace larder::testing
