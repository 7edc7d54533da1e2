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
  return {maximum, ScalarExp(a - shift), ScalarExp(b - shift)};
}

inline float InverseOfSum(float sum) { return sum == 0.0f ? 0.0f : 1.0f / sum; }
inline float LogSumExpOf(float maximum, float sum) {
  return sum == 0.0f ? kMinusInfinity : maximum + ScalarLog(sum);
}

}  // namespace larder
