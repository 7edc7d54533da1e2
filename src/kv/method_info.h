// What a published method says of itself, whatever its kind: for `larder methods` and the documentation.
#pragma once

#include <string_view>

namespace larder {

struct MethodInfo {
  std::string_view name;
  std::string_view help;    // one line
  std::string_view paper;   // title and year
  std::string_view leaf;    // of the survey's tree (TMLR 2025), "A1"; one or two: "A8 A10"
  std::string_view memory;  // resident entries of a sequence of n tokens: "O(n)", "O(B)"
  std::string_view needs;   // of the model or the request, beyond attention over all tokens; "": nothing
};

}  // namespace larder
