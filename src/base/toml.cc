#include "base/toml.h"

#define TOML_HEADER_ONLY 1
#include <toml++/toml.h>

#include <cmath>
#include <nlohmann/json.hpp>

namespace larder {

Result<std::string> TomlToJson(std::string_view text) {
  nlohmann::ordered_json out = nlohmann::ordered_json::object();
  try {
    const toml::table table = toml::parse(text);
    for (const auto& [key, node] : table) {
      const std::string name(key.str());
      const auto line = node.source().begin.line;
      if (const auto* flag = node.as_boolean()) {
        out[name] = flag->get();
      } else if (const auto* integer = node.as_integer()) {
        out[name] = integer->get();
      } else if (const auto* number = node.as_floating_point()) {
        if (!std::isfinite(number->get()))
          return Fail(ErrorKind::kInvalid, "line {}: {} is not a number", line, name);
        out[name] = number->get();
      } else if (const auto* string = node.as_string()) {
        out[name] = string->get();
      } else {
        return Fail(ErrorKind::kInvalid,
                    "line {}: '{}' is a table, an array or a date; parameters are top-level keys with a "
                    "string, a number, "
                    "true or false",
                    line, name);
      }
    }
    return out.dump();
  } catch (const toml::parse_error& error) {
    return Fail(ErrorKind::kInvalid, "line {}: {}", error.source().begin.line, error.description());
  } catch (const nlohmann::json::exception& error) {
    return Fail(ErrorKind::kInvalid, "not valid UTF-8: {}", error.what());
  }
}

}  // namespace larder
