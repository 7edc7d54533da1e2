#include "model/gguf_write.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>

namespace larder {
namespace {

constexpr uint32_t kUint32 = 4, kString = 8;  // value types of the format
constexpr uint32_t kVersion = 3;
constexpr std::string_view kAlignmentKey = "general.alignment";

template <class T>
void Put(std::string& out, T value) {
  char bytes[sizeof(T)];
  std::memcpy(bytes, &value, sizeof(T));
  out.append(bytes, sizeof(T));
}

void PutString(std::string& out, std::string_view text) {
  Put(out, static_cast<uint64_t>(text.size()));
  out += text;
}

std::span<const std::byte> AsBytes(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

uint64_t Aligned(uint64_t offset, uint64_t alignment) {
  return (offset + alignment - 1) / alignment * alignment;
}

Result<uint64_t> AlignmentOf(std::span<const GgufEntry> entries) {
  const auto found = std::ranges::find(entries, kAlignmentKey, &GgufEntry::key);
  if (found == entries.end()) return 32;
  uint32_t type = 0, alignment = 0;
  if (found->value.size() == 2 * sizeof(uint32_t)) {
    std::memcpy(&type, found->value.data(), sizeof(type));
    std::memcpy(&alignment, found->value.data() + sizeof(type), sizeof(alignment));
  }
  if (type != kUint32 || !std::has_single_bit(alignment))
    return Fail(ErrorKind::kInvalid, "{} must be a 32-bit power of two to be written", kAlignmentKey);
  return alignment;
}

Result<uint64_t> TensorBytes(const GgufOutputTensor& tensor) {
  if (tensor.shape.empty() || tensor.shape.size() > 4)
    return Fail(ErrorKind::kInvalid, "tensor {} has {} dimensions, 1 to 4 can be written", tensor.name,
                tensor.shape.size());
  const FormatInfo* format = FindFormat(static_cast<uint32_t>(tensor.type));
  LARDER_CHECK(format != nullptr);
  auto bytes = RowBytes(*format, tensor.shape[0]);
  if (!bytes) return Fail(bytes.error().kind, "tensor {}: {}", tensor.name, bytes.error().message);
  for (size_t i = 1; i < tensor.shape.size(); ++i) {
    if (tensor.shape[i] != 0 && *bytes > std::numeric_limits<int64_t>::max() / tensor.shape[i])
      return Fail(ErrorKind::kInvalid, "tensor {} has more bytes than a file can", tensor.name);
    *bytes *= tensor.shape[i];
  }
  return bytes;
}

}  // namespace

GgufEntry GgufUint32(std::string key, uint32_t value) {
  GgufEntry entry{std::move(key), ""};
  Put(entry.value, kUint32);
  Put(entry.value, value);
  return entry;
}

GgufEntry GgufText(std::string key, std::string_view value) {
  GgufEntry entry{std::move(key), ""};
  Put(entry.value, kString);
  PutString(entry.value, value);
  return entry;
}

std::vector<GgufEntry> EntriesOf(const GgufFile& file) {
  std::vector<GgufEntry> entries;
  for (size_t i = 0; i < file.metadata().size(); ++i) {
    const auto raw = file.RawValue(i);
    entries.push_back(
        {file.metadata()[i].first, std::string(reinterpret_cast<const char*>(raw.data()), raw.size())});
  }
  return entries;
}

void SetEntry(std::vector<GgufEntry>& entries, GgufEntry entry) {
  const auto found = std::ranges::find(entries, entry.key, &GgufEntry::key);
  if (found == entries.end()) {
    entries.push_back(std::move(entry));
  } else {
    *found = std::move(entry);
  }
}

Result<std::unique_ptr<GgufOutput>> GgufOutput::Create(const std::string& path,
                                                       std::span<const GgufEntry> entries,
                                                       std::span<const GgufOutputTensor> tensors) {
  std::unique_ptr<GgufOutput> out(new GgufOutput());
  LARDER_ASSIGN(out->alignment_, AlignmentOf(entries));
  std::string head = "GGUF";
  Put(head, kVersion);
  Put(head, static_cast<uint64_t>(tensors.size()));
  Put(head, static_cast<uint64_t>(entries.size()));
  for (const GgufEntry& entry : entries) {
    PutString(head, entry.key);
    head += entry.value;
  }
  uint64_t offset = 0;
  for (const GgufOutputTensor& tensor : tensors) {
    LARDER_ASSIGN(const uint64_t bytes, TensorBytes(tensor));
    out->sizes_.push_back(bytes);
    PutString(head, tensor.name);
    Put(head, static_cast<uint32_t>(tensor.shape.size()));
    for (const uint64_t size : tensor.shape) Put(head, size);
    Put(head, static_cast<uint32_t>(tensor.type));
    Put(head, offset);
    if (bytes > static_cast<uint64_t>(std::numeric_limits<int64_t>::max()) - offset - out->alignment_)
      return Fail(ErrorKind::kInvalid, "the tensors together have more bytes than a file can");
    offset = Aligned(offset + bytes, out->alignment_);
  }
  LARDER_ASSIGN(out->file_, FileWriter::Create(path));
  LARDER_TRY(out->file_->Write(AsBytes(head)));
  LARDER_TRY(out->Pad());
  if (!out->sizes_.empty()) out->left_ = out->sizes_[0];
  return out;
}

Status GgufOutput::Pad() {
  const std::string zeros(Aligned(file_->written(), alignment_) - file_->written(), '\0');
  return file_->Write(AsBytes(zeros));
}

Status GgufOutput::NextTensor() {
  LARDER_TRY(Pad());
  ++tensor_;
  left_ = tensor_ < sizes_.size() ? sizes_[tensor_] : 0;
  return {};
}

Status GgufOutput::Append(std::span<const std::byte> bytes) {
  if (bytes.size() > left_)
    return Fail(ErrorKind::kInvalid, "{} bytes are given for tensor {}, which has {} left", bytes.size(),
                tensor_, left_);
  LARDER_TRY(file_->Write(bytes));
  left_ -= bytes.size();
  return left_ == 0 ? NextTensor() : Status();
}

Status GgufOutput::Finish() {
  if (tensor_ < sizes_.size())
    return Fail(ErrorKind::kInvalid, "tensor {} of {} is not complete: {} bytes are missing", tensor_,
                sizes_.size(), left_);
  return file_->Commit();
}

}  // namespace larder
