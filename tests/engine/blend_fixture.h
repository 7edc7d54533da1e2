// Engines that have chunks, and requests that use them. For tests.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <random>

#include "engine/core.h"
#include "tests/testing/model_session.h"

namespace larder::testing {

using Tokens = std::vector<int32_t>;

struct Answer final : RequestSink {
  Tokens tokens;
  std::vector<float> logprobs;
  Usage usage;
  CacheReport report;
  std::string error;
  bool finished = false;

  void OnPromptLogprobs(std::vector<TokenOutput>) override {}
  void OnToken(TokenOutput out) override {
    tokens.push_back(out.token);
    logprobs.push_back(out.logprob);
  }
  void OnChoiceEnd(ChoiceEnd) override {}
  void OnFinish(const Usage& u, const CacheReport& r) override {
    usage = u;
    report = r;
    finished = true;
  }
  void OnError(const Error& e) override { error = e.message; }
};

inline Tokens operator+(Tokens a, const Tokens& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

class BlendTest : public ::testing::TestWithParam<const char*> {
 protected:
  std::unique_ptr<Model> Load(int threads, KvType type = KvType::kI16, const std::string& codec = "") const {
    return LoadModel(DataPath(std::string("models/") + GetParam()), MathMode::kFast, type, threads, codec);
  }
  // With two layers only, the check layer is the last, and all rows that are ever attended to are true.
  static bool IsDeep() { return std::string_view(GetParam()) != "tiny-llama.gguf"; }
  std::unique_ptr<EngineCore> Start(Model& model, EngineOptions options = {}) {
    auto core = EngineCore::Create(&model, options, &clock_);
    EXPECT_TRUE(core) << (core ? "" : core.error().message);
    return *std::move(core);
  }
  static Tokens Text(uint32_t seed, int64_t n) {
    std::mt19937 random(seed);
    Tokens out(static_cast<size_t>(n));
    for (auto& t : out) t = static_cast<int32_t>(random() % 200);
    return out;
  }
  static Request Make(Tokens prompt, const std::string& reuse, int64_t tokens = 20) {
    Request r;
    r.tenant = "t";
    r.prompt = std::move(prompt);
    r.max_tokens = tokens;
    r.sampling.temperature = 0;
    r.ignore_eos = true;
    r.logprobs = 0;
    r.reuse = reuse;
    return r;
  }
  std::shared_ptr<Answer> Add(EngineCore& core, Request r) {
    auto answer = std::make_shared<Answer>();
    const Status valid = core.Validate(r);
    EXPECT_TRUE(valid) << (valid ? "" : valid.error().message);
    core.Add(next_++, std::move(r), answer);
    return answer;
  }
  void Finish(EngineCore& core) {
    for (int i = 0; i < 100000 && core.unfinished() > 0; ++i) core.Step();
    EXPECT_EQ(core.unfinished(), 0);
    const Status sound = core.cache().CheckInvariants();
    EXPECT_TRUE(sound) << (sound ? "" : sound.error().message);
  }
  std::shared_ptr<Answer> Ask(EngineCore& core, Tokens prompt, const std::string& reuse,
                              int64_t tokens = 20) {
    auto answer = Add(core, Make(std::move(prompt), reuse, tokens));
    Finish(core);
    return answer;
  }
  void Store(EngineCore& core, const Tokens& prefix, const Tokens& chunk, const std::string& tenant = "t") {
    Request r = Make(prefix + chunk, "prefix", 0);
    r.tenant = tenant;
    r.chunk_from = std::ssize(prefix);
    const auto answer = Add(core, std::move(r));
    Finish(core);
    EXPECT_TRUE(answer->finished) << answer->error;
  }
  // An engine that has these texts as chunks and nothing else.
  std::unique_ptr<EngineCore> StartWith(Model& model, const std::vector<Tokens>& chunks,
                                        EngineOptions options = {}) {
    auto core = Start(model, options);
    for (const Tokens& chunk : chunks) Store(*core, {1}, chunk);
    core->cache().Clear("t");
    return core;
  }
  static void ExpectSame(const Answer& a, const Answer& b, const std::string& what) {
    EXPECT_TRUE(a.finished && b.finished) << what << ": " << a.error << b.error;
    EXPECT_EQ(a.tokens, b.tokens) << what;
    ASSERT_EQ(a.logprobs.size(), b.logprobs.size()) << what;
    EXPECT_EQ(std::memcmp(a.logprobs.data(), b.logprobs.data(), a.logprobs.size() * sizeof(float)), 0)
        << what;
  }
  static bool Same(const Answer& a, const Answer& b) {
    return a.logprobs.size() == b.logprobs.size() &&
           std::memcmp(a.logprobs.data(), b.logprobs.data(), a.logprobs.size() * sizeof(float)) == 0;
  }

  SystemClock clock_;
  uint64_t next_ = 1;
  const Tokens system_ = Text(1, 30), a_ = Text(2, 130), b_ = Text(3, 64), c_ = Text(4, 100),
               question_ = Text(5, 17);
};

}  // namespace larder::testing
