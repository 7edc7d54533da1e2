// Builds GGUF files in memory, for tests. It remembers where each field lies, so that a test can break any of
// them.
//
//   GgufWriter writer;
//   writer.String("general.architecture", "llama").U32("llama.block_count", 2);
//   writer.Tensor("output_norm.weight", {64}, TensorType::kF32, bytes);
//   std::vector<std::byte> file = writer.Build();
#pragma once

#include <cstdint>
#include <cstring>
#include <fstream>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "compute/formats.h"

namespace larder {

class GgufWriter {
 public:
  enum class FieldKind {
    kMagic,
    kVersion,
    kCount,
    kLength,
    kBytes,
    kType,
    kValue,
    kDimensions,
    kDimension,
    kTensorType,
    kOffset,
    kData
  };
  struct Field {
    FieldKind kind;
    size_t at, size;
    std::string name;  // of the key or tensor it belongs to; "" in the header
    bool in_array = false;
  };

  explicit GgufWriter(uint32_t version = 3, uint64_t alignment = 32)
      : version_(version), alignment_(alignment) {
    if (alignment != 32) U32("general.alignment", static_cast<uint32_t>(alignment));
  }

  GgufWriter& U8(std::string key, uint8_t v) { return Number(std::move(key), 0, v); }
  GgufWriter& I8(std::string key, int8_t v) { return Number(std::move(key), 1, v); }
  GgufWriter& U16(std::string key, uint16_t v) { return Number(std::move(key), 2, v); }
  GgufWriter& I16(std::string key, int16_t v) { return Number(std::move(key), 3, v); }
  GgufWriter& U32(std::string key, uint32_t v) { return Number(std::move(key), 4, v); }
  GgufWriter& I32(std::string key, int32_t v) { return Number(std::move(key), 5, v); }
  GgufWriter& F32(std::string key, float v) { return Number(std::move(key), 6, v); }
  GgufWriter& Bool(std::string key, bool v) { return Number(std::move(key), 7, static_cast<uint8_t>(v)); }
  GgufWriter& U64(std::string key, uint64_t v) { return Number(std::move(key), 10, v); }
  GgufWriter& I64(std::string key, int64_t v) { return Number(std::move(key), 11, v); }
  GgufWriter& F64(std::string key, double v) { return Number(std::move(key), 12, v); }
  GgufWriter& String(std::string key, std::string value) {
    return Add({std::move(key), 8, 8, false, 1, {std::move(value)}});
  }

  // An array of numbers; its element type follows from T (truth values are Bools).
  template <class T>
  GgufWriter& Array(std::string key, const std::vector<T>& values) {
    return Add({std::move(key), 9, TypeNumber<T>(), true, values.size(), {Raw(std::span<const T>(values))}});
  }
  GgufWriter& Bools(std::string key, const std::vector<uint8_t>& values) {
    return Add({std::move(key), 9, 7, true, values.size(), {Raw(std::span<const uint8_t>(values))}});
  }
  GgufWriter& Strings(std::string key, std::vector<std::string> values) {
    const size_t count = values.size();
    return Add({std::move(key), 9, 8, true, count, std::move(values)});
  }

  // `bytes` as they lie in the file. The offset is the next free aligned place.
  GgufWriter& Tensor(std::string name, std::vector<uint64_t> shape, TensorType type,
                     std::vector<uint8_t> bytes) {
    tensors_.push_back({std::move(name), std::move(shape), type, std::move(bytes)});
    return *this;
  }
  GgufWriter& Tensor(std::string name, std::vector<uint64_t> shape, std::span<const float> values) {
    std::vector<uint8_t> bytes(values.size_bytes());
    if (!bytes.empty()) std::memcpy(bytes.data(), values.data(), bytes.size());
    return Tensor(std::move(name), std::move(shape), TensorType::kF32, std::move(bytes));
  }

  std::vector<std::byte> Build() {
    out_.clear();
    fields_.clear();
    name_.clear();
    PutBytes(FieldKind::kMagic, "GGUF");
    Put(FieldKind::kVersion, version_);
    Put(FieldKind::kCount, static_cast<uint64_t>(tensors_.size()));
    Put(FieldKind::kCount, static_cast<uint64_t>(entries_.size()));
    for (const Entry& entry : entries_) PutEntry(entry);
    uint64_t offset = 0;
    for (const TensorEntry& tensor : tensors_) {
      PutTensor(tensor, offset);
      offset = Aligned(offset + tensor.bytes.size());
    }
    for (const TensorEntry& tensor : tensors_) {
      out_.resize(Aligned(out_.size()));
      name_ = tensor.name;
      PutBytes(FieldKind::kData,
               std::string_view(reinterpret_cast<const char*>(tensor.bytes.data()), tensor.bytes.size()));
    }
    return out_;
  }
  // Of the last Build(), in the order of the file.
  const std::vector<Field>& fields() const { return fields_; }

  bool WriteTo(const std::string& path) {
    const std::vector<std::byte> bytes = Build();
    std::ofstream file(path, std::ios::binary);
    file.write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
    return file.good();
  }

 private:
  struct Entry {
    std::string key;
    uint32_t type, element_type;
    bool is_array;
    uint64_t count;
    std::vector<std::string> values;  // each string, or the bytes of all numbers
  };
  struct TensorEntry {
    std::string name;
    std::vector<uint64_t> shape;
    TensorType type;
    std::vector<uint8_t> bytes;
  };

  template <class T>
  static constexpr uint32_t TypeNumber() {
    if constexpr (std::is_same_v<T, float>) return 6;
    if constexpr (std::is_same_v<T, double>) return 12;
    constexpr uint32_t kUnsigned[] = {0, 2, 4, 10};
    constexpr int kLog = sizeof(T) == 1 ? 0 : sizeof(T) == 2 ? 1 : sizeof(T) == 4 ? 2 : 3;
    return kUnsigned[kLog] + (std::is_signed_v<T> ? 1 : 0);
  }
  template <class T>
  static std::string Raw(std::span<const T> values) {
    return std::string(reinterpret_cast<const char*>(values.data()), values.size_bytes());
  }
  template <class T>
  GgufWriter& Number(std::string key, uint32_t type, T value) {
    return Add({std::move(key), type, type, false, 1, {Raw(std::span<const T>(&value, 1))}});
  }
  GgufWriter& Add(Entry entry) {
    entries_.push_back(std::move(entry));
    return *this;
  }
  uint64_t Aligned(uint64_t offset) const { return (offset + alignment_ - 1) / alignment_ * alignment_; }

  void PutBytes(FieldKind kind, std::string_view bytes, bool in_array = false) {
    fields_.push_back({kind, out_.size(), bytes.size(), name_, in_array});
    const auto* begin = reinterpret_cast<const std::byte*>(bytes.data());
    out_.insert(out_.end(), begin, begin + bytes.size());
  }
  template <class T>
  void Put(FieldKind kind, T value, bool in_array = false) {
    PutBytes(kind, std::string_view(reinterpret_cast<const char*>(&value), sizeof(T)), in_array);
  }
  void PutString(std::string_view text, bool in_array = false) {
    Put(FieldKind::kLength, static_cast<uint64_t>(text.size()), in_array);
    PutBytes(FieldKind::kBytes, text, in_array);
  }
  void PutEntry(const Entry& entry) {
    name_.clear();  // a broken key has no name yet
    PutString(entry.key);
    name_ = entry.key;
    Put(FieldKind::kType, entry.type);
    if (entry.is_array) {
      Put(FieldKind::kType, entry.element_type, true);
      Put(FieldKind::kCount, entry.count, true);
    }
    for (const std::string& value : entry.values) {
      if (entry.element_type == 8) {
        PutString(value, entry.is_array);
      } else {
        PutBytes(FieldKind::kValue, value, entry.is_array);
      }
    }
  }
  void PutTensor(const TensorEntry& tensor, uint64_t offset) {
    name_.clear();
    PutString(tensor.name);
    name_ = tensor.name;
    Put(FieldKind::kDimensions, static_cast<uint32_t>(tensor.shape.size()));
    for (const uint64_t size : tensor.shape) Put(FieldKind::kDimension, size);
    Put(FieldKind::kTensorType, static_cast<uint32_t>(tensor.type));
    Put(FieldKind::kOffset, offset);
  }

  uint32_t version_;
  uint64_t alignment_;
  std::vector<Entry> entries_;
  std::vector<TensorEntry> tensors_;
  std::vector<std::byte> out_;
  std::vector<Field> fields_;
  std::string name_;
};

}  // namespace larder
