// Q4_K and Q6_K: small integer scales per group under one or two f16 factors. Each group's scale (and
// minimum) is found by alternating least squares: codes nearest under a scale, then the best scale under
// those codes, from several starts, because the extremes of a group are not worth an even grid over all of
// it.
#include <array>

#include "compute/quantize_blocks.h"

namespace larder::formats {
namespace {

constexpr int kRounds = 3;  // of the alternation; more change the error by less than a per mille

// value ~ scale * code, code in [-levels, levels - 1]. Squares weigh the elements: large weights matter more.
float BestScale(const float* x, int n, int levels) {
  float extreme = 0;
  for (int i = 0; i < n; ++i) extreme = std::abs(x[i]) > std::abs(extreme) ? x[i] : extreme;
  if (extreme == 0) return 0;
  float best = 0, best_gain = -1;
  for (int start = -4; start <= 4; ++start) {
    float scale = -extreme / (static_cast<float>(levels) + 0.25f * static_cast<float>(start));
    for (int round = 0; round < kRounds; ++round) {
      const float inverse = Inverse(scale);
      double xc = 0, cc = 0;
      for (int i = 0; i < n; ++i) {
        const double w = static_cast<double>(x[i]) * x[i];
        const double code = RoundTo(x[i] * inverse, -levels, levels - 1);
        xc += w * x[i] * code;
        cc += w * code * code;
      }
      if (cc == 0) break;
      scale = static_cast<float>(xc / cc);
      // What the fit takes away from the sum of squares.
      if (const auto gain = static_cast<float>(xc * xc / cc); gain > best_gain) {
        best_gain = gain;
        best = scale;
      }
    }
  }
  return best;
}

struct Line {
  float scale = 0, offset = 0;  // value ~ scale * code - offset, both >= 0
};

// The least-squares line through (code, value) under weights, with the offset's sign kept.
Line FitLine(const float* x, const float* w, const int* codes, int n) {
  double sw = 0, sc = 0, scc = 0, sx = 0, sxc = 0;
  for (int i = 0; i < n; ++i) {
    const double wi = w[i], c = codes[i];
    sw += wi;
    sc += wi * c;
    scc += wi * c * c;
    sx += wi * x[i];
    sxc += wi * x[i] * c;
  }
  const double determinant = sw * scc - sc * sc;
  if (determinant > 0) {
    const double scale = (sw * sxc - sc * sx) / determinant, offset = (sc * sxc - scc * sx) / determinant;
    if (offset >= 0) return {static_cast<float>(std::max(scale, 0.0)), static_cast<float>(offset)};
  }
  return {scc > 0 ? static_cast<float>(std::max(sxc / scc, 0.0)) : 0.0f, 0.0f};
}

double Codes(const float* x, const float* w, const Line& line, int n, int top, int* codes) {
  const float inverse = Inverse(line.scale);
  double error = 0;
  for (int i = 0; i < n; ++i) {
    codes[i] = RoundTo((x[i] + line.offset) * inverse, 0, top);
    const double d = static_cast<double>(line.scale) * codes[i] - line.offset - x[i];
    error += w[i] * d * d;
  }
  return error;
}

Line BestLine(const float* x, const float* w, int n, int top) {
  const auto [low, high] = std::minmax_element(x, x + n);
  const float bottom = std::min(*low, 0.0f), range = *high - bottom;
  if (range <= 0) return {0.0f, -bottom};  // all equal and negative, or all zero
  Line best;
  double best_error = -1;
  std::array<int, 32> codes{};
  for (const float shrink : {1.0f, 0.95f, 0.9f, 0.85f, 0.75f}) {
    const float middle = (*high + bottom) / 2;
    Line line{range * shrink / static_cast<float>(top), std::max(0.0f, range * shrink / 2 - middle)};
    for (int round = 0; round <= kRounds; ++round) {
      const double error = Codes(x, w, line, n, top, codes.data());
      if (best_error < 0 || error < best_error) {
        best_error = error;
        best = line;
      }
      line = FitLine(x, w, codes.data(), n);
    }
  }
  return best;
}

// Groups 0-3 in the low six bits of their bytes; groups 4-7 in two parts (formats_k.cc).
void PackSixBitScales(const int* scales, const int* offsets, uint8_t* packed) {
  for (int group = 0; group < 4; ++group) {
    const int s = scales[group + 4], o = offsets[group + 4];
    packed[group] = static_cast<uint8_t>(scales[group] | (s >> 4) << 6);
    packed[group + 4] = static_cast<uint8_t>(offsets[group] | (o >> 4) << 6);
    packed[group + 8] = static_cast<uint8_t>((s & 15) | (o & 15) << 4);
  }
}

}  // namespace

void PackQ4_K(const float* x, uint8_t* block) {
  constexpr int kGroups = 8, kGroup = 32, kTop = 15;
  float weights[kGroups * kGroup];
  Line lines[kGroups];
  float largest_scale = 0, largest_offset = 0;
  for (int group = 0; group < kGroups; ++group) {
    const float* values = x + group * kGroup;
    double squares = 0;
    for (int i = 0; i < kGroup; ++i) squares += static_cast<double>(values[i]) * values[i];
    const auto typical = static_cast<float>(std::sqrt(squares / kGroup));
    // Large weights matter more, small ones are not free.
    for (int i = 0; i < kGroup; ++i) weights[group * kGroup + i] = typical + std::abs(values[i]);
    lines[group] = BestLine(values, weights + group * kGroup, kGroup, kTop);
    largest_scale = std::max(largest_scale, lines[group].scale);
    largest_offset = std::max(largest_offset, lines[group].offset);
  }
  const float factor = StoreHalf(largest_scale / 63.0f, block);
  const float offset_factor = StoreHalf(largest_offset / 63.0f, block + 2);
  int scales[kGroups], offsets[kGroups], codes[kGroups * kGroup];
  for (int group = 0; group < kGroups; ++group) {
    scales[group] = RoundTo(lines[group].scale * Inverse(factor), 0, 63);
    offsets[group] = RoundTo(lines[group].offset * Inverse(offset_factor), 0, 63);
    const Line stored{factor * static_cast<float>(scales[group]),
                      offset_factor * static_cast<float>(offsets[group])};
    Codes(x + group * kGroup, weights + group * kGroup, stored, kGroup, kTop, codes + group * kGroup);
  }
  PackSixBitScales(scales, offsets, block + 4);
  for (int pair = 0; pair < 4; ++pair) {
    const int* low = codes + pair * 64;
    for (int i = 0; i < 32; ++i) block[16 + pair * 32 + i] = static_cast<uint8_t>(low[i] | low[i + 32] << 4);
  }
}

void PackQ6_K(const float* x, uint8_t* block) {
  constexpr int kGroups = 16, kGroup = 16, kLevels = 32;
  float scales[kGroups];
  float extreme = 0;
  for (int group = 0; group < kGroups; ++group) {
    scales[group] = BestScale(x + group * kGroup, kGroup, kLevels);
    extreme = std::abs(scales[group]) > std::abs(extreme) ? scales[group] : extreme;
  }
  std::memset(block, 0, 192);
  const float factor = StoreHalf(extreme / -128.0f, block + 208);
  for (int group = 0; group < kGroups; ++group) {
    const int scale = RoundTo(scales[group] * Inverse(factor), -128, 127);
    block[192 + group] = static_cast<uint8_t>(static_cast<int8_t>(scale));
    const float inverse = Inverse(factor * static_cast<float>(scale));
    for (int i = group * kGroup; i < (group + 1) * kGroup; ++i) {
      const int code = RoundTo(x[i] * inverse, -kLevels, kLevels - 1) + kLevels;
      const int half = i / 128, j = i % 128;
      block[half * 64 + j % 64] |= static_cast<uint8_t>((code & 15) << (j / 64 * 4));
      block[128 + half * 32 + j % 32] |= static_cast<uint8_t>((code >> 4) << (j / 32 * 2));
    }
  }
}

}  // namespace larder::formats
