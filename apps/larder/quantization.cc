#include "larder/quantization.h"

#include <algorithm>
#include <charconv>
#include <mutex>
#include <optional>

#include "compute/quantize.h"
#include "model/gguf_write.h"

namespace larder {
namespace {

using enum TensorType;

constexpr QuantizationType kTypes[] = {
    {"f32", kF32, 0, false},   {"f16", kF16, 1, false},   {"q4_0", kQ4_0, 2, false},
    {"q4_1", kQ4_1, 3, false}, {"q8_0", kQ8_0, 7, false}, {"q4_k_m", kQ4_K, 15, true},
};
constexpr uint32_t kQuantizationVersion = 2;  // of the block layouts
constexpr uint64_t kPieceBytes = 16u << 20;   // of output in memory at a time

bool Fits(TensorType type, uint64_t inner) {
  return inner % static_cast<uint64_t>(FindFormat(static_cast<uint32_t>(type))->block_elements) == 0;
}

// The same format, or the next finer one whose blocks fit the row.
TensorType Fitting(TensorType type, uint64_t inner) {
  if (Fits(type, inner)) return type;
  if (type == kQ4_K) return Fitting(kQ5_0, inner);
  if (type == kQ6_K) return Fitting(kQ8_0, inner);
  return kF16;
}

// 7 of "blk.7.attn_v.weight".
std::optional<int64_t> LayerOf(std::string_view name) {
  constexpr std::string_view kPrefix = "blk.";
  int64_t layer = 0;
  if (!name.starts_with(kPrefix)) return std::nullopt;
  const auto [stop, code] = std::from_chars(name.data() + kPrefix.size(), name.data() + name.size(), layer);
  if (code != std::errc()) return std::nullopt;
  return layer;
}

// The usual half of the layers that gets more bits: the first and last eighth, and every third between.
bool IsFavoured(int64_t layer, int64_t layers) {
  return layer < layers / 8 || layer >= 7 * layers / 8 || (layer - layers / 8) % 3 == 2;
}

class Planner {
 public:
  Planner(const GgufFile& file, const QuantizationType& type, bool pure)
      : type_(type), pure_(pure), tied_head_(file.FindTensor("output.weight") == nullptr) {
    for (const GgufTensor& tensor : file.tensors())
      if (const auto layer = LayerOf(tensor.name)) layers_ = std::max(layers_, *layer + 1);
  }

  TensorType Format(const GgufTensor& tensor) const {
    if (tensor.shape.size() < 2) return kF32;
    return Fitting(Wanted(tensor.name), tensor.shape[0]);
  }

 private:
  TensorType Wanted(std::string_view name) const {
    if (pure_ || type_.matrices == kF32 || type_.matrices == kF16 || type_.matrices == kQ8_0)
      return type_.matrices;
    if (name == (tied_head_ ? "token_embd.weight" : "output.weight")) return kQ6_K;
    const bool sensitive = name.ends_with(".attn_v.weight") || name.ends_with(".ffn_down.weight");
    const auto layer = LayerOf(name);
    if (type_.mixed && sensitive && layer && IsFavoured(*layer, layers_)) return kQ6_K;
    return type_.matrices;
  }

  const QuantizationType& type_;
  const bool pure_, tied_head_;
  int64_t layers_ = 0;
};

// One tensor, in pieces of whole rows.
class Converter {
 public:
  Converter(ThreadPool& pool, GgufOutput& out)
      : pool_(pool), out_(out), rows_(static_cast<size_t>(pool.threads())) {}

  Status Convert(const GgufTensor& tensor, TensorType to) {
    if (tensor.format->type == to) return out_.Append({tensor.data, tensor.bytes});
    LARDER_ASSIGN(const uint64_t row_bytes,
                  RowBytes(*FindFormat(static_cast<uint32_t>(to)), tensor.shape[0]));
    const auto piece_rows = std::max<int64_t>(1, static_cast<int64_t>(kPieceBytes / row_bytes));
    for (auto& row : rows_) row.resize(tensor.shape[0]);
    for (int64_t first = 0; first < tensor.rows(); first += piece_rows) {
      const int64_t count = std::min(piece_rows, tensor.rows() - first);
      piece_.resize(static_cast<size_t>(count) * row_bytes);
      LARDER_TRY(Piece(tensor, to, first, count));
      LARDER_TRY(out_.Append(piece_));
    }
    return {};
  }

 private:
  Status Piece(const GgufTensor& tensor, TensorType to, int64_t first, int64_t count) {
    const size_t from_bytes = tensor.bytes / static_cast<size_t>(tensor.rows());
    const size_t to_bytes = piece_.size() / static_cast<size_t>(count);
    std::mutex mutex;
    Status failed;
    pool_.Run(count, [&](int64_t i, int worker) {
      std::vector<float>& row = rows_[static_cast<size_t>(worker)];
      DequantizeRow(tensor.format->type, tensor.data + static_cast<size_t>(first + i) * from_bytes,
                    tensor.inner(), row.data());
      Status status =
          QuantizeRow(to, row.data(), tensor.inner(), piece_.data() + static_cast<size_t>(i) * to_bytes);
      if (status) return;
      const std::lock_guard lock(mutex);
      failed =
          Fail(status.error().kind, "tensor {}, row {}: {}", tensor.name, first + i, status.error().message);
    });
    return failed;
  }

  ThreadPool& pool_;
  GgufOutput& out_;
  std::vector<std::vector<float>> rows_;  // one a worker
  std::vector<std::byte> piece_;
};

std::vector<GgufEntry> NewEntries(const GgufFile& file, const QuantizationType& type) {
  std::vector<GgufEntry> entries = EntriesOf(file);
  SetEntry(entries, GgufUint32("general.file_type", type.file_type));
  SetEntry(entries, GgufUint32("general.quantization_version", kQuantizationVersion));
  return entries;
}

}  // namespace

std::vector<std::string> QuantizationNames() {
  std::vector<std::string> names;
  for (const QuantizationType& type : kTypes) names.emplace_back(type.name);
  return names;
}

const QuantizationType* FindQuantization(std::string_view name) {
  const auto* found = std::ranges::find(kTypes, name, &QuantizationType::name);
  return found == std::end(kTypes) ? nullptr : found;
}

std::vector<TensorType> PlanFormats(const GgufFile& file, const QuantizationType& type, bool pure) {
  const Planner planner(file, type, pure);
  std::vector<TensorType> formats;
  for (const GgufTensor& tensor : file.tensors()) formats.push_back(planner.Format(tensor));
  return formats;
}

Status QuantizeFile(const GgufFile& file, const std::string& path, const QuantizationType& type, bool pure,
                    ThreadPool& pool, const std::function<void(double)>& progress) {
  const std::vector<TensorType> formats = PlanFormats(file, type, pure);
  std::vector<GgufOutputTensor> tensors;
  uint64_t total = 0, done = 0;
  for (size_t i = 0; i < formats.size(); ++i) {
    const GgufTensor& tensor = file.tensors()[i];
    tensors.push_back({tensor.name, tensor.shape, formats[i]});
    total += tensor.bytes;
  }
  LARDER_ASSIGN(const auto out, GgufOutput::Create(path, NewEntries(file, type), tensors));
  Converter converter(pool, *out);
  for (size_t i = 0; i < formats.size(); ++i) {
    LARDER_TRY(converter.Convert(file.tensors()[i], formats[i]));
    done += file.tensors()[i].bytes;
    if (progress) progress(static_cast<double>(done) / static_cast<double>(total));
  }
  return out->Finish();
}

}  // namespace larder
