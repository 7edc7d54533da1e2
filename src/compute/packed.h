// The packed layout of a Matrix and the arithmetic that is done on it.
//
// Outputs come in panels of 16, padded with zeros; panels follow each other. Inside a panel everything lies
// in the order in which it is read.
//
// kF32: [inputs][16 outputs] floats.
//   acc = fma(w[k], x[k], acc) for k = 0, 1, ...; y = acc, or acc + bias.
//
// kU4, kS8: one unit for each group of G = 16 or 32 inner elements, units in inner order. A unit is
//   codes    kU4: G / 8 vectors of 64 bytes; vector j, byte 4 o + i: inner 8 j + i (low nibble) and 8 j + 4 +
//   i (high
//            nibble) of output o. kS8: G / 4 vectors; vector j, byte 4 o + i: inner 4 j + i of output o.
//   scales   [16 outputs], halves where every scale and minimum of the matrix is exactly one, else floats
//   minimums [16 outputs], likewise; absent where the format has none
// So a Q4_0 or Q4_1 matrix keeps the 4.5 or 5 bits a weight it has in the file.
//
// Activations of a row are signed bytes in groups of 32 (QuantizeGroup below): x ~ scale_x * code_x. For each
// unit in inner order, with isum the integer sum of code_w * code_x and xsum that of code_x over the unit's G
// elements:
//   acc = fma(float(isum), scale_w * scale_x, acc)
//   acc = fma(min_w, scale_x * float(xsum), acc)      if the format has minimums
// y = acc, or acc + bias. Integer sums are exact in any order, everything else has this one order.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

#include "compute/formats.h"
#include "compute/scalar_math.h"

namespace larder {

// Number of this layout. Raise it with every change of the bytes that Matrix::Pack makes: packed weights are
// kept in files (docs/formats/packed-weights.md).
inline constexpr uint32_t kPackedLayout = 1;

inline constexpr int kPanelOutputs = 16;

struct UnitLayout {
  int64_t codes_bytes;
  int64_t metadata_bytes;  // of the scales, and of the minimums
  int64_t bytes;
};

inline constexpr UnitLayout LayoutOfUnit(WeightForm form, int group, bool has_min, bool half_scales) {
  const int64_t codes = kPanelOutputs * group / (form == WeightForm::kU4 ? 2 : 1);
  const int64_t metadata = kPanelOutputs * (half_scales ? 2 : 4);
  return {codes, metadata, codes + metadata * (has_min ? 2 : 1)};
}

// Bytes of a panel; group 0 for kF32.
inline constexpr int64_t PanelBytes(WeightForm form, int group, bool has_min, bool half_scales,
                                    int64_t inputs) {
  if (form == WeightForm::kF32) return inputs * kPanelOutputs * static_cast<int64_t>(sizeof(float));
  return inputs / group * LayoutOfUnit(form, group, has_min, half_scales).bytes;
}

// Groups whose largest magnitude is below this are zero; above, its reciprocal is finite.
inline constexpr float kSmallestActivation = 1e-30f;
inline constexpr uint32_t kMagnitudeBits = 0x7FFFFFFFu;
inline constexpr uint32_t kInfinityBits = 0x7F800000u;

// The scale of a group of activations from the bits of its largest magnitude (as an unsigned integer, so that
// a NaN is larger than all numbers), and the factor that turns values into codes. A group with an infinity or
// NaN gets it as its scale and codes of zero, which makes the products of this row NaN.
struct GroupScale {
  float scale;
  float to_code;  // 0: all codes are zero
};
inline GroupScale ScaleOfGroup(uint32_t largest_bits) {
  const float largest = std::bit_cast<float>(largest_bits);
  if (largest_bits >= kInfinityBits) return {largest, 0.0f};
  if (largest < kSmallestActivation) return {0.0f, 0.0f};
  return {largest / 127.0f, 127.0f / largest};
}

// Nearest integer to x * to_code, ties to even; |x * to_code| <= 127.
inline int8_t CodeOf(float x, float to_code) {
  if (to_code == 0.0f) return 0;
  return static_cast<int8_t>(std::bit_cast<uint32_t>(std::fma(x, to_code, kRoundMagic)) - kRoundMagicBits);
}

// One group of 32 values; returns its scale.
inline float QuantizeGroup(const float* x, int8_t* codes) {
  uint32_t largest = 0;
  for (int i = 0; i < 32; ++i) {
    const uint32_t magnitude = std::bit_cast<uint32_t>(x[i]) & kMagnitudeBits;
    largest = magnitude > largest ? magnitude : largest;
  }
  const GroupScale scale = ScaleOfGroup(largest);
  for (int i = 0; i < 32; ++i) codes[i] = CodeOf(x[i], scale.to_code);
  return scale.scale;
}

}  // namespace larder
