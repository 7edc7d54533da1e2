// The small operations: equal to their reference to the last bit on every target, and close to the exact
// functions.
#include "compute/ops.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "compute/half.h"
#include "compute/scalar_math.h"
#include "simd_targets_for_test.h"

namespace larder {
namespace {

const int64_t kSizes[] = {1, 2, 15, 16, 17, 31, 64, 100, 576, 1537};

std::vector<float> Values(int64_t n, uint32_t seed, float spread = 3.0f) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, spread);
  std::vector<float> out(static_cast<size_t>(n));
  for (float& x : out) x = normal(random);
  return out;
}

bool SameBits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

TEST(Ops, RmsNormEqualsReference) {
  for (int64_t n : kSizes) {
    const auto x = Values(n, 1), weight = Values(n, 2);
    std::vector<float> expected(x.size());
    reference::RmsNorm(x.data(), weight.data(), 1e-5f, n, expected.data());
    ForEachSimdTarget([&] {
      std::vector<float> y = x;
      RmsNorm(y.data(), weight.data(), 1e-5f, n, y.data());
      EXPECT_TRUE(SameBits(y, expected)) << n;
    });
  }
}

TEST(Ops, RotateEqualsReferenceAndLeavesTheRestAlone) {
  for (const auto& [heads, head_dim, rotary] :
       {std::array{1, 16, 16}, {3, 64, 64}, {2, 80, 40}, {4, 96, 50}, {2, 6, 2}}) {
    const auto x = Values(int64_t{heads} * head_dim, 3), cosines = Values(rotary / 2, 4),
               sines = Values(rotary / 2, 5);
    std::vector<float> expected = x;
    reference::Rotate(expected.data(), heads, head_dim, rotary, cosines.data(), sines.data());
    for (int h = 0; h < heads; ++h) {
      for (int i = rotary; i < head_dim; ++i)
        EXPECT_EQ(expected[static_cast<size_t>(h * head_dim + i)], x[static_cast<size_t>(h * head_dim + i)]);
    }
    ForEachSimdTarget([&] {
      std::vector<float> y = x;
      Rotate(y.data(), heads, head_dim, rotary, cosines.data(), sines.data());
      EXPECT_TRUE(SameBits(y, expected));
    });
  }
}

TEST(Ops, ActivationsEqualReference) {
  for (int64_t n : kSizes) {
    const auto gate = Values(n, 6, 20.0f), up = Values(n, 7);
    std::vector<float> silu = gate, gelu = gate;
    reference::SiluMul(silu.data(), up.data(), n);
    reference::GeluMul(gelu.data(), up.data(), n);
    ForEachSimdTarget([&] {
      std::vector<float> y = gate;
      SiluMul(y.data(), up.data(), n);
      EXPECT_TRUE(SameBits(y, silu));
      y = gate;
      GeluMul(y.data(), up.data(), n);
      EXPECT_TRUE(SameBits(y, gelu));
    });
  }
}

TEST(Ops, AddAndScaleEqualPlainLoops) {
  for (int64_t n : kSizes) {
    const auto a = Values(n, 8), b = Values(n, 9);
    ForEachSimdTarget([&] {
      std::vector<float> sum = a, scaled = a;
      AddTo(sum.data(), b.data(), n);
      Scale(scaled.data(), 0.3f, n);
      for (size_t i = 0; i < a.size(); ++i) {
        EXPECT_EQ(sum[i], a[i] + b[i]);
        EXPECT_EQ(scaled[i], a[i] * 0.3f);
      }
    });
  }
}

TEST(Ops, ArgMaxTakesTheFirstOfEqualValues) {
  for (int64_t n : kSizes) {
    auto x = Values(n, 10);
    ForEachSimdTarget([&] {
      EXPECT_EQ(ArgMax(x.data(), n), std::max_element(x.begin(), x.end()) - x.begin());
      std::vector<float> equal(static_cast<size_t>(n), -2.0f);
      EXPECT_EQ(ArgMax(equal.data(), n), 0);
      if (n > 2) {
        equal[static_cast<size_t>(n - 1)] = equal[static_cast<size_t>(n / 2)] = 5.0f;
        EXPECT_EQ(ArgMax(equal.data(), n), n / 2);
      }
    });
  }
}

TEST(Ops, LogSumExpEqualsReferenceAndIsExactEnough) {
  for (int64_t n : kSizes) {
    const auto x = Values(n, 11, 5.0f);
    double sum = 0;
    for (float value : x) sum += std::exp(double{value});
    const float expected = reference::LogSumExp(x.data(), n);
    EXPECT_NEAR(expected, std::log(sum), 3e-6);
    ForEachSimdTarget([&] { EXPECT_EQ(LogSumExp(x.data(), n), expected); });
  }
  const std::vector<float> nothing(20, -std::numeric_limits<float>::infinity());
  EXPECT_EQ(LogSumExp(nothing.data(), 20), -std::numeric_limits<float>::infinity());
}

TEST(ScalarMath, ExpIsWithinTwoUlpAndExactWhereItMustBe) {
  double worst = 0;
  for (float x = -86.9f; x < 88.3f; x += 0.00137f) {
    const double exact = std::exp(double{x});
    worst = std::max(worst, std::abs(reference::Exp(x) - exact) / exact);
  }
  EXPECT_LT(worst, 2 * 0x1p-24);
  EXPECT_EQ(reference::Exp(0.0f), 1.0f);
  EXPECT_EQ(reference::Exp(-0.0f), 1.0f);
  EXPECT_EQ(reference::Exp(-std::numeric_limits<float>::infinity()), 0.0f);
  EXPECT_EQ(reference::Exp(-88.0f), 0.0f);
  EXPECT_TRUE(std::isfinite(reference::Exp(std::numeric_limits<float>::infinity())));
  EXPECT_TRUE(std::isnan(reference::Exp(std::numeric_limits<float>::quiet_NaN())));
}

TEST(ScalarMath, LogIsCorrectlyRoundedNearlyEverywhere) {
  std::mt19937 random(12);
  for (int i = 0; i < 20000; ++i) {
    const float x = std::bit_cast<float>(static_cast<uint32_t>(random() % 0x7F800000u));
    if (x == 0) continue;
    const float exact = static_cast<float>(std::log(double{x}));
    EXPECT_NEAR(ScalarLog(x), exact, std::abs(exact) * 0x1p-23);
  }
  EXPECT_EQ(ScalarLog(1.0f), 0.0f);
  EXPECT_EQ(ScalarLog(0.0f), -std::numeric_limits<float>::infinity());
  EXPECT_TRUE(std::isnan(ScalarLog(-1.0f)));
}

TEST(ScalarMath, ActivationsAreCloseToTheExactFunctions) {
  for (float x = -30; x < 30; x += 0.0113f) {
    const double silu = x / (1 + std::exp(-double{x}));
    const double u = 0.79788456080286536 * (x + 0.044715 * double{x} * x * x);
    EXPECT_NEAR(ScalarSilu(x), silu, 4e-7 * std::max(1.0, std::abs(silu)));
    EXPECT_NEAR(ScalarGelu(x), 0.5 * x * (1 + std::tanh(u)), 4e-7 * std::max(1.0, std::abs(double{x})));
  }
}

TEST(Half, ConvertsBothWaysLikeTheCompiler) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const float value = HalfToFloat(static_cast<uint16_t>(bits));
    if (std::isnan(value)) continue;
    EXPECT_EQ(FloatToHalf(value), bits);
  }
  std::mt19937 random(13);
  for (int i = 0; i < 200000; ++i) {
    const float x = std::bit_cast<float>(static_cast<uint32_t>(random()));
    if (std::isnan(x)) continue;
    EXPECT_EQ(FloatToHalf(x), std::bit_cast<uint16_t>(static_cast<_Float16>(x))) << x;
  }
}

}  // namespace
}  // namespace larder
