#include "base/params.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>
#include <string>

#include "base/file.h"
#include "base/toml.h"

namespace larder {
namespace {

using Json = nlohmann::ordered_json;

std::string_view Trim(std::string_view text) {
  const auto first = text.find_first_not_of(" \t");
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(" \t") - first + 1);
}

// The whole of `text` as a number; nothing before or after it.
template <class T>
bool ParseNumber(std::string_view text, T* out) {
  const auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), *out);
  return code == std::errc() && end == text.data() + text.size();
}

std::string Join(std::span<const std::string> words, std::string_view between) {
  std::string out;
  for (const std::string& word : words) {
    if (!out.empty()) out += between;
    out += word;
  }
  return out;
}

// "1..4096"; a side that is the type's own limit is left out.
std::string IntRange(int64_t min, int64_t max) {
  const bool low = min != std::numeric_limits<int64_t>::min();
  const bool high = max != std::numeric_limits<int64_t>::max();
  if (!low && !high) return "";
  return fmt::format("{}..{}", low ? std::to_string(min) : "", high ? std::to_string(max) : "");
}

std::string FloatRange(double min, double max) {
  const bool low = std::isfinite(min) && min != std::numeric_limits<double>::lowest();
  const bool high = std::isfinite(max) && max != std::numeric_limits<double>::max();
  if (!low && !high) return "";
  return fmt::format("{}..{}", low ? fmt::format("{:g}", min) : "", high ? fmt::format("{:g}", max) : "");
}

std::string SizeRange(uint64_t min, uint64_t max) {
  const bool high = max != std::numeric_limits<uint64_t>::max();
  if (min == 0 && !high) return "";
  return fmt::format("{}..{}", FormatSize(min), high ? FormatSize(max) : "");
}

const char* JsonTypeWanted(ParamSpec::Type type) {
  switch (type) {
    case ParamSpec::Type::kBool:
      return "true or false";
    case ParamSpec::Type::kInt:
      return "a whole number";
    case ParamSpec::Type::kFloat:
      return "a number";
    case ParamSpec::Type::kSize:
      return "a number of bytes or a string such as \"512M\"";
    case ParamSpec::Type::kString:
    case ParamSpec::Type::kChoice:
      return "a string";
  }
  return "";
}

bool JsonTypeFits(ParamSpec::Type type, const Json& value) {
  switch (type) {
    case ParamSpec::Type::kBool:
      return value.is_boolean();
    case ParamSpec::Type::kInt:
      return value.is_number_integer();
    case ParamSpec::Type::kFloat:
      return value.is_number();
    case ParamSpec::Type::kSize:
      return value.is_number_integer() || value.is_string();
    case ParamSpec::Type::kString:
    case ParamSpec::Type::kChoice:
      return value.is_string();
  }
  return false;
}

// A flat object. The library keeps the last of two equal keys silently; here they are an error.
Result<Json> ParseFlatObject(std::string_view text) {
  std::set<std::string> seen;
  std::string twice;
  const auto watch = [&](int depth, Json::parse_event_t event, Json& parsed) {
    if (event == Json::parse_event_t::key && depth == 1 && !seen.insert(parsed.get<std::string>()).second)
      twice = parsed.get<std::string>();
    return true;
  };
  try {
    Json object = Json::parse(text, watch);
    if (!object.is_object())
      return Fail(ErrorKind::kInvalid, "parameters are a JSON object of names and values");
    if (!twice.empty()) return Fail(ErrorKind::kInvalid, "parameter '{}' is given twice", twice);
    return object;
  } catch (const Json::exception& error) {
    return Fail(ErrorKind::kInvalid, "not valid JSON: {}", error.what());
  }
}

}  // namespace

void Params::Declare(ParamSpec spec, std::function<Status(std::string_view)> set) {
  LARDER_CHECK(Find(spec.name) == nullptr);
  specs_.push_back(std::move(spec));
  setters_.push_back(std::move(set));
}

void Params::Bool(std::string name, bool* value, std::string help) {
  Declare({std::move(name), ParamSpec::Type::kBool, *value ? "true" : "false", "", std::move(help)},
          [value](std::string_view text) -> Status {
            if (text != "true" && text != "false") return Fail(ErrorKind::kInvalid, "is not true or false");
            *value = text == "true";
            return {};
          });
}

void Params::Int(std::string name, int64_t* value, int64_t min, int64_t max, std::string help) {
  const std::string range = IntRange(min, max);
  Declare({std::move(name), ParamSpec::Type::kInt, std::to_string(*value), range, std::move(help)},
          [=](std::string_view text) -> Status {
            int64_t parsed = 0;
            if (!ParseNumber(text, &parsed)) return Fail(ErrorKind::kInvalid, "is not a whole number");
            if (parsed < min || parsed > max) return Fail(ErrorKind::kInvalid, "is outside {}", range);
            *value = parsed;
            return {};
          });
}

void Params::Float(std::string name, double* value, double min, double max, std::string help) {
  const std::string range = FloatRange(min, max);
  Declare({std::move(name), ParamSpec::Type::kFloat, fmt::format("{}", *value), range, std::move(help)},
          [=](std::string_view text) -> Status {
            double parsed = 0;
            if (!ParseNumber(text, &parsed) || !std::isfinite(parsed))
              return Fail(ErrorKind::kInvalid, "is not a number");
            if (parsed < min || parsed > max) return Fail(ErrorKind::kInvalid, "is outside {}", range);
            *value = parsed;
            return {};
          });
}

void Params::String(std::string name, std::string* value, std::string help) {
  Declare({std::move(name), ParamSpec::Type::kString, *value, "", std::move(help)},
          [value](std::string_view text) -> Status {
            *value = text;
            return {};
          });
}

void Params::OptionalString(std::string name, std::string* value, std::string implied, std::string help) {
  String(std::move(name), value, std::move(help));
  specs_.back().implied = std::move(implied);
}

void Params::Size(std::string name, uint64_t* bytes, uint64_t min, uint64_t max, std::string help) {
  const std::string range = SizeRange(min, max);
  Declare({std::move(name), ParamSpec::Type::kSize, FormatSize(*bytes), range, std::move(help)},
          [=](std::string_view text) -> Status {
            LARDER_ASSIGN(const uint64_t parsed, ParseSize(text));
            if (parsed < min || parsed > max) return Fail(ErrorKind::kInvalid, "is outside {}", range);
            *bytes = parsed;
            return {};
          });
}

void Params::Choice(std::string name, std::string* value, std::vector<std::string> choices,
                    std::string help) {
  Declare({std::move(name), ParamSpec::Type::kChoice, *value, Join(choices, "|"), std::move(help)},
          [value, choices](std::string_view text) -> Status {
            if (std::find(choices.begin(), choices.end(), text) == choices.end())
              return Fail(ErrorKind::kInvalid, "is not one of {}", Join(choices, ", "));
            *value = text;
            return {};
          });
}

const ParamSpec* Params::Find(std::string_view name) const {
  const auto found =
      std::find_if(specs_.begin(), specs_.end(), [&](const ParamSpec& spec) { return spec.name == name; });
  return found == specs_.end() ? nullptr : &*found;
}

Status Params::Set(std::string_view name, std::string_view text) {
  const ParamSpec* spec = Find(name);
  if (spec == nullptr) {
    std::vector<std::string> known;
    for (const ParamSpec& s : specs_) known.push_back(s.name);
    return Fail(ErrorKind::kInvalid, "{} has no parameter '{}'; known: {}", owner_, name,
                known.empty() ? "none" : Join(known, ", "));
  }
  const auto index = static_cast<size_t>(spec - specs_.data());
  if (Status status = setters_[index](text); !status)
    return Fail(ErrorKind::kInvalid, "{}: {}: '{}' {}", owner_, name, text, status.error().message);
  specs_[index].given = text;
  return {};
}

Status Params::ParseList(std::string_view list) {
  std::set<std::string_view> seen;
  while (!Trim(list).empty()) {
    const auto comma = list.find(',');
    const std::string_view item = Trim(list.substr(0, comma));
    list = comma == std::string_view::npos ? std::string_view{} : list.substr(comma + 1);
    const auto equals = item.find('=');
    if (equals == std::string_view::npos)
      return Fail(ErrorKind::kInvalid, "{}: '{}' is not of the form name=value", owner_, item);
    const std::string_view name = Trim(item.substr(0, equals));
    if (!seen.insert(name).second)
      return Fail(ErrorKind::kInvalid, "{}: parameter '{}' is given twice", owner_, name);
    LARDER_TRY(Set(name, Trim(item.substr(equals + 1))));
  }
  return {};
}

Status Params::ParseJsonObject(std::string_view json) {
  LARDER_ASSIGN(const Json object, ParseFlatObject(json));
  for (const auto& [name, value] : object.items()) {
    const ParamSpec* spec = Find(name);
    if (spec != nullptr && !JsonTypeFits(spec->type, value))
      return Fail(ErrorKind::kInvalid, "{}: {} takes {}, not {}", owner_, name, JsonTypeWanted(spec->type),
                  value.is_null()         ? "null"
                  : value.is_structured() ? "a nested value"
                                          : value.type_name());
    LARDER_TRY(Set(name, value.is_string() ? value.get<std::string>() : value.dump()));
  }
  return {};
}

Status Params::ParseConfigFile(const std::string& path) {
  const bool toml = path.ends_with(".toml");
  if (!toml && !path.ends_with(".json"))
    return Fail(ErrorKind::kInvalid, "configuration file {} must end in .json or .toml", path);
  LARDER_ASSIGN(std::string text, ReadFile(path));
  if (toml) {
    auto json = TomlToJson(text);
    if (!json) return Fail(ErrorKind::kInvalid, "{}: {}", path, json.error().message);
    text = *std::move(json);
  }
  if (Status status = ParseJsonObject(text); !status)
    return Fail(ErrorKind::kInvalid, "{}: {}", path, status.error().message);
  return {};
}

Result<uint64_t> ParseSize(std::string_view text) {
  const auto bad = [] {
    return Fail(ErrorKind::kInvalid, "is not a size; write a number of bytes, or one with K, M, G or T");
  };
  const auto digits = text.find_first_not_of("0123456789.");
  const std::string_view number = text.substr(0, digits);
  std::string_view unit = digits == std::string_view::npos ? std::string_view{} : Trim(text.substr(digits));
  int shift = 0;
  if (!unit.empty()) {
    const auto which = std::string_view("kmgtKMGT").find(unit[0]);
    if (which != std::string_view::npos) {
      shift = 10 * (static_cast<int>(which % 4) + 1);
      unit.remove_prefix(1);
    }
    if (!(unit.empty() || unit == "B" || (shift > 0 && unit == "iB"))) return bad();
  }
  uint64_t whole = 0;
  if (ParseNumber(number, &whole)) {
    if (whole > (std::numeric_limits<uint64_t>::max() >> shift))
      return Fail(ErrorKind::kInvalid, "is more than 64 bits hold");
    return whole << shift;
  }
  double fraction = 0;
  if (!ParseNumber(number, &fraction)) return bad();
  const double bytes = std::floor(std::ldexp(fraction, shift));
  if (!(bytes < 0x1p64)) return Fail(ErrorKind::kInvalid, "is more than 64 bits hold");
  return static_cast<uint64_t>(bytes);
}

std::string FormatSize(uint64_t bytes) {
  constexpr const char* kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  int unit = 0;
  while (unit < 6 && (bytes >> (10 * (unit + 1))) != 0) ++unit;
  const uint64_t one = uint64_t{1} << (10 * unit);
  if (bytes % one == 0) return fmt::format("{} {}", bytes / one, kUnits[unit]);
  return fmt::format("{:.1f} {}", static_cast<double>(bytes) / static_cast<double>(one), kUnits[unit]);
}

}  // namespace larder
