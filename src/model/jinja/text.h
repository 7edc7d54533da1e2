// UTF-8 strings with the meaning Python gives them: positions are code points, white space and case are
// Unicode's. All input is valid UTF-8 (checked where templates and contexts enter).
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace larder::jinja {

using Int =
    __int128;  // Holds every 64-bit integer, signed or not, and the sums and products of two signed ones.

size_t CountCodePoints(std::string_view text);
// Byte offset of code point number `index`, or text.size() when there are fewer.
size_t ByteOffset(std::string_view text, size_t index);
// Reads the code point at byte *at and moves *at behind it. REQUIRES: *at < text.size().
char32_t NextCodePoint(std::string_view text, size_t* at);
void AppendCodePoint(char32_t code_point, std::string* out);

bool IsSpace(char32_t code_point);
enum class Side { kLeft, kRight, kBoth };
// Strips white space, or the code points of `characters` when given.
std::string_view Strip(std::string_view text, Side side,
                       std::optional<std::string_view> characters = std::nullopt);

inline constexpr int64_t kAllSplits = std::numeric_limits<int64_t>::max();
// Python's str.split and str.rsplit; no separator means runs of white space. REQUIRES: separator not empty.
std::vector<std::string_view> Split(std::string_view text, std::optional<std::string_view> separator,
                                    int64_t max_splits, bool from_right);
std::vector<std::string_view> SplitLines(std::string_view text, bool keep_ends);

// Full case mapping where it is one code point for one, and for sharp s; the few other code points whose
// mapping is longer, or depends on context in ways not followed here, are refused (kUnsupported).
Result<std::string> Upper(std::string_view text);
Result<std::string> Lower(std::string_view text);
Result<std::string> Capitalize(std::string_view text);
Result<std::string> Title(std::string_view text);  // str.title(): a letter after a non-letter is upper case
bool IsUpper(std::string_view text);               // str.isupper()
bool IsLower(std::string_view text);

std::string Quote(std::string_view text);  // repr() of a string
std::string EscapeHtml(std::string_view text);
std::string FloatText(double value);  // repr() of a float: the shortest text that reads back the same
std::string IntText(Int value);
// As Python's int(text, base) and float(text): white space around, underscores between digits, inf and nan.
std::optional<Int> ParseInt(std::string_view text, int base);
std::optional<double> ParseFloat(std::string_view text);

}  // namespace larder::jinja
