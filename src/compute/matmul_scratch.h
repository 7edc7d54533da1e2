// Activations of one MatMul call, prepared for its kernels. Rows of a tile are interleaved; a tile of n rows
// that begins with row r occupies what rows r .. r + n - 1 would.
#pragma once

#include <cstdint>
#include <vector>

#include "compute/matmul.h"

namespace larder {

// Per group of 16 or 32 activations of a tile, [group][row].
struct GroupSums {
  int32_t* offsets;  // -128 * sum of the codes: undoes the offset of signed weights
  float* scaled;     // scale * sum of the codes: what a minimum is multiplied by
};

struct IntegerActivations {
  int8_t* codes;  // [inputs / 4][row][4]
  float* scales;  // [inputs / 32][row]
  GroupSums by16, by32;
};

struct MatMulScratch::Impl {
 public:
  void Resize(int64_t rows, int64_t inputs, bool floats, bool integers);

  // Of the tile that begins with this row.
  float* floats(int64_t row) { return At(floats_, row * inputs_); }  // [inputs][row]
  IntegerActivations integers(int64_t row) {
    const int64_t groups32 = row * (inputs_ / 32), groups16 = row * (inputs_ / 16);
    return {At(codes_, row * inputs_),
            At(scales_, groups32),
            {At(offsets16_, groups16), At(scaled16_, groups16)},
            {At(offsets32_, groups32), At(scaled32_, groups32)}};
  }

 private:
  template <class T>
  static T* At(std::vector<T>& buffer, int64_t i) {
    return buffer.data() + i;
  }

  int64_t inputs_ = 0;
  std::vector<float> floats_, scales_, scaled16_, scaled32_;
  std::vector<int8_t> codes_;
  std::vector<int32_t> offsets16_, offsets32_;
};

}  // namespace larder
