// TOML configuration files, as JSON.
#pragma once

#include <string>
#include <string_view>

#include "base/result.h"

namespace larder {

// A flat TOML document as a JSON object of the same keys. Tables, arrays and dates are refused by name: a
// configuration is a list of parameters.
Result<std::string> TomlToJson(std::string_view toml);

}  // namespace larder
