// Is the engine safe to call from many threads, and does it end cleanly?
#include "engine/engine.h"

#include <gtest/gtest.h>

#include <atomic>
#include <future>
#include <thread>

#include "tests/testing/model_session.h"

namespace larder {
namespace {

struct Waiter : RequestSink {
  std::promise<bool> done;  // true: finished, false: error
  std::atomic<int64_t> tokens{0};
  void OnPromptLogprobs(std::vector<TokenOutput>) override {}
  void OnToken(TokenOutput) override { ++tokens; }
  void OnChoiceEnd(ChoiceEnd) override {}
  void OnFinish(const Usage&, const CacheReport&) override { done.set_value(true); }
  void OnError(const Error&) override { done.set_value(false); }
};

Request Simple(int32_t first, int64_t n, int64_t max_tokens) {
  Request r;
  r.tenant = "t";
  for (int64_t i = 0; i < n; ++i) r.prompt.push_back(static_cast<int32_t>((first + i * 7) % 250));
  r.max_tokens = max_tokens;
  r.sampling.temperature = 0;
  r.ignore_eos = true;
  return r;
}

class EngineTest : public ::testing::Test {
 protected:
  std::unique_ptr<Engine> Start(EngineOptions options = {}) {
    auto model = testing::LoadModel(testing::DataPath("models/tiny-llama-q8_0.gguf"), MathMode::kFast,
                                    KvType::kI16, 2);
    return *Engine::Create(std::move(model), options, &clock_);
  }
  SystemClock clock_;
};

TEST_F(EngineTest, ManyThreadsSubmitCancelAndAsk) {
  auto engine = Start();
  std::vector<std::jthread> threads;
  std::atomic<int> finished{0};
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 12; ++i) {
        auto sink = std::make_shared<Waiter>();
        auto ended = sink->done.get_future();
        auto id = engine->Submit(Simple(t * 50 + i, 40 + i * 5, 8), sink);
        ASSERT_TRUE(id);
        if (i % 3 == 0) engine->Cancel(*id);
        if (i % 4 == 0) engine->Blocks("t", 10);
        engine->Stats();
        EXPECT_TRUE(ended.get());
        ++finished;
      }
    });
  }
  threads.clear();
  EXPECT_EQ(finished, 48);
  EXPECT_TRUE(engine->CheckCacheInvariants());
  EXPECT_TRUE(engine->Drain(5000));
  EXPECT_EQ(engine->Stats().running + engine->Stats().waiting, 0);
  EXPECT_EQ(engine->Stats().kv.held_blocks, 0u);
}

TEST_F(EngineTest, WhoHearsOfTheEndFindsItCounted) {
  auto engine = Start();
  for (uint64_t i = 1; i <= 20; ++i) {
    auto sink = std::make_shared<Waiter>();
    auto ended = sink->done.get_future();
    auto id = engine->Submit(Simple(static_cast<int32_t>(i), 40, 2), sink);
    ASSERT_TRUE(id);
    if (i % 3 == 0) engine->Cancel(*id);
    ASSERT_TRUE(ended.get());
    const EngineStats stats = engine->Stats();
    EXPECT_EQ(stats.requests_finished, i);
    EXPECT_EQ(stats.running + stats.waiting, 0);
  }
}

TEST_F(EngineTest, FullQueueRefuses) {
  auto engine = Start({.max_running = 1, .max_waiting = 2});
  std::vector<std::shared_ptr<Waiter>> sinks;
  int refused = 0;
  for (int i = 0; i < 10; ++i) {
    sinks.push_back(std::make_shared<Waiter>());
    auto id = engine->Submit(Simple(i, 30, 2000), sinks.back());
    if (!id) {
      ++refused;
      EXPECT_EQ(id.error().kind, ErrorKind::kUnavailable);
    }
  }
  EXPECT_GE(refused, 7);
}

TEST_F(EngineTest, DrainingRefusesNewAndEndsOld) {
  auto engine = Start();
  auto sink = std::make_shared<Waiter>();
  auto ended = sink->done.get_future();
  ASSERT_TRUE(engine->Submit(Simple(1, 30, 20), sink));
  EXPECT_TRUE(engine->Drain(20000));
  EXPECT_TRUE(ended.get());
  EXPECT_EQ(sink->tokens, 20);
  EXPECT_FALSE(engine->Submit(Simple(1, 30, 20), std::make_shared<Waiter>()));
}

TEST_F(EngineTest, DestructionCancelsWhatIsLeft) {
  auto sink = std::make_shared<Waiter>();
  auto ended = sink->done.get_future();
  {
    auto engine = Start();
    ASSERT_TRUE(engine->Submit(Simple(1, 30, 100000), sink));
  }
  EXPECT_TRUE(ended.get());
}

}  // namespace
}  // namespace larder
