// Tokens to the tree of ast.h.
#pragma once

#include <string_view>
#include <vector>

#include "base/result.h"
#include "model/jinja/ast.h"

namespace larder::jinja {

struct Template {
  Body body;
  std::vector<std::string> names;  // by Symbol
  InitialScope scope;
};

// kUnsupported names the construct and its line, kInvalid the syntax error.
Result<Template> ParseTemplate(std::string_view source);

}  // namespace larder::jinja
