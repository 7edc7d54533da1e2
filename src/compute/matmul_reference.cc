// The matrix product as packed.h defines it, row by row and number by number.
#include <algorithm>
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
  std::vector<int16_t> codes;
  std::vector<float> scales;
};

// As Code, int8_t or int16_t.
template <class Code>
QuantizedRow Quantize(const float* x, int64_t inputs) {
  QuantizedRow row{std::vector<int16_t>(static_cast<size_t>(inputs)),
                   std::vector<float>(static_cast<size_t>(inputs / kActivationGroup))};
  for (size_t g = 0; g < row.scales.size(); ++g) {
    Code codes[kActivationGroup];
    row.scales[g] = QuantizeGroup(x + g * kActivationGroup, codes);
    std::copy_n(codes, kActivationGroup, row.codes.data() + g * kActivationGroup);
  }
  return row;
}

struct IntegerWeights {
  std::vector<int16_t> codes;
  std::vector<float> scales, mins;
};

// values: the row as floats.
IntegerWeights Unpack(const MatrixSource& source, const FormatInfo& format, const std::byte* packed,
                      const std::vector<float>& values) {
  const size_t inputs = values.size(), groups = inputs / static_cast<size_t>(format.group);
  IntegerWeights w{std::vector<int16_t>(inputs), std::vector<float>(groups), std::vector<float>(groups)};
  if (format.form == WeightForm::kS16) {
    WordsOfRow(values.data(), source.inputs, w.codes.data(), w.scales.data());
  } else {
    std::vector<int8_t> codes(inputs);
    UnpackRow(source.type, packed, source.inputs, codes.data(), w.scales.data(), w.mins.data());
    std::ranges::copy(codes, w.codes.begin());
  }
  return w;
}

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
  const bool integer = mode == MathMode::kFast && format->IsInteger(source.inputs);
  std::vector<float> values(static_cast<size_t>(source.inputs));
  IntegerWeights weights;
  std::vector<QuantizedRow> quantized;
  for (int row = 0; integer && row < rows; ++row) {
    quantized.push_back(format->form == WeightForm::kS16 ? Quantize<int16_t>(x + row * ldx, source.inputs)
                                                         : Quantize<int8_t>(x + row * ldx, source.inputs));
  }
  for (int64_t output = 0; output < source.outputs; ++output) {
    const int64_t from = permutation.empty() ? output : permutation[static_cast<size_t>(output)];
    const std::byte* packed =
        static_cast<const std::byte*>(source.data) + from * static_cast<int64_t>(*row_bytes);
    DequantizeRow(source.type, packed, source.inputs, values.data());
    if (integer) weights = Unpack(source, *format, packed, values);
    for (int row = 0; row < rows; ++row) {
      const float acc = integer ? IntegerProduct(quantized[static_cast<size_t>(row)], weights, format->group,
                                                 format->has_min)
                                : FloatProduct(x + row * ldx, values);
      y[row * ldy + output] = bias == nullptr ? acc : acc + bias[output];
    }
  }
}

}  // namespace larder
