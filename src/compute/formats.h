// GGUF's weight formats, and the few forms they are computed in. Quantised formats map exactly: weight =
// scale[group] * code + minimum[group], where codes fit the form and groups run along the inner dimension.
// F16 and BF16 are rounded to 14 bits and a sign in groups of 32 (WordsOfRow).
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "base/result.h"

namespace larder {

// Numbers as in the GGUF file format.
enum class TensorType : uint32_t {
  kF32 = 0,
  kF16 = 1,
  kQ4_0 = 2,
  kQ4_1 = 3,
  kQ5_0 = 6,
  kQ5_1 = 7,
  kQ8_0 = 8,
  kQ2_K = 10,
  kQ3_K = 11,
  kQ4_K = 12,
  kQ5_K = 13,
  kQ6_K = 14,
  kIQ4_NL = 20,
  kBF16 = 30,
};

enum class WeightForm : uint8_t {
  kF32,  // plain floats
  kU4,   // codes 0..15
  kS8,   // codes -128..127
  kS16,  // codes -16383..16383
};

struct FormatInfo {
  TensorType type;
  std::string_view name;  // "Q4_1"
  int block_elements;     // a row's length is a multiple of this
  int block_bytes;
  WeightForm form;
  int group;     // elements that share a scale: 16 or 32; 0 for kF32
  bool has_min;  // false: every minimum is zero

  // Whether rows of n elements are computed in this form; floats otherwise, as rows of no whole groups are.
  bool IsInteger(int64_t n) const { return form != WeightForm::kF32 && n % group == 0; }
};

const FormatInfo* FindFormat(uint32_t ggml_type);  // nullptr: not one of ours
std::span<const FormatInfo> AllFormats();

// Bytes of a row of n elements; kInvalid where n is no multiple of the block.
Result<uint64_t> RowBytes(const FormatInfo& format, uint64_t n);

// src: one row of n elements in the file's layout (any alignment). out[n].
void DequantizeRow(TensorType type, const void* src, int64_t n, float* out);

// The exact integer form of a row, for forms kU4 and kS8: codes[n], scales[n / group], mins[n / group] (zeros
// where the format has none). scale * code + min, computed in float, equals DequantizeRow to the last bit of
// its one rounding.
void UnpackRow(TensorType type, const void* src, int64_t n, int8_t* codes, float* scales, float* mins);

// A row of F16 or BF16 weights in form kS16: x[n], codes[n], scales[n / 32]. A scale is the power of two with
// which the group's largest magnitude has a code of 8192 to 16383: a weight is off by at most 2^-14 of that
// magnitude, and exact if it is at least an eighth of it. A group with an infinity or NaN has an infinite
// scale and codes of zero, which makes its products NaN; one below 1e-30 is zero.
void WordsOfRow(const float* x, int64_t n, int16_t* codes, float* scales);

}  // namespace larder
