// What the kernels of coded pages and their reference share: the layout, and a row's few floats.
#pragma once

#include <algorithm>
#include <cmath>

#include "compute/attention_math.h"
#include "compute/half.h"
#include "compute/kv_codes.h"

namespace larder {

inline constexpr int kCodedGroup = 32;      // dimensions that share a scale of kQ8 and kQ4
inline constexpr float kZeroUnit = 512.0f;  // kT4: zero points are in 512ths of a code
inline constexpr float kT4Codes = 15.0f;    // largest code
inline constexpr float kLargestHalf = 65504.0f;
inline constexpr uint16_t kHalfNan = 0x7e00;

// Where things lie. Codes are in the order of a kI16 page's elements; metadata is [group][64 entries].
struct CodedLayout {
  CodedLayout(KvCodes kind, int dim)
      : codes(kind), head_dim(dim), groups(kind == KvCodes::kT4 ? 1 : (dim + kCodedGroup - 1) / kCodedGroup) {
    const size_t elements = static_cast<size_t>(dim) * kPageTokens;
    payload = kind == KvCodes::kQ8 ? elements : elements / 2;
    metadata = static_cast<size_t>(groups) * kPageTokens * sizeof(uint16_t);
  }
  size_t bytes() const {
    const size_t used = 2 * payload + 2 * metadata + (codes == KvCodes::kT4 ? 2 * metadata : 0);
    return (used + 511) / 512 * 512;
  }
  // value: 0 for keys, 1 for values.
  size_t CodesAt(int value) const { return static_cast<size_t>(value) * payload; }
  size_t ScalesAt(int value) const { return 2 * payload + static_cast<size_t>(value) * metadata; }
  size_t ZerosAt(int value) const { return ScalesAt(value) + 2 * metadata; }  // kT4
  int GroupOf(int dim) const { return groups == 1 ? 0 : dim / kCodedGroup; }

  // Nibbles: a chunk of 2 * half() elements is half() bytes, byte j holds elements j (low) and j + half().
  int half() const { return head_dim % 32 == 0 ? 32 : 16; }

  KvCodes codes;
  int head_dim;
  int groups;
  size_t payload;   // bytes of all keys' codes, and of all values'
  size_t metadata;  // bytes of the keys' scales
};

// How a row's (or group's) numbers become codes: code = round(x * to_code + offset), clamped.
struct CodeRule {
  uint16_t scale = 0;  // stored, a half
  uint16_t zero = 0;   // stored, kT4
  float to_code = 0, offset = 0;
};

// From the least and largest of the 16-bit codes, 0 included, and their scale.
__attribute__((always_inline)) inline CodeRule RuleOf(KvCodes codes, int least, int largest, float scale) {
  CodeRule rule;
  if (codes == KvCodes::kQ4) rule.offset = 8.0f;
  if (!std::isfinite(scale)) {
    rule.scale = kHalfNan;
    return rule;
  }
  float step = 0;
  switch (codes) {
    case KvCodes::kT4:
      step = static_cast<float>(largest - least) / kT4Codes;
      break;
    case KvCodes::kQ8:
      step = static_cast<float>(largest > -least ? largest : -least) / 127.0f;
      break;
    case KvCodes::kQ4:  // what is largest in magnitude becomes code 0
      step = static_cast<float>(largest > -least ? largest : least) / -8.0f;
      break;
  }
  const float wanted = step * scale;
  rule.scale = FloatToHalf(wanted > kLargestHalf    ? kLargestHalf
                           : wanted < -kLargestHalf ? -kLargestHalf
                                                    : wanted);
  const float stored = HalfToFloat(rule.scale);
  if (stored == 0.0f) return rule;
  rule.to_code = scale / stored;
  if (codes != KvCodes::kT4) return rule;
  const float zero = static_cast<float>(-least) * rule.to_code * kZeroUnit;
  const float most = kT4Codes * kZeroUnit;
  rule.zero =
      static_cast<uint16_t>(std::bit_cast<uint32_t>((zero > most ? most : zero) + kRoundMagic) & 0xFFFFu);
  rule.offset = static_cast<float>(rule.zero) / kZeroUnit;
  return rule;
}

struct CodeLimits {
  float least, most;
};
inline constexpr CodeLimits LimitsOf(KvCodes codes) {
  return codes == KvCodes::kQ8 ? CodeLimits{-127.0f, 127.0f} : CodeLimits{0.0f, kT4Codes};
}

// The low eight bits of round(x * to_code + offset).
__attribute__((always_inline)) inline uint8_t CodeOf(float x, float to_code, float offset,
                                                     CodeLimits limits) {
  float t = __builtin_fmaf(x, to_code, offset);
  t = t < limits.least ? limits.least : t;
  t = t > limits.most ? limits.most : t;
  return static_cast<uint8_t>(std::bit_cast<uint32_t>(t + kRoundMagic) & 0xFFu);
}

// kQ8, kQ4: scales of a row's groups, 64 apart, as integers relative to the largest, `stride` apart; the
// row's scale in the decoded page is returned. Decoded is the high half of a product of 16-bit integers:
//   kQ8  (code * 256 * multiplier) / 2^15, at most 127 * 64;  kQ4  ((code - 8) * 4096 * multiplier) / 2^15
__attribute__((always_inline)) inline float MultipliersOf(KvCodes codes, const uint16_t* scales, int groups,
                                                          int16_t* multipliers, int stride) {
  float each[kMaxHeadDim / kCodedGroup], largest = 0;
  bool finite = true;
  for (int g = 0; g < groups; ++g) {
    each[g] = HalfToFloat(scales[g * kPageTokens]);
    const float magnitude = each[g] < 0 ? -each[g] : each[g];
    finite &= magnitude <= kLargestHalf;
    largest = magnitude > largest ? magnitude : largest;
  }
  const float most = codes == KvCodes::kQ8 ? 8192.0f : 8191.0f;
  const float factor = largest == 0.0f || !finite ? 0.0f : most / largest;
  for (int g = 0; g < groups; ++g) multipliers[g * stride] = Code16Of(each[g], factor);
  if (!finite) return std::numeric_limits<float>::quiet_NaN();
  return codes == KvCodes::kQ8 ? largest / 64.0f : largest * (8.0f / 8191.0f);
}

}  // namespace larder
