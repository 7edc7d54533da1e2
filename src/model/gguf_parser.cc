// From bytes to a GgufFile: header, metadata, tensor table, data section, in the order of the file.
#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "model/gguf.h"
#include "model/gguf_reader.h"
#include "model/gguf_values.h"

namespace larder {
namespace {

constexpr std::string_view kMagic = "GGUF";
constexpr uint64_t kDefaultAlignment = 32;

// Far above every published file; they bound what a hostile one can make us allocate.
constexpr uint64_t kMaxEntries = 1u << 16;
constexpr uint64_t kMaxTensors = 1u << 17;
constexpr uint64_t kMaxKeyBytes = 65535;
constexpr uint64_t kMaxTensorNameBytes = 1024;
constexpr uint64_t kMaxAlignment = 1u << 20;

// The fewest bytes a metadata entry (key of one byte, type, one byte) and a tensor (name of one byte, number
// of dimensions, one of them, type, offset) take.
constexpr uint64_t kMinEntryBytes = 8 + 1 + 4 + 1;
constexpr uint64_t kMinTensorBytes = 8 + 1 + 4 + 8 + 4 + 8;

std::string FormatNames() {
  std::string names;
  for (const FormatInfo& format : AllFormats()) {
    names += names.empty() ? "" : ", ";
    names += format.name;
  }
  return names;
}

}  // namespace

class GgufParser {
 public:
  GgufParser(std::span<const std::byte> bytes, GgufFile& file) : reader_(bytes), file_(file) {
    file.bytes_ = bytes;
  }

  Status Parse() {
    LARDER_TRY(Header());
    for (uint64_t i = 0; i < entry_count_; ++i) LARDER_TRY(Entry(static_cast<int64_t>(i)));
    LARDER_TRY(Alignment());
    for (uint64_t i = 0; i < tensor_count_; ++i) LARDER_TRY(Tensor(static_cast<int64_t>(i)));
    return Data();
  }

 private:
  Status Header();
  Status Version(uint32_t version);
  Status CheckCount(std::string_view what, uint64_t count, uint64_t min_bytes, uint64_t limit) const;
  Status Entry(int64_t index);
  Status Alignment();
  Status Tensor(int64_t index);
  Status Shape(GgufTensor& tensor);
  Status Format(GgufTensor& tensor);
  Status Data();
  Status Overlaps() const;

  GgufReader reader_;
  GgufValueReader values_{reader_};
  GgufFile& file_;
  uint64_t tensor_count_ = 0, entry_count_ = 0, alignment_ = kDefaultAlignment;
  std::vector<uint64_t> offsets_;  // of the tensors, from the start of the data section
};

Status GgufParser::Header() {
  LARDER_ASSIGN(const auto magic, reader_.Bytes(kMagic.size(), {.what = "magic number"}));
  const std::string_view found(reinterpret_cast<const char*>(magic.data()), magic.size());
  if (found != kMagic) {
    return Fail(ErrorKind::kInvalid, "this is no GGUF file: its magic number is {} and not \"GGUF\"",
                Quoted(found));
  }
  LARDER_ASSIGN(const auto version, reader_.Number<uint32_t>({.what = "version"}));
  LARDER_TRY(Version(version));
  LARDER_ASSIGN(tensor_count_, reader_.Number<uint64_t>({.what = "tensor count"}));
  LARDER_ASSIGN(entry_count_, reader_.Number<uint64_t>({.what = "metadata count"}));
  LARDER_TRY(CheckCount("metadata count", entry_count_, kMinEntryBytes, kMaxEntries));
  return CheckCount("tensor count", tensor_count_, kMinTensorBytes, kMaxTensors);
}

Status GgufParser::Version(uint32_t version) {
  if (version == 2 || version == 3) {
    file_.version_ = static_cast<int>(version);
    return {};
  }
  // A small number in the top bytes is a small number written the other way round.
  if (version != 0 && (version & 0xffffu) == 0) {
    return Fail(
        ErrorKind::kUnsupported,
        "the version field says that this GGUF file is big-endian; convert it to little-endian first");
  }
  return Fail(ErrorKind::kUnsupported,
              "GGUF version {} is not supported, versions 2 and 3 are; convert the file again", version);
}

Status GgufParser::CheckCount(std::string_view what, uint64_t count, uint64_t min_bytes,
                              uint64_t limit) const {
  if (count > limit || count > reader_.remaining() / min_bytes) {
    return Fail(ErrorKind::kCorrupt, "the {} is {}, but only {} bytes follow and at most {} are read", what,
                count, reader_.remaining(), limit);
  }
  return {};
}

Status GgufParser::Entry(int64_t index) {
  const GgufField key_field{.what = "key", .owner = "metadata entry", .index = index};
  LARDER_ASSIGN(const auto key, reader_.String(key_field));
  if (key.empty() || key.size() > kMaxKeyBytes) {
    return Fail(ErrorKind::kCorrupt, "the {} has {} bytes, 1 to {} are allowed", key_field.Text(), key.size(),
                kMaxKeyBytes);
  }
  if (!file_.metadata_index_.emplace(key, file_.metadata_.size()).second) {
    return Fail(ErrorKind::kCorrupt, "the key {} of metadata entry {} is there twice", Quoted(key), index);
  }
  const uint64_t start = reader_.position();
  LARDER_ASSIGN(const auto type,
                reader_.Number<uint32_t>({.what = "value type", .owner = "key", .name = key}));
  LARDER_ASSIGN(auto value, values_.Read(type, key));
  file_.raw_values_.push_back(file_.bytes_.subspan(start, reader_.position() - start));
  file_.metadata_.emplace_back(std::string(key), std::move(value));
  return {};
}

Status GgufParser::Alignment() {
  constexpr std::string_view kKey = "general.alignment";
  if (file_.Find(kKey) == nullptr) return {};
  LARDER_ASSIGN(const int64_t alignment, file_.Int(kKey, 1, kMaxAlignment));
  alignment_ = static_cast<uint64_t>(alignment);
  if (!std::has_single_bit(alignment_)) {
    return Fail(ErrorKind::kCorrupt, "the value of key \"{}\" is {}, which is no power of two", kKey,
                alignment_);
  }
  return {};
}

Status GgufParser::Tensor(int64_t index) {
  const GgufField name_field{.what = "name", .owner = "tensor", .index = index};
  LARDER_ASSIGN(const auto name, reader_.String(name_field));
  if (name.empty() || name.size() > kMaxTensorNameBytes) {
    return Fail(ErrorKind::kCorrupt, "the {} has {} bytes, 1 to {} are allowed", name_field.Text(),
                name.size(), kMaxTensorNameBytes);
  }
  if (!file_.tensor_index_.emplace(name, file_.tensors_.size()).second) {
    return Fail(ErrorKind::kCorrupt, "the name of tensor {} is {}, which is there twice", index,
                Quoted(name));
  }
  GgufTensor tensor{.name = std::string(name), .shape = {}, .format = nullptr, .data = nullptr, .bytes = 0};
  LARDER_TRY(Shape(tensor));
  LARDER_TRY(Format(tensor));
  LARDER_ASSIGN(const auto offset,
                reader_.Number<uint64_t>({.what = "offset", .owner = "tensor", .name = name}));
  if (offset % alignment_ != 0) {
    return Fail(ErrorKind::kCorrupt, "the offset of tensor {} is {}, no multiple of the alignment {}",
                Quoted(name), offset, alignment_);
  }
  offsets_.push_back(offset);
  file_.tensors_.push_back(std::move(tensor));
  return {};
}

Status GgufParser::Shape(GgufTensor& tensor) {
  LARDER_ASSIGN(
      const auto dimensions,
      reader_.Number<uint32_t>({.what = "number of dimensions", .owner = "tensor", .name = tensor.name}));
  if (dimensions < 1 || dimensions > 4) {
    return Fail(ErrorKind::kCorrupt, "tensor {} has {} dimensions, 1 to 4 are allowed", Quoted(tensor.name),
                dimensions);
  }
  constexpr auto kMost = static_cast<uint64_t>(std::numeric_limits<int64_t>::max());
  uint64_t elements = 1;
  for (uint32_t i = 0; i < dimensions; ++i) {
    LARDER_ASSIGN(const auto size,
                  reader_.Number<uint64_t>({.what = "dimension", .owner = "tensor", .name = tensor.name}));
    if (size == 0 || size > kMost / elements) {
      return Fail(ErrorKind::kCorrupt, "dimension {} of tensor {} is {}: {}", i, Quoted(tensor.name), size,
                  size == 0 ? "a tensor cannot be empty" : "its elements cannot be counted");
    }
    elements *= size;
    tensor.shape.push_back(size);
  }
  return {};
}

Status GgufParser::Format(GgufTensor& tensor) {
  LARDER_ASSIGN(const auto type,
                reader_.Number<uint32_t>({.what = "type", .owner = "tensor", .name = tensor.name}));
  tensor.format = FindFormat(type);
  if (tensor.format == nullptr) {
    return Fail(ErrorKind::kUnsupported, "tensor {} has type {}, which Larder does not read; it reads {}",
                Quoted(tensor.name), type, FormatNames());
  }
  auto row = RowBytes(*tensor.format, tensor.shape[0]);
  if (!row) return Fail(ErrorKind::kCorrupt, "tensor {}: {}", Quoted(tensor.name), row.error().message);
  const auto rows = static_cast<uint64_t>(tensor.rows());
  if (rows > std::numeric_limits<uint64_t>::max() / *row) {
    return Fail(ErrorKind::kCorrupt, "tensor {} has {} rows of {} bytes, more than can be counted",
                Quoted(tensor.name), rows, *row);
  }
  tensor.bytes = rows * *row;
  return {};
}

Status GgufParser::Data() {
  if (file_.tensors_.empty()) return {};
  const uint64_t size = file_.bytes_.size();
  const uint64_t start = (reader_.position() + alignment_ - 1) / alignment_ * alignment_;
  const uint64_t available = start < size ? size - start : 0;
  for (size_t i = 0; i < file_.tensors_.size(); ++i) {
    GgufTensor& tensor = file_.tensors_[i];
    if (offsets_[i] > available || tensor.bytes > available - offsets_[i]) {
      return Fail(ErrorKind::kCorrupt,
                  "the data of tensor {} ({} bytes at offset {}) reaches past the end of the file, whose "
                  "data section "
                  "has {} bytes; the file is cut or damaged, fetch it again",
                  Quoted(tensor.name), tensor.bytes, offsets_[i], available);
    }
    tensor.data = file_.bytes_.data() + start + offsets_[i];
  }
  return Overlaps();
}

Status GgufParser::Overlaps() const {
  std::vector<const GgufTensor*> order;
  for (const GgufTensor& tensor : file_.tensors_) order.push_back(&tensor);
  std::ranges::sort(order, {}, &GgufTensor::data);
  for (size_t i = 1; i < order.size(); ++i) {
    if (order[i - 1]->data + order[i - 1]->bytes > order[i]->data) {
      return Fail(ErrorKind::kCorrupt, "the data of tensor {} overlaps that of tensor {}",
                  Quoted(order[i]->name), Quoted(order[i - 1]->name));
    }
  }
  return {};
}

Result<std::unique_ptr<GgufFile>> GgufFile::Parse(std::span<const std::byte> bytes) {
  std::unique_ptr<GgufFile> file(new GgufFile());
  LARDER_TRY(GgufParser(bytes, *file).Parse());
  return file;
}

Result<std::unique_ptr<GgufFile>> GgufFile::Open(const std::string& path) {
  LARDER_ASSIGN(auto mapped, MappedFile::Open(path));
  auto file = Parse(mapped->bytes());
  if (!file) return Fail(file.error().kind, "{}: {}", path, file.error().message);
  (*file)->file_ = std::move(mapped);
  return file;
}

}  // namespace larder
