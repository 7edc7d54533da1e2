// UTF-8, byte by byte: what text from outside needs before anything else may trust it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace larder {

inline constexpr std::string_view kReplacementCharacter = "\xEF\xBF\xBD";  // U+FFFD

struct Utf8Step {
  uint32_t code_point = 0;  // meaningful when kind is kWhole
  uint8_t bytes = 0;        // length of the sequence, or of the bytes that one U+FFFD stands for
  enum Kind : uint8_t {
    kWhole,
    kInvalid,
    kCut
  } kind = kInvalid;  // kCut: the text ends inside a valid beginning
};

// The sequence at text[at]; `at` is below text.size(). An invalid sequence ends before the first byte that
// cannot continue it (Unicode's "maximal subpart"), so replacing each step by U+FFFD is the recommended
// practice.
Utf8Step NextUtf8(std::string_view text, size_t at);

// Length of the longest valid beginning of `text`, in bytes.
size_t ValidUtf8Prefix(std::string_view text);

// `text` with every invalid sequence replaced by U+FFFD.
std::string SanitizeUtf8(std::string_view text);

}  // namespace larder
