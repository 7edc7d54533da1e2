// One block of each quantised format, taken apart. A block is `block_elements` weights; codes[block_elements]
// in the order of the weights, scales and mins [block_elements / group]. Formats without minima leave `mins`
// alone.
#pragma once

#include <cstdint>
#include <cstring>

#include "compute/half.h"

namespace larder::formats {

using UnpackBlock = void (*)(const uint8_t* block, int8_t* codes, float* scales, float* mins);

void UnpackQ4_0(const uint8_t* block, int8_t* codes, float* scales, float* mins);
void UnpackQ4_1(const uint8_t* block, int8_t* codes, float* scales, float* mins);
void UnpackQ5_0(const uint8_t* block, int8_t* codes, float* scales, float* mins);
void UnpackQ5_1(const uint8_t* block, int8_t* codes, float* scales, float* mins);
void UnpackQ8_0(const uint8_t* block, int8_t* codes, float* scales, float* mins);
void UnpackIQ4_NL(const uint8_t* block, int8_t* codes, float* scales, float* mins);

void UnpackQ2_K(const uint8_t* block, int8_t* codes, float* scales, float* mins);
void UnpackQ3_K(const uint8_t* block, int8_t* codes, float* scales, float* mins);
void UnpackQ4_K(const uint8_t* block, int8_t* codes, float* scales, float* mins);
void UnpackQ5_K(const uint8_t* block, int8_t* codes, float* scales, float* mins);
void UnpackQ6_K(const uint8_t* block, int8_t* codes, float* scales, float* mins);

inline float LoadHalf(const uint8_t* bytes) {
  uint16_t half;
  std::memcpy(&half, bytes, sizeof(half));
  return HalfToFloat(half);
}

}  // namespace larder::formats
