#include "larder/scoring.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

namespace larder {
namespace {

TEST(Windows, EveryTokenFromTheFirstScoredOnIsScoredOnce) {
  for (int64_t tokens : {2, 9, 10, 11, 57, 100}) {
    for (int64_t window : {2, 10, 16}) {
      for (int64_t stride = 1; stride <= window; ++stride) {
        const auto windows = PlanWindows(tokens, window, stride);
        ASSERT_FALSE(windows.empty());
        int64_t next = windows[0].score_from;
        for (const TextWindow& w : windows) {
          EXPECT_GE(w.begin, 0);
          EXPECT_LE(w.end, tokens);
          EXPECT_LE(w.end - w.begin, window);
          EXPECT_GT(w.score_from, w.begin) << "the first token of a window has nothing before it";
          EXPECT_TRUE(w.score_from == next || w.score_from == w.begin + 1);
          next = w.end;
        }
        EXPECT_GT(next, tokens - stride);
      }
    }
  }
}

TEST(Windows, ScoredTokensHaveContext) {
  for (const TextWindow& w : PlanWindows(1000, 64, 16)) EXPECT_EQ(w.score_from - w.begin, 48);
  EXPECT_TRUE(PlanWindows(1, 64, 16).empty());
  EXPECT_TRUE(PlanWindows(0, 64, 16).empty());
}

TEST(Scoring, LikelihoodOfAKnownDistribution) {
  const std::vector<float> logits = {std::log(4.0f) + 100, std::log(2.0f) + 100, 100, 100};
  EXPECT_NEAR(NegativeLogLikelihood(logits, 0), std::log(2.0), 1e-5);
  EXPECT_NEAR(NegativeLogLikelihood(logits, 3), std::log(8.0), 1e-5);
}

TEST(Scoring, DivergenceEqualsItsDefinition) {
  std::mt19937 random(5);
  std::normal_distribution<float> normal(0, 3);
  for (int round = 0; round < 20; ++round) {
    std::vector<float> p(50), q(50);
    for (size_t i = 0; i < p.size(); ++i) {
      p[i] = normal(random) + 30;
      q[i] = p[i] + normal(random) * 0.3f - 60;
    }
    double kl = 0, lowest_p = 0, lowest_q = 0;
    for (size_t i = 0; i < p.size(); ++i) {
      const double lp = -NegativeLogLikelihood(p, static_cast<int32_t>(i));
      const double lq = -NegativeLogLikelihood(q, static_cast<int32_t>(i));
      kl += std::exp(lp) * (lp - lq);
      lowest_p = i == 7 ? -lp : lowest_p;
      lowest_q = i == 7 ? -lq : lowest_q;
    }
    const Divergence d = Compare(p, q, 7);
    EXPECT_NEAR(d.kl, kl, 1e-9);
    EXPECT_NEAR(d.base_nll, lowest_p, 1e-9);
    EXPECT_NEAR(d.candidate_nll, lowest_q, 1e-9);
    EXPECT_GT(d.kl, 0);
  }
}

TEST(Scoring, EqualLogitsDoNotDiverge) {
  const std::vector<float> p = {1, 2, -std::numeric_limits<float>::infinity()};
  EXPECT_EQ(Compare(p, p, 1).kl, 0);
  EXPECT_TRUE(Compare(p, p, 1).same_top);
  EXPECT_NEAR(Compare(std::vector<float>{1, 2}, std::vector<float>{11, 12}, 1).kl, 0, 1e-12)
      << "a shift changes nothing";
  EXPECT_FALSE(Compare(std::vector<float>{1, 2}, std::vector<float>{2, 1}, 1).same_top);
}

TEST(Scoring, MeansAndQuantiles) {
  const MeanError mean = MeanOf(std::vector<double>{1, 2, 3, 4});
  EXPECT_DOUBLE_EQ(mean.mean, 2.5);
  EXPECT_NEAR(mean.standard_error, std::sqrt(5.0 / 3 / 4), 1e-12);
  EXPECT_EQ(MeanOf(std::vector<double>{7}).standard_error, 0);
  EXPECT_EQ(Quantile({3, 1, 2}, 0.5), 2);
  EXPECT_EQ(Quantile({3, 1, 2}, 1), 3);
  EXPECT_DOUBLE_EQ(Quantile({0, 10}, 0.25), 2.5);
  EXPECT_EQ(Quantile({5}, 0.99), 5);
}

}  // namespace
}  // namespace larder
