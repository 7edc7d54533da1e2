// Do the encoders write what the decoders read, with the error that the format's grid allows and no more?
#include "compute/quantize.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <string>
#include <vector>

namespace larder {
namespace {

using enum TensorType;

std::vector<FormatInfo> Writable() {
  std::vector<FormatInfo> out;
  for (const FormatInfo& format : AllFormats())
    if (CanQuantize(format.type)) out.push_back(format);
  return out;
}

class EveryWritable : public testing::TestWithParam<FormatInfo> {};
INSTANTIATE_TEST_SUITE_P(Formats, EveryWritable, testing::ValuesIn(Writable()),
                         [](const auto& test) { return std::string(test.param.name); });

// A bell, as weights are.
std::vector<float> Bell(size_t n, float spread, uint32_t seed, float middle = 0) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(middle, spread);
  std::vector<float> out(n);
  for (float& x : out) x = normal(random);
  return out;
}

std::vector<uint8_t> Encode(TensorType type, const std::vector<float>& x) {
  const FormatInfo& info = *FindFormat(static_cast<uint32_t>(type));
  std::vector<uint8_t> out(RowBytes(info, x.size()).value(), 0xAA);
  const Status status = QuantizeRow(type, x.data(), static_cast<int64_t>(x.size()), out.data());
  EXPECT_TRUE(status.has_value()) << status.error().message;
  return out;
}

std::vector<float> Decode(TensorType type, const std::vector<uint8_t>& bytes, size_t n) {
  std::vector<float> out(n);
  DequantizeRow(type, bytes.data(), static_cast<int64_t>(n), out.data());
  return out;
}

std::vector<float> RoundTrip(TensorType type, const std::vector<float>& x) {
  return Decode(type, Encode(type, x), x.size());
}

double RelativeError(const std::vector<float>& x, const std::vector<float>& y) {
  double error = 0, norm = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    error += (static_cast<double>(x[i]) - y[i]) * (static_cast<double>(x[i]) - y[i]);
    norm += static_cast<double>(x[i]) * x[i];
  }
  return std::sqrt(error / norm);
}

// The largest distance of a value from the grid that spans its block: half a step, and what the halves that
// hold scale and minimum lose at the far end of the grid (2^-11 of the largest magnitude each).
float BlockBound(TensorType type, const float* x, int n) {
  const auto [low, high] = std::minmax_element(x, x + n);
  const float most = std::max(std::abs(*low), std::abs(*high)), halves = most * 0x1p-10f;
  switch (type) {
    case kF32:
      return 0;
    case kF16:
      return most * 0x1p-11f;
    case kQ8_0:
      return most / 127 / 2 + halves;
    case kQ4_0:  // the side of the extreme has a step more than the other, where a value may be a whole step
                 // away
      return most / 8 + halves;
    case kQ5_0:
      return most / 16 + halves;
    case kQ4_1:
      return (*high - *low) / 15 / 2 + 2 * halves;
    default:  // the K formats choose the least square error, not the least maximum
      return most;
  }
}

TEST_P(EveryWritable, EveryValueIsAsNearAsTheGridAllows) {
  const FormatInfo& info = GetParam();
  for (const float middle : {0.0f, 0.5f, -3.0f}) {
    const std::vector<float> x = Bell(4096, 0.7f, 1, middle), y = RoundTrip(info.type, x);
    for (size_t start = 0; start < x.size(); start += static_cast<size_t>(info.block_elements)) {
      const float bound = BlockBound(info.type, &x[start], info.block_elements);
      for (size_t i = start; i < start + static_cast<size_t>(info.block_elements); ++i)
        ASSERT_LE(std::abs(x[i] - y[i]), bound * 1.0001f) << i << ": " << x[i] << " became " << y[i];
    }
  }
}

// The mean error on a bell: a uniform step d has d / sqrt(12), and the step follows from the expected
// extremes of a group (2.04 spreads for 32 values). 1.1 of it is allowed; half of it would mean that
// something else was measured.
TEST_P(EveryWritable, MeanErrorIsThatOfTheStep) {
  const FormatInfo& info = GetParam();
  const std::vector<float> x = Bell(1 << 16, 0.02f, 7);
  const double error = RelativeError(x, RoundTrip(info.type, x));
  struct Expected {
    TensorType type;
    double error;
  };
  constexpr double kUniform = 0.288675;  // 1 / sqrt(12)
  constexpr double kExtreme = 2.28,
                   kSpan = 4.14;  // of 32: mean of the largest magnitude, of high - low, in spreads
  for (const Expected& e :
       {Expected{kQ8_0, kExtreme / 127 * kUniform}, Expected{kQ5_0, kExtreme / 16 * kUniform},
        Expected{kQ4_0, kExtreme / 8 * kUniform}, Expected{kQ4_1, kSpan / 15 * kUniform}}) {
    if (e.type != info.type) continue;
    EXPECT_LT(error, 1.1 * e.error);
    EXPECT_GT(error, 0.9 * e.error);
    return;
  }
  switch (info.type) {
    case kF32:
      EXPECT_EQ(error, 0);
      break;
    case kF16:
      EXPECT_LT(error, 0x1p-11);
      break;
    case kQ4_K:  // the search must beat the plain grid between the extremes, whose step is the same as Q4_1's
      EXPECT_LT(error, 0.97 * RelativeError(x, RoundTrip(kQ4_1, x)));
      break;
    case kQ6_K:  // 16 values to a scale, 64 levels: the largest magnitude of 16 is 2.0 spreads
      EXPECT_LT(error, 2.0 / 32 * kUniform);
      break;
    default:
      FAIL() << "no expectation for this format";
  }
}

// What a format can say exactly is written exactly again.
TEST_P(EveryWritable, WhatWasDecodedEncodesToItself) {
  const FormatInfo& info = GetParam();
  const std::vector<float> x = Bell(1 << 14, 0.05f, 3);
  const std::vector<float> once = RoundTrip(info.type, x), twice = RoundTrip(info.type, once);
  const bool searched = info.type == kQ4_K || info.type == kQ6_K;
  if (!searched) {
    EXPECT_EQ(once, twice);
  } else {  // the search may settle on another grid, hardly a worse one
    EXPECT_LT(RelativeError(once, twice), 0.25 * RelativeError(x, once));
  }
}

TEST_P(EveryWritable, ZerosStayZeros) {
  for (const float x : RoundTrip(GetParam().type, std::vector<float>(512, 0.0f))) ASSERT_EQ(x, 0);
}

TEST_P(EveryWritable, ExtremesStayFinite) {
  const FormatInfo& info = GetParam();
  for (const float magnitude : {1e-40f, 1e-9f, 1e4f, 1e9f, std::numeric_limits<float>::max()}) {
    std::vector<float> x = Bell(512, 1.0f, 5);
    for (float& v : x) v = std::clamp(v, -1.0f, 1.0f) * magnitude;
    for (const float y : RoundTrip(info.type, x)) ASSERT_TRUE(std::isfinite(y)) << magnitude;
  }
}

// One weight far outside the others must not be lost, whatever its sign and place.
TEST_P(EveryWritable, OutlierSurvives) {
  const FormatInfo& info = GetParam();
  for (const float outlier : {5.0f, -5.0f}) {
    for (const size_t place : {size_t{0}, size_t{31}, size_t{200}}) {
      std::vector<float> x = Bell(256, 0.01f, 11);
      x[place] = outlier;
      EXPECT_NEAR(RoundTrip(info.type, x)[place], outlier, 0.06f);
    }
  }
}

TEST_P(EveryWritable, AllEqualIsKept) {
  for (const float value : {0.25f, -0.25f}) {
    for (const float y : RoundTrip(GetParam().type, std::vector<float>(256, value)))
      ASSERT_NEAR(y, value, 0.002f);
  }
}

TEST_P(EveryWritable, WhatIsNoNumberIsRefused) {
  const FormatInfo& info = GetParam();
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    std::vector<float> x(256, 1.0f);
    x[77] = bad;
    std::vector<uint8_t> out(RowBytes(info, x.size()).value());
    const Status status = QuantizeRow(info.type, x.data(), 256, out.data());
    ASSERT_FALSE(status);
    EXPECT_NE(status.error().message.find("77"), std::string::npos);
  }
}

}  // namespace
}  // namespace larder
