// Requests with an eviction method through the engine: a budget that covers everything changes nothing,
// answers do not depend on chunks, threads, warm prefixes or preemption, nothing is published, all memory
// comes back.
#include "tests/engine/core_fixture.h"

namespace larder {
namespace {

using testing::Answer;

class EvictTest : public testing::CoreTest {
 protected:
  bool HasWindows() const { return std::string_view(GetParam()) == "tiny-gemma3.gguf"; }
  // Methods with budgets that bite on prompts of 150 rows and more.
  std::vector<std::string> Methods() const {
    std::vector<std::string> methods = {"snapkv:budget=48,window=16",
                                        "h2o:budget=40",
                                        "streaming:budget=33",
                                        "keynorm:budget=0.3,sinks=2",
                                        "random:budget=50,last=4",
                                        "adakv:budget=48,window=16",
                                        "cake:budget=40,window=16",
                                        "mikv:budget=48,window=16",
                                        "kvmerger:budget=48",
                                        "kvmerger:budget=48,attention=none",
                                        "kvmerger:budget=48,attention=last,window=16"};
    if (!HasWindows()) methods.push_back("lacache:budget=24,span=1");
    if (!HasWindows()) methods.push_back("lacache:budget=24,span=1,chunk=50");
    if (!HasWindows()) methods.push_back("streaming:budget=33,positions=rank,chunk=50");
    if (!HasWindows()) methods.push_back("streaming:budget=33,chunk=50");
    return methods;
  }
  static bool ReadsNoPrefix(const std::string& method) {
    return method.starts_with("h2o") || method.starts_with("lacache") || method == "kvmerger:budget=48" ||
           method.find("chunk=") != std::string::npos;
  }
  std::shared_ptr<Answer> Add(EngineCore& core, std::vector<int32_t> prompt, const std::string& evict,
                              int64_t tokens = 20) {
    Request r = Greedy(std::move(prompt), tokens);
    r.evict = evict;
    return CoreTest::Add(core, std::move(r));
  }
  std::shared_ptr<Answer> Ask(EngineCore& core, std::vector<int32_t> prompt, const std::string& evict,
                              int64_t tokens = 20) {
    auto answer = Add(core, std::move(prompt), evict, tokens);
    Finish(core);
    return answer;
  }
};

TEST_P(EvictTest, ABudgetThatCoversEverythingChangesNothing) {
  const auto model = Load(2);
  for (const int64_t length : {1, 20, 64, 130, 333}) {
    const auto prompt = Text(static_cast<uint32_t>(length), length);
    const auto full = Ask(*Start(*model), prompt, "none");
    for (const std::string method :
         {"snapkv", "adakv", "cake", "h2o", "streaming", "keynorm", "random", "kvmerger", "mikv"})
      ExpectSame(*Ask(*Start(*model), prompt, method + ":budget=100000"), *full, method);
    ExpectSame(*Ask(*Start(*model), prompt, "kvmerger:eps=1"), *full, "nothing is similar enough");
  }
}

TEST_P(EvictTest, PositionsByRankThatCoverEverythingAreClose) {
  if (HasWindows()) GTEST_SKIP() << "the ladder needs a model without windows";
  const auto model = Load(2, KvType::kF32);
  const auto prompt = Text(5, 200);
  const auto full = Ask(*Start(*model), prompt, "none", 40);
  const auto ladder = Ask(*Start(*model), prompt, "lacache:budget=1000,span=1", 40);
  EXPECT_EQ(full->tokens, ladder->tokens);
  for (size_t i = 0; i < full->logprobs.size(); ++i)
    EXPECT_NEAR(full->logprobs[i], ladder->logprobs[i], 1e-4);
}

TEST_P(EvictTest, ChunksAndThreadsDoNotMatter) {
  const auto two = Load(2), one = Load(1);
  const auto prompt = Text(9, 201);
  for (const std::string& method : Methods()) {
    const auto expected = Ask(*Start(*two), prompt, method);
    EXPECT_GT(expected->report.held.private_bytes, 0u) << method;
    // MiKV drops nothing.
    EXPECT_EQ(expected->report.held.entries < 120, !method.starts_with("mikv")) << method;
    ExpectSame(*Ask(*Start(*one), prompt, method), *expected, method + " one thread");
    for (const int64_t rows : {1, 7, 64}) {
      EngineOptions options;
      options.max_batch_rows = rows;
      ExpectSame(*Ask(*Start(*two, options), prompt, method), *expected,
                 fmt::format("{} chunks of {}", method, rows));
    }
  }
}

TEST_P(EvictTest, WarmEqualsColdAndNothingIsPublished) {
  const auto model = Load(2);
  const auto prompt = Text(3, 230);
  for (const std::string& method : Methods()) {
    const auto core = Start(*model);
    const auto cold = Ask(*core, prompt, method);
    EXPECT_EQ(cold->report.read_memory, 0);
    EXPECT_EQ(core->cache().stats().blocks, 0u) << method;
    EXPECT_EQ(core->Stats().private_bytes, 0u);
    for (const int64_t shared : {100, 128, 230}) {
      Ask(*core, {prompt.begin(), prompt.begin() + shared}, "none", 1);
      const uint64_t before = core->cache().used_bytes();
      const auto warm = Ask(*core, prompt, method);
      ExpectSame(*warm, *cold, method);
      EXPECT_EQ(warm->report.read_memory > 0, !ReadsNoPrefix(method)) << method << " after " << shared;
      EXPECT_GE(warm->report.held.peak_private_bytes, warm->report.held.private_bytes) << method;
      EXPECT_LE(core->cache().used_bytes(), before + 256) << method;
    }
    // The full cache answers as if nobody had ever dropped anything.
    ExpectSame(*Ask(*core, prompt, "none"), *Ask(*Start(*model), prompt, "none"), "full beside " + method);
  }
}

// All of the prompt is stored: what is not read of it is the method's doing, and only that.
TEST_P(EvictTest, AMethodThatReadsNoPrefixIsTheReason) {
  const auto model = Load(2);
  const auto prompt = Text(6, 230);
  for (const std::string& method : Methods()) {
    const auto core = Start(*model);
    EXPECT_EQ(Ask(*core, prompt, method)->report.outcome.token, 0) << method;
    Ask(*core, prompt, "none", 1);
    const CacheOutcome outcome = Ask(*core, prompt, method)->report.outcome;
    const bool reads_none = ReadsNoPrefix(method);
    // A window layer does not hold what the observation rows look back at.
    const bool reads_less = HasWindows() && method.find("window=") != std::string::npos;
    EXPECT_EQ(outcome.reason, reads_none || reads_less ? MissReason::kMethod : MissReason::kNone) << method;
    EXPECT_EQ(outcome.token, reads_none ? 0 : reads_less ? 230 - 16 : 230) << method;
    const auto misses = core->Stats().misses;
    const bool counted = std::ranges::any_of(misses, [](const auto& miss) { return miss.first == "method"; });
    EXPECT_EQ(counted, reads_none || reads_less) << method;
  }
  const auto core = Start(*model);
  EXPECT_EQ(Ask(*core, prompt, "snapkv:budget=48")->report.outcome.reason, MissReason::kNeverSeen);
}

TEST_P(EvictTest, PreemptedRequestsGoOnAsIfNothingHadHappened) {
  const auto model = Load(2);
  int64_t preemptions = 0;
  for (const std::string& method : Methods()) {
    std::vector<std::shared_ptr<Answer>> alone, together;
    for (uint32_t i = 0; i < 4; ++i) alone.push_back(Ask(*Start(*model), Text(i, 400), method, 60));
    EngineOptions options;
    options.max_batch_rows = 100;  // so that all begin
    // Room for one of them while its prompt is whole, and little else; codes are made beside it, in pages of
    // their own.
    constexpr uint64_t kTables = 144 << 10, kCodes = 128 << 10;
    options.cache.limit_bytes = kTables + alone[0]->report.held.peak_private_bytes;
    if (method.starts_with("mikv")) options.cache.limit_bytes += kCodes;
    const auto tight = Start(*model, options);
    for (uint32_t i = 0; i < 4; ++i) together.push_back(Add(*tight, Text(i, 400), method, 60));
    Finish(*tight);
    for (size_t i = 0; i < 4; ++i) {
      ExpectSame(*together[i], *alone[i], method);
      preemptions += together[i]->report.preemptions;
    }
  }
  EXPECT_GT(preemptions, 0);
}

TEST_P(EvictTest, ANeighboursMethodChangesNoBit) {
  const auto model = Load(2);
  const auto expected = Ask(*Start(*model), Text(1, 180), "none", 40);
  const auto core = Start(*model);
  std::vector<std::shared_ptr<Answer>> others;
  for (const std::string& method : Methods()) others.push_back(Add(*core, Text(1, 180), method, 30));
  const auto plain = Add(*core, Text(1, 180), "none", 40);
  for (const std::string& method : Methods()) others.push_back(Add(*core, Text(2, 90), method, 50));
  Finish(*core);
  ExpectSame(*plain, *expected, "plain among methods");
  for (const auto& other : others) EXPECT_TRUE(other->finished) << other->error;
}

// A method that finds no room for what it keeps of a shared prefix waits for its neighbours to end; those
// that ran in the same step get their own logits all the same.
TEST_P(EvictTest, AMethodWithoutRoomWaitsAndTakesNobodysLogits) {
  const auto model = Load(2);
  const std::string method = "snapkv:budget=0.9,window=16";
  const auto prompt = Text(1, 450);
  const auto expected = Ask(*Start(*model), prompt, method, 4);
  std::vector<std::shared_ptr<Answer>> alone, together;
  for (uint32_t i = 0; i < 3; ++i) alone.push_back(Ask(*Start(*model), Text(10 + i, 40), "none", 30));
  int64_t waited = 0;
  for (uint64_t limit = 400 << 10; limit < 1200 << 10; limit += 16 << 10) {
    EngineOptions options;
    options.cache.limit_bytes = limit;
    const auto core = Start(*model, options);
    if (!Ask(*core, prompt, "none", 1)->finished) continue;
    const bool fits = Ask(*core, prompt, method, 4)->finished;
    const auto wants = Add(*core, prompt, method, 4);
    together.clear();
    for (uint32_t i = 0; i < 3; ++i) together.push_back(Add(*core, Text(10 + i, 40), "none", 30));
    Finish(*core);
    for (size_t i = 0; i < 3; ++i) ExpectSame(*together[i], *alone[i], std::to_string(limit));
    if (fits) ExpectSame(*wants, *expected, std::to_string(limit));
    waited += wants->report.preemptions;
    // Two that want room at the same time do not get in each other's way for ever.
    const auto one = Add(*core, prompt, method, 4), other = Add(*core, prompt, method, 4);
    Finish(*core);
    if (fits) ExpectSame(*one, *expected, "one of two");
    if (fits) ExpectSame(*other, *expected, "the other");
  }
  EXPECT_GT(waited, 0);
}

// Beside a codec a method reads no codes. What chooses once leaves codes where pages are full, and pages that
// fill later are encoded too, at the same rows however they are cut into steps.
TEST_P(EvictTest, RunsBesideACodec) {
  const auto load = [&](int threads, const char* codec) {
    return testing::LoadModel(testing::DataPath(std::string("models/") + GetParam()), MathMode::kFast,
                              KvType::kI16, threads, codec);
  };
  const auto prompt = Text(8, 330);
  for (const char* codec : {"t4:center=0", "q4_0"}) {
    const auto two = load(2, codec), one = load(1, codec);
    for (const std::string method :
         {"snapkv:budget=150,window=16", "adakv:budget=150,window=16", "cake:budget=150,window=16",
          "h2o:budget=40", "keynorm:budget=0.6", "h2o:budget=150,decode=false", "kvmerger:budget=150",
          "mikv:budget=100,window=16"}) {
      const auto core = Start(*two);
      const auto expected = Ask(*core, prompt, method, 100);
      const auto full = Ask(*core, prompt, "none", 100);
      EngineOptions options;
      options.max_batch_rows = 7;
      ExpectSame(*Ask(*Start(*one, options), prompt, method, 100), *expected, method);
      const auto again = Ask(*core, prompt, method, 100);  // beside the full cache's codes
      ExpectSame(*again, *expected, method);
      EXPECT_EQ(again->report.read_memory, 0);
      EXPECT_EQ(again->report.outcome.reason, MissReason::kMethod) << method;
      ExpectSame(*Ask(*core, prompt, "none", 100), *full, "full beside " + method);
    }
  }
  Request r;
  r.prompt = {1, 2, 3};
  r.evict = "lacache:budget=100,span=1";
  EXPECT_FALSE(Start(*load(1, "t4:center=0"))->Validate(r));
}

// The explain object's bytes fall with the codes.
TEST_P(EvictTest, CodesAreCountedAsWhatTheyTake) {
  const auto model = Load(2), coded = Load(2, KvType::kI16, "q4_0");
  const auto prompt = Text(8, 330);
  const auto lanes = static_cast<uint64_t>(std::ranges::count(model->spec().layers, 0, &LayerSpec::window)) *
                     static_cast<uint64_t>(model->spec().kv_heads);
  const uint64_t saved = model->kv_shape().page_bytes() - coded->kv_shape().page_bytes(KvForm::kCodes);
  const auto held = [&](Model& m, const char* method) {
    return Ask(*Start(m), prompt, method, 1)->report.held.private_bytes;
  };
  // 150 entries are two full pages; 230 of 330 beyond the budget are three.
  EXPECT_GE(held(*model, "snapkv:budget=150") - held(*coded, "snapkv:budget=150"), 2 * lanes * saved);
  EXPECT_GE(held(*model, "snapkv:budget=100000") - held(*model, "mikv:budget=100"), 3 * lanes * saved);
  // What decides for every token stays rows.
  EXPECT_EQ(held(*model, "h2o:budget=150"), held(*coded, "h2o:budget=150"));
}

TEST_P(EvictTest, RefusesWhatCannotBe) {
  const auto model = Load(1);
  const auto core = Start(*model);
  Request r;
  r.prompt = {1, 2, 3};
  r.evict = "nosuch:budget=1";
  EXPECT_FALSE(core->Validate(r));
  r.evict = "snapkv:budget=abc";
  EXPECT_FALSE(core->Validate(r));
  r.evict = "lacache:budget=100,span=1";
  EXPECT_EQ(core->Validate(r).has_value(), !HasWindows());
  EngineOptions options;
  options.evict = "nosuch";
  EXPECT_FALSE(EngineCore::Create(model.get(), options, &clock_));
}

INSTANTIATE_TEST_SUITE_P(, EvictTest, ::testing::Values("tiny-llama.gguf", "tiny-gemma3.gguf"));

}  // namespace
}  // namespace larder
