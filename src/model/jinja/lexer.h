// Template text to tokens, with Jinja's rules for white space: trim_blocks and lstrip_blocks are on, one
// trailing newline of the template is dropped, line ends become \n.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "model/jinja/text.h"

namespace larder::jinja {

enum class TokenKind : uint8_t {
  kData,           // text
  kBlockBegin,     // {%
  kBlockEnd,       // %}
  kVariableBegin,  // {{
  kVariableEnd,    // }}
  kName,           // text
  kString,         // text, escapes resolved
  kInteger,        // integer
  kFloat,          // number
  kOperator,       // text
  kEnd,
};

struct Token {
  TokenKind kind;
  int line;
  std::string text;
  Int integer = 0;
  double number = 0;
};

// The last token is kEnd. kInvalid and kUnsupported name the line.
Result<std::vector<Token>> Tokenize(std::string_view source);

}  // namespace larder::jinja
