#include "model/jinja/text.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <utility>

namespace larder::jinja {

size_t CountCodePoints(std::string_view text) {
  size_t count = 0;
  for (const char c : text) count += (static_cast<unsigned char>(c) & 0xC0) != 0x80;
  return count;
}

size_t ByteOffset(std::string_view text, size_t index) {
  for (size_t at = 0; at < text.size(); ++at) {
    if ((static_cast<unsigned char>(text[at]) & 0xC0) == 0x80) continue;
    if (index == 0) return at;
    --index;
  }
  return text.size();
}

char32_t NextCodePoint(std::string_view text, size_t* at) {
  const unsigned char lead = text[(*at)++];
  if (lead < 0x80) return lead;
  const int more = lead >= 0xF0 ? 3 : lead >= 0xE0 ? 2 : 1;
  char32_t code_point = lead & (0x3F >> more);
  for (int i = 0; i < more && *at < text.size(); ++i) {
    code_point = code_point << 6 | (static_cast<unsigned char>(text[(*at)++]) & 0x3F);
  }
  return code_point;
}

void AppendCodePoint(char32_t code_point, std::string* out) {
  if (code_point < 0x80) {
    out->push_back(static_cast<char>(code_point));
    return;
  }
  const int more = code_point >= 0x10000 ? 3 : code_point >= 0x800 ? 2 : 1;
  out->push_back(static_cast<char>(((0xFF00 >> (more + 1)) & 0xFF) | code_point >> (6 * more)));
  for (int i = more - 1; i >= 0; --i)
    out->push_back(static_cast<char>(0x80 | (code_point >> (6 * i) & 0x3F)));
}

bool IsSpace(char32_t c) {
  if (c < 0x80) return (c >= 0x09 && c <= 0x0D) || (c >= 0x1C && c <= 0x20);
  return c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 ||
         c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

namespace {

// Start of the code point that ends at byte `end`.
size_t PreviousStart(std::string_view text, size_t end) {
  do {
    --end;
  } while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80);
  return end;
}

bool Strippable(std::string_view code_point, std::optional<std::string_view> characters) {
  if (characters) return characters->find(code_point) != std::string_view::npos;
  size_t at = 0;
  return IsSpace(NextCodePoint(code_point, &at));
}

}  // namespace

std::string_view Strip(std::string_view text, Side side, std::optional<std::string_view> characters) {
  size_t begin = 0;
  size_t end = text.size();
  while (side != Side::kRight && begin < end) {
    size_t next = begin;
    NextCodePoint(text, &next);
    if (!Strippable(text.substr(begin, next - begin), characters)) break;
    begin = next;
  }
  while (side != Side::kLeft && end > begin) {
    const size_t start = PreviousStart(text, end);
    if (!Strippable(text.substr(start, end - start), characters)) break;
    end = start;
  }
  return text.substr(begin, end - begin);
}

namespace {

std::vector<std::string_view> SplitSpace(std::string_view text, int64_t max_splits) {
  std::vector<std::string_view> parts;
  std::string_view rest = Strip(text, Side::kLeft);
  while (!rest.empty()) {
    if (static_cast<int64_t>(parts.size()) >= max_splits) {
      parts.push_back(Strip(rest, Side::kRight));
      break;
    }
    size_t end = 0;
    for (size_t at = 0; at < rest.size(); end = at) {
      if (IsSpace(NextCodePoint(rest, &at))) break;
    }
    parts.push_back(rest.substr(0, end));
    rest = Strip(rest.substr(end), Side::kLeft);
  }
  return parts;
}

std::vector<std::string_view> SplitSpaceFromRight(std::string_view text, int64_t max_splits) {
  std::vector<std::string_view> parts;
  std::string_view rest = Strip(text, Side::kRight);
  while (!rest.empty()) {
    if (static_cast<int64_t>(parts.size()) >= max_splits) {
      parts.push_back(Strip(rest, Side::kLeft));
      break;
    }
    size_t start = rest.size();
    while (start > 0) {
      const size_t before = PreviousStart(rest, start);
      size_t at = before;
      if (IsSpace(NextCodePoint(rest, &at))) break;
      start = before;
    }
    parts.push_back(rest.substr(start));
    rest = Strip(rest.substr(0, start), Side::kRight);
  }
  std::reverse(parts.begin(), parts.end());
  return parts;
}

}  // namespace

std::vector<std::string_view> Split(std::string_view text, std::optional<std::string_view> separator,
                                    int64_t max_splits, bool from_right) {
  if (!separator) return from_right ? SplitSpaceFromRight(text, max_splits) : SplitSpace(text, max_splits);
  std::vector<std::string_view> parts;
  while (static_cast<int64_t>(parts.size()) < max_splits) {
    const size_t at = from_right ? text.rfind(*separator) : text.find(*separator);
    if (at == std::string_view::npos) break;
    const std::string_view before = text.substr(0, at);
    const std::string_view after = text.substr(at + separator->size());
    parts.push_back(from_right ? after : before);
    text = from_right ? before : after;
  }
  parts.push_back(text);
  if (from_right) std::reverse(parts.begin(), parts.end());
  return parts;
}

std::vector<std::string_view> SplitLines(std::string_view text, bool keep_ends) {
  std::vector<std::string_view> lines;
  size_t start = 0;
  for (size_t at = 0; at < text.size();) {
    const size_t end = at;
    const char32_t c = NextCodePoint(text, &at);
    const bool breaks =
        (c >= 0x0A && c <= 0x0D) || (c >= 0x1C && c <= 0x1E) || c == 0x85 || c == 0x2028 || c == 0x2029;
    if (!breaks) continue;
    if (c == '\r' && at < text.size() && text[at] == '\n') ++at;
    lines.push_back(text.substr(start, (keep_ends ? at : end) - start));
    start = at;
  }
  if (start < text.size()) lines.push_back(text.substr(start));
  return lines;
}

std::string EscapeHtml(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (const char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '\'':
        out += "&#39;";
        break;
      case '"':
        out += "&#34;";
        break;
      default:
        out.push_back(c);
    }
  }
  return out;
}

std::string FloatText(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value < 0 ? "-inf" : "inf";
  char buffer[64];
  const auto [end, error] =
      std::to_chars(buffer, buffer + sizeof buffer, value, std::chars_format::scientific);
  std::string_view text(buffer, end - buffer);
  const size_t e = text.find('e');
  const int exponent = std::atoi(std::string(text.substr(e + 1)).c_str());
  const bool negative = text[0] == '-';
  std::string digits;
  for (const char c : text.substr(0, e)) {
    if (c >= '0' && c <= '9') digits.push_back(c);
  }
  const int count = static_cast<int>(digits.size());
  std::string out = negative ? "-" : "";
  if (exponent < -4 || exponent >= 16) {
    out += digits.substr(0, 1);
    if (count > 1) out += "." + digits.substr(1);
    return out + fmt::format("e{}{:02}", exponent < 0 ? '-' : '+', std::abs(exponent));
  }
  if (exponent < 0) return out + "0." + std::string(-exponent - 1, '0') + digits;
  if (count <= exponent + 1) return out + digits + std::string(exponent + 1 - count, '0') + ".0";
  return out + digits.substr(0, exponent + 1) + "." + digits.substr(exponent + 1);
}

std::string IntText(Int value) {
  std::string out;
  unsigned __int128 rest = value;
  if (value < 0) rest = -rest;
  do {
    out.push_back(static_cast<char>('0' + static_cast<int>(rest % 10)));
    rest /= 10;
  } while (rest != 0);
  if (value < 0) out.push_back('-');
  std::reverse(out.begin(), out.end());
  return out;
}

namespace {

// Removes underscores that stand between two digits, as Python's numbers allow; nullopt if one stands
// elsewhere.
std::optional<std::string> WithoutUnderscores(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '_') {
      out.push_back(text[i]);
      continue;
    }
    const bool between = i > 0 && i + 1 < text.size() &&
                         std::isalnum(static_cast<unsigned char>(text[i - 1])) &&
                         std::isalnum(static_cast<unsigned char>(text[i + 1]));
    if (!between) return std::nullopt;
  }
  return out;
}

int DigitValue(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  const char lower = static_cast<char>(c | 0x20);
  return lower >= 'a' && lower <= 'z' ? lower - 'a' + 10 : 99;
}

}  // namespace

std::optional<Int> ParseInt(std::string_view text, int base) {
  text = Strip(text, Side::kBoth);
  const bool negative = text.starts_with('-');
  if (negative || text.starts_with('+')) text.remove_prefix(1);
  if (text.size() > 2 && text[0] == '0') {
    const char mark = static_cast<char>(text[1] | 0x20);
    const int prefix_base = mark == 'x' ? 16 : mark == 'o' ? 8 : mark == 'b' ? 2 : 0;
    if (prefix_base != 0 && (base == prefix_base || base == 0)) {
      base = prefix_base;
      text.remove_prefix(text[2] == '_' ? 3 : 2);
    }
  }
  if (base == 0) base = 10;
  const auto digits = WithoutUnderscores(text);
  if (!digits || digits->empty()) return std::nullopt;
  Int value = 0;
  for (const char c : *digits) {
    const int digit = DigitValue(c);
    if (digit >= base || value > (Int{1} << 120)) return std::nullopt;
    value = value * base + digit;
  }
  return negative ? -value : value;
}

std::optional<double> ParseFloat(std::string_view text) {
  const auto plain = WithoutUnderscores(Strip(text, Side::kBoth));
  if (!plain || plain->empty()) return std::nullopt;
  // from_chars knows neither a leading plus nor Python's refusal of hexadecimal floats, which it does not
  // read either.
  const char* begin =
      plain->data() + (plain->front() == '+' && plain->size() > 1 && plain->at(1) != '-' ? 1 : 0);
  const char* end = plain->data() + plain->size();
  double value = 0;
  const auto [stop, error] = std::from_chars(begin, end, value);
  if (stop != end || plain->back() == ')') return std::nullopt;
  if (error == std::errc::result_out_of_range) return std::strtod(begin, nullptr);
  if (error != std::errc()) return std::nullopt;
  return value;
}

}  // namespace larder::jinja
