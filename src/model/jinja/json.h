// JSON in (the context) and out (the tojson filter).
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "model/jinja/value.h"

namespace larder::jinja {

// Key order is kept, integers stay integers. The values count in no heap.
Result<Value> ParseJson(std::string_view text);

struct JsonStyle {
  bool ascii_only = false;
  bool sort_keys = false;
  std::optional<std::string> indent;  // one level of it; also puts every item on a line of its own
  std::string item_separator = ", ";
  std::string key_separator = ": ";
};

// As Python's json.dumps.
Result<std::string> DumpJson(const Value& value, const JsonStyle& style, Heap& heap);

}  // namespace larder::jinja
