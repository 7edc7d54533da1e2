// The integer matrix product of packed.h on the tile unit (AMX) of newer Intel processors. It multiplies 16
// rows by one unit of a panel in one instruction. Its sums are exact integers and the float operations are
// those of every other kernel, so the results have the same bits.
#pragma once

#include <cstdint>

namespace larder {

inline constexpr int kAmxRows = 16;  // of a tile; fewer are as quick without the unit

// True if the processor has the unit and the operating system lets this process use it.
bool AmxAvailable();

// A panel whose codes are bytes.
struct AmxPanel {
  const uint8_t* codes;     // of the first unit, [group / 4][16 outputs][4] signed bytes
  int64_t codes_stride;     // from one unit's codes to the next one's
  const uint8_t* metadata;  // of the first unit
  int64_t metadata_stride;
  int64_t minimums;  // from a unit's scales to its minimums, bytes
  int64_t inputs;
  int group;  // 16 or 32
  bool half_scales, has_min;
};

// Rows in tiles of 16. A tile that begins with row r begins at r * inputs codes, r * inputs / 32 scales and
// r * inputs / group sums.
struct AmxActivations {
  const int8_t* codes;       // of each tile [inputs / 32][row][32]
  const float* scales;       // of each tile [inputs / 32][row]
  const float* scaled_sums;  // of each tile [inputs / group][row]
  int64_t rows;              // a multiple of 16
};

struct AmxResult {
  float* y;  // [rows][columns], row stride ldy
  int64_t ldy;
  const float* bias;  // [columns], or null
  int columns;        // 1..16
};

// Only if AmxAvailable() and the machine has AVX-512.
void AmxProduct(const AmxPanel& panel, const AmxActivations& x, const AmxResult& to);

}  // namespace larder
