// GGUF files, versions 2 and 3, read in place. Every count, offset, length and type is checked before it is
// used; a broken file gives one sentence that names the field.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <variant>
#include <vector>

#include "base/file.h"
#include "base/result.h"
#include "compute/formats.h"

namespace larder {

struct GgufTensor {
  std::string name;
  std::vector<uint64_t> shape;  // innermost first, 1 to 4 dimensions
  const FormatInfo* format;
  const std::byte* data;  // inside the mapped file
  uint64_t bytes;

  int64_t inner() const { return static_cast<int64_t>(shape[0]); }
  int64_t rows() const;  // product of all other dimensions
};

// A metadata value. Strings and arrays view the mapped file.
struct GgufArray;
using GgufValue =
    std::variant<uint64_t, int64_t, double, bool, std::string_view, std::shared_ptr<const GgufArray>>;
struct GgufArray {
  std::variant<std::vector<uint64_t>, std::vector<int64_t>, std::vector<double>, std::vector<bool>,
               std::vector<std::string_view>>
      values;  // nested arrays are refused
};

class GgufFile {
 public:
  // kInvalid/kCorrupt/kUnsupported with the field's name; kNotFound, kIo.
  static Result<std::unique_ptr<GgufFile>> Open(const std::string& path);
  // The same over bytes that outlive the result (tests, fuzzer).
  static Result<std::unique_ptr<GgufFile>> Parse(std::span<const std::byte> bytes);

  int version() const { return version_; }
  const GgufValue* Find(std::string_view key) const;  // nullptr: absent
  const GgufTensor* FindTensor(std::string_view name) const;
  const std::vector<std::pair<std::string, GgufValue>>& metadata() const { return metadata_; }
  const std::vector<GgufTensor>& tensors() const { return tensors_; }
  std::span<const std::byte> bytes() const { return bytes_; }
  const MappedFile* mapped() const { return file_.get(); }  // nullptr: parsed from bytes
  // Type and value of metadata()[i] as they lie in the file, for writing them again.
  std::span<const std::byte> RawValue(size_t i) const { return raw_values_[i]; }

  // Typed look-ups; the error names the key and what was found. Integers of any width and sign convert when
  // they fit.
  Result<std::string_view> String(std::string_view key) const;
  Result<int64_t> Int(std::string_view key, int64_t min, int64_t max) const;
  Result<double> Float(std::string_view key) const;
  int64_t IntOr(std::string_view key, int64_t fallback) const;  // fallback when absent or of another type
  double FloatOr(std::string_view key, double fallback) const;
  bool BoolOr(std::string_view key, bool fallback) const;
  std::string_view StringOr(std::string_view key, std::string_view fallback) const;
  Result<std::span<const std::string_view>> Strings(std::string_view key) const;
  Result<std::vector<int64_t>> Ints(std::string_view key) const;  // array of any integer type
  Result<std::vector<float>> Floats(std::string_view key) const;  // array of any float type

  // A tensor of exactly this shape (innermost first); the error names tensor and both shapes.
  Result<const GgufTensor*> Tensor(std::string_view name, std::initializer_list<int64_t> shape) const;

 private:
  GgufFile() = default;
  friend class GgufParser;
  int version_ = 0;
  std::unique_ptr<MappedFile> file_;
  std::span<const std::byte> bytes_;
  std::vector<std::pair<std::string, GgufValue>> metadata_;
  std::vector<std::span<const std::byte>> raw_values_;
  std::vector<GgufTensor> tensors_;
  std::unordered_map<std::string, size_t> metadata_index_, tensor_index_;
};

}  // namespace larder
