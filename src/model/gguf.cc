// Look-ups in a parsed file, and the texts of its errors. Parsing is in gguf_parser.cc.
#include "model/gguf.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <type_traits>

#include "model/gguf_reader.h"

namespace larder {
namespace {

// What a value is, for an error message.
std::string Describe(const GgufValue& value) {
  return std::visit(
      [](const auto& v) -> std::string {
        using T = std::decay_t<decltype(v)>;
        if constexpr (std::is_same_v<T, std::string_view>) {
          return fmt::format("the string {}", Quoted(v));
        } else if constexpr (std::is_same_v<T, std::shared_ptr<const GgufArray>>) {
          static constexpr std::string_view kKinds[] = {"unsigned integers", "integers", "floats",
                                                        "truth values", "strings"};
          const size_t size = std::visit([](const auto& list) { return list.size(); }, v->values);
          return fmt::format("an array of {} {}", size, kKinds[v->values.index()]);
        } else if constexpr (std::is_same_v<T, bool>) {
          return v ? "the truth value true" : "the truth value false";
        } else if constexpr (std::is_same_v<T, double>) {
          return fmt::format("the float {}", v);
        } else {
          return fmt::format("the integer {}", v);
        }
      },
      value);
}

std::unexpected<Error> Missing(std::string_view key, std::string_view expected) {
  return Fail(ErrorKind::kNotFound, "the file's metadata has no key \"{}\"; expected {}", key, expected);
}

std::unexpected<Error> WrongType(std::string_view key, std::string_view expected, const GgufValue& found) {
  return Fail(ErrorKind::kInvalid, "the value of key \"{}\" is {}; expected {}", key, Describe(found),
              expected);
}

// Any integer that fits 64 bits with a sign.
std::optional<int64_t> AsInt(const GgufValue& value) {
  if (const auto* plain = std::get_if<int64_t>(&value)) return *plain;
  if (const auto* plain = std::get_if<uint64_t>(&value); plain && std::in_range<int64_t>(*plain)) {
    return static_cast<int64_t>(*plain);
  }
  return std::nullopt;
}

// Any finite number; whole numbers are numbers too.
std::optional<double> AsFloat(const GgufValue& value) {
  if (const auto* plain = std::get_if<double>(&value); plain && std::isfinite(*plain)) return *plain;
  if (const auto* plain = std::get_if<int64_t>(&value)) return static_cast<double>(*plain);
  if (const auto* plain = std::get_if<uint64_t>(&value)) return static_cast<double>(*plain);
  return std::nullopt;
}

template <class T>
const std::vector<T>* AsArray(const GgufValue& value) {
  const auto* array = std::get_if<std::shared_ptr<const GgufArray>>(&value);
  return array ? std::get_if<std::vector<T>>(&(*array)->values) : nullptr;
}

}  // namespace

std::string Quoted(std::string_view bytes) {
  constexpr size_t kMost = 80;
  std::string text = "\"";
  for (const char c : bytes) {
    if (text.size() >= kMost) return text + "...\"";
    const bool printable = c >= ' ' && c <= '~' && c != '"' && c != '\\';
    if (printable) {
      text += c;
    } else {
      text += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
    }
  }
  return text + '"';
}

std::string GgufField::Text() const {
  if (owner.empty()) return std::string(what);
  if (index >= 0) return fmt::format("{} of {} {}", what, owner, index);
  return fmt::format("{} of {} {}", what, owner, Quoted(name));
}

std::unexpected<Error> GgufReader::Short(uint64_t wanted, const GgufField& field) const {
  return Fail(ErrorKind::kCorrupt,
              "the file ends inside the {}: {} bytes wanted at byte {}, {} are left; it is cut or damaged, "
              "fetch it again",
              field.Text(), wanted, position_, remaining());
}

int64_t GgufTensor::rows() const {
  uint64_t product = 1;
  for (size_t i = 1; i < shape.size(); ++i) product *= shape[i];
  return static_cast<int64_t>(product);
}

const GgufValue* GgufFile::Find(std::string_view key) const {
  const auto found = metadata_index_.find(std::string(key));
  return found == metadata_index_.end() ? nullptr : &metadata_[found->second].second;
}

const GgufTensor* GgufFile::FindTensor(std::string_view name) const {
  const auto found = tensor_index_.find(std::string(name));
  return found == tensor_index_.end() ? nullptr : &tensors_[found->second];
}

Result<std::string_view> GgufFile::String(std::string_view key) const {
  const GgufValue* value = Find(key);
  if (value == nullptr) return Missing(key, "a string");
  if (const auto* text = std::get_if<std::string_view>(value)) return *text;
  return WrongType(key, "a string", *value);
}

Result<int64_t> GgufFile::Int(std::string_view key, int64_t min, int64_t max) const {
  const std::string expected = fmt::format("an integer from {} to {}", min, max);
  const GgufValue* value = Find(key);
  if (value == nullptr) return Missing(key, expected);
  const auto number = AsInt(*value);
  if (!number || *number < min || *number > max) return WrongType(key, expected, *value);
  return *number;
}

Result<double> GgufFile::Float(std::string_view key) const {
  const GgufValue* value = Find(key);
  if (value == nullptr) return Missing(key, "a number");
  if (const auto number = AsFloat(*value)) return *number;
  return WrongType(key, "a finite number", *value);
}

int64_t GgufFile::IntOr(std::string_view key, int64_t fallback) const {
  const GgufValue* value = Find(key);
  return value ? AsInt(*value).value_or(fallback) : fallback;
}

double GgufFile::FloatOr(std::string_view key, double fallback) const {
  const GgufValue* value = Find(key);
  return value ? AsFloat(*value).value_or(fallback) : fallback;
}

bool GgufFile::BoolOr(std::string_view key, bool fallback) const {
  const GgufValue* value = Find(key);
  const bool* truth = value ? std::get_if<bool>(value) : nullptr;
  return truth ? *truth : fallback;
}

std::string_view GgufFile::StringOr(std::string_view key, std::string_view fallback) const {
  const GgufValue* value = Find(key);
  const auto* text = value ? std::get_if<std::string_view>(value) : nullptr;
  return text ? *text : fallback;
}

Result<std::span<const std::string_view>> GgufFile::Strings(std::string_view key) const {
  const GgufValue* value = Find(key);
  if (value == nullptr) return Missing(key, "an array of strings");
  if (const auto* list = AsArray<std::string_view>(*value)) return std::span(*list);
  return WrongType(key, "an array of strings", *value);
}

Result<std::vector<int64_t>> GgufFile::Ints(std::string_view key) const {
  const GgufValue* value = Find(key);
  if (value == nullptr) return Missing(key, "an array of integers");
  if (const auto* list = AsArray<int64_t>(*value)) return *list;
  const auto* list = AsArray<uint64_t>(*value);
  if (list == nullptr) return WrongType(key, "an array of integers", *value);
  const auto big = std::ranges::find_if(*list, [](uint64_t v) { return !std::in_range<int64_t>(v); });
  if (big != list->end()) {
    return Fail(ErrorKind::kInvalid,
                "element {} of key \"{}\" is {}, which does not fit a signed integer of 64 bits",
                big - list->begin(), key, *big);
  }
  return std::vector<int64_t>(list->begin(), list->end());
}

Result<std::vector<float>> GgufFile::Floats(std::string_view key) const {
  const GgufValue* value = Find(key);
  if (value == nullptr) return Missing(key, "an array of floats");
  const auto* list = AsArray<double>(*value);
  if (list == nullptr) return WrongType(key, "an array of floats", *value);
  return std::vector<float>(list->begin(), list->end());
}

Result<const GgufTensor*> GgufFile::Tensor(std::string_view name,
                                           std::initializer_list<int64_t> shape) const {
  const std::string expected = fmt::format("[{}]", fmt::join(shape, ", "));
  const GgufTensor* tensor = FindTensor(name);
  if (tensor == nullptr) {
    return Fail(ErrorKind::kNotFound, "the file has no tensor \"{}\"; expected one of shape {}", name,
                expected);
  }
  const auto same = [](uint64_t found, int64_t wanted) { return std::cmp_equal(found, wanted); };
  if (!std::ranges::equal(tensor->shape, shape, same)) {
    return Fail(ErrorKind::kInvalid, "tensor \"{}\" has shape [{}]; expected {}", name,
                fmt::join(tensor->shape, ", "), expected);
  }
  return tensor;
}

}  // namespace larder
