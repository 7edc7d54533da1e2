// One block of each format, put together: the inverse of formats_blocks.h. `x`: block_elements finite floats.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "compute/half.h"

namespace larder::formats {

using PackBlock = void (*)(const float* x, uint8_t* block);

void PackQ4_0(const float* x, uint8_t* block);
void PackQ4_1(const float* x, uint8_t* block);
void PackQ5_0(const float* x, uint8_t* block);
void PackQ8_0(const float* x, uint8_t* block);
void PackQ4_K(const float* x, uint8_t* block);
void PackQ6_K(const float* x, uint8_t* block);

// Writes the nearest finite half and returns what a reader will see: codes are chosen for that scale.
inline float StoreHalf(float value, uint8_t* bytes) {
  constexpr float kLargest = 65504.0f;
  const uint16_t half = FloatToHalf(std::clamp(value, -kLargest, kLargest));
  std::memcpy(bytes, &half, sizeof(half));
  return HalfToFloat(half);
}

// 1 / scale, where a block of zeros (or of values too small for a half) has the codes of zero. A scale's
// inverse may be infinite, an infinity times zero would be no number.
inline float Inverse(float scale) {
  const float inverse = scale == 0 ? 0.0f : 1.0f / scale;
  return std::isfinite(inverse) ? inverse : 0.0f;
}

// value rounded to nearest (halves away from zero) within [low, high].
inline int RoundTo(float value, int low, int high) {
  return static_cast<int>(std::round(std::clamp(value, static_cast<float>(low), static_cast<float>(high))));
}

}  // namespace larder::formats
