// Activations of one MatMul call, prepared for its kernels. Rows are in tiles; a tile of n rows that begins
// with row r occupies what rows r .. r + n - 1 would.
#pragma once

#include <cstdint>

#include "compute/matmul.h"
#include "compute/packed.h"
#include "hwy/aligned_allocator.h"

namespace larder {

// Per group of 16 or 32 activations of a tile, [group][row].
struct GroupSums {
  int32_t* offsets;  // -128 * sum of the codes: undoes the offset of signed weights
  float* scaled;     // scale * sum of the codes: what a minimum is multiplied by
};

struct IntegerActivations {
  int8_t* codes;  // [inputs / 32][row][32]
  float* scales;  // [inputs / 32][row]
  GroupSums by16, by32;
};

struct WordActivations {
  int16_t* codes;  // [inputs / 32][row][32]
  float* scales;   // [inputs / 32][row]
};

// What the weights of a call need of its activations.
struct WantedForms {
  bool floats = false;
  bool words = false;               // for kS16
  bool by16 = false, by32 = false;  // bytes, with the sums of such groups

  bool bytes() const { return by16 || by32; }
  bool OnlyBytes() const { return !floats && !words; }
  void Add(const Matrix& m) {
    (m.form() == WeightForm::kF32   ? floats
     : m.form() == WeightForm::kS16 ? words
     : m.group() == 16              ? by16
                                    : by32) = true;
  }
};

// Grows and forgets what it held. Begins on a cache line.
template <class T>
class ScratchArray {
 public:
  void Resize(int64_t size) {
    if (size <= size_) return;
    data_ = hwy::AllocateAligned<T>(static_cast<size_t>(size));
    LARDER_CHECK(data_ != nullptr);
    size_ = size;
  }
  T* At(int64_t i) { return data_.get() + i; }

 private:
  hwy::AlignedFreeUniquePtr<T[]> data_;
  int64_t size_ = 0;
};

// Where the rows of a product come from: [rows, inputs] floats ldx apart, or somebody who makes them.
struct MatMulSource {
  const float* x;
  int64_t ldx;
  const RowMaker* maker;
};

// Panels of one matrix that meet the same rows together, at most.
inline constexpr int kMaxPanels = 2;
inline constexpr int kMaxTileRows = 16;  // of any kernel

struct MatMulScratch::Impl {
 public:
  explicit Impl(bool amx) : use_amx(amx) {}
  const bool use_amx;

  void Resize(int64_t rows, int64_t inputs, int threads, const WantedForms& wanted);
  void ResizeMade(int threads) { made_.Resize(threads * kMaxTileRows * inputs_); }
  void ResizeGated(int threads, int64_t rows) {
    gated_floats_ = 2 * rows * kActivationGroup;
    gated_.Resize(threads * gated_floats_);
  }

  // Of the tile that begins with this row.
  float* floats(int64_t row) { return floats_.At(row * inputs_); }  // [inputs][row]
  IntegerActivations integers(int64_t row) {
    const int64_t groups32 = row * (inputs_ / 32), groups16 = row * (inputs_ / 16);
    return {codes_.At(row * inputs_),
            scales_.At(groups32),
            {offsets16_.At(groups16), scaled16_.At(groups16)},
            {offsets32_.At(groups32), scaled32_.At(groups32)}};
  }
  WordActivations words(int64_t row) {
    return {words_.At(row * inputs_), word_scales_.At(row * (inputs_ / kActivationGroup))};
  }
  // A worker's space for the unpacked codes, scales and minimums of one of its panels.
  uint8_t* unpacked(int worker, int64_t panel) {
    return unpacked_.At((worker * kMaxPanels + panel) * unpacked_bytes_);
  }
  float* metadata(int worker, int64_t panel) {
    return metadata_.At((worker * kMaxPanels + panel) * MetadataFloats());
  }
  // A worker's space for the rows of a tile before they are quantised, [rows][inputs].
  float* made(int worker) { return made_.At(worker * kMaxTileRows * inputs_); }
  // A worker's space for what a gate and its other half give for a group of outputs, [2][rows][32].
  float* gated(int worker) { return gated_.At(worker * gated_floats_); }

 private:
  int64_t MetadataFloats() const { return inputs_ / 16 * 2 * kPanelOutputs; }  // for the smaller groups

  int64_t inputs_ = 0, unpacked_bytes_ = 0, gated_floats_ = 0;
  ScratchArray<float> floats_, scales_, word_scales_, scaled16_, scaled32_, metadata_, made_, gated_;
  ScratchArray<int8_t> codes_;
  ScratchArray<int16_t> words_;
  ScratchArray<int32_t> offsets16_, offsets32_;
  ScratchArray<uint8_t> unpacked_;
};

}  // namespace larder
