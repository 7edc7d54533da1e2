// Y = X W^T for a few rows of X and a weight matrix W that is repacked once so that vector lanes are outputs.
// No float sum ever runs across lanes and each output's sum over the inner dimension has one fixed order, so
// a row's result does not depend on the other rows, on tiling, on threads or on the instruction set (row
// independence).
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "base/memory.h"
#include "base/result.h"
#include "compute/formats.h"
#include "compute/ops.h"
#include "compute/thread_pool.h"

namespace larder {

enum class MathMode : uint8_t {
  kFast,  // weights other than F32 are integer codes, activations become signed 8 bit in groups of
          // kActivationGroup, 16 bit where they meet F16 or BF16
  kF32,   // weights dequantised to float, float activations: the oracle
};

inline constexpr int kActivationGroup = 32;

// A matrix as it lies in the file: `outputs` rows of `inputs` elements each, rows contiguous.
struct MatrixSource {
  TensorType type;
  const void* data;
  int64_t outputs;
  int64_t inputs;
};

// A repacked matrix. Immutable after Pack. The packed layout is described in packed.h.
class Matrix {
 public:
  // `permutation`, if not empty, has one entry per output: row r of the result is row permutation[r] of the
  // source.
  static Result<Matrix> Pack(const MatrixSource& source, MathMode mode, ThreadPool& pool,
                             std::span<const int32_t> permutation = {});
  // The matrix that Pack made of a source of this type and size, over a copy of its bytes that is aligned to
  // kVectorAlign and outlives it. kCorrupt where so many bytes are no such matrix.
  static Result<Matrix> View(TensorType type, int64_t outputs, int64_t inputs, MathMode mode,
                             bool half_scales, std::span<const std::byte> packed);

  int64_t outputs() const { return outputs_; }
  int64_t inputs() const { return inputs_; }
  WeightForm form() const { return form_; }
  int group() const { return group_; }  // 0 for kF32
  bool has_min() const { return has_min_; }
  bool half_scales() const { return half_scales_; }  // scales and minimums are stored as halves, exactly
  uint64_t bytes() const { return packed_.size(); }  // padding included
  std::span<const std::byte> packed() const { return packed_; }

 private:
  // What is the same for every matrix of this type and size; no bytes, and half_scales is open.
  static Result<Matrix> Shaped(TensorType type, int64_t outputs, int64_t inputs, MathMode mode);
  Result<uint64_t> PackedBytes() const;

  int64_t outputs_ = 0, inputs_ = 0;
  WeightForm form_ = WeightForm::kF32;
  int group_ = 0;
  bool has_min_ = false;
  bool half_scales_ = false;
  std::span<const std::byte> packed_;
  AlignedBuffer owned_;  // empty: somebody else's bytes
};

// Reusable space for quantised activations and unpacked weights; grows, never shrinks.
class MatMulScratch {
 public:
  // Products may use a tile unit (AMX) where the machine has one; no bit depends on it.
  explicit MatMulScratch(bool may_use_amx = true);
  ~MatMulScratch();
  struct Impl;
  Impl& impl() { return *impl_; }

 private:
  std::unique_ptr<Impl> impl_;
};

struct MatMulTarget {
  const Matrix* weights;  // all targets of one call share `inputs`
  float* y;               // [rows, outputs], row stride ldy
  int64_t ldy;
  const float* bias = nullptr;  // [outputs]: y = x w + bias
};

// x: [rows, inputs] floats, row stride ldx. Activations are quantised once for all targets; one parallel
// region.
void MatMul(ThreadPool& pool, MatMulScratch& scratch, const float* x, int64_t ldx, int rows,
            std::span<const MatMulTarget> targets);

// Rows that are made where they are quantised, instead of being written to memory before.
class RowMaker {
 public:
  // make(row, to) writes one row, [inputs]. Every row is asked for once, by any thread. Refers to `make`.
  template <class Make>
  explicit RowMaker(const Make& make)
      : make_([](const void* context, int64_t row, float* to) {
          (*static_cast<const Make*>(context))(row, to);
        }),
        context_(&make) {}
  void Make(int64_t row, float* to) const { make_(context_, row, to); }

 private:
  void (*make_)(const void*, int64_t, float*);
  const void* context_;
};
void MatMul(ThreadPool& pool, MatMulScratch& scratch, const RowMaker& x, int rows,
            std::span<const MatMulTarget> targets);

// y = (activation(x gate^T) * (x up^T)) down^T, the same bits as the three products and SiluMul or GeluMul
// one after the other; what lies between is quantised where it is made. gate and up have equal shapes and
// down's inputs are their outputs.
struct GatedFeedForward {
  const Matrix *gate, *up, *down;
  Activation activation;
};
void GatedMatMul(ThreadPool& pool, MatMulScratch& scratch, MatMulScratch& between, const RowMaker& x,
                 int rows, const GatedFeedForward& layer, float* y, int64_t ldy);

// The same result computed plainly, without vectors or threads: equal to MatMul bit for bit.
void MatMulReference(const float* x, int64_t ldx, int rows, const MatrixSource& source, MathMode mode,
                     std::span<const int32_t> permutation, const float* bias, float* y, int64_t ldy);

}  // namespace larder
