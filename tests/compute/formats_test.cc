#include "compute/formats.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cctype>
#include <cmath>
#include <cstring>
#include <fstream>
#include <iterator>
#include <limits>
#include <random>
#include <string>
#include <vector>

namespace larder {
namespace {

constexpr uint16_t kHalfOne = 0x3C00, kHalfQuarter = 0x3400;

void PutHalf(std::vector<uint8_t>& block, size_t at, uint16_t half) {
  std::memcpy(&block[at], &half, sizeof(half));
}

std::vector<uint8_t> EmptyBlock(TensorType type) {
  return std::vector<uint8_t>(static_cast<size_t>(FindFormat(static_cast<uint32_t>(type))->block_bytes), 0);
}

std::vector<float> Dequantize(TensorType type, const std::vector<uint8_t>& row) {
  const FormatInfo& info = *FindFormat(static_cast<uint32_t>(type));
  const int64_t n = static_cast<int64_t>(row.size()) / info.block_bytes * info.block_elements;
  std::vector<float> out(static_cast<size_t>(n));
  DequantizeRow(type, row.data(), n, out.data());
  return out;
}

// scale * code + min of every weight.
std::vector<float> FromForm(TensorType type, const std::vector<uint8_t>& row,
                            std::vector<int8_t>* codes = nullptr) {
  const FormatInfo& info = *FindFormat(static_cast<uint32_t>(type));
  const size_t n =
      row.size() / static_cast<size_t>(info.block_bytes) * static_cast<size_t>(info.block_elements);
  const auto group = static_cast<size_t>(info.group);
  std::vector<int8_t> local(n);
  // NaN where nothing is written, so that a forgotten minimum is seen.
  std::vector<float> scales(n / group, NAN), mins(n / group, NAN), out(n);
  UnpackRow(type, row.data(), static_cast<int64_t>(n), local.data(), scales.data(), mins.data());
  for (size_t i = 0; i < n; ++i) out[i] = scales[i / group] * static_cast<float>(local[i]) + mins[i / group];
  if (codes != nullptr) *codes = local;
  return out;
}

struct Golden {
  TensorType type;
  std::vector<uint8_t> blocks;
  std::vector<float> values;
};

Golden ReadGolden(const FormatInfo& info) {
  std::string name(info.name);
  std::ranges::transform(name, name.begin(), [](unsigned char c) { return std::tolower(c); });
  std::ifstream in(std::string(LARDER_TEST_DATA) + "/formats/" + name + ".bin", std::ios::binary);
  const std::vector<char> bytes{std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
  uint32_t head[3] = {};
  if (bytes.size() < sizeof(head)) return {};
  std::memcpy(head, bytes.data(), sizeof(head));
  Golden golden{static_cast<TensorType>(head[0]), std::vector<uint8_t>(head[2]), std::vector<float>(head[1])};
  if (bytes.size() != sizeof(head) + head[2] + 4 * size_t{head[1]}) return {};
  std::memcpy(golden.blocks.data(), bytes.data() + sizeof(head), head[2]);
  std::memcpy(golden.values.data(), bytes.data() + sizeof(head) + head[2], 4 * size_t{head[1]});
  return golden;
}

bool SameBits(float a, float b) { return std::bit_cast<uint32_t>(a) == std::bit_cast<uint32_t>(b); }

class EveryFormat : public testing::TestWithParam<FormatInfo> {};
INSTANTIATE_TEST_SUITE_P(Formats, EveryFormat, testing::ValuesIn(AllFormats().begin(), AllFormats().end()),
                         [](const auto& test) { return std::string(test.param.name); });

// Bit for bit what an independent implementation says; only a zero may have the other sign, where an offset
// is added.
TEST_P(EveryFormat, EqualsGolden) {
  const FormatInfo& info = GetParam();
  const Golden golden = ReadGolden(info);
  ASSERT_FALSE(golden.values.empty());
  ASSERT_EQ(golden.type, info.type);
  const std::vector<float> values = Dequantize(info.type, golden.blocks);
  ASSERT_EQ(values.size(), golden.values.size());
  for (size_t i = 0; i < values.size(); ++i) {
    const bool both_zero = values[i] == 0 && golden.values[i] == 0;
    ASSERT_TRUE(SameBits(values[i], golden.values[i]) || both_zero)
        << i << ": " << values[i] << " " << golden.values[i];
  }
}

// The integer form says exactly what the file says: every product is exact in a float, so that the one
// rounding, of the sum with the minimum, is the same on both ways. (Weaker than bits only in the sign of
// zero.)
TEST_P(EveryFormat, FormIsExact) {
  const FormatInfo& info = GetParam();
  if (info.block_elements == 1) GTEST_SKIP() << "floats have no exact integer form";
  const Golden golden = ReadGolden(info);
  std::vector<int8_t> codes;
  const std::vector<float> values = FromForm(info.type, golden.blocks, &codes);
  ASSERT_EQ(values.size(), golden.values.size());
  for (size_t i = 0; i < values.size(); ++i) ASSERT_EQ(values[i], golden.values[i]) << i;
  if (info.form == WeightForm::kU4) {
    EXPECT_TRUE(std::ranges::all_of(codes, [](int8_t code) { return code >= 0 && code <= 15; }));
  }
}

// What the product alone gives where the format has no minimum: no rounding at all.
TEST_P(EveryFormat, ProductsAreExact) {
  const FormatInfo& info = GetParam();
  if (info.block_elements == 1) GTEST_SKIP() << "floats have no exact integer form";
  const Golden golden = ReadGolden(info);
  const size_t n = golden.values.size(), group = static_cast<size_t>(info.group);
  std::vector<int8_t> codes(n);
  std::vector<float> scales(n / group), mins(n / group);
  UnpackRow(info.type, golden.blocks.data(), static_cast<int64_t>(n), codes.data(), scales.data(),
            mins.data());
  for (size_t i = 0; i < n; ++i) {
    const double exact = static_cast<double>(scales[i / group]) * codes[i];
    ASSERT_EQ(static_cast<double>(static_cast<float>(exact)), exact) << i;
    if (!info.has_min) {
      ASSERT_EQ(mins[i / group], 0.0f);
      ASSERT_EQ(golden.values[i], exact) << i;
    } else {
      const double sum = exact + mins[i / group];
      ASSERT_LE(std::abs(golden.values[i] - sum), std::abs(sum) * 0x1p-23) << i;
    }
  }
}

TEST_P(EveryFormat, ReadsAnyAlignment) {
  const Golden golden = ReadGolden(GetParam());
  std::vector<uint8_t> shifted(golden.blocks.size() + 1);
  std::ranges::copy(golden.blocks, shifted.begin() + 1);
  std::vector<float> values(golden.values.size());
  DequantizeRow(golden.type, shifted.data() + 1, static_cast<int64_t>(values.size()), values.data());
  const std::vector<float> expected = Dequantize(golden.type, golden.blocks);
  for (size_t i = 0; i < values.size(); ++i) ASSERT_TRUE(SameBits(values[i], expected[i])) << i;
}

TEST_P(EveryFormat, RowBytesCountsBlocks) {
  const FormatInfo& info = GetParam();
  const auto elements = static_cast<uint64_t>(info.block_elements);
  EXPECT_EQ(RowBytes(info, 6 * elements).value(), 6 * static_cast<uint64_t>(info.block_bytes));
  EXPECT_EQ(RowBytes(info, 0).value(), 0u);
  if (elements > 1) {
    const auto odd = RowBytes(info, elements + 1);
    ASSERT_FALSE(odd);
    EXPECT_EQ(odd.error().kind, ErrorKind::kInvalid);
  }
}

TEST(FormatsTest, RowBytesNeverWraps) {
  const uint64_t most = std::numeric_limits<uint64_t>::max();
  EXPECT_FALSE(RowBytes(*FindFormat(0), most));
  EXPECT_FALSE(RowBytes(*FindFormat(8), most - most % 32));
}

TEST(FormatsTest, UnknownNumbersAreNotFound) {
  for (const uint32_t type : {4u, 5u, 9u, 15u, 16u, 19u, 21u, 24u, 29u, 31u, 1000u, ~0u}) {
    EXPECT_EQ(FindFormat(type), nullptr) << type;
  }
}

TEST(FormatsTest, EveryHalfIsItsNumber) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const int exponent = static_cast<int>(bits >> 10 & 31), fraction = static_cast<int>(bits & 1023);
    const double sign = bits & 0x8000 ? -1 : 1;
    std::vector<uint8_t> row(2);
    PutHalf(row, 0, static_cast<uint16_t>(bits));
    const float value = Dequantize(TensorType::kF16, row)[0];
    if (exponent == 31 && fraction != 0) {
      ASSERT_TRUE(std::isnan(value)) << bits;
    } else if (exponent == 31) {
      ASSERT_EQ(value, sign * std::numeric_limits<double>::infinity());
    } else {
      const double expected =
          exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(1024 + fraction, exponent - 25);
      ASSERT_EQ(value, sign * expected) << bits;
      ASSERT_EQ(std::signbit(value), sign < 0) << bits;
    }
  }
}

// Groups of equal and of very different magnitudes.
TEST(FormatsTest, WordsAreOffByLittleAndExactWhereLarge) {
  constexpr int64_t kCount = 32 * 200;
  std::mt19937 random(5);
  std::vector<uint8_t> halves(2 * kCount);
  for (int64_t i = 0; i < kCount; ++i) {
    const uint32_t spread =
        i / 32 % 2 == 0 ? 0x83FF : 0xBBFF;  // bits that may be set: sign, exponent, fraction
    PutHalf(halves, static_cast<size_t>(2 * i), static_cast<uint16_t>((random() & spread) | 0x0400));
  }
  const std::vector<float> x = Dequantize(TensorType::kF16, halves);
  std::vector<int16_t> codes(kCount);
  std::vector<float> scales(kCount / 32);
  WordsOfRow(x.data(), kCount, codes.data(), scales.data());
  for (size_t g = 0; g < scales.size(); ++g) {
    float largest = 0;
    for (size_t i = 32 * g; i < 32 * g + 32; ++i) largest = std::max(largest, std::abs(x[i]));
    for (size_t i = 32 * g; i < 32 * g + 32; ++i) {
      const double off = std::abs(static_cast<double>(scales[g]) * codes[i] - x[i]);
      ASSERT_LE(std::abs(codes[i]), 16383);
      ASSERT_LE(off, 0x1p-14 * largest) << i;
      ASSERT_TRUE(off == 0 || std::abs(x[i]) < largest / 8) << i;
    }
  }
}

TEST(FormatsTest, WordsOfStrangeGroups) {
  std::vector<float> x(96, 1e-38f);
  x[40] = std::numeric_limits<float>::quiet_NaN();
  x[70] = -std::numeric_limits<float>::infinity();
  std::vector<int16_t> codes(96, 7);
  std::vector<float> scales(3);
  WordsOfRow(x.data(), 96, codes.data(), scales.data());
  EXPECT_EQ(codes, std::vector<int16_t>(96));
  EXPECT_EQ(scales[0], 0.0f);
  EXPECT_TRUE(std::isinf(scales[1]) && std::isinf(scales[2]));
}

// From here: blocks written by hand from the layout, one field at a time.

TEST(FormatsTest, FourBitHalvesLieSixteenApart) {
  auto block = EmptyBlock(TensorType::kQ4_0);
  PutHalf(block, 0, kHalfQuarter);
  block[2 + 3] = 0xF0;  // weight 3 has code 0, weight 19 code 15
  const auto values = Dequantize(TensorType::kQ4_0, block);
  EXPECT_EQ(values[3], 0.25f * (0 - 8));
  EXPECT_EQ(values[19], 0.25f * (15 - 8));

  auto with_min = EmptyBlock(TensorType::kQ4_1);
  PutHalf(with_min, 0, kHalfQuarter);
  PutHalf(with_min, 2, kHalfOne);
  with_min[4 + 15] = 0x21;
  const auto shifted = Dequantize(TensorType::kQ4_1, with_min);
  EXPECT_EQ(shifted[15], 0.25f * 1 + 1);
  EXPECT_EQ(shifted[31], 0.25f * 2 + 1);
  EXPECT_EQ(shifted[0], 1.0f);
}

TEST(FormatsTest, FifthBitsAreOneWord) {
  auto block = EmptyBlock(TensorType::kQ5_0);
  PutHalf(block, 0, kHalfOne);
  block[2 + 17 / 8] = 1 << (17 % 8);  // weight 17
  block[6 + 1] = 0x50;                // weights 1 and 17: low bits 0 and 5
  const auto values = Dequantize(TensorType::kQ5_0, block);
  EXPECT_EQ(values[17], 16 + 5 - 16);
  EXPECT_EQ(values[1], -16);
}

TEST(FormatsTest, EightBitCodesAreSigned) {
  auto block = EmptyBlock(TensorType::kQ8_0);
  PutHalf(block, 0, kHalfQuarter);
  block[2] = 0x80;
  block[2 + 31] = 0x7F;
  const auto values = Dequantize(TensorType::kQ8_0, block);
  EXPECT_EQ(values[0], -32.0f);
  EXPECT_EQ(values[31], 31.75f);
}

TEST(FormatsTest, Q2KWalksByteLanes) {
  auto block = EmptyBlock(TensorType::kQ2_K);
  PutHalf(block, 80, kHalfOne);
  PutHalf(block, 82, kHalfQuarter);
  // Weight 200 is in the second half (byte 32 + 200 % 32 of the codes, bits 4 and 5), in group 12.
  block[16 + 32 + 200 % 32] = 3 << 4;
  block[12] = 0x25;  // scale 5, minimum 2
  const auto values = Dequantize(TensorType::kQ2_K, block);
  EXPECT_EQ(values[200], 3 * 5 - 2 * 0.25f);
  EXPECT_EQ(values[201], -0.5f);
  EXPECT_EQ(values[208], 0.0f);
}

TEST(FormatsTest, Q3KAddsFourWhereTheHighBitIsSet) {
  auto block = EmptyBlock(TensorType::kQ3_K);
  PutHalf(block, 108, kHalfOne);
  // Group 9 holds weight 150: low scale bits in the high half of byte 1, high bits in byte 9, bits 4 and 5.
  block[96 + 1] = 0x70;
  block[96 + 9] = 2 << 4;           // 7 + 32 - 32 = 7
  block[32 + 32 + 150 % 32] = 2;    // low two bits of weight 150
  block[150 % 32] = 1 << 150 / 32;  // its high bit
  const auto values = Dequantize(TensorType::kQ3_K, block);
  EXPECT_EQ(values[150], 7.0f * (2 + 4 - 4));
  EXPECT_EQ(values[151], 7.0f * (0 - 4));
}

TEST(FormatsTest, Q4KSplitsTheLastScales) {
  auto block = EmptyBlock(TensorType::kQ4_K);
  PutHalf(block, 0, kHalfOne);
  PutHalf(block, 2, kHalfOne);
  // Group 6 (weights 192-223): scale 0b10'0101 and minimum 0b01'0011 are split over three bytes.
  block[4 + 2] = 2 << 6;
  block[4 + 4 + 2] = 1 << 6;
  block[4 + 8 + 2] = 0x35;
  block[16 + 3 * 32 + 8] = 0x09;  // weight 200, low half
  const auto values = Dequantize(TensorType::kQ4_K, block);
  EXPECT_EQ(values[200], 37.0f * 9 - 19);
  EXPECT_EQ(values[192], -19.0f);
  EXPECT_EQ(values[232], 0.0f);
}

TEST(FormatsTest, Q5KFifthBitsGoByGroup) {
  auto block = EmptyBlock(TensorType::kQ5_K);
  PutHalf(block, 0, kHalfOne);
  block[4 + 1] = 3;        // scale of group 1
  block[16 + 5] = 1 << 1;  // fifth bit of weight 5 of group 1
  block[48 + 5] = 0xA0;    // its low bits
  const auto values = Dequantize(TensorType::kQ5_K, block);
  EXPECT_EQ(values[37], 3.0f * (16 + 10));
  EXPECT_EQ(values[5], 0.0f);
}

TEST(FormatsTest, Q6KHasSignedScales) {
  auto block = EmptyBlock(TensorType::kQ6_K);
  PutHalf(block, 208, kHalfOne);
  // Weight 230 = half 1, position 102: high nibble of low byte 64 + 38, bits 6 and 7 of high byte 32 + 6,
  // group 14.
  block[64 + 38] = 0xC0;
  block[128 + 32 + 6] = 2 << 6;
  block[192 + 14] = 0xFD;  // -3
  const auto values = Dequantize(TensorType::kQ6_K, block);
  EXPECT_EQ(values[230], -3.0f * (12 + 32 - 32));
  EXPECT_EQ(values[231], -3.0f * (0 - 32));
}

TEST(FormatsTest, IQ4NLLooksLevelsUp) {
  auto block = EmptyBlock(TensorType::kIQ4_NL);
  PutHalf(block, 0, kHalfOne);
  block[2] = 0x8F;
  const auto values = Dequantize(TensorType::kIQ4_NL, block);
  EXPECT_EQ(values[0], 113.0f);
  EXPECT_EQ(values[16], 1.0f);
  EXPECT_EQ(values[1], -127.0f);
}

}  // namespace
}  // namespace larder
