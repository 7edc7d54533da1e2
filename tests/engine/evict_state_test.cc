// Compressed states: going on from one is, bit for bit, one generation without a break; they are used by
// nobody they are not for; their memory is counted, limited and given back.
#include "tests/engine/core_fixture.h"

namespace larder {
namespace {

using testing::Answer;
using testing::Tokens;

Tokens operator+(Tokens a, const Tokens& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

class EvictStateTest : public testing::CoreTest {
 protected:
  bool HasWindows() const { return std::string_view(GetParam()) == "tiny-gemma3.gguf"; }
  std::vector<std::string> Methods() const {
    std::vector<std::string> methods = {"h2o:budget=40",
                                        "streaming:budget=33",
                                        "snapkv:budget=48,window=16",
                                        "adakv:budget=48,window=16",
                                        "cake:budget=48,window=16",
                                        "h2o:budget=0.3,decode=false",
                                        "keynorm:budget=0.3,sinks=2",
                                        "random:budget=50,last=4",
                                        "kvmerger:budget=48",
                                        "mikv:budget=48,window=16"};
    if (!HasWindows()) methods.push_back("lacache:budget=24,span=1");
    if (!HasWindows()) methods.push_back("streaming:budget=33,positions=rank");
    return methods;
  }
  static Request Keeping(Tokens prompt, const std::string& evict, int64_t tokens) {
    Request r = Greedy(std::move(prompt), tokens);
    r.evict = evict;
    r.keep_state = true;
    return r;
  }
  // Replies with these tokens.
  static Request Forced(Tokens prompt, const std::string& evict, const Tokens& reply) {
    Request r = Keeping(std::move(prompt), evict, std::ssize(reply));
    r.forced_output = reply;
    return r;
  }
  std::shared_ptr<Answer> Run(EngineCore& core, Request r) {
    auto answer = Add(core, std::move(r));
    Finish(core);
    EXPECT_TRUE(answer->finished) << answer->error;
    return answer;
  }
  // The last `n` log-probabilities.
  static void ExpectSameEnd(const Answer& a, const Answer& whole, size_t n, const std::string& what) {
    ASSERT_GE(a.logprobs.size(), n) << what;
    ASSERT_GE(whole.logprobs.size(), n) << what;
    EXPECT_EQ(std::memcmp(&a.logprobs[a.logprobs.size() - n], &whole.logprobs[whole.logprobs.size() - n],
                          n * sizeof(float)),
              0)
        << what;
  }

  const Tokens first_ = Text(1, 201), reply_ = Text(2, 30), question_ = Text(3, 70), answer_ = Text(4, 25);
};

TEST_P(EvictStateTest, GoingOnIsOneGenerationWithoutABreak) {
  const auto model = Load(2), one = Load(1), three = Load(3);
  for (const std::string& method : Methods()) {
    const auto whole = Run(*Start(*model), Forced(first_, method, reply_ + question_ + answer_));
    const auto core = Start(*model);
    Run(*core, Forced(first_, method, reply_));
    ASSERT_EQ(core->Stats().states.states, 1u) << method;
    const Request second = Forced(first_ + reply_ + question_, method, answer_);
    // Twice: a state is read, not used up.
    for (int i = 0; i < 2; ++i) {
      const auto next = Run(*core, second);
      ExpectSameEnd(*next, *whole, answer_.size(), method);
      const int64_t rows = std::ssize(first_) + std::ssize(reply_) - 1;  // the last token has not run
      EXPECT_EQ(next->report.state.rows, rows) << method;
      EXPECT_EQ(next->report.state.entries < rows, !method.starts_with("mikv")) << method;
      EXPECT_EQ(next->report.read_memory, 0);
      EXPECT_EQ(next->report.outcome.reason, MissReason::kNone) << method;
      EXPECT_EQ(next->usage.cached_tokens, rows);
      EXPECT_EQ(next->report.recomputed, next->usage.prompt_tokens - rows);
      EXPECT_EQ(core->cache().stats().blocks, 0u) << method;
    }
    EXPECT_EQ(core->Stats().states.hits, 2u);
    for (Model* other : {one.get(), three.get()}) {
      EngineOptions options;
      options.max_batch_rows = 7;
      const auto slow = Start(*other, options);
      Run(*slow, Forced(first_, method, reply_));
      ExpectSameEnd(*Run(*slow, second), *whole, answer_.size(), method + " other chunks and threads");
    }
  }
}

TEST_P(EvictStateTest, ThirdTurnsGoOnFromSecond) {
  const auto model = Load(2);
  const Tokens more = Text(9, 40);
  for (const std::string& method : Methods()) {
    const auto whole = Run(*Start(*model), Forced(first_, method, reply_ + question_ + answer_ + more));
    const auto core = Start(*model);
    Run(*core, Forced(first_, method, reply_));
    Run(*core, Forced(first_ + reply_ + question_, method, answer_));
    const auto third = Run(*core, Forced(first_ + reply_ + question_ + answer_, method, more));
    ExpectSameEnd(*third, *whole, more.size(), method);
    EXPECT_EQ(third->report.recomputed, 1) << method;
  }
}

// What compacts a prompt while it reads cuts it at the same places, wherever the state ends.
TEST_P(EvictStateTest, ChunksOfAPromptStayWhereTheyAre) {
  if (HasWindows()) GTEST_SKIP() << "methods that compact by rank need a model without windows";
  const auto model = Load(2);
  const Tokens whole = Text(5, 333);
  for (const std::string method :
       {"streaming:budget=33,chunk=50", "streaming:budget=33,positions=rank,chunk=50",
        "lacache:budget=24,span=1,chunk=50"}) {
    const auto cold = Run(*Start(*model), Keeping(whole, method, 20));
    const auto core = Start(*model);
    Run(*core, Keeping({whole.begin(), whole.begin() + 150}, method, 0));
    const auto next = Run(*core, Keeping(whole, method, 20));
    EXPECT_EQ(next->report.state.rows, 150) << method;
    ExpectSame(*next, *cold, method);
  }
}

TEST_P(EvictStateTest, NeighboursAndPreemptionChangeNoBit) {
  const auto model = Load(2);
  int64_t preemptions = 0;
  const Tokens answer = Text(4, 250);
  for (const std::string& method : Methods()) {
    const auto whole = Run(*Start(*model), Forced(first_, method, reply_ + question_ + answer));
    const auto measured = Start(*model);
    const uint64_t tables = measured->cache().used_bytes();  // that depend on the limit
    Run(*measured, Forced(first_, method, reply_));
    uint64_t most = measured->cache().used_bytes();
    Add(*measured, Forced(first_ + reply_ + question_, method, answer));
    while (measured->Step()) most = std::max(most, measured->cache().used_bytes());
    for (const uint64_t extra : {0, 32, 64, 128}) {
      EngineOptions options;
      options.max_batch_rows = 100;
      options.cache.limit_bytes = (144 << 10) + most - tables + (extra << 10);
      const auto core = Start(*model, options);
      Run(*core, Forced(first_, method, reply_));
      std::vector<std::shared_ptr<Answer>> next;
      for (int i = 0; i < 4; ++i)
        next.push_back(Add(*core, Forced(first_ + reply_ + question_, method, answer)));
      auto neighbour = Greedy(Text(7, 120), 30);
      neighbour.evict = "none";
      Add(*core, neighbour);
      Finish(*core);
      for (const auto& one : next) {
        EXPECT_TRUE(one->finished) << method << one->error;
        if (extra > 32) {
          EXPECT_GT(one->report.state.rows, 0) << method;
        }
        if (one->report.state.rows == 0) continue;  // it had to give way
        ExpectSameEnd(*one, *whole, answer.size(), method);
        preemptions += one->report.preemptions;
      }
    }
  }
  EXPECT_GT(preemptions, 0);
}

// Who has begun keeps its own state, though it waits and others want room.
TEST_P(EvictStateTest, ThePreemptedGoOnFromTheirOwnStates) {
  const auto model = Load(2);
  const Tokens answer = Text(4, 250);
  for (const std::string method : {"snapkv:budget=48,window=16", "h2o:budget=0.3,decode=false"}) {
    const auto measured = Start(*model);
    const uint64_t tables = measured->cache().used_bytes();
    const auto second = [&](uint32_t i) {
      return Forced(Text(20 + i, 201) + reply_ + question_, method, answer);
    };
    std::vector<std::shared_ptr<Answer>> alone, together;
    for (uint32_t i = 0; i < 4; ++i) Run(*measured, Forced(Text(20 + i, 201), method, reply_));
    uint64_t most = measured->cache().used_bytes();
    alone.push_back(Add(*measured, second(0)));
    while (measured->Step()) most = std::max(most, measured->cache().used_bytes());
    for (uint32_t i = 1; i < 4; ++i) alone.push_back(Run(*measured, second(i)));
    EngineOptions options;
    options.max_batch_rows = 100;
    options.cache.limit_bytes = (208 << 10) + most - tables;
    const auto core = Start(*model, options);
    for (uint32_t i = 0; i < 4; ++i) Run(*core, Forced(Text(20 + i, 201), method, reply_));
    ASSERT_EQ(core->Stats().states.states, 4u);
    for (uint32_t i = 0; i < 4; ++i) together.push_back(Add(*core, second(i)));
    Finish(*core);
    int64_t preemptions = 0;
    for (size_t i = 0; i < 4; ++i) {
      EXPECT_GT(together[i]->report.state.rows, 0) << method << i;
      ExpectSame(*together[i], *alone[i], method);
      preemptions += together[i]->report.preemptions;
    }
    EXPECT_GT(preemptions, 0) << method;
  }
}

TEST_P(EvictStateTest, NobodyElseReadsAState) {
  const auto model = Load(2);
  const std::string method = "snapkv:budget=48,window=16";
  const Tokens prompt = first_ + reply_ + question_;
  const auto full = Run(*Start(*model), Greedy(prompt, 10));
  const auto cold = Run(*Start(*model), Keeping(prompt, method, 10));
  const auto core = Start(*model);
  Run(*core, Forced(first_, method, reply_));
  const auto misses = [&](Request r, const Answer* as, const std::string& what) {
    const auto answer = Run(*core, std::move(r));
    EXPECT_EQ(answer->report.state.rows, 0) << what;
    if (as != nullptr) ExpectSame(*answer, *as, what);
  };
  misses(Greedy(prompt, 10), full.get(), "a plain request");
  Request plain = Keeping(prompt, method, 10);
  plain.keep_state = false;
  misses(plain, cold.get(), "the method without keep_state");
  Request other = Keeping(prompt, method, 10);
  other.tenant = "other";
  misses(other, cold.get(), "another tenant");
  misses(Keeping(prompt, "snapkv:budget=49,window=16", 10), nullptr, "another budget");
  misses(Keeping(prompt, "streaming:budget=48", 10), nullptr, "another method");
  Request unread = Keeping(prompt, method, 10);
  unread.read_cache = false;
  misses(unread, cold.get(), "one that reads nothing");
  core->Forget("");
  Run(*core, Forced(first_, method, reply_));
  Tokens differs = prompt;
  differs[5] += 1;
  misses(Keeping(differs, method, 10), nullptr, "other tokens");
  // Its last token has not run, so that the state ends right before it.
  const Tokens whole = first_ + reply_;
  misses(Keeping({whole.begin(), whole.end() - 1}, method, 1), nullptr, "nothing left to compute");
  EXPECT_GT(Run(*core, Keeping(whole, method, 1))->report.state.rows, 0) << "one row left";
  // Defaults may be written down.
  EXPECT_GT(Run(*core, Keeping(prompt, "snapkv:window=16, budget=48,kernel=7", 1))->report.state.rows, 0);
}

TEST_P(EvictStateTest, OfSeveralTheLongestIsTaken) {
  const auto model = Load(2);
  const auto core = Start(*model);
  const std::string method = "streaming:budget=33";
  for (const int64_t rows : {60, 180, 120})
    Run(*core, Keeping({first_.begin(), first_.begin() + rows}, method, 0));
  EXPECT_EQ(core->Stats().states.states, 3u);
  EXPECT_EQ(Run(*core, Keeping(first_, method, 0))->report.state.rows, 180);
}

TEST_P(EvictStateTest, CancelledRequestsLeaveTheirsOnceTheirPromptIsRead) {
  const auto model = Load(2);
  EngineOptions options;
  options.max_batch_rows = 50;
  const auto core = Start(*model, options);
  const auto cancelled_after = [&](size_t tokens) {
    const uint64_t id = next_;
    const auto answer = Add(*core, Keeping(first_, "h2o:budget=40", 40));
    core->Step();
    while (answer->tokens.size() < tokens) core->Step();
    core->Cancel(id);
    Finish(*core);
    return core->Stats().states.stored;
  };
  EXPECT_EQ(cancelled_after(0), 0u);
  EXPECT_EQ(cancelled_after(7), 1u);
  EXPECT_EQ(core->Stats().states.tokens, first_.size() + 6);
}

TEST_P(EvictStateTest, WhatIsWipedIsGoneAndBytesComeBack) {
  const auto model = Load(2);
  for (const std::string method : {"snapkv:budget=48,window=16", "snapkv:budget=100000", "h2o:budget=40"}) {
    const auto core = Start(*model);
    Run(*core, Greedy(first_, 1));  // a prefix that the method may borrow
    const uint64_t before = core->cache().used_bytes();
    Run(*core, Forced(first_, method, reply_));
    const auto stats = core->Stats();
    ASSERT_EQ(stats.states.states, 1u) << method;
    EXPECT_GT(stats.states.bytes, 0u);
    EXPECT_GE(stats.kv.used_bytes, before + stats.states.bytes / 2) << method;
    EXPECT_EQ(stats.private_bytes, 0u);
    // Who runs ends undisturbed, and leaves nothing.
    const auto running = Add(*core, Forced(first_ + reply_ + question_, method, answer_));
    for (int i = 0; i < 3; ++i) core->Step();
    core->derived().Forget("t");
    EXPECT_EQ(core->Stats().states.states, 0u);
    Finish(*core);
    EXPECT_TRUE(running->finished);
    EXPECT_GT(running->report.state.rows, 0) << method;
    EXPECT_EQ(core->Stats().states.states, 0u) << method;
    EXPECT_EQ(core->Stats().states.bytes, 0u);
    EXPECT_LE(core->cache().used_bytes(), before + 256) << method;
    EXPECT_EQ(Run(*core, Keeping(first_ + reply_ + question_, method, 1))->report.state.rows, 0);
    EXPECT_EQ(core->Stats().states.states, 1u);
    core->derived().Clear("other");
    EXPECT_EQ(core->Stats().states.states, 1u);
    core->derived().Clear("t");
    EXPECT_EQ(core->Stats().states.states, 0u);
    EXPECT_LE(core->cache().used_bytes(), before + 256) << method;
  }
}

TEST_P(EvictStateTest, StatesGiveWayAndWhatHasNoRoomIsRefused) {
  const auto model = Load(2);
  const std::string method = "streaming:budget=33";
  const auto roomy = Start(*model);
  Run(*roomy, Keeping(Text(100, 200), method, 0));
  const uint64_t one = roomy->Stats().states.bytes;
  EngineOptions options;
  options.cache.limit_bytes = std::max<uint64_t>(7 * one, 512 << 10);
  const auto core = Start(*model, options);
  for (uint32_t i = 0; i < 12; ++i) {
    Run(*core, Keeping(Text(100 + i, 200), method, 0));
    const auto stats = core->Stats();
    EXPECT_LE(stats.states.bytes, stats.states.limit_bytes);
    EXPECT_LE(stats.kv.used_bytes, stats.kv.limit_bytes);
  }
  EXPECT_EQ(core->Stats().states.stored, 12u);
  EXPECT_GT(core->Stats().states.evicted, 0u);
  EXPECT_GT(Run(*core, Keeping(Text(111, 200) + question_, method, 0))->report.state.rows, 0) << "the newest";
  EXPECT_EQ(Run(*core, Keeping(Text(100, 200) + question_, method, 0))->report.state.rows, 0) << "the oldest";
  // Those who run come first: a plain request may have all of the memory but what is held.
  const auto large = Run(*core, Greedy(Text(200, 300), 1));
  EXPECT_TRUE(large->finished) << large->error;
}

// With the least memory that a request can run in, what it leaves is more than half of it.
TEST_P(EvictStateTest, WhatIsLargerThanTheRoomIsRefused) {
  if (HasWindows()) GTEST_SKIP() << "what windows drop makes the state small";
  const auto model = Load(2, KvType::kF32);
  const Request request = Keeping(Text(300, 450), "streaming:budget=100000", 1);
  for (uint64_t limit = 64 << 10;; limit += 32 << 10) {
    ASSERT_LT(limit, 4u << 20);
    EngineOptions options;
    options.cache.limit_bytes = limit;
    auto created = EngineCore::Create(model.get(), options, &clock_);
    if (!created) continue;  // not even two blocks
    const auto core = *std::move(created);
    const auto answer = Add(*core, request);
    Finish(*core);
    if (!answer->finished) continue;
    EXPECT_EQ(core->Stats().states.refused, 1u);
    EXPECT_EQ(core->Stats().states.states, 0u);
    break;
  }
}

// Pages that fill while a reply is written and while the next prompt is read become codes at the same rows.
TEST_P(EvictStateTest, BesideACodecAndWithChoices) {
  const Tokens answer = Text(4, 100);
  for (const char* codec : {"t4:center=0", "q4_0"}) {
    const auto model = Load(2, KvType::kI16, codec);
    for (const std::string method : {"snapkv:budget=120,window=16", "adakv:budget=48,window=16",
                                     "h2o:budget=0.6,decode=false", "mikv:budget=70,window=16"}) {
      const auto whole = Run(*Start(*model), Forced(first_, method, reply_ + question_ + answer));
      const auto core = Start(*model);
      Run(*core, Forced(first_, method, reply_));
      Request second = Forced(first_ + reply_ + question_, method, answer);
      ExpectSameEnd(*Run(*core, second), *whole, answer.size(), method + " with a codec");
      EngineOptions options;
      options.max_batch_rows = 7;
      const auto slow = Start(*model, options);
      Run(*slow, Forced(first_, method, reply_));
      ExpectSameEnd(*Run(*slow, second), *whole, answer.size(), method + " in other chunks");
      second.n = 2;
      EXPECT_EQ(Run(*core, second)->report.state.rows, std::ssize(first_ + reply_) - 1);
    }
  }
}

TEST_P(EvictStateTest, NeedsAMethod) {
  const auto model = Load(1);
  Request r = Keeping(Text(1, 10), "none", 1);
  EXPECT_FALSE(Start(*model)->Validate(r));
  EngineOptions options;
  options.evict = "snapkv";
  r.evict = "";
  EXPECT_TRUE(Start(*model, options)->Validate(r));
}

INSTANTIATE_TEST_SUITE_P(, EvictStateTest, ::testing::Values("tiny-llama.gguf", "tiny-gemma3.gguf"));

}  // namespace
}  // namespace larder
