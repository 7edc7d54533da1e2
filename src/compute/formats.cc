#include "compute/formats.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>

#include "compute/formats_blocks.h"

namespace larder {
namespace formats {
namespace {

// 32 four-bit codes in 16 bytes: weights 0-15 in the low halves, 16-31 in the high halves.
void UnpackNibbles(const uint8_t* packed, int8_t* codes) {
  for (int i = 0; i < 16; ++i) {
    codes[i] = static_cast<int8_t>(packed[i] & 15);
    codes[i + 16] = static_cast<int8_t>(packed[i] >> 4);
  }
}

// As UnpackNibbles, with weight i's fifth bit in bit i of `high` (32 bits, little endian).
void UnpackFiveBits(const uint8_t* high, const uint8_t* packed, int8_t* codes, int offset) {
  UnpackNibbles(packed, codes);
  for (int i = 0; i < 32; ++i) {
    codes[i] = static_cast<int8_t>((codes[i] | (high[i / 8] >> (i % 8) & 1) << 4) - offset);
  }
}

}  // namespace

// f16 scale, nibbles[16]; weight = scale * (code - 8).
void UnpackQ4_0(const uint8_t* block, int8_t* codes, float* scales, float* mins) {
  scales[0] = LoadHalf(block);
  mins[0] = -8.0f * scales[0];
  UnpackNibbles(block + 2, codes);
}

// f16 scale, f16 minimum, nibbles[16].
void UnpackQ4_1(const uint8_t* block, int8_t* codes, float* scales, float* mins) {
  scales[0] = LoadHalf(block);
  mins[0] = LoadHalf(block + 2);
  UnpackNibbles(block + 4, codes);
}

// f16 scale, high bits[4], nibbles[16]; weight = scale * (code - 16).
void UnpackQ5_0(const uint8_t* block, int8_t* codes, float* scales, float*) {
  scales[0] = LoadHalf(block);
  UnpackFiveBits(block + 2, block + 6, codes, 16);
}

// f16 scale, f16 minimum, high bits[4], nibbles[16].
void UnpackQ5_1(const uint8_t* block, int8_t* codes, float* scales, float* mins) {
  scales[0] = LoadHalf(block);
  mins[0] = LoadHalf(block + 2);
  UnpackFiveBits(block + 4, block + 8, codes, 0);
}

// f16 scale, signed codes[32].
void UnpackQ8_0(const uint8_t* block, int8_t* codes, float* scales, float*) {
  scales[0] = LoadHalf(block);
  std::memcpy(codes, block + 2, 32);
}

// f16 scale, nibbles[16] that choose one of 16 unevenly spaced levels.
void UnpackIQ4_NL(const uint8_t* block, int8_t* codes, float* scales, float*) {
  static constexpr int8_t kLevels[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                         1,    13,   25,  38,  53,  69,  89,  113};
  scales[0] = LoadHalf(block);
  UnpackNibbles(block + 2, codes);
  for (int i = 0; i < 32; ++i) codes[i] = kLevels[codes[i]];
}

}  // namespace formats

namespace {

using enum TensorType;
constexpr WeightForm kF32Form = WeightForm::kF32, kU4 = WeightForm::kU4, kS8 = WeightForm::kS8,
                     kS16 = WeightForm::kS16;

// type, name, block elements and bytes, form, group, has_min.
constexpr FormatInfo kFormats[] = {
    {kF32, "F32", 1, 4, kF32Form, 0, false},     {kF16, "F16", 1, 2, kS16, 32, false},
    {kQ4_0, "Q4_0", 32, 18, kU4, 32, true},      {kQ4_1, "Q4_1", 32, 20, kU4, 32, true},
    {kQ5_0, "Q5_0", 32, 22, kS8, 32, false},     {kQ5_1, "Q5_1", 32, 24, kS8, 32, true},
    {kQ8_0, "Q8_0", 32, 34, kS8, 32, false},     {kQ2_K, "Q2_K", 256, 84, kU4, 16, true},
    {kQ3_K, "Q3_K", 256, 110, kU4, 16, true},    {kQ4_K, "Q4_K", 256, 144, kU4, 32, true},
    {kQ5_K, "Q5_K", 256, 176, kS8, 32, true},    {kQ6_K, "Q6_K", 256, 210, kS8, 16, false},
    {kIQ4_NL, "IQ4_NL", 32, 18, kS8, 32, false}, {kBF16, "BF16", 1, 2, kS16, 32, false},
};
// In the order of kFormats; null for plain floats.
constexpr std::array<formats::UnpackBlock, std::size(kFormats)> kUnpack = {
    nullptr,
    nullptr,
    formats::UnpackQ4_0,
    formats::UnpackQ4_1,
    formats::UnpackQ5_0,
    formats::UnpackQ5_1,
    formats::UnpackQ8_0,
    formats::UnpackQ2_K,
    formats::UnpackQ3_K,
    formats::UnpackQ4_K,
    formats::UnpackQ5_K,
    formats::UnpackQ6_K,
    formats::UnpackIQ4_NL,
    nullptr,
};
constexpr int kMaxBlock = 256, kMaxGroups = 16;

struct Format {
  const FormatInfo& info;
  formats::UnpackBlock unpack;
};

Format GetFormat(TensorType type) {
  const FormatInfo* info = FindFormat(static_cast<uint32_t>(type));
  LARDER_CHECK(info != nullptr);
  return {*info, kUnpack[static_cast<size_t>(info - kFormats)]};
}

template <class Convert>
void ConvertHalves(const uint8_t* src, int64_t n, float* out, Convert convert) {
  for (int64_t i = 0; i < n; ++i) {
    uint16_t bits;
    std::memcpy(&bits, src + 2 * i, sizeof(bits));
    out[i] = convert(bits);
  }
}

void DequantizeBlocks(const Format& format, const uint8_t* src, int64_t n, float* out) {
  const FormatInfo& info = format.info;
  int8_t codes[kMaxBlock];
  float scales[kMaxGroups], mins[kMaxGroups];
  for (int64_t start = 0; start < n; start += info.block_elements, src += info.block_bytes) {
    format.unpack(src, codes, scales, mins);
    for (int i = 0; i < info.block_elements; ++i) {
      const float product = scales[i / info.group] * static_cast<float>(codes[i]);
      out[start + i] = info.has_min ? product + mins[i / info.group] : product;
    }
  }
}

}  // namespace

const FormatInfo* FindFormat(uint32_t ggml_type) {
  const auto* found = std::ranges::find(kFormats, static_cast<TensorType>(ggml_type),
                                        [](const FormatInfo& f) { return f.type; });
  return found == std::end(kFormats) ? nullptr : found;
}

std::span<const FormatInfo> AllFormats() { return kFormats; }

Result<uint64_t> RowBytes(const FormatInfo& format, uint64_t n) {
  const auto elements = static_cast<uint64_t>(format.block_elements);
  const auto bytes = static_cast<uint64_t>(format.block_bytes);
  if (n % elements != 0) {
    return Fail(ErrorKind::kInvalid, "a row of {} elements is not a whole number of {} blocks of {}", n,
                format.name, elements);
  }
  if (n / elements > std::numeric_limits<uint64_t>::max() / bytes) {
    return Fail(ErrorKind::kInvalid, "a row of {} elements of {} has more bytes than can be counted", n,
                format.name);
  }
  return n / elements * bytes;
}

void DequantizeRow(TensorType type, const void* src, int64_t n, float* out) {
  const auto* bytes = static_cast<const uint8_t*>(src);
  const Format format = GetFormat(type);
  LARDER_CHECK(n >= 0 && n % format.info.block_elements == 0);
  switch (type) {
    case TensorType::kF32:
      if (n > 0) std::memcpy(out, bytes, static_cast<size_t>(n) * sizeof(float));
      break;
    case TensorType::kF16:
      ConvertHalves(bytes, n, out, HalfToFloat);
      break;
    case TensorType::kBF16:
      ConvertHalves(bytes, n, out, BrainToFloat);
      break;
    default:
      DequantizeBlocks(format, bytes, n, out);
  }
}

void UnpackRow(TensorType type, const void* src, int64_t n, int8_t* codes, float* scales, float* mins) {
  const auto* bytes = static_cast<const uint8_t*>(src);
  const Format format = GetFormat(type);
  const FormatInfo& info = format.info;
  LARDER_CHECK(format.unpack != nullptr && n >= 0 && n % info.block_elements == 0);
  if (!info.has_min) std::fill_n(mins, n / info.group, 0.0f);
  const int groups = info.block_elements / info.group;
  for (int64_t done = 0; done < n; done += info.block_elements) {
    format.unpack(bytes, codes, scales, mins);
    bytes += info.block_bytes;
    codes += info.block_elements;
    scales += groups;
    mins += groups;
  }
}

void WordsOfRow(const float* x, int64_t n, int16_t* codes, float* scales) {
  constexpr int kGroup = 32, kCodeBits = 14;
  LARDER_CHECK(n >= 0 && n % kGroup == 0);
  for (; n > 0; n -= kGroup, x += kGroup, codes += kGroup, ++scales) {
    float largest = 0;
    bool finite = true;
    for (int i = 0; i < kGroup; ++i) {
      finite = finite && std::isfinite(x[i]);
      largest = std::max(largest, std::abs(x[i]));
    }
    std::fill_n(codes, kGroup, int16_t{0});
    *scales = finite ? 0.0f : std::numeric_limits<float>::infinity();
    if (!finite || largest < 1e-30f) continue;
    int exponent;  // largest = [0.5, 1) * 2^exponent
    std::frexp(largest, &exponent);
    *scales = std::ldexp(1.0f, exponent - kCodeBits);
    const float to_code = std::ldexp(1.0f, kCodeBits - exponent);
    for (int i = 0; i < kGroup; ++i) {
      codes[i] = static_cast<int16_t>(std::lrint(x[i] * to_code));
    }
  }
}

}  // namespace larder
