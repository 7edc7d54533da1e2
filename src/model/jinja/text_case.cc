// Case mapping and repr(): the parts of text.h that need Unicode's character data. The one-to-one mappings
// come from the C library's C.UTF-8 locale; they agree with Python's for every code point (checked when the
// tables below were made).
#include <locale.h>
#include <wctype.h>

#include <iterator>

#include "model/jinja/text.h"

namespace larder::jinja {
namespace {

struct CodePointRange {
  char32_t first;
  char32_t last;
};

// Code points whose upper case is more than one code point.
constexpr CodePointRange kLongUpper[] = {
    {0x149, 0x149},   {0x1F0, 0x1F0},   {0x390, 0x390},   {0x3B0, 0x3B0},   {0x587, 0x587},
    {0x1E96, 0x1E9A}, {0x1F50, 0x1F50}, {0x1F52, 0x1F52}, {0x1F54, 0x1F54}, {0x1F56, 0x1F56},
    {0x1F80, 0x1FAF}, {0x1FB2, 0x1FB4}, {0x1FB6, 0x1FB7}, {0x1FBC, 0x1FBC}, {0x1FC2, 0x1FC4},
    {0x1FC6, 0x1FC7}, {0x1FCC, 0x1FCC}, {0x1FD2, 0x1FD3}, {0x1FD6, 0x1FD7}, {0x1FE2, 0x1FE4},
    {0x1FE6, 0x1FE7}, {0x1FF2, 0x1FF4}, {0x1FF6, 0x1FF7}, {0x1FFC, 0x1FFC}, {0xFB00, 0xFB06},
    {0xFB13, 0xFB17}};
// Code points whose title case is not their upper case.
constexpr CodePointRange kOwnTitle[] = {{0x1C4, 0x1CC}, {0x1F1, 0x1F3}, {0x10D0, 0x10FA}, {0x10FD, 0x10FF}};
// Lower case depends on the neighbours (final sigma) or is two code points (dotted capital I).
constexpr CodePointRange kHardLower[] = {{0x130, 0x130}, {0x3A3, 0x3A3}};
// Printable for the C library but written as an escape by Python: spaces, format characters, private use.
constexpr CodePointRange kEscaped[] = {
    {0xA0, 0xA0},       {0xAD, 0xAD},        {0x600, 0x605},     {0x61C, 0x61C},     {0x6DD, 0x6DD},
    {0x70F, 0x70F},     {0x890, 0x891},      {0x8E2, 0x8E2},     {0x1680, 0x1680},   {0x180E, 0x180E},
    {0x2000, 0x200F},   {0x202A, 0x202F},    {0x205F, 0x2064},   {0x2066, 0x206F},   {0x3000, 0x3000},
    {0xE000, 0xF8FF},   {0xFEFF, 0xFEFF},    {0xFFF9, 0xFFFB},   {0x110BD, 0x110BD}, {0x110CD, 0x110CD},
    {0x13430, 0x13438}, {0x1BCA0, 0x1BCA3},  {0x1D173, 0x1D17A}, {0xE0001, 0xE0001}, {0xE0020, 0xE007F},
    {0xF0000, 0xFFFFD}, {0x100000, 0x10FFFD}};

template <size_t kCount>
bool In(const CodePointRange (&ranges)[kCount], char32_t c) {
  for (const auto& range : ranges) {
    if (c >= range.first && c <= range.last) return true;
  }
  return false;
}

// Null when the C library was built without it; then only ASCII is mapped and the rest refused.
locale_t UnicodeLocale() {
  static const locale_t locale = newlocale(LC_CTYPE_MASK, "C.UTF-8", nullptr);
  return locale;
}

bool IsUpperLetter(char32_t c) {
  if (c < 0x80) return c >= 'A' && c <= 'Z';
  return UnicodeLocale() && iswupper_l(c, UnicodeLocale());
}

bool IsLowerLetter(char32_t c) {
  if (c < 0x80) return c >= 'a' && c <= 'z';
  return UnicodeLocale() && iswlower_l(c, UnicodeLocale());
}

enum class To { kUpper, kLower, kTitle };

Status AppendMapped(char32_t c, To to, std::string* out) {
  if (c < 0x80) {
    const bool letter = to == To::kLower ? (c >= 'A' && c <= 'Z') : (c >= 'a' && c <= 'z');
    out->push_back(static_cast<char>(letter ? c ^ 0x20 : c));
    return {};
  }
  if (c == 0xDF && to != To::kLower) {
    *out += to == To::kUpper ? "SS" : "Ss";
    return {};
  }
  const bool hard =
      to == To::kLower ? In(kHardLower, c) : In(kLongUpper, c) || (to == To::kTitle && In(kOwnTitle, c));
  if (hard || !UnicodeLocale()) {
    return Fail(ErrorKind::kUnsupported, "the case mapping of U+{:04X} is not supported in chat templates",
                static_cast<uint32_t>(c));
  }
  AppendCodePoint(to == To::kLower ? towlower_l(c, UnicodeLocale()) : towupper_l(c, UnicodeLocale()), out);
  return {};
}

Result<std::string> MapAll(std::string_view text, To to) {
  std::string out;
  out.reserve(text.size());
  for (size_t at = 0; at < text.size();) LARDER_TRY(AppendMapped(NextCodePoint(text, &at), to, &out));
  return out;
}

bool HasOnlyCase(std::string_view text, bool (*wanted)(char32_t), bool (*other)(char32_t)) {
  bool found = false;
  for (size_t at = 0; at < text.size();) {
    const char32_t c = NextCodePoint(text, &at);
    if (other(c)) return false;
    found = found || wanted(c);
  }
  return found;
}

bool IsPrintable(char32_t c) {
  if (c < 0x80) return c >= 0x20 && c < 0x7F;
  return UnicodeLocale() && iswprint_l(c, UnicodeLocale()) && !In(kEscaped, c);
}

}  // namespace

Result<std::string> Upper(std::string_view text) { return MapAll(text, To::kUpper); }
Result<std::string> Lower(std::string_view text) { return MapAll(text, To::kLower); }

Result<std::string> Capitalize(std::string_view text) {
  if (text.empty()) return std::string();
  std::string out;
  size_t at = 0;
  LARDER_TRY(AppendMapped(NextCodePoint(text, &at), To::kTitle, &out));
  LARDER_ASSIGN(const std::string rest, Lower(text.substr(at)));
  return out + rest;
}

Result<std::string> Title(std::string_view text) {
  std::string out;
  bool in_word = false;
  for (size_t at = 0; at < text.size();) {
    const char32_t c = NextCodePoint(text, &at);
    LARDER_TRY(AppendMapped(c, in_word ? To::kLower : To::kTitle, &out));
    in_word = IsUpperLetter(c) || IsLowerLetter(c);
  }
  return out;
}

bool IsUpper(std::string_view text) { return HasOnlyCase(text, IsUpperLetter, IsLowerLetter); }
bool IsLower(std::string_view text) { return HasOnlyCase(text, IsLowerLetter, IsUpperLetter); }

std::string Quote(std::string_view text) {
  const bool doubled = text.find('\'') != std::string_view::npos && text.find('"') == std::string_view::npos;
  const char quote = doubled ? '"' : '\'';
  std::string out(1, quote);
  for (size_t at = 0; at < text.size();) {
    const char32_t c = NextCodePoint(text, &at);
    if (c == static_cast<char32_t>(quote) || c == '\\') {
      out.push_back('\\');
      out.push_back(static_cast<char>(c));
    } else if (c == '\n') {
      out += "\\n";
    } else if (c == '\r') {
      out += "\\r";
    } else if (c == '\t') {
      out += "\\t";
    } else if (IsPrintable(c)) {
      AppendCodePoint(c, &out);
    } else if (c < 0x100) {
      fmt::format_to(std::back_inserter(out), "\\x{:02x}", static_cast<uint32_t>(c));
    } else if (c < 0x10000) {
      fmt::format_to(std::back_inserter(out), "\\u{:04x}", static_cast<uint32_t>(c));
    } else {
      fmt::format_to(std::back_inserter(out), "\\U{:08x}", static_cast<uint32_t>(c));
    }
  }
  return out + quote;
}

}  // namespace larder::jinja
