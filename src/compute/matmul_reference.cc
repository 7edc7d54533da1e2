// The matrix product as packed.h defines it, row by row and number by number.
#include <cmath>
#include <vector>

#include "compute/matmul.h"
#include "compute/packed.h"

namespace larder {
namespace {

float FloatProduct(const float* x, const std::vector<float>& w) {
  float acc = 0;
  for (size_t k = 0; k < w.size(); ++k) acc = std::fma(w[k], x[k], acc);
  return acc;
}

struct QuantizedRow {
  std::vector<int8_t> codes;
  std::vector<float> scales;
};

QuantizedRow Quantize(const float* x, int64_t inputs) {
  QuantizedRow row{std::vector<int8_t>(static_cast<size_t>(inputs)),
                   std::vector<float>(static_cast<size_t>(inputs / kActivationGroup))};
  for (size_t g = 0; g < row.scales.size(); ++g) {
    row.scales[g] = QuantizeGroup(x + g * kActivationGroup, row.codes.data() + g * kActivationGroup);
  }
  return row;
}

struct IntegerWeights {
  std::vector<int8_t> codes;
  std::vector<float> scales, mins;
};

float IntegerProduct(const QuantizedRow& x, const IntegerWeights& w, int group, bool has_min) {
  float acc = 0;
  for (size_t g = 0; g < w.scales.size(); ++g) {
    int32_t isum = 0, xsum = 0;
    for (size_t k = g * static_cast<size_t>(group); k < (g + 1) * static_cast<size_t>(group); ++k) {
      isum += static_cast<int32_t>(w.codes[k]) * x.codes[k];
      xsum += x.codes[k];
    }
    const float scale_x = x.scales[g * static_cast<size_t>(group) / kActivationGroup];
    acc = std::fma(static_cast<float>(isum), w.scales[g] * scale_x, acc);
    if (has_min) acc = std::fma(w.mins[g], scale_x * static_cast<float>(xsum), acc);
  }
  return acc;
}

}  // namespace

void MatMulReference(const float* x, int64_t ldx, int rows, const MatrixSource& source, MathMode mode,
                     std::span<const int32_t> permutation, const float* bias, float* y, int64_t ldy) {
  const FormatInfo* format = FindFormat(static_cast<uint32_t>(source.type));
  LARDER_CHECK(format != nullptr);
  const Result<uint64_t> row_bytes = RowBytes(*format, static_cast<uint64_t>(source.inputs));
  LARDER_CHECK(row_bytes.has_value());
  const bool integer = mode == MathMode::kFast && format->form != WeightForm::kF32;
  const size_t inputs = static_cast<size_t>(source.inputs);
  std::vector<float> values(inputs);
  IntegerWeights weights;
  std::vector<QuantizedRow> quantized;
  if (integer) {
    const size_t groups = inputs / static_cast<size_t>(format->group);
    weights = {std::vector<int8_t>(inputs), std::vector<float>(groups), std::vector<float>(groups)};
    for (int row = 0; row < rows; ++row) quantized.push_back(Quantize(x + row * ldx, source.inputs));
  }
  for (int64_t output = 0; output < source.outputs; ++output) {
    const int64_t from = permutation.empty() ? output : permutation[static_cast<size_t>(output)];
    const std::byte* packed =
        static_cast<const std::byte*>(source.data) + from * static_cast<int64_t>(*row_bytes);
    if (integer) {
      UnpackRow(source.type, packed, source.inputs, weights.codes.data(), weights.scales.data(),
                weights.mins.data());
    } else {
      DequantizeRow(source.type, packed, source.inputs, values.data());
    }
    for (int row = 0; row < rows; ++row) {
      const float acc = integer ? IntegerProduct(quantized[static_cast<size_t>(row)], weights, format->group,
                                                 format->has_min)
                                : FloatProduct(x + row * ldx, values);
      y[row * ldy + output] = bias == nullptr ? acc : acc + bias[output];
    }
  }
}

}  // namespace larder
