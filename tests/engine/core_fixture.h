// An engine that tests drive step by step, on a tiny model: requests, their answers, and what two answers
// must have in common.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "engine/core.h"
#include "tests/testing/model_session.h"

namespace larder::testing {

using Tokens = std::vector<int32_t>;

struct Answer final : RequestSink {
  Tokens tokens;
  std::vector<float> logprobs;
  std::vector<float> tops;  // of the alternatives asked for, of each token in the order of their numbers
  Usage usage;
  CacheReport report;
  std::string error;
  bool finished = false;

  void OnPromptLogprobs(std::vector<TokenOutput>) override {}
  void OnToken(TokenOutput out) override {
    tokens.push_back(out.token);
    logprobs.push_back(out.logprob);
    std::ranges::sort(out.top, {}, &TokenLogprob::token);
    for (const TokenLogprob& one : out.top) tops.push_back(one.logprob);
  }
  void OnChoiceEnd(ChoiceEnd) override {}
  void OnFinish(const Usage& u, const CacheReport& r) override {
    usage = u;
    report = r;
    finished = true;
  }
  void OnError(const Error& e) override { error = e.message; }
};

// The parameter is the model's file.
class CoreTest : public ::testing::TestWithParam<const char*> {
 protected:
  std::unique_ptr<Model> Load(int threads, KvType type = KvType::kI16, const std::string& codec = "") const {
    return LoadModel(DataPath(std::string("models/") + GetParam()), MathMode::kFast, type, threads, codec);
  }
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
  // Greedy, with log-probabilities.
  static Request Greedy(Tokens prompt, int64_t tokens) {
    Request r;
    r.tenant = "t";
    r.prompt = std::move(prompt);
    r.max_tokens = tokens;
    r.sampling.temperature = 0;
    r.ignore_eos = true;
    r.logprobs = 0;
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
  static void ExpectSame(const Answer& a, const Answer& b, const std::string& what) {
    EXPECT_TRUE(a.finished && b.finished) << what << ": " << a.error << b.error;
    EXPECT_EQ(a.tokens, b.tokens) << what;
    ASSERT_EQ(a.logprobs.size(), b.logprobs.size()) << what;
    EXPECT_EQ(std::memcmp(a.logprobs.data(), b.logprobs.data(), a.logprobs.size() * sizeof(float)), 0)
        << what;
  }

  SystemClock clock_;
  uint64_t next_ = 1;
};

}  // namespace larder::testing
