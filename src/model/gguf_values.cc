#include "model/gguf_values.h"

#include <fmt/format.h>

namespace larder {
namespace {

// Of all arrays of a file together: far above every published file, it bounds what a hostile one can make us
// allocate (16 bytes an element).
constexpr uint64_t kMaxArrayElements = 1u << 24;

enum class ValueType : uint32_t {
  kU8 = 0,
  kI8 = 1,
  kU16 = 2,
  kI16 = 3,
  kU32 = 4,
  kI32 = 5,
  kF32 = 6,
  kBool = 7,
  kString = 8,
  kArray = 9,
  kU64 = 10,
  kI64 = 11,
  kF64 = 12,
};

// The fewest bytes an element takes; 0 for what is no element type.
uint64_t MinBytes(ValueType type) {
  switch (type) {
    case ValueType::kU8:
    case ValueType::kI8:
    case ValueType::kBool:
      return 1;
    case ValueType::kU16:
    case ValueType::kI16:
      return 2;
    case ValueType::kU32:
    case ValueType::kI32:
    case ValueType::kF32:
      return 4;
    case ValueType::kU64:
    case ValueType::kI64:
    case ValueType::kF64:
    case ValueType::kString:
      return 8;
    case ValueType::kArray:
      break;
  }
  return 0;
}

// Calls function<type in the file, type in GgufValue>() for a number's type.
template <class Function>
Result<GgufValue> WithNumberType(ValueType type, Function&& function) {
  switch (type) {
    case ValueType::kU8:
      return function.template operator()<uint8_t, uint64_t>();
    case ValueType::kI8:
      return function.template operator()<int8_t, int64_t>();
    case ValueType::kU16:
      return function.template operator()<uint16_t, uint64_t>();
    case ValueType::kI16:
      return function.template operator()<int16_t, int64_t>();
    case ValueType::kU32:
      return function.template operator()<uint32_t, uint64_t>();
    case ValueType::kI32:
      return function.template operator()<int32_t, int64_t>();
    case ValueType::kF32:
      return function.template operator()<float, double>();
    case ValueType::kU64:
      return function.template operator()<uint64_t, uint64_t>();
    case ValueType::kI64:
      return function.template operator()<int64_t, int64_t>();
    case ValueType::kF64:
      return function.template operator()<double, double>();
    case ValueType::kBool:
    case ValueType::kString:
    case ValueType::kArray:
      break;
  }
  LARDER_CHECK(!"a number's type");
  return {};
}

}  // namespace

Result<GgufValue> GgufValueReader::Read(uint32_t type, std::string_view key) {
  const GgufField field{.what = "value", .owner = "key", .name = key};
  switch (static_cast<ValueType>(type)) {
    case ValueType::kBool:
      return Bool(field);
    case ValueType::kString:
      return reader_.String(field);
    case ValueType::kArray:
      return Array(key);
    default:
      break;
  }
  if (MinBytes(static_cast<ValueType>(type)) == 0) {
    return Fail(ErrorKind::kCorrupt,
                "the value type of key {} is {}, which GGUF does not know (0 to 12 exist)", Quoted(key),
                type);
  }
  return WithNumberType(static_cast<ValueType>(type), [&]<class File, class Kept>() -> Result<GgufValue> {
    LARDER_ASSIGN(const File value, reader_.Number<File>(field));
    return GgufValue(static_cast<Kept>(value));
  });
}

Result<bool> GgufValueReader::Bool(const GgufField& field) {
  LARDER_ASSIGN(const auto byte, reader_.Number<uint8_t>(field));
  if (byte > 1)
    return Fail(ErrorKind::kCorrupt, "the {} is a truth value of {}, neither 0 nor 1", field.Text(), byte);
  return byte == 1;
}

Result<GgufValue> GgufValueReader::Array(std::string_view key) {
  const GgufField field{.what = "array", .owner = "key", .name = key};
  LARDER_ASSIGN(const auto raw_type,
                reader_.Number<uint32_t>({.what = "element type of the array", .owner = "key", .name = key}));
  const auto type = static_cast<ValueType>(raw_type);
  if (type == ValueType::kArray) {
    return Fail(ErrorKind::kUnsupported, "the {} holds arrays; nested arrays are not supported",
                field.Text());
  }
  const uint64_t min_bytes = MinBytes(type);
  if (min_bytes == 0) {
    return Fail(ErrorKind::kCorrupt,
                "the element type of the {} is {}, which GGUF does not know (0 to 12 exist)", field.Text(),
                raw_type);
  }
  LARDER_ASSIGN(const auto count,
                reader_.Number<uint64_t>({.what = "length of the array", .owner = "key", .name = key}));
  if (count > reader_.remaining() / min_bytes) {
    return Fail(ErrorKind::kCorrupt, "the length of the {} is {}, but only {} bytes follow", field.Text(),
                count, reader_.remaining());
  }
  if (count > kMaxArrayElements - array_elements_) {
    return Fail(ErrorKind::kUnsupported,
                "the length of the {} is {}; a file's arrays may have {} elements together", field.Text(),
                count, kMaxArrayElements);
  }
  array_elements_ += count;
  if (type == ValueType::kBool) return Bools(count, field);
  if (type == ValueType::kString) return Strings(count, field);
  return WithNumberType(type, [&]<class File, class Kept>() { return Numbers<File, Kept>(count, field); });
}

template <class File, class Kept>
Result<GgufValue> GgufValueReader::Numbers(uint64_t count, const GgufField& field) {
  LARDER_ASSIGN(const auto bytes, reader_.Bytes(count * sizeof(File), field));
  std::vector<Kept> values(count);
  for (uint64_t i = 0; i < count; ++i) {
    File value;
    std::memcpy(&value, bytes.data() + i * sizeof(File), sizeof(File));
    values[i] = static_cast<Kept>(value);
  }
  return std::make_shared<const GgufArray>(std::move(values));
}

Result<GgufValue> GgufValueReader::Strings(uint64_t count, const GgufField& field) {
  std::vector<std::string_view> values(count);
  for (std::string_view& value : values) {
    LARDER_ASSIGN(value, reader_.String(field));
  }
  return std::make_shared<const GgufArray>(std::move(values));
}

Result<GgufValue> GgufValueReader::Bools(uint64_t count, const GgufField& field) {
  std::vector<bool> values(count);
  for (uint64_t i = 0; i < count; ++i) {
    LARDER_ASSIGN(values[i], Bool(field));
  }
  return std::make_shared<const GgufArray>(std::move(values));
}

}  // namespace larder
