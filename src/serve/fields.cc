#include "serve/fields.h"

#include <charconv>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

namespace larder {

using Json = nlohmann::ordered_json;
using Type = FieldSpec::Type;

std::string_view FieldTypeText(Type type) {
  switch (type) {
    case Type::kBool:
      return "a boolean";
    case Type::kInt:
      return "an integer";
    case Type::kFloat:
      return "a number";
    case Type::kString:
      return "a string";
    case Type::kStrings:
      return "a string or a list of strings";
    case Type::kTokens:
      return "a list of token numbers";
    case Type::kPrompt:
      return "a string, a list of strings, a list of token numbers or a list of such lists";
    case Type::kBiases:
      return "an object from token numbers to numbers";
    case Type::kObject:
    case Type::kAnyObject:
      return "an object";
    case Type::kAnyArray:
      return "a list";
    case Type::kAny:
      return "a value";
  }
  return "";
}

namespace {

constexpr size_t kMaxStops = 256;
constexpr uint64_t kMaxMemberSearches = 50'000'000;  // about a second
constexpr size_t kMaxParserMessage = 200;

std::string KindOf(const Json& value) {
  if (value.is_boolean()) return "a boolean";
  if (value.is_number_integer()) return "an integer";
  if (value.is_number()) return "a number";
  if (value.is_string()) return "a string";
  if (value.is_array()) return "a list";
  if (value.is_object()) return "an object";
  return "null";
}

std::unexpected<ApiError> WrongType(const std::string& name, Type type, const Json& value) {
  return BadField(name, "'{}' must be {}, not {}.", name, FieldTypeText(type), KindOf(value));
}

// An integer, also one written as 5.0. nullopt: not an integer, or outside int64.
std::optional<int64_t> AsInt(const Json& value) {
  if (value.is_number_unsigned()) {
    const auto number = value.get<uint64_t>();
    if (number > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) return std::nullopt;
    return static_cast<int64_t>(number);
  }
  if (value.is_number_integer()) return value.get<int64_t>();
  if (value.is_number_float()) {
    const auto number = value.get<double>();
    if (std::floor(number) == number && std::abs(number) < 9.0e15) return static_cast<int64_t>(number);
  }
  return std::nullopt;
}

ApiStatus ReadTokens(const std::string& name, const Json& value, std::vector<int32_t>& out) {
  out.clear();
  out.reserve(value.size());
  for (const Json& element : value) {
    const std::optional<int64_t> token = AsInt(element);
    if (!token)
      return BadField(name, "'{}' must be a list of token numbers, but holds {}.", name, KindOf(element));
    if (*token < 0 || *token > std::numeric_limits<int32_t>::max()) {
      return BadField(name, "'{}' holds the token number {}, which is outside the vocabulary.", name, *token);
    }
    out.push_back(static_cast<int32_t>(*token));
  }
  return {};
}

ApiStatus ReadStrings(const std::string& name, const Json& value, std::vector<std::string>& out) {
  out.clear();
  if (value.is_string()) {
    out.push_back(value.get<std::string>());
    return {};
  }
  if (!value.is_array()) return WrongType(name, Type::kStrings, value);
  if (value.size() > kMaxStops) {
    return BadField(name, "'{}' holds {} strings; at most {} are taken.", name, value.size(), kMaxStops);
  }
  for (const Json& element : value) {
    if (!element.is_string())
      return BadField(name, "'{}' must hold strings only, not {}.", name, KindOf(element));
    out.push_back(element.get<std::string>());
  }
  return {};
}

ApiStatus ReadPrompt(const std::string& name, const Json& value, std::vector<PromptItem>& out) {
  out.clear();
  if (value.is_string()) {
    out.push_back({.text = value.get<std::string>()});
    return {};
  }
  if (!value.is_array()) return WrongType(name, Type::kPrompt, value);
  if (value.empty()) return BadField(name, "'{}' is an empty list; give at least one prompt or token.", name);
  if (value.front().is_number()) {
    out.push_back({.is_text = false});
    return ReadTokens(name, value, out.back().tokens);
  }
  for (const Json& element : value) {
    if (element.type() != value.front().type()) {
      return BadField(name, "'{}' mixes strings and lists; give one kind.", name);
    }
    if (element.is_string()) {
      out.push_back({.text = element.get<std::string>()});
    } else if (element.is_array()) {
      out.push_back({.is_text = false});
      if (ApiStatus status = ReadTokens(name, element, out.back().tokens); !status) return status;
    } else {
      return WrongType(name, Type::kPrompt, value);
    }
  }
  return {};
}

ApiStatus ReadBiases(const std::string& name, const Json& value,
                     std::vector<std::pair<int32_t, float>>& out) {
  out.clear();
  if (!value.is_object()) return WrongType(name, Type::kBiases, value);
  for (const auto& [key, bias] : value.items()) {
    int32_t token = 0;
    const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), token);
    if (error != std::errc() || end != key.data() + key.size() || token < 0) {
      return BadField(name, "'{}' has the key '{}', which is not a token number.", name, key);
    }
    if (!bias.is_number()) return BadField(name, "'{}' must map to numbers, not to {}.", name, KindOf(bias));
    const auto number = bias.get<double>();
    if (!(number >= -100 && number <= 100)) return BadField(name, "'{}' must stay within -100..100.", name);
    out.emplace_back(token, static_cast<float>(number));
  }
  return {};
}

}  // namespace

ApiStatus CheckJsonShape(std::string_view json) {
  std::vector<uint64_t> commas;  // of every open bracket
  uint64_t searches = 0;
  bool in_string = false;
  for (size_t i = 0; i < json.size(); ++i) {
    const char c = json[i];
    if (in_string) {
      if (c == '\\') ++i;
      if (c == '"') in_string = false;
    } else if (c == '"') {
      in_string = true;
    } else if (c == '{' || c == '[') {
      commas.push_back(0);
      if (commas.size() > kMaxJsonDepth) {
        return BadField("", "The body nests deeper than {} levels; flatten it.", kMaxJsonDepth);
      }
    } else if (c == ',' && !commas.empty()) {
      ++commas.back();
    } else if (c == '}' && !commas.empty()) {
      searches += commas.back() * commas.back() / 2;
      commas.pop_back();
      if (searches > kMaxMemberSearches) {
        return BadField("", "The body's objects have too many members; use fewer or smaller objects.");
      }
    } else if (c == ']' && !commas.empty()) {
      commas.pop_back();
    }
  }
  return {};
}

// Reads parsed JSON into the declared targets; keeps the JSON library out of the header.
struct Fields::Reader {
  static ApiStatus ReadObject(Fields& fields, const Json& object) {
    for (Entry& entry : fields.entries_) {
      entry.given = false;
      const auto found = object.find(entry.spec.name.substr(fields.prefix_.size()));
      if (found == object.end() || found->is_null()) continue;
      entry.given = true;
      if (ApiStatus status = ReadEntry(entry, *found); !status) return status;
    }
    return {};
  }

  static ApiStatus ReadEntry(Entry& entry, const Json& value) {
    const std::string& name = entry.spec.name;
    switch (entry.spec.type) {
      case Type::kBool:
        if (!value.is_boolean()) return WrongType(name, entry.spec.type, value);
        if (auto** target = std::get_if<bool*>(&entry.target)) **target = value.get<bool>();
        return {};
      case Type::kInt:
        return ReadInt(entry, value);
      case Type::kFloat:
        return ReadFloat(entry, value);
      case Type::kString:
        if (!value.is_string()) return WrongType(name, entry.spec.type, value);
        if (auto** target = std::get_if<std::string*>(&entry.target)) **target = value.get<std::string>();
        return {};
      case Type::kStrings:
        return ReadStrings(name, value, *std::get<std::vector<std::string>*>(entry.target));
      case Type::kTokens:
        if (!value.is_array()) return WrongType(name, entry.spec.type, value);
        return ReadTokens(name, value, *std::get<std::vector<int32_t>*>(entry.target));
      case Type::kPrompt:
        return ReadPrompt(name, value, *std::get<std::vector<PromptItem>*>(entry.target));
      case Type::kBiases:
        return ReadBiases(name, value, *std::get<std::vector<std::pair<int32_t, float>>*>(entry.target));
      case Type::kObject:
        if (!value.is_object()) return WrongType(name, entry.spec.type, value);
        return ReadObject(*entry.inner, value);
      case Type::kAnyObject:
        if (!value.is_object()) return WrongType(name, entry.spec.type, value);
        return Pass(entry, value);
      case Type::kAnyArray:
        if (!value.is_array()) return WrongType(name, entry.spec.type, value);
        return Pass(entry, value);
      case Type::kAny:
        return Pass(entry, value);
    }
    return {};
  }

  static ApiStatus Pass(Entry& entry, const Json& value) {
    if (auto** target = std::get_if<std::string*>(&entry.target)) **target = value.dump();
    return {};
  }

  static ApiStatus ReadInt(Entry& entry, const Json& value) {
    const std::string& name = entry.spec.name;
    if (!value.is_number()) return WrongType(name, Type::kInt, value);
    const std::optional<int64_t> number = AsInt(value);
    if (!number || *number < entry.int_min || *number > entry.int_max) {
      return BadField(name, "'{}' must be an integer in {}, not {}.", name, entry.spec.range, value.dump());
    }
    if (auto** target = std::get_if<int64_t*>(&entry.target)) **target = *number;
    if (auto** target = std::get_if<std::optional<int64_t>*>(&entry.target)) **target = number;
    return {};
  }

  static ApiStatus ReadFloat(Entry& entry, const Json& value) {
    const std::string& name = entry.spec.name;
    if (!value.is_number()) return WrongType(name, Type::kFloat, value);
    const auto number = value.get<double>();
    if (!(number >= entry.min && number <= entry.max)) {
      return BadField(name, "'{}' must be in {}, not {}.", name, entry.spec.range, value.dump());
    }
    if (auto** target = std::get_if<float*>(&entry.target)) **target = static_cast<float>(number);
    return {};
  }
};

Fields::Entry& Fields::Declare(std::string name, Type type, std::string help, Target target) {
  Entry entry;
  entry.spec = {.name = prefix_ + std::move(name), .type = type, .range = "", .help = std::move(help)};
  entry.target = target;
  entry.int_min = std::numeric_limits<int64_t>::min();
  entry.int_max = std::numeric_limits<int64_t>::max();
  entry.min = std::numeric_limits<double>::lowest();
  entry.max = std::numeric_limits<double>::max();
  entries_.push_back(std::move(entry));
  return entries_.back();
}

void Fields::Bool(std::string name, bool* value, std::string help) {
  Declare(std::move(name), Type::kBool, std::move(help), value);
}

void Fields::Int(std::string name, int64_t* value, int64_t min, int64_t max, std::string help) {
  Entry& entry = Declare(std::move(name), Type::kInt, std::move(help), value);
  entry.int_min = min;
  entry.int_max = max;
  entry.spec.range = fmt::format("{}..{}", min, max);
}

void Fields::Int(std::string name, std::optional<int64_t>* value, int64_t min, int64_t max,
                 std::string help) {
  Int(std::move(name), static_cast<int64_t*>(nullptr), min, max, std::move(help));
  entries_.back().target = value;
}

void Fields::Float(std::string name, float* value, double min, double max, std::string help) {
  Entry& entry = Declare(std::move(name), Type::kFloat, std::move(help), value);
  entry.min = min;
  entry.max = max;
  entry.spec.range = fmt::format("{}..{}", min, max);
}

void Fields::String(std::string name, std::string* value, std::string help) {
  Declare(std::move(name), Type::kString, std::move(help), value);
}

void Fields::Strings(std::string name, std::vector<std::string>* value, std::string help) {
  Declare(std::move(name), Type::kStrings, std::move(help), value);
}

void Fields::Tokens(std::string name, std::vector<int32_t>* value, std::string help) {
  Declare(std::move(name), Type::kTokens, std::move(help), value);
}

void Fields::Prompt(std::string name, std::vector<PromptItem>* value, std::string help) {
  Declare(std::move(name), Type::kPrompt, std::move(help), value);
}

void Fields::Biases(std::string name, std::vector<std::pair<int32_t, float>>* value, std::string help) {
  Declare(std::move(name), Type::kBiases, std::move(help), value);
}

Fields& Fields::Object(std::string name, std::string help) {
  Entry& entry = Declare(std::move(name), Type::kObject, std::move(help), std::monostate());
  entry.inner = std::make_unique<Fields>();
  entry.inner->prefix_ = entry.spec.name + ".";
  return *entry.inner;
}

void Fields::AnyObject(std::string name, std::string* json, std::string help) {
  Declare(std::move(name), Type::kAnyObject, std::move(help), json);
}

void Fields::AnyArray(std::string name, std::string* json, std::string help) {
  Declare(std::move(name), Type::kAnyArray, std::move(help), json);
}

void Fields::Any(std::string name, std::string* json, std::string help) {
  Declare(std::move(name), Type::kAny, std::move(help), json);
}

void Fields::Hint(std::string name, Type type, std::string help) {
  Declare(std::move(name), type, std::move(help), std::monostate());
}

ApiStatus Fields::Read(std::string_view body) {
  if (ApiStatus status = CheckJsonShape(body); !status) return status;
  Json json;
  try {
    json = Json::parse(body);
  } catch (const Json::exception& error) {
    return BadField("", "The body is not valid JSON: {}",
                    std::string_view(error.what()).substr(0, kMaxParserMessage));
  }
  if (!json.is_object()) return BadField("", "The body must be a JSON object, not {}.", KindOf(json));
  return Reader::ReadObject(*this, json);
}

bool Fields::Has(std::string_view name) const {
  for (const Entry& entry : entries_) {
    if (std::string_view(entry.spec.name).substr(prefix_.size()) == name) return entry.given;
  }
  return false;
}

std::vector<FieldSpec> Fields::Describe() const {
  std::vector<FieldSpec> specs;
  for (const Entry& entry : entries_) {
    specs.push_back(entry.spec);
    if (entry.inner == nullptr) continue;
    for (FieldSpec& inner : entry.inner->Describe()) specs.push_back(std::move(inner));
  }
  return specs;
}

}  // namespace larder
