// A prompt that has begun before all layers of its stored rows are here, and then some do not come: the
// answer is that of an engine that had nothing, to the bit, and little more than what is missing is computed.
#include <future>
#include <numeric>
#include <optional>

#include "tests/engine/tiers_fixture.h"

namespace larder::testing {
namespace {

constexpr int64_t kStored = 5 * kPageTokens, kNew = 130;

class LayersFail : public EngineTiersBase {
 protected:
  void SetUp() override {
    Prepare(KvType::kF32, "");
    ASSERT_EQ(records_.by_name.at(names_[2]).header.group_bytes.size(), 6u) << "each layer is a group";
  }
  void Prepare(KvType type, const std::string& codec) {
    Load("tiny-llama6-q8_0.gguf", type, codec);
    MemoryTier tier(&records_);
    const auto core = StartOn(tier);
    Ask(*core, stored_, &tier);
    for (const auto& block : core->cache().List("t", 100)) names_.push_back(block.name);
    core->cache().FlushTiers();
    ASSERT_GE(names_.size(), 5u);
  }
  // Each layer is a group of its own.
  std::unique_ptr<EngineCore> StartOn(MemoryTier& tier) { return Start({&tier}, {.tier_group_bytes = 1}); }
  static std::vector<int32_t> Longer(const std::vector<int32_t>& text, uint32_t seed) {
    std::vector<int32_t> longer = text;
    for (const int32_t token : Prompt(seed, kNew)) longer.push_back(token);
    return longer;
  }
  // Until nobody waits any more. Answers of the tier come one after the other, also while a step waits for
  // them. Returns how many groups were here when the first rows were computed.
  uint64_t Run(EngineCore& core, MemoryTier& tier) {
    std::optional<uint64_t> begun;
    for (int i = 0; i < 2000 && core.unfinished() > 0; ++i) {
      const uint64_t steps = core.Stats().steps, told = tier.groups_told();
      auto step = std::async(std::launch::async, [&core] { core.Step(); });
      // Time enough to get to where it waits for layers, as a rule.
      std::chrono::milliseconds patience(20);
      while (step.wait_for(patience) != std::future_status::ready) {
        tier.DeliverAll();
        patience = std::chrono::milliseconds(1);
      }
      if (!begun && core.Stats().steps > steps) begun = told;
      tier.DeliverAll();
    }
    EXPECT_EQ(core.unfinished(), 0);
    ExpectSound(core);
    return begun.value_or(UINT64_MAX);
  }
  static uint64_t Misses(const EngineCore& core, std::optional<MissReason> reason = std::nullopt) {
    uint64_t count = 0;
    for (const auto& [name, misses] : core.Stats().misses) {
      if (!reason || name == MissReasonName(*reason)) count += misses;
    }
    return count;
  }

  const std::vector<int32_t> stored_ = Prompt(71, kStored);
  MemoryRecords records_;
  std::vector<std::string> names_;  // of its blocks
};

TEST_F(LayersFail, WhicheverItIsTheAnswerIsTheSame) {
  const auto prompt = Longer(stored_, 72), other = Longer(stored_, 73);
  const auto cold = AskCold(prompt), cold_other = AskCold(other);
  // Whether the prompt began before the layer that did not come.
  const auto fails = [&](uint32_t group) {
    MemoryRecords records = records_;
    MemoryTier tier(&records);
    tier.corrupt.insert(names_[2]);
    tier.corrupt_group = group;
    const auto core = StartOn(tier);
    const auto answer = Add(*core, prompt);
    const uint64_t begun = Run(*core, tier);
    ExpectSame(*answer, *cold);
    EXPECT_EQ(answer->report.recomputed, kPageTokens + kNew) << "the bad block and the new rows";
    EXPECT_EQ(answer->report.outcome.reason, MissReason::kSlow);
    EXPECT_EQ(Misses(*core, MissReason::kSlow), 1u);
    EXPECT_EQ(Misses(*core), 1u) << "a request is counted once, however often it begins";
    EXPECT_EQ(answer->report.read_tiers.size(), 1u);
    EXPECT_EQ(answer->usage.cached_tokens, kStored - kPageTokens);
    // Others find what was computed, in memory and below.
    tier.corrupt.clear();
    const auto next = Add(*core, other);
    Run(*core, tier);
    ExpectSame(*next, *cold_other);
    EXPECT_EQ(RowsFrom("memory", *next), kStored);
    core->cache().FlushTiers();
    core->cache().Clear("");
    const auto again = Add(*core, other);
    Run(*core, tier);
    ExpectSame(*again, *cold_other);
    EXPECT_EQ(RowsFrom("disk", *again), std::ssize(other) - 1);
    return begun <= group;
  };
  EXPECT_FALSE(fails(0)) << "without the first layer nothing begins";
  for (uint32_t group = 1; group < 6; ++group) {
    SCOPED_TRACE(group);
    bool early = false;  // a step may get the processor too late for it
    for (int time = 0; time < 20 && !early; ++time) early = fails(group);
    EXPECT_TRUE(early);
  }
}

class CodedLayersFail : public LayersFail {
 protected:
  void SetUp() override { Prepare(KvType::kI16, "q8_0"); }
};

// Rows that go no further leave pages behind that were encoded in the first layers only.
TEST_F(CodedLayersFail, TheAnswerIsTheSame) {
  const auto prompt = Longer(stored_, 72);
  const auto cold = AskCold(prompt);
  bool early = false;  // a step may get the processor too late for it
  for (int time = 0; time < 20 && !early; ++time) {
    MemoryRecords records = records_;
    MemoryTier tier(&records);
    tier.corrupt.insert(names_[2]);
    tier.corrupt_group = 1;
    const auto core = StartOn(tier);
    const auto answer = Add(*core, prompt);
    early = Run(*core, tier) <= 1;
    ExpectSame(*answer, *cold);
    EXPECT_EQ(answer->report.outcome.reason, MissReason::kSlow);
    const auto again = Add(*core, prompt);
    Run(*core, tier);
    ExpectSame(*again, *cold);
  }
  EXPECT_TRUE(early);
}

// However few rows a step has otherwise: what follows would have to wait until all layers are here.
TEST_F(LayersFail, NewRowsAreOneStepBesideTheReading) {
  const auto prompt = Longer(stored_, 72);
  const auto cold = AskCold(prompt);
  bool early = false;  // a step may get the processor too late for it
  for (int time = 0; time < 20 && !early; ++time) {
    MemoryRecords records = records_;
    MemoryTier tier(&records);
    EngineOptions options;
    options.tier_group_bytes = 1;
    options.max_batch_rows = 16;
    const auto core = Start({&tier}, options);
    const auto answer = Add(*core, prompt);
    early = Run(*core, tier) < 6;
    ExpectSame(*answer, *cold);
    if (early) {
      EXPECT_EQ(core->Stats().steps, 6u) << "the prompt's, and one for each further token";
    }
  }
  EXPECT_TRUE(early);
}

// Several bad blocks, each in another layer, and a tier that breaks off for all.
TEST_F(LayersFail, ManyAtOnce) {
  const auto prompt = Longer(stored_, 72);
  const auto cold = AskCold(prompt);
  for (const uint32_t group : {1u, 3u, UINT32_MAX}) {
    MemoryRecords records = records_;
    MemoryTier tier(&records);
    tier.corrupt = {names_[1], names_[2], names_[4]};
    tier.corrupt_group = group;
    const auto core = StartOn(tier);
    const auto answer = Add(*core, prompt);
    Run(*core, tier);
    ExpectSame(*answer, *cold);
    EXPECT_EQ(answer->report.recomputed, 3 * kPageTokens + kNew);
  }
}

// Beside others a prompt waits for all of its layers; it must not go on from those that came.
TEST_F(LayersFail, BesideAnotherRequest) {
  const auto prompt = Longer(stored_, 72), beside = Prompt(75, 40);
  const auto cold = AskCold(prompt), cold_beside = AskCold(beside);
  for (const uint32_t group : {1u, 5u}) {
    MemoryRecords records = records_;
    MemoryTier tier(&records);
    tier.corrupt.insert(names_[2]);
    tier.corrupt_group = group;
    const auto core = StartOn(tier);
    const auto neighbour = Add(*core, beside);
    for (int i = 0; i < 100 && neighbour->tokens.empty(); ++i) {
      core->Step();
      tier.DeliverAll();
    }
    const auto answer = Add(*core, prompt);
    Run(*core, tier);
    ExpectSame(*answer, *cold);
    ExpectSame(*neighbour, *cold_beside);
  }
}

// Two requests that want the same rows: one read for both.
TEST_F(LayersFail, ForWhoJoinedTheReadToo) {
  const auto prompt = Longer(stored_, 72), other = Longer(stored_, 73);
  const auto cold = AskCold(prompt), cold_other = AskCold(other);
  MemoryRecords records = records_;
  MemoryTier tier(&records);
  tier.corrupt.insert(names_[2]);
  tier.corrupt_group = 3;
  const auto core = StartOn(tier);
  const auto answer = Add(*core, prompt), joined = Add(*core, other);
  Run(*core, tier);
  ExpectSame(*answer, *cold);
  ExpectSame(*joined, *cold_other);
}

// A request with an eviction method has rows of its own behind those that it reads; it begins with whole
// blocks.
TEST_F(LayersFail, WithAnEvictionMethod) {
  const auto prompt = Longer(stored_, 72);
  for (const char* method : {"snapkv:budget=0.5", "keynorm:budget=0.5"}) {
    SCOPED_TRACE(method);
    const auto add = [&](EngineCore& core) {
      Request r;
      r.tenant = "t";
      r.space = kSpace;
      r.prompt = prompt;
      r.max_tokens = 6;
      r.sampling.temperature = 0;
      r.ignore_eos = true;
      r.logprobs = model_->tokenizer().size();
      r.evict = method;
      auto answer = std::make_shared<Answer>();
      core.Add(next_++, std::move(r), answer);
      return answer;
    };
    const auto cold_core = Start({});
    const auto cold = add(*cold_core);
    Finish(*cold_core);
    for (const uint32_t group : {1u, 4u}) {
      MemoryRecords records = records_;
      MemoryTier tier(&records);
      tier.corrupt.insert(names_[2]);
      tier.corrupt_group = group;
      const auto core = StartOn(tier);
      const auto answer = add(*core);
      Run(*core, tier);
      ExpectSame(*answer, *cold);
      EXPECT_GT(tier.gets, 0u);
    }
  }
}

// What is being written holds memory that the next request needs: the tier is hurried, and what it has not
// begun to write when computing it again would be over is given up.
TEST(WritesHoldMemory, NoLongerThanComputingAgainTakes) {
  const auto model = LoadModel(DataPath("models/tiny-llama6-q8_0.gguf"), MathMode::kFast, KvType::kF32, 2);
  MemoryRecords records;
  MemoryTier tier(&records);
  ManualClock clock;
  EngineOptions options;
  options.tiers = {&tier};
  // Room for one request and a little more.
  const uint64_t block = model->kv_shape().BlockBytes(0);
  const auto probe = EngineCore::Create(model.get(), {.cache = {.limit_bytes = 64 * block}}, &clock).value();
  options.cache.limit_bytes = probe->Stats().kv.metadata_bytes + 11 * block;
  const auto core = EngineCore::Create(model.get(), options, &clock).value();
  uint64_t id = 1;
  const auto ask = [&](uint32_t seed) {
    Request r;
    r.tenant = "t";
    r.space = kSpace;
    std::mt19937 random(seed);
    for (int i = 0; i < 450; ++i) r.prompt.push_back(static_cast<int32_t>(random() % 200));
    r.max_tokens = 2;
    auto answer = std::make_shared<Answer>();
    core->Add(id++, std::move(r), answer);
    int64_t waited_ms = 0;
    while (core->unfinished() > 0 && waited_ms < 10'000) {
      if (core->Step() || tier.DeliverAll()) continue;
      clock.AdvanceNs(1'000'000);
      ++waited_ms;
    }
    EXPECT_TRUE(answer->finished) << answer->error;
    return waited_ms;
  };
  tier.stalled = true;
  ask(1);
  EXPECT_EQ(tier.hurried, 0u) << "nobody waits";
  EXPECT_LE(ask(2), 1000);
  EXPECT_GT(tier.hurried, 0u);
  EXPECT_GT(tier.dropped, 0u);
  EXPECT_TRUE(records.by_name.empty());
  tier.stalled = false;
  tier.DeliverAll();
  core->Step();
  const uint64_t dropped = tier.dropped;
  ask(3);
  ask(4);
  EXPECT_EQ(tier.dropped, dropped) << "it writes in time";
  EXPECT_FALSE(records.by_name.empty());
}

}  // namespace
}  // namespace larder::testing
