#include "engine/sampler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <random>

namespace larder {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

int32_t SampleOf(std::vector<float> logits, const SamplingParams& params, uint64_t position = 0,
                 uint32_t choice = 0, const TokenHistory& history = {}, std::vector<int32_t> banned = {}) {
  return Sample(logits, params, history, position, choice, banned);
}

struct Penalised {
  std::vector<int32_t> prompt, output;
};

// The definition, written down plainly: sort everything, keep what each parameter keeps, walk the sum.
int32_t Reference(std::vector<float> logits, const SamplingParams& params, uint64_t position, uint32_t choice,
                  const Penalised& history = {}) {
  for (const auto& [token, bias] : params.logit_bias) logits[static_cast<size_t>(token)] += bias;
  std::map<int32_t, int> seen, in_output;
  for (int32_t t : history.prompt) ++seen[t];
  for (int32_t t : history.output) ++seen[t], ++in_output[t];
  for (const auto& [token, count] : seen) {
    float& l = logits[static_cast<size_t>(token)];
    l = l > 0 ? l / params.repetition_penalty : l * params.repetition_penalty;
  }
  for (const auto& [token, count] : in_output)
    logits[static_cast<size_t>(token)] -=
        params.presence_penalty + params.frequency_penalty * static_cast<float>(count);
  std::vector<int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
    return logits[static_cast<size_t>(a)] > logits[static_cast<size_t>(b)];
  });
  if (params.temperature == 0) return order[0];
  std::vector<double> weight;
  const double largest = logits[static_cast<size_t>(order[0])];
  for (int32_t t : order)
    weight.push_back(std::exp((logits[static_cast<size_t>(t)] - largest) / params.temperature));
  const auto sum = [&] { return std::accumulate(weight.begin(), weight.end(), 0.0); };
  if (params.top_k > 0 && static_cast<size_t>(params.top_k) < weight.size())
    weight.resize(static_cast<size_t>(params.top_k));
  if (params.top_p < 1) {
    const double target = params.top_p * sum();
    double before = 0;
    size_t n = 0;
    while (n < weight.size() && (n == 0 || before < target)) before += weight[n++];
    weight.resize(n);
  }
  while (weight.back() < params.min_p) weight.pop_back();
  const double target = CounterUniform(params.seed, choice, position) * sum();
  double before = 0;
  for (size_t i = 0; i < weight.size(); ++i)
    if ((before += weight[i]) > target) return order[i];
  return order[weight.size() - 1];
}

std::vector<float> RandomLogits(size_t n, float spread, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, spread);
  std::vector<float> out(n);
  for (float& l : out) l = normal(random);
  return out;
}

TEST(Sampler, PhiloxIsThePublishedOne) {
  // Random123's known answer for key 0 and counter 0: first words 6627e8d5 e169c58d.
  EXPECT_EQ(CounterUniform(0, 0, 0), static_cast<double>(0xe169c58d6627e8d5u >> 11) * 0x1p-53);
}

TEST(Sampler, NoiseIsUniformAndDependsOnEverything) {
  double sum = 0, squares = 0;
  constexpr int kDraws = 20000;
  for (int i = 0; i < kDraws; ++i) {
    const double u = CounterUniform(1, 0, static_cast<uint64_t>(i));
    ASSERT_GE(u, 0.0);
    ASSERT_LT(u, 1.0);
    sum += u;
    squares += u * u;
  }
  EXPECT_NEAR(sum / kDraws, 0.5, 0.01);
  EXPECT_NEAR(squares / kDraws, 1.0 / 3, 0.01);
  EXPECT_NE(CounterUniform(1, 0, 7), CounterUniform(2, 0, 7));
  EXPECT_NE(CounterUniform(1, 0, 7), CounterUniform(1ull << 40, 0, 7));
  EXPECT_NE(CounterUniform(1, 0, 7), CounterUniform(1, 1, 7));
  EXPECT_NE(CounterUniform(1, 0, 7), CounterUniform(1, 0, 7 + (1ull << 32)));
}

TEST(Sampler, GreedyTakesTheLargestAndTheLowerOfEquals) {
  SamplingParams greedy{.temperature = 0};
  EXPECT_EQ(SampleOf({1, 5, 3}, greedy), 1);
  EXPECT_EQ(SampleOf({1, 5, 3, 5}, greedy), 1);
  EXPECT_EQ(SampleOf({-kInf, -3}, greedy), 1);
}

TEST(Sampler, EqualsTheReferenceForEveryParameter) {
  std::mt19937 random(11);
  const auto pick = [&](std::vector<float> values) { return values[random() % values.size()]; };
  for (int round = 0; round < 4000; ++round) {
    const size_t n = 2 + random() % 300;
    const std::vector<float> logits = RandomLogits(n, pick({0.1f, 1, 4, 20}), static_cast<uint32_t>(round));
    SamplingParams params;
    params.temperature = pick({0, 0.01f, 0.7f, 1, 1.5f, 100});
    params.top_k = static_cast<int32_t>(pick({0, 0, 1, 5, 40, 1000}));
    params.top_p = pick({1, 1, 0.95f, 0.5f, 0.01f, 0});
    params.min_p = pick({0, 0, 0.05f, 0.5f, 1});
    params.repetition_penalty = pick({1, 1.2f, 0.8f});
    params.presence_penalty = pick({0, 0.5f, -1});
    params.frequency_penalty = pick({0, 0.3f});
    params.seed = random();
    for (size_t i = random() % 3; i > 0; --i)
      params.logit_bias.emplace_back(static_cast<int32_t>(random() % n), pick({-100, 2, 10}));
    Penalised past;
    TokenHistory history;
    for (size_t i = random() % 10; i > 0; --i) past.prompt.push_back(static_cast<int32_t>(random() % n));
    history.AddPrompt(past.prompt);
    for (size_t i = random() % 10; i > 0; --i) {
      past.output.push_back(static_cast<int32_t>(random() % n));
      history.AddOutput(past.output.back());
    }
    const auto choice = static_cast<uint32_t>(random() % 4);
    ASSERT_EQ(SampleOf(logits, params, static_cast<uint64_t>(round), choice, history),
              Reference(logits, params, static_cast<uint64_t>(round), choice, past))
        << "round " << round << " n " << n << " T " << params.temperature << " k " << params.top_k << " p "
        << params.top_p << " min_p " << params.min_p;
  }
}

TEST(Sampler, EqualsTheReferenceOnALargeFlatVocabulary) {
  // Half of all tokens are in the nucleus: the path that cannot be narrowed down by a threshold.
  const std::vector<float> logits = RandomLogits(50000, 0.2f, 3);
  for (float top_p : {1.0f, 0.5f}) {
    for (uint64_t position = 0; position < 5; ++position) {
      SamplingParams params{.top_p = top_p, .seed = 5};
      // Sums of 50,000 floats may differ in the last place, which moves the draw by one token at most.
      std::vector<int32_t> order(logits.size());
      std::iota(order.begin(), order.end(), 0);
      std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
        return logits[static_cast<size_t>(a)] > logits[static_cast<size_t>(b)];
      });
      const auto rank = [&](int32_t t) { return std::find(order.begin(), order.end(), t) - order.begin(); };
      EXPECT_LE(
          std::abs(rank(SampleOf(logits, params, position)) - rank(Reference(logits, params, position, 0))),
          1);
    }
  }
}

TEST(Sampler, EachParameterKeepsWhatItSays) {
  // Probabilities 0.5, 0.25, 0.125, 0.125.
  const std::vector<float> logits = {std::log(4.0f), std::log(2.0f), 0, 0};
  const auto support = [&](const SamplingParams& params) {
    std::vector<int32_t> seen(4);
    for (uint64_t position = 0; position < 2000; ++position)
      ++seen[static_cast<size_t>(SampleOf(logits, params, position))];
    int tokens = 0;
    for (int32_t count : seen) tokens += count > 0;
    return tokens;
  };
  EXPECT_EQ(support({}), 4);
  EXPECT_EQ(support({.top_k = 2}), 2);
  EXPECT_EQ(support({.top_k = 3}), 3);
  EXPECT_EQ(support({.top_p = 0.5f}), 1);
  EXPECT_EQ(support({.top_p = 0.75f}), 2);
  EXPECT_EQ(support({.top_p = 0.76f}), 3);
  EXPECT_EQ(support({.min_p = 0.49f}), 2);
  EXPECT_EQ(support({.min_p = 0.24f}), 4);
  EXPECT_EQ(support({.top_k = 2, .top_p = 0.6f}), 1)
      << "top-p counts within the top k: 0.5 of 0.75 is enough";
}

TEST(Sampler, DrawsFollowTheDistribution) {
  const std::vector<float> logits = {1, 0, 2, -1, 0.5f};
  for (float temperature : {0.5f, 1.0f, 2.0f}) {
    std::vector<double> expected;
    for (float l : logits) expected.push_back(std::exp(l / temperature));
    const double total = std::accumulate(expected.begin(), expected.end(), 0.0);
    constexpr int kDraws = 20000;
    std::vector<int> seen(5);
    const SamplingParams params{.temperature = temperature, .seed = 99};
    for (uint64_t position = 0; position < kDraws; ++position)
      ++seen[static_cast<size_t>(SampleOf(logits, params, position))];
    double chi_square = 0;
    for (size_t i = 0; i < 5; ++i) {
      const double e = kDraws * expected[i] / total;
      chi_square += (seen[i] - e) * (seen[i] - e) / e;
    }
    EXPECT_LT(chi_square, 18.5) << "4 degrees of freedom, p = 0.001; T " << temperature;
  }
}

TEST(Sampler, DependsOnSeedChoiceAndPositionOnly) {
  const std::vector<float> logits = RandomLogits(1000, 1, 1);
  const SamplingParams one{.seed = 1}, two{.seed = 2};
  int by_seed = 0, by_choice = 0, by_position = 0;
  for (uint64_t p = 0; p < 100; ++p) {
    const int32_t token = SampleOf(logits, one, p);
    EXPECT_EQ(token, SampleOf(logits, one, p));
    by_seed += token != SampleOf(logits, two, p);
    by_choice += token != SampleOf(logits, one, p, 1);
    by_position += token != SampleOf(logits, one, p + 1);
  }
  EXPECT_GT(by_seed, 50);
  EXPECT_GT(by_choice, 50);
  EXPECT_GT(by_position, 50);
}

TEST(Sampler, BrokenLogitsNeverWin) {
  for (float temperature : {0.0f, 1.0f}) {
    const SamplingParams params{.temperature = temperature, .seed = 3};
    for (uint64_t p = 0; p < 50; ++p) {
      EXPECT_EQ(SampleOf({kNan, 1, kNan, -kInf}, params, p), 1);
      EXPECT_EQ(SampleOf({1, 2, kInf, 3}, params, p), 2);
      EXPECT_EQ(SampleOf({kNan, kNan, -kInf}, params, p), 0) << "nothing is left: the first token";
    }
  }
  EXPECT_EQ(SampleOf({1e38f, -1e38f}, {.temperature = 1e-30f}), 0);
  EXPECT_EQ(SampleOf({1, 1.5f, 1}, {.temperature = 1e-44f}), 1);
  EXPECT_NE(SampleOf({1, kNan, -kInf}, {.temperature = kInf}), 1);
}

TEST(Sampler, BannedTokensAreNeverDrawn) {
  const std::vector<float> logits = {9, 8, 1, 1};
  for (const SamplingParams& params :
       {SamplingParams{.temperature = 0}, SamplingParams{}, SamplingParams{.top_k = 3},
        SamplingParams{.top_p = 0.9f}, SamplingParams{.min_p = 1e-9f}, SamplingParams{.temperature = 1e9f}}) {
    for (uint64_t p = 0; p < 200; ++p) EXPECT_GE(SampleOf(logits, params, p, 0, {}, {0, 1}), 2);
  }
  EXPECT_EQ(SampleOf(logits, {.temperature = 0}, 0, 0, {}, {-1, 400}), 0) << "numbers outside the vocabulary";
}

TEST(Sampler, PenaltiesCountPromptAndOutputAsDefined) {
  TokenHistory history;
  history.AddPrompt(std::vector<int32_t>{0, 0, 7000});
  history.AddOutput(1);
  history.AddOutput(1);
  history.AddOutput(2);
  const auto best = [&](std::vector<float> logits, SamplingParams params) {
    params.temperature = 0;
    return SampleOf(std::move(logits), params, 0, 0, history);
  };
  // Presence and frequency look at the output only; repetition also at the prompt.
  EXPECT_EQ(best({3, 3, 3, 2.9f}, {.presence_penalty = 1}), 0);
  EXPECT_EQ(best({1, 3.1f, 3, 2.4f}, {.frequency_penalty = 0.5f}), 2) << "2.1, 2.5 and 2.4 are left";
  EXPECT_EQ(best({3, 3, 3, 2.9f}, {.repetition_penalty = 1.1f}), 3);
  EXPECT_EQ(best({-1, -1, -1, -1.05f}, {.repetition_penalty = 1.1f}), 3) << "negative logits are multiplied";
  // Bias comes first: 1 + 2 is positive and therefore divided.
  EXPECT_EQ(best({1, 0, 0, 1.6f}, {.repetition_penalty = 2, .logit_bias = {{0, 2.0f}}}), 3);
}

TEST(Sampler, LogprobsAreThoseOfTheRawLogits) {
  const std::vector<float> logits = {std::log(4.0f), std::log(2.0f), 0, 0};
  const Logprobs result = ComputeLogprobs(logits, 1, 3);
  EXPECT_NEAR(result.chosen, std::log(0.25f), 1e-6);
  ASSERT_EQ(result.top.size(), 3u);
  EXPECT_EQ(result.top[0].token, 0);
  EXPECT_NEAR(result.top[0].logprob, std::log(0.5f), 1e-6);
  EXPECT_EQ(result.top[1].token, 1);
  EXPECT_EQ(result.top[2].token, 2) << "the lower of equals";
  EXPECT_TRUE(ComputeLogprobs(logits, 0, 0).top.empty());
  EXPECT_EQ(ComputeLogprobs(logits, 0, 20).top.size(), 4u);
}

TEST(Sampler, LogprobsOfBrokenLogitsAreFinite) {
  for (const std::vector<float>& logits :
       {std::vector<float>{kNan, 1, 2}, {kInf, 1, 2}, {-kInf, 1, 2}, {kNan, -kInf}}) {
    const Logprobs result = ComputeLogprobs(logits, 0, 3);
    EXPECT_TRUE(std::isfinite(result.chosen));
    EXPECT_LE(result.chosen, 0);
    for (const TokenLogprob& t : result.top) {
      EXPECT_TRUE(std::isfinite(t.logprob));
      EXPECT_LE(t.logprob, 0);
    }
  }
}

}  // namespace
}  // namespace larder
