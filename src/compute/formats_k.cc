// The K formats: blocks of 256 weights with small integer scales per group of 16 or 32 under one or two f16
// factors. A product f16 (11 bits) x scale (at most 7) x code (at most 5) fits a float's 24 bits, so all of
// it is exact.
#include "compute/formats_blocks.h"

namespace larder::formats {
namespace {

// The 6-bit scales and minima of Q4_K and Q5_K for 8 groups, in 12 bytes: bytes 0-3 and 4-7 hold scale and
// minimum of groups 0-3 in their low six bits; groups 4-7 have their low four bits in bytes 8-11 (scale in
// the low half) and the high two in the top bits of bytes 0-3 and 4-7.
void UnpackSixBitScales(const uint8_t* packed, float factor, float min_factor, float* scales, float* mins) {
  for (int group = 0; group < 8; ++group) {
    int scale, min;
    if (group < 4) {
      scale = packed[group] & 63;
      min = packed[group + 4] & 63;
    } else {
      scale = (packed[group + 4] & 15) | (packed[group - 4] >> 6 << 4);
      min = (packed[group + 4] >> 4) | (packed[group] >> 6 << 4);
    }
    scales[group] = factor * static_cast<float>(scale);
    mins[group] = -(min_factor * static_cast<float>(min));
  }
}

}  // namespace

// scale and minimum nibbles[16], two-bit codes[64], f16 factor, f16 minimum factor. Byte i of 32 holds
// weights i, i + 32, i + 64 and i + 96 of its half.
void UnpackQ2_K(const uint8_t* block, int8_t* codes, float* scales, float* mins) {
  const float factor = LoadHalf(block + 80), min_factor = LoadHalf(block + 82);
  for (int group = 0; group < 16; ++group) {
    scales[group] = factor * static_cast<float>(block[group] & 15);
    mins[group] = -(min_factor * static_cast<float>(block[group] >> 4));
  }
  for (int i = 0; i < 256; ++i) {
    codes[i] = static_cast<int8_t>(block[16 + i / 128 * 32 + i % 32] >> (i / 32 % 4 * 2) & 3);
  }
}

// high bits[32], two-bit codes[64] as in Q2_K, 6-bit scales + 32 in 12 bytes, f16 factor. A weight's third
// bit is bit i / 32 of high[i % 32]; the weight is scale * (code - 4).
void UnpackQ3_K(const uint8_t* block, int8_t* codes, float* scales, float* mins) {
  const uint8_t* packed = block + 96;
  const float factor = LoadHalf(block + 108);
  for (int group = 0; group < 16; ++group) {
    const int low = packed[group % 8] >> (group / 8 * 4) & 15;
    const int high = packed[8 + group % 4] >> (group / 4 * 2) & 3;
    scales[group] = factor * static_cast<float>((low | high << 4) - 32);
    mins[group] = -4.0f * scales[group];
  }
  for (int i = 0; i < 256; ++i) {
    const int low = block[32 + i / 128 * 32 + i % 32] >> (i / 32 % 4 * 2) & 3;
    const int high = block[i % 32] >> (i / 32) & 1;
    codes[i] = static_cast<int8_t>(low | high << 2);
  }
}

// f16 factor, f16 minimum factor, scales[12], four-bit codes[128]: 32 bytes hold two groups of 32, low
// nibbles first.
void UnpackQ4_K(const uint8_t* block, int8_t* codes, float* scales, float* mins) {
  UnpackSixBitScales(block + 4, LoadHalf(block), LoadHalf(block + 2), scales, mins);
  for (int pair = 0; pair < 4; ++pair) {
    for (int i = 0; i < 32; ++i) {
      const uint8_t byte = block[16 + pair * 32 + i];
      codes[pair * 64 + i] = static_cast<int8_t>(byte & 15);
      codes[pair * 64 + 32 + i] = static_cast<int8_t>(byte >> 4);
    }
  }
}

// As Q4_K with high[32] before the codes: bit g of high[i] is the fifth bit of weight i of group g.
void UnpackQ5_K(const uint8_t* block, int8_t* codes, float* scales, float* mins) {
  UnpackSixBitScales(block + 4, LoadHalf(block), LoadHalf(block + 2), scales, mins);
  const uint8_t* high = block + 16;
  for (int pair = 0; pair < 4; ++pair) {
    for (int i = 0; i < 32; ++i) {
      const uint8_t byte = block[48 + pair * 32 + i];
      codes[pair * 64 + i] = static_cast<int8_t>((byte & 15) | (high[i] >> (2 * pair) & 1) << 4);
      codes[pair * 64 + 32 + i] = static_cast<int8_t>((byte >> 4) | (high[i] >> (2 * pair + 1) & 1) << 4);
    }
  }
}

// low nibbles[128], high two bits[64], signed scales[16], f16 factor; halves of 128 weights. In a half, 64
// bytes of nibbles hold weights 0-63 low and 64-127 high; weights are scale * (code - 32).
void UnpackQ6_K(const uint8_t* block, int8_t* codes, float* scales, float*) {
  const float factor = LoadHalf(block + 208);
  for (int group = 0; group < 16; ++group) {
    scales[group] = factor * static_cast<float>(static_cast<int8_t>(block[192 + group]));
  }
  for (int i = 0; i < 256; ++i) {
    const int half = i / 128, j = i % 128;
    const int low = block[half * 64 + j % 64] >> (j / 64 * 4) & 15;
    const int high = block[128 + half * 32 + j % 32] >> (j / 32 * 2) & 3;
    codes[i] = static_cast<int8_t>((low | high << 4) - 32);
  }
}

}  // namespace larder::formats
