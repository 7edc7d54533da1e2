// The packed layout of a Matrix and the arithmetic that is done on it.
//
// Outputs come in panels of 16, padded with zeros; panels follow each other. Inside a panel everything lies
// in the order in which it is read.
//
// kF32: [inputs][16 outputs] floats.
//   acc = fma(w[k], x[k], acc) for k = 0, 1, ...; y = acc, or acc + bias.
//
// kU4, kS8, kS16: one unit for each group of G = 16 or 32 inner elements, units in inner order. A unit is
//   codes    kU4: G / 8 vectors of 64 bytes; vector j, byte 4 o + i: inner 8 j + i (low nibble) and 8 j + 4 +
//   i (high
//            nibble) of output o. kS8: G / 4 vectors; vector j, byte 4 o + i: inner 4 j + i of output o.
//            kS16: G / 2 vectors; vector j, 16-bit number 2 o + i: inner 2 j + i of output o.
//   scales   [16 outputs], halves where every scale and minimum of the matrix is exactly one, else floats
//   minimums [16 outputs], likewise; absent where the format has none
// So a Q4_0 or Q4_1 matrix keeps the 4.5 or 5 bits a weight it has in the file.
//
// Activations of a row are signed bytes in groups of 32, for kS16 16-bit numbers (QuantizeGroup below): x ~
// scale_x * code_x. For each
// unit in inner order, with isum the integer sum of code_w * code_x and xsum that of code_x over the unit's G
// elements:
//   acc = fma(float(isum), scale_w * scale_x, acc)
//   acc = fma(min_w, scale_x * float(xsum), acc)      if the format has minimums
// y = acc, or acc + bias. Integer sums are exact in any order, everything else has this one order.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>

#include "compute/formats.h"
#include "compute/scalar_math.h"

namespace larder {

// Number of this layout. Raise it with every change of the bytes that Matrix::Pack makes: packed weights are
// kept in files (docs/formats/packed-weights.md).
inline constexpr uint32_t kPackedLayout = 2;

inline constexpr int kPanelOutputs = 16;

struct UnitLayout {
  int64_t codes_bytes;
  int64_t metadata_bytes;  // of the scales, and of the minimums
  int64_t bytes;
};

// Of the codes of activations that meet weights of this form.
inline constexpr int ActivationBytes(WeightForm form) { return form == WeightForm::kS16 ? 2 : 1; }

inline constexpr UnitLayout LayoutOfUnit(WeightForm form, int group, bool has_min, bool half_scales) {
  const int64_t codes = kPanelOutputs * group * ActivationBytes(form) / (form == WeightForm::kU4 ? 2 : 1);
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
// Codes are at most kLargestCode<Code>. Sums of a group's products must fit 32 bits: with 16-bit weights of
// at most 16383 they do while the magnitudes of its activations sum to at most 131080. So of 16-bit codes it
// is not the largest magnitude that gives the scale but, if that is more, a quarter of the sum: 4 * 32760 and
// what rounding adds are within the bound, and a usual group uses all of its 15 bits.
template <class Code>
inline constexpr float kLargestCode = sizeof(Code) == 1 ? 127.0f : 32760.0f;
template <class Code>
GroupScale ScaleOfGroup(uint32_t largest_bits) {
  const float largest = std::bit_cast<float>(largest_bits);
  if (largest_bits >= kInfinityBits) return {largest, 0.0f};
  if (largest < kSmallestActivation) return {0.0f, 0.0f};
  return {largest / kLargestCode<Code>, kLargestCode<Code> / largest};
}

// Nearest integer to x * to_code, ties to even; |x * to_code| <= kLargestCode<Code>.
template <class Code>
Code CodeOf(float x, float to_code) {
  if (to_code == 0.0f) return 0;
  return static_cast<Code>(std::bit_cast<uint32_t>(std::fma(x, to_code, kRoundMagic)) - kRoundMagicBits);
}

// What the scale of a group of 32 is made of.
template <class Code>
uint32_t LargestBitsOf(const float* x) {
  float sums[16];
  uint32_t largest = 0;
  for (int i = 0; i < 32; ++i) {
    largest = std::max(largest, std::bit_cast<uint32_t>(x[i]) & kMagnitudeBits);
    if (i >= 16) sums[i - 16] = std::abs(x[i - 16]) + std::abs(x[i]);
  }
  if constexpr (sizeof(Code) == 1) return largest;
  return std::max(largest, std::bit_cast<uint32_t>(0.25f * SumTree(sums)) & kMagnitudeBits);
}

// One group of 32 values as int8_t or int16_t; returns its scale.
template <class Code>
float QuantizeGroup(const float* x, Code* codes) {
  const GroupScale scale = ScaleOfGroup<Code>(LargestBitsOf<Code>(x));
  for (int i = 0; i < 32; ++i) codes[i] = CodeOf<Code>(x[i], scale.to_code);
  return scale.scale;
}

}  // namespace larder
