// Does a step that only decodes take memory, with and without an eviction method? Every operator new of this
// program is counted.
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <new>
#include <random>

#include "engine/core.h"
#include "tests/testing/model_session.h"

namespace {

std::atomic<int64_t> g_allocations = 0;

void* Counted(size_t size, size_t alignment) {
  g_allocations.fetch_add(1, std::memory_order_relaxed);
  void* p = alignment <= alignof(std::max_align_t)
                ? std::malloc(size)
                : std::aligned_alloc(alignment, (size + alignment - 1) / alignment * alignment);
  if (p == nullptr) std::abort();
  return p;
}

}  // namespace

void* operator new(size_t size) { return Counted(size, 0); }
void* operator new[](size_t size) { return Counted(size, 0); }
void* operator new(size_t size, std::align_val_t alignment) {
  return Counted(size, static_cast<size_t>(alignment));
}
void* operator new[](size_t size, std::align_val_t alignment) {
  return Counted(size, static_cast<size_t>(alignment));
}
void operator delete(void* p) noexcept { std::free(p); }
void operator delete[](void* p) noexcept { std::free(p); }
void operator delete(void* p, size_t) noexcept { std::free(p); }
void operator delete[](void* p, size_t) noexcept { std::free(p); }
void operator delete(void* p, std::align_val_t) noexcept { std::free(p); }
void operator delete[](void* p, std::align_val_t) noexcept { std::free(p); }
void operator delete(void* p, size_t, std::align_val_t) noexcept { std::free(p); }
void operator delete[](void* p, size_t, std::align_val_t) noexcept { std::free(p); }

namespace larder {
namespace {

struct CountingSink final : RequestSink {
  int64_t tokens = 0;
  void OnPromptLogprobs(std::vector<TokenOutput>) override {}
  void OnToken(TokenOutput) override { ++tokens; }
  void OnChoiceEnd(ChoiceEnd) override {}
  void OnFinish(const Usage&, const CacheReport&) override {}
  void OnError(const Error& error) override { ADD_FAILURE() << error.message; }
};

// Ways to choose a token, each with working memory of its own.
std::vector<SamplingParams> WaysToSample() {
  return {
      {.temperature = 0},
      {.temperature = 1, .seed = 1},
      {.temperature = 0.8f, .top_p = 0.9f, .seed = 2},
      {.temperature = 1, .top_k = 20, .repetition_penalty = 1.2f, .presence_penalty = 0.5f, .seed = 3},
      {.temperature = 1, .min_p = 0.05f, .logit_bias = {{3, 1.0f}}, .seed = 4},
  };
}

class AllocationTest : public ::testing::Test {
 protected:
  AllocationTest()
      : model_(testing::LoadModel(testing::DataPath("models/tiny-llama-q8_0.gguf"), MathMode::kFast,
                                  ModelOptions().kv_type, 2)) {
    core_ = *EngineCore::Create(model_.get(), {}, &clock_);
  }
  void SetUp() override {
    for (const SamplingParams& sampling : WaysToSample()) Add(sampling, kPrompt);
  }
  void Add(const SamplingParams& sampling, int prompt, const std::string& evict = "none") {
    Request request;
    request.sampling = sampling;
    for (int i = 0; i < prompt; ++i) request.prompt.push_back(static_cast<int32_t>(random_() % 256));
    request.ignore_eos = true;
    request.max_tokens = 400;
    request.stop = {"never in the answer"};
    request.evict = evict;
    core_->Add(++requests_, std::move(request), sink_);
  }

  int64_t AllocationsOfStep() {
    const int64_t before = g_allocations.load();
    EXPECT_TRUE(core_->Step());
    return g_allocations.load() - before;
  }

  static constexpr int kPrompt = 10;
  std::unique_ptr<Model> model_;
  ManualClock clock_;
  std::unique_ptr<EngineCore> core_;
  std::shared_ptr<CountingSink> sink_ = std::make_shared<CountingSink>();
  uint64_t requests_ = 0;
  std::mt19937 random_{1};
};

TEST_F(AllocationTest, TheCounterCounts) {
  const int64_t before = g_allocations.load();
  const auto taken = std::make_unique<std::vector<int>>(1000);
  EXPECT_EQ(g_allocations.load() - before, 2);
  EXPECT_GT(AllocationsOfStep(), 0) << "the first step takes in requests";
}

TEST_F(AllocationTest, StepsOfDecodeTakeNoMemory) {
  // A new block of 64 rows is a node of the tree and memory for its rows; a full one gets its name and a
  // place in the index. This is once in 64 tokens.
  constexpr int64_t kAllocationsOfABlock = 24;
  int position = kPrompt;  // of the row that the next step writes
  AllocationsOfStep();     // the prompts
  // A worker that had no core in the first steps takes the memory that it works in later.
  for (int i = 0; i < 20; ++i, ++position) AllocationsOfStep();
  int grown = 0;
  for (; position < 300; ++position) {
    const bool new_block = position % kPageTokens == 0, sealed = position % kPageTokens == kPageTokens - 1;
    const int64_t allowed = new_block || sealed ? static_cast<int64_t>(requests_) * kAllocationsOfABlock : 0;
    grown += AllocationsOfStep() > allowed;
  }
  // A text that is kept for stop strings, or a table, outgrows its memory a few times in an answer.
  EXPECT_LE(grown, 3);
  EXPECT_EQ(sink_->tokens, static_cast<int64_t>(requests_) * (300 - kPrompt + 1));
}

// What evicts for every token, with its cache full; 256: each newcomer begins a page, and all lanes together
// a run of pages.
class MethodAllocationTest : public AllocationTest, public ::testing::WithParamInterface<const char*> {
 protected:
  void SetUp() override { Add({.temperature = 0}, 300, GetParam()); }
};

TEST_P(MethodAllocationTest, StepsOfDecodeTakeNoMemory) {
  for (int i = 0; i < 20; ++i) AllocationsOfStep();
  int grown = 0;
  for (int i = 0; i < 300; ++i) grown += AllocationsOfStep() > 0;
  EXPECT_LE(grown, 3) << "a text or a table that outgrows its memory";
  EXPECT_EQ(sink_->tokens, 320);
}

INSTANTIATE_TEST_SUITE_P(, MethodAllocationTest,
                         ::testing::Values("h2o:budget=40", "h2o:budget=256", "streaming:budget=256",
                                           "streaming:budget=40,positions=rank",
                                           "streaming:budget=256,positions=rank", "lacache:budget=40,span=1",
                                           "lacache:budget=256,span=1"));

TEST_F(AllocationTest, ReadingStatisticsKeepsItsMemory) {
  AllocationsOfStep();
  EngineStats stats;
  core_->ReadStats(stats);
  const int64_t before = g_allocations.load();
  core_->ReadStats(stats);
  EXPECT_EQ(g_allocations.load() - before, 0);
}

}  // namespace
}  // namespace larder
