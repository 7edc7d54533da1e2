// What the attention kernels and their reference share: visibility, and the combination of partial results.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "compute/attention.h"
#include "compute/scalar_math.h"

namespace larder {

inline constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

inline uint64_t BitRange(int64_t from, int64_t to) {  // bits [from, to), 0 <= from, to <= 64
  if (from >= to) return 0;
  return (~uint64_t{0} >> (64 - (to - from))) << from;
}

// The entries of a page that a row at `position` sees, one bit each.
inline uint64_t VisibleEntries(const KvPage& page, int32_t position, int window) {
  if (page.k == nullptr) return 0;
  const int64_t entries = std::clamp(page.entries, 0, kPageTokens);
  const int64_t last = position;
  const int64_t first = window > 0 ? last - window + 1 : std::numeric_limits<int64_t>::min() / 2;
  if (page.positions == nullptr) {
    const int64_t from = std::max<int64_t>(0, first - page.first_position);
    return BitRange(from, std::min(entries, last - page.first_position + 1));
  }
  uint64_t visible = 0;
  for (int64_t i = 0; i < entries; ++i) {
    const int64_t at = page.positions[i];
    visible |= uint64_t{at >= first && at <= last} << i;
  }
  return visible;
}

// From a product of a query and a key to units of log 2.
inline float ScaleOfScores(const AttentionShape& shape) { return shape.scale * kLog2E; }

// What exponentials are taken relative to: the maximum, or 0 where nothing has a finite score (so that -inf
// stays a weight of 0 and does not become a NaN).
inline float ShiftOf(float maximum) { return maximum == kMinusInfinity ? 0.0f : maximum; }

// Weights with which a total (maximum a) and an addition (maximum b) enter their sum.
struct MergeWeights {
  float maximum, of_total, of_addition;
};
inline MergeWeights WeightsOf(float a, float b) {
  const float maximum = b > a ? b : a;
  const float shift = ShiftOf(maximum);
  return {maximum, ScalarExp2(a - shift), ScalarExp2(b - shift)};
}

inline float InverseOfSum(float sum) { return sum == 0.0f ? 0.0f : 1.0f / sum; }
// Natural, from a maximum in units of log 2.
inline float LogSumExpOf(float maximum, float sum) {
  return sum == 0.0f ? kMinusInfinity : std::fma(maximum, kLn2, ScalarLog(sum));
}

// Codes of kI16. A sum of 64 products of a stored code with a query's or weight's fits 31 bits:
// 64 * 8191 * 4095 < 2^31.
inline constexpr float kStoredCodeLimit = 8191.0f;
inline constexpr float kQueryCodeLimit = 4095.0f;  // also of weights
inline constexpr int kDimsPerSum = 64;

struct CodeScale {
  float scale;
  float to_code;  // 0: all codes are zero
};
inline CodeScale ScaleOfCodes(float largest, float limit) {
  if (!(largest <= std::numeric_limits<float>::max())) return {std::numeric_limits<float>::quiet_NaN(), 0.0f};
  if (largest < 1e-30f) return {0.0f, 0.0f};
  return {largest / limit, limit / largest};
}

// Nearest integer to x * to_code, ties to even.
inline int16_t Code16Of(float x, float to_code) {
  if (to_code == 0.0f) return 0;
  return static_cast<int16_t>(std::bit_cast<uint32_t>(std::fma(x, to_code, kRoundMagic)) & 0xFFFFu);
}

// Codes of a row of n numbers; returns their scale. Always inlined, so that each target compiles its own.
__attribute__((always_inline)) inline float QuantizeRow16(const float* x, int n, float limit,
                                                          int16_t* codes) {
  uint32_t largest = 0;  // magnitudes as integers, so that a NaN is larger than all numbers
  for (int i = 0; i < n; ++i) {
    const uint32_t magnitude = std::bit_cast<uint32_t>(x[i]) & 0x7FFFFFFFu;
    largest = magnitude > largest ? magnitude : largest;
  }
  const CodeScale scale = ScaleOfCodes(std::bit_cast<float>(largest), limit);
  if (scale.to_code == 0.0f) {
    for (int i = 0; i < n; ++i) codes[i] = 0;
    return scale.scale;
  }
  for (int i = 0; i < n; ++i) {
    codes[i] = static_cast<int16_t>(
        std::bit_cast<uint32_t>(__builtin_fmaf(x[i], scale.to_code, kRoundMagic)) & 0xFFFFu);
  }
  return scale.scale;
}

}  // namespace larder
