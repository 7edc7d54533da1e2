// Does the engine answer right and keep its books, whatever happens around a request? Driven step by step, no
// threads.
#include "engine/core.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <map>
#include <random>

#include "tests/testing/model_session.h"

namespace larder {
namespace {

struct Collected : RequestSink {
  struct Choice {
    std::vector<int32_t> tokens;
    std::vector<float> logprobs;
    std::string text;
    std::optional<FinishReason> reason;
    std::string matched;
  };
  std::map<int32_t, Choice> choices;
  std::vector<TokenOutput> prompt;
  std::optional<Usage> usage;
  CacheReport report;
  std::optional<Error> error;

  void OnPromptLogprobs(std::vector<TokenOutput> tokens) override {
    EXPECT_TRUE(choices.empty()) << "the prompt comes first";
    prompt = std::move(tokens);
  }
  void OnToken(TokenOutput out) override {
    Choice& c = choices[out.choice];
    EXPECT_FALSE(c.reason.has_value()) << "a token after the end";
    c.tokens.push_back(out.token);
    c.logprobs.push_back(out.logprob);
    c.text += out.text;
  }
  void OnChoiceEnd(ChoiceEnd end) override {
    Choice& c = choices[end.choice];
    EXPECT_FALSE(c.reason.has_value());
    c.text += end.text;
    c.reason = end.reason;
    c.matched = end.matched_stop;
  }
  void OnFinish(const Usage& u, const CacheReport& r) override {
    EXPECT_FALSE(usage.has_value() || error.has_value());
    usage = u;
    report = r;
  }
  void OnError(const Error& e) override {
    EXPECT_FALSE(usage.has_value() || error.has_value());
    error = e;
  }
};

class CoreTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    model_ =
        testing::LoadModel(testing::DataPath("models/tiny-llama-q8_0.gguf"), MathMode::kFast, KvType::kI16, 2)
            .release();
  }
  static void TearDownTestSuite() {
    delete model_;
    model_ = nullptr;
  }

  std::unique_ptr<EngineCore> Start(EngineOptions options = {}) {
    auto core = EngineCore::Create(model_, options, &clock_);
    EXPECT_TRUE(core.has_value()) << (core ? "" : core.error().message);
    return *std::move(core);
  }
  // A cache with room for about this many blocks.
  KvCacheOptions Tight(uint64_t blocks) {
    const uint64_t block = model_->kv_shape().BlockBytes(0);
    const uint64_t metadata = Start({.cache = {.limit_bytes = 64 * block}})->Stats().kv.metadata_bytes;
    return {.limit_bytes = metadata + blocks * block};
  }
  static std::vector<int32_t> Tokens(uint32_t seed, int64_t n) {
    std::mt19937 random(seed);
    std::vector<int32_t> out(static_cast<size_t>(n));
    for (auto& t : out) t = static_cast<int32_t>(random() % 256);
    return out;
  }
  static Request Greedy(std::vector<int32_t> prompt, int64_t max_tokens) {
    Request r;
    r.tenant = "t";
    r.prompt = std::move(prompt);
    r.max_tokens = max_tokens;
    r.sampling.temperature = 0;
    r.ignore_eos = true;
    r.logprobs = 0;
    return r;
  }
  std::shared_ptr<Collected> Submit(EngineCore& core, Request r) {
    auto sink = std::make_shared<Collected>();
    EXPECT_TRUE(core.Validate(r));
    core.Add(next_++, std::move(r), sink);
    return sink;
  }
  static void RunAll(EngineCore& core) {
    for (int i = 0; i < 100000 && core.unfinished() > 0; ++i) core.Step();
    EXPECT_EQ(core.unfinished(), 0);
  }
  static void ExpectNothingHeld(EngineCore& core) {
    EXPECT_EQ(core.Stats().kv.held_blocks, 0u);
    EXPECT_EQ(core.Stats().kv.sequences, 0u);
    const auto status = core.cache().CheckInvariants();
    EXPECT_TRUE(status) << (status ? "" : status.error().message);
  }
  static void ExpectSame(const Collected::Choice& a, const Collected::Choice& b) {
    EXPECT_EQ(a.tokens, b.tokens);
    EXPECT_EQ(a.text, b.text);
    ASSERT_EQ(a.logprobs.size(), b.logprobs.size());
    EXPECT_EQ(std::memcmp(a.logprobs.data(), b.logprobs.data(), a.logprobs.size() * sizeof(float)), 0);
  }

  inline static Model* model_ = nullptr;
  ManualClock clock_;
  Engine::RequestId next_ = 1;
};

TEST_F(CoreTest, AnswersAndCounts) {
  auto core = Start();
  auto sink = Submit(*core, Greedy(Tokens(1, 100), 20));
  RunAll(*core);
  ASSERT_TRUE(sink->usage);
  EXPECT_EQ(sink->choices[0].tokens.size(), 20u);
  EXPECT_EQ(sink->choices[0].reason, FinishReason::kLength);
  EXPECT_EQ(sink->usage->prompt_tokens, 100);
  EXPECT_EQ(sink->usage->completion_tokens, 20);
  EXPECT_EQ(sink->usage->cached_tokens, 0);
  EXPECT_EQ(sink->report.recomputed, 100);
  EXPECT_EQ(sink->report.written, 119) << "the last token's row is never needed";
  EXPECT_EQ(sink->report.outcome.reason, MissReason::kNeverSeen);
  ExpectNothingHeld(*core);
}

TEST_F(CoreTest, TheSameAgainIsReadFromMemoryAndBitEqual) {
  auto core = Start();
  auto cold = Submit(*core, Greedy(Tokens(2, 130), 10));
  RunAll(*core);
  auto warm = Submit(*core, Greedy(Tokens(2, 130), 10));
  RunAll(*core);
  ExpectSame(cold->choices[0], warm->choices[0]);
  EXPECT_EQ(warm->usage->cached_tokens, 129);
  EXPECT_EQ(warm->report.recomputed, 1);
  EXPECT_EQ(warm->report.read_memory, 129);
}

TEST_F(CoreTest, ConcurrentTwinsShareInsteadOfComputingTwice) {
  auto core = Start({.max_batch_rows = 32});
  std::vector<std::shared_ptr<Collected>> sinks;
  for (int i = 0; i < 4; ++i) sinks.push_back(Submit(*core, Greedy(Tokens(3, 200), 5)));
  RunAll(*core);
  int64_t recomputed = 0;
  for (auto& s : sinks) {
    ExpectSame(sinks[0]->choices[0], s->choices[0]);
    recomputed += s->report.recomputed;
  }
  EXPECT_EQ(recomputed, 200 + 3);
}

TEST_F(CoreTest, ChoicesShareThePromptAndDiffer) {
  auto core = Start();
  Request r = Greedy(Tokens(4, 100), 12);
  r.n = 4;
  r.sampling.temperature = 1.0f;
  r.sampling.seed = 5;
  auto sink = Submit(*core, r);
  RunAll(*core);
  ASSERT_EQ(sink->choices.size(), 4u);
  EXPECT_NE(sink->choices[0].tokens, sink->choices[1].tokens);
  EXPECT_EQ(sink->usage->completion_tokens, 48);
  EXPECT_EQ(sink->report.recomputed, 103);
  // The seed decides, not the batch: alone, in small steps, the same choices come out.
  auto other = Start({.max_running = 1, .max_batch_rows = 8});
  auto again = Submit(*other, r);
  RunAll(*other);
  for (int32_t i = 0; i < 4; ++i) ExpectSame(sink->choices[i], again->choices[i]);
}

TEST_F(CoreTest, PreemptionChangesNothing) {
  auto roomy = Start();
  std::vector<std::shared_ptr<Collected>> expected;
  for (uint32_t i = 0; i < 4; ++i) expected.push_back(Submit(*roomy, Greedy(Tokens(50 + i, 150), 60)));
  RunAll(*roomy);
  // Room for about two of the four.
  auto tight = Start({.cache = Tight(8)});
  std::vector<std::shared_ptr<Collected>> got;
  for (uint32_t i = 0; i < 4; ++i) got.push_back(Submit(*tight, Greedy(Tokens(50 + i, 150), 60)));
  for (int i = 0; i < 100000 && tight->unfinished() > 0; ++i) {
    tight->Step();
    ASSERT_LE(tight->cache().used_bytes(), tight->cache().limit_bytes());
  }
  EXPECT_GT(tight->Stats().preemptions, 0) << "the test wants a cache that is too small";
  for (size_t i = 0; i < got.size(); ++i) ExpectSame(expected[i]->choices[0], got[i]->choices[0]);
  ExpectNothingHeld(*tight);
}

TEST_F(CoreTest, RequestLargerThanTheCacheFailsInASentenceAndOthersGoOn) {
  auto core = Start({.cache = Tight(5)});
  auto large = Submit(*core, Greedy(Tokens(6, 600), 5));
  auto small = Submit(*core, Greedy(Tokens(7, 40), 5));
  RunAll(*core);
  ASSERT_TRUE(large->error);
  EXPECT_NE(large->error->message.find("--kv-limit"), std::string::npos);
  EXPECT_TRUE(small->usage);
  ExpectNothingHeld(*core);
}

TEST_F(CoreTest, CancelInEveryState) {
  for (int steps : {0, 1, 3, 8}) {
    auto core = Start({.max_running = 1, .max_batch_rows = 40});
    auto running = Submit(*core, Greedy(Tokens(8, 100), 50));
    const Engine::RequestId id = next_ - 1;
    auto waiting = Submit(*core, Greedy(Tokens(9, 100), 3));
    for (int i = 0; i < steps; ++i) core->Step();
    core->Cancel(id);
    ASSERT_TRUE(running->usage) << "at once";
    EXPECT_EQ(running->choices[0].reason, FinishReason::kCancelled);
    core->Cancel(id);
    RunAll(*core);
    EXPECT_EQ(waiting->choices[0].tokens.size(), 3u);
    ExpectNothingHeld(*core);
    if (steps >= 3) {
      auto again = Submit(*core, Greedy(Tokens(8, 100), 1));
      RunAll(*core);
      EXPECT_GE(again->usage->cached_tokens, 80) << "what was computed stays";
    }
  }
}

TEST_F(CoreTest, StopTokensEndTokensAndMinTokens) {
  auto core = Start();
  auto free_run = Submit(*core, Greedy(Tokens(10, 30), 10));
  RunAll(*core);
  const auto expected = free_run->choices[0].tokens;
  Request r = Greedy(Tokens(10, 30), 10);
  r.stop_tokens = {expected[3]};
  auto stopped = Submit(*core, r);
  RunAll(*core);
  const size_t first =
      static_cast<size_t>(std::find(expected.begin(), expected.end(), expected[3]) - expected.begin());
  EXPECT_EQ(stopped->choices[0].tokens.size(), first + 1) << "the stop token is reported";
  EXPECT_EQ(stopped->choices[0].reason, FinishReason::kStop);
  r.min_tokens = static_cast<int64_t>(first) + 3;
  auto later = Submit(*core, r);
  RunAll(*core);
  EXPECT_GE(later->choices[0].tokens.size(), first + 3);
}

TEST_F(CoreTest, ForcedOutputIsEmittedWhateverTheLogitsSay) {
  auto core = Start();
  Request r = Greedy(Tokens(11, 30), 99);
  r.forced_output = Tokens(12, 17);
  auto sink = Submit(*core, r);
  RunAll(*core);
  EXPECT_EQ(sink->choices[0].tokens, r.forced_output);
  EXPECT_EQ(sink->choices[0].reason, FinishReason::kLength);
}

TEST_F(CoreTest, PromptLogprobsAreTheModels) {
  auto core = Start();
  const auto prompt = Tokens(13, 90);
  auto plain = Submit(*core, Greedy(prompt, 1));
  RunAll(*core);
  for (int64_t max_tokens : {int64_t{1}, int64_t{0}}) {
    Request r = Greedy(prompt, max_tokens);
    r.prompt_logprobs = 2;
    auto sink = Submit(*core, r);
    RunAll(*core);
    ASSERT_EQ(sink->prompt.size(), prompt.size());
    EXPECT_TRUE(std::isnan(sink->prompt[0].logprob));
    EXPECT_EQ(sink->usage->completion_tokens, max_tokens);
    testing::ModelSession session(model_);
    auto run = session.Open(prompt);
    session.Finish(run);
    for (size_t i = 1; i < prompt.size(); ++i) {
      const Logprobs expected = ComputeLogprobs(run.logits[i - 1], prompt[i], 2);
      EXPECT_EQ(sink->prompt[i].token, prompt[i]);
      EXPECT_EQ(sink->prompt[i].logprob, expected.chosen);
      ASSERT_EQ(sink->prompt[i].top.size(), 2u);
      EXPECT_EQ(sink->prompt[i].top[0].token, expected.top[0].token);
    }
  }
}

TEST_F(CoreTest, PromptOfOneTokenHasOneUnjudgedEntry) {
  for (int64_t max_tokens : {int64_t{1}, int64_t{0}}) {
    auto core = Start();
    Request r = Greedy({7}, max_tokens);
    r.prompt_logprobs = 1;
    auto sink = Submit(*core, r);
    RunAll(*core);
    ASSERT_EQ(sink->prompt.size(), 1u);
    EXPECT_EQ(sink->prompt[0].token, 7);
    EXPECT_TRUE(std::isnan(sink->prompt[0].logprob));
  }
}

TEST_F(CoreTest, ContextEndsTheAnswer) {
  auto core = Start({.context = 64});
  auto sink = Submit(*core, Greedy(Tokens(14, 60), -1));
  RunAll(*core);
  EXPECT_EQ(sink->choices[0].tokens.size(), 4u);
  EXPECT_EQ(sink->choices[0].reason, FinishReason::kLength);
  EXPECT_FALSE(core->Validate(Greedy(Tokens(14, 64), 1)));
  EXPECT_FALSE(core->Validate(Greedy({}, 1)));
  EXPECT_FALSE(core->Validate(Greedy({1, 1 << 30}, 1)));
  EXPECT_FALSE(core->Validate(Greedy({-1}, 1)));
}

TEST_F(CoreTest, MissesAreExplained) {
  auto core = Start();
  auto base = Tokens(15, 150);
  Submit(*core, Greedy(base, 1));
  RunAll(*core);
  auto other = base;
  other[70] ^= 1;
  auto sink = Submit(*core, Greedy(other, 1));
  RunAll(*core);
  EXPECT_EQ(sink->report.outcome.reason, MissReason::kDiverged);
  EXPECT_EQ(sink->report.outcome.token, 70);
  ASSERT_FALSE(sink->report.outcome.cached.empty());
  EXPECT_EQ(sink->report.outcome.cached[0], base[70]);
  EXPECT_EQ(sink->report.outcome.requested[0], other[70]);
  EXPECT_EQ(sink->usage->cached_tokens, 70);
  Request stranger = Greedy(base, 1);
  stranger.tenant = "other";
  auto theirs = Submit(*core, stranger);
  RunAll(*core);
  EXPECT_EQ(theirs->usage->cached_tokens, 0);
}

// Random requests of all sorts with cancellations in a tight cache: every greedy answer equals the one given
// alone.
TEST_F(CoreTest, RandomLoadGivesEveryoneTheirOwnAnswer) {
  std::map<uint32_t, Collected::Choice> alone;
  const auto prompt_of = [](uint32_t kind) {
    auto prompt = Tokens(100 + kind % 3, 70);  // shared beginnings
    for (int32_t t : Tokens(200 + kind, 5 + kind * 7 % 60)) prompt.push_back(t);
    return prompt;
  };
  for (uint32_t kind = 0; kind < 8; ++kind) {
    auto core = Start();
    auto sink = Submit(*core, Greedy(prompt_of(kind), 15));
    RunAll(*core);
    alone[kind] = sink->choices[0];
  }
  std::mt19937 random(3);
  for (int round = 0; round < 4; ++round) {
    auto core = Start({.max_running = 6, .max_batch_rows = 48, .cache = Tight(12)});
    std::vector<std::pair<uint32_t, std::shared_ptr<Collected>>> sinks;
    for (int i = 0; i < 60; ++i) {
      const uint32_t kind = random() % 8;
      Request r = Greedy(prompt_of(kind), 15);
      r.tenant = random() % 2 == 0 ? "a" : "b";
      sinks.emplace_back(kind, Submit(*core, r));
      if (random() % 8 == 0) core->Cancel(next_ - 1 - random() % 3);
      for (uint32_t s = random() % 6; s > 0; --s) core->Step();
      ASSERT_LE(core->cache().used_bytes(), core->cache().limit_bytes());
    }
    RunAll(*core);
    int64_t complete = 0;
    for (auto& [kind, sink] : sinks) {
      ASSERT_TRUE(sink->usage.has_value());
      if (sink->choices[0].reason == FinishReason::kCancelled) continue;
      ++complete;
      ExpectSame(alone[kind], sink->choices[0]);
    }
    EXPECT_GT(complete, 40);
    ExpectNothingHeld(*core);
  }
}

}  // namespace
}  // namespace larder
