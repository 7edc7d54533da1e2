// Matrix::Pack: from the file's rows to panels (packed.h).
#include <algorithm>
#include <atomic>
#include <cstring>
#include <limits>
#include <vector>

#include "compute/half.h"
#include "compute/matmul.h"
#include "compute/packed.h"

namespace larder {
namespace {

// Rows and columns beyond this are no matrix of a language model, and all products of them fit 63 bits.
constexpr int64_t kLargestDimension = int64_t{1} << 28;

bool IsHalf(float x) {
  return std::bit_cast<uint32_t>(HalfToFloat(FloatToHalf(x))) == std::bit_cast<uint32_t>(x);
}

Status CheckSource(const MatrixSource& source, const FormatInfo* format) {
  if (format == nullptr) {
    return Fail(ErrorKind::kUnsupported,
                "tensor type {} is not supported; convert the model to one of the listed types",
                static_cast<uint32_t>(source.type));
  }
  if (source.outputs <= 0 || source.inputs <= 0 || source.outputs > kLargestDimension ||
      source.inputs > kLargestDimension) {
    return Fail(ErrorKind::kInvalid,
                "a matrix of {} x {} elements cannot be packed; both sides must be 1 to {}", source.outputs,
                source.inputs, kLargestDimension);
  }
  if (source.inputs % format->block_elements != 0) {
    return Fail(ErrorKind::kInvalid,
                "a row of {} elements is not a multiple of the {} elements of a {} block", source.inputs,
                format->block_elements, format->name);
  }
  return {};
}

Status CheckPermutation(std::span<const int32_t> permutation, int64_t outputs) {
  if (permutation.empty()) return {};
  if (static_cast<int64_t>(permutation.size()) != outputs) {
    return Fail(ErrorKind::kInvalid, "a permutation of {} entries does not fit {} rows", permutation.size(),
                outputs);
  }
  for (int32_t row : permutation) {
    if (row < 0 || row >= outputs) {
      return Fail(ErrorKind::kInvalid, "row {} of a permutation is outside 0..{}", row, outputs - 1);
    }
  }
  return {};
}

struct PackJob {
  const MatrixSource& source;
  const FormatInfo& format;
  std::span<const int32_t> permutation;
  WeightForm form;
  int group;
  bool half_scales;
  int64_t row_bytes;
  int64_t panel_bytes;
  std::byte* out;

  const void* SourceRow(int64_t output) const {
    const int64_t row = permutation.empty() ? output : permutation[static_cast<size_t>(output)];
    return static_cast<const std::byte*>(source.data) + row * row_bytes;
  }
};

// A thread's unpacked row.
struct RowBuffer {
  std::vector<int8_t> codes;
  std::vector<int16_t> words;
  std::vector<float> scales, mins, values;
};

void FloatsOfRow(const PackJob& job, RowBuffer& row, int64_t output) {
  row.values.resize(static_cast<size_t>(job.source.inputs));
  DequantizeRow(job.source.type, job.SourceRow(output), job.source.inputs, row.values.data());
}

void PackFloatRow(const PackJob& job, RowBuffer& row, int64_t output, int lane, std::byte* panel) {
  FloatsOfRow(job, row, output);
  float* to = reinterpret_cast<float*>(panel) + lane;
  for (float value : row.values) {
    *to = value;
    to += kPanelOutputs;
  }
}

// Group g of a row.
void PackCodes(const PackJob& job, const RowBuffer& row, int64_t g, int lane, uint8_t* to) {
  if (job.form == WeightForm::kS16) {
    const int16_t* words = row.words.data() + g * job.group;
    for (int k = 0; k < job.group; k += 2) std::memcpy(to + k / 2 * 64 + 4 * lane, words + k, 4);
    return;
  }
  const int8_t* codes = row.codes.data() + g * job.group;
  for (int k = 0; k < job.group; ++k) {
    if (job.form == WeightForm::kU4) {
      const int nibble = k / 4 % 2;
      uint8_t& byte = to[k / 8 * 64 + 4 * lane + k % 4];
      byte = static_cast<uint8_t>(byte | (codes[k] & 15) << (4 * nibble));
    } else {
      to[k / 4 * 64 + 4 * lane + k % 4] = static_cast<uint8_t>(codes[k]);
    }
  }
}

// Writes metadata number `lane`; false if it is no half but should be.
bool PackScale(bool as_half, float value, int lane, std::byte* to) {
  if (!as_half) {
    std::memcpy(to + 4 * lane, &value, sizeof value);
    return true;
  }
  const uint16_t half = FloatToHalf(value);
  std::memcpy(to + 2 * lane, &half, sizeof half);
  return IsHalf(value);
}

void CodesOfRow(const PackJob& job, RowBuffer& row, int64_t output) {
  const size_t inputs = static_cast<size_t>(job.source.inputs),
               groups = inputs / static_cast<size_t>(job.group);
  row.scales.resize(groups);
  row.mins.resize(groups);
  if (job.form == WeightForm::kS16) {
    FloatsOfRow(job, row, output);
    row.words.resize(inputs);
    WordsOfRow(row.values.data(), job.source.inputs, row.words.data(), row.scales.data());
    return;
  }
  row.codes.resize(inputs);
  UnpackRow(job.source.type, job.SourceRow(output), job.source.inputs, row.codes.data(), row.scales.data(),
            row.mins.data());
}

bool PackIntegerRow(const PackJob& job, RowBuffer& row, int64_t output, int lane, std::byte* panel) {
  const int64_t groups = job.source.inputs / job.group;
  CodesOfRow(job, row, output);
  const UnitLayout layout = LayoutOfUnit(job.form, job.group, job.format.has_min, job.half_scales);
  for (int64_t g = 0; g < groups; ++g) {
    std::byte* unit = panel + g * layout.bytes;
    PackCodes(job, row, g, lane, reinterpret_cast<uint8_t*>(unit));
    std::byte* metadata = unit + layout.codes_bytes;
    if (!PackScale(job.half_scales, row.scales[static_cast<size_t>(g)], lane, metadata)) return false;
    if (job.format.has_min && !PackScale(job.half_scales, row.mins[static_cast<size_t>(g)], lane,
                                         metadata + layout.metadata_bytes)) {
      return false;
    }
  }
  return true;
}

// Fills all panels; false if a scale turned out to be no half.
bool PackPanels(const PackJob& job, ThreadPool& pool) {
  const int64_t panels = (job.source.outputs + kPanelOutputs - 1) / kPanelOutputs;
  std::vector<RowBuffer> buffers(static_cast<size_t>(pool.threads()));
  std::atomic<bool> fits{true};
  pool.Run(panels, [&](int64_t p, int worker) {
    if (!fits.load(std::memory_order_relaxed)) return;
    RowBuffer& row = buffers[static_cast<size_t>(worker)];
    std::byte* panel = job.out + p * job.panel_bytes;
    for (int lane = 0; lane < kPanelOutputs && p * kPanelOutputs + lane < job.source.outputs; ++lane) {
      const int64_t output = p * kPanelOutputs + lane;
      if (job.form == WeightForm::kF32) {
        PackFloatRow(job, row, output, lane, panel);
      } else if (!PackIntegerRow(job, row, output, lane, panel)) {
        fits.store(false, std::memory_order_relaxed);
        return;
      }
    }
  });
  return fits.load(std::memory_order_relaxed);
}

}  // namespace

Result<Matrix> Matrix::Shaped(TensorType type, int64_t outputs, int64_t inputs, MathMode mode) {
  const FormatInfo* format = FindFormat(static_cast<uint32_t>(type));
  LARDER_TRY(CheckSource({type, nullptr, outputs, inputs}, format));
  Matrix matrix;
  matrix.outputs_ = outputs;
  matrix.inputs_ = inputs;
  if (mode == MathMode::kFast && format->IsInteger(inputs)) {
    matrix.form_ = format->form;
    matrix.group_ = format->group;
    matrix.has_min_ = format->has_min;
  }
  return matrix;
}

Result<uint64_t> Matrix::PackedBytes() const {
  const int64_t panel_bytes = PanelBytes(form_, group_, has_min_, half_scales_, inputs_);
  const int64_t panels = (outputs_ + kPanelOutputs - 1) / kPanelOutputs;
  if (panels > std::numeric_limits<int64_t>::max() / panel_bytes) {
    return Fail(ErrorKind::kExhausted, "a matrix of {} x {} elements does not fit memory", outputs_, inputs_);
  }
  return static_cast<uint64_t>(panels * panel_bytes);
}

Result<Matrix> Matrix::Pack(const MatrixSource& source, MathMode mode, ThreadPool& pool,
                            std::span<const int32_t> permutation) {
  LARDER_ASSIGN(Matrix matrix, Shaped(source.type, source.outputs, source.inputs, mode));
  LARDER_TRY(CheckPermutation(permutation, source.outputs));
  const FormatInfo& format = *FindFormat(static_cast<uint32_t>(source.type));
  LARDER_ASSIGN(const uint64_t row_bytes, RowBytes(format, static_cast<uint64_t>(source.inputs)));
  // Most formats keep halves in the file; those that multiply two numbers into a scale need floats, which the
  // first row shows.
  for (const bool half_scales : {true, false}) {
    matrix.half_scales_ = matrix.form_ != WeightForm::kF32 && half_scales;
    LARDER_ASSIGN(const uint64_t bytes, matrix.PackedBytes());
    LARDER_ASSIGN(matrix.owned_, AlignedBuffer::Allocate(bytes));
    const PackJob job{
        source,
        format,
        permutation,
        matrix.form_,
        matrix.group_,
        matrix.half_scales_,
        static_cast<int64_t>(row_bytes),
        PanelBytes(matrix.form_, matrix.group_, matrix.has_min_, matrix.half_scales_, source.inputs),
        matrix.owned_.data()};
    if (PackPanels(job, pool)) break;
  }
  matrix.packed_ = {matrix.owned_.data(), matrix.owned_.size()};
  return matrix;
}

Result<Matrix> Matrix::View(TensorType type, int64_t outputs, int64_t inputs, MathMode mode, bool half_scales,
                            std::span<const std::byte> packed) {
  LARDER_ASSIGN(Matrix matrix, Shaped(type, outputs, inputs, mode));
  matrix.half_scales_ = matrix.form_ != WeightForm::kF32 && half_scales;
  LARDER_ASSIGN(const uint64_t bytes, matrix.PackedBytes());
  if (packed.size() != bytes || reinterpret_cast<uintptr_t>(packed.data()) % kVectorAlign != 0) {
    return Fail(ErrorKind::kCorrupt, "{} packed bytes are no matrix of {} x {} elements; it has {}",
                packed.size(), outputs, inputs, bytes);
  }
  matrix.packed_ = packed;
  return matrix;
}

}  // namespace larder
