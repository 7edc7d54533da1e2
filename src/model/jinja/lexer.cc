#include "model/jinja/lexer.h"

#include <algorithm>
#include <cctype>
#include <utility>

namespace larder::jinja {
namespace {

// Line ends as \n, without one trailing newline.
std::string Normalize(std::string_view source) {
  std::string out;
  out.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] == '\r') {
      out.push_back('\n');
      if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
    } else {
      out.push_back(source[i]);
    }
  }
  if (out.ends_with('\n')) out.pop_back();
  return out;
}

bool IsNameByte(char c) { return std::isalnum(static_cast<unsigned char>(c)) || c == '_' || (c & 0x80) != 0; }
bool IsDigit(char c) { return c >= '0' && c <= '9'; }

class Lexer {
 public:
  explicit Lexer(std::string_view source) : source_(Normalize(source)) {}
  Result<std::vector<Token>> Run();

 private:
  std::string_view Rest() const { return std::string_view(source_).substr(at_); }
  template <class... Args>
  std::unexpected<Error> Error(fmt::format_string<Args...> format, Args&&... args) const {
    return Fail(ErrorKind::kInvalid, "chat template line {}: {}", line_,
                fmt::format(format, std::forward<Args>(args)...));
  }

  void Advance(size_t bytes);
  void SkipSpace() { Advance(Rest().size() - Strip(Rest(), Side::kLeft).size()); }
  void Push(TokenKind kind, std::string text = {}) { tokens_.push_back(Token{kind, line_, std::move(text)}); }

  void TakeData(size_t length, char sign, bool is_variable);
  char TakeSign();
  Status TakeComment();
  bool AtRaw(size_t* inner_start) const;
  Status TakeRaw(size_t inner_start);
  Result<bool> TakeEnd(TokenKind end);
  void FinishTag(char sign, bool eats_newline);
  Status TakeTag(TokenKind begin, TokenKind end);
  Status TakeToken();
  Status TakeNumber();
  Status TakeString();
  Status TakeOperator();

  std::string source_;
  size_t at_ = 0;
  int line_ = 1;
  bool line_starting_ = true;  // what came before the data ended its line
  std::vector<Token> tokens_;
  std::string closers_;  // the brackets still open, as what closes them
};

void Lexer::Advance(size_t bytes) {
  line_ += static_cast<int>(std::count(source_.begin() + static_cast<ptrdiff_t>(at_),
                                       source_.begin() + static_cast<ptrdiff_t>(at_ + bytes), '\n'));
  at_ += bytes;
}

// Emits the text before a tag; `sign` is the tag's -, + or 0.
void Lexer::TakeData(size_t length, char sign, bool is_variable) {
  std::string_view text = Rest().substr(0, length);
  if (sign == '-') {
    text = Strip(text, Side::kRight);
  } else if (sign != '+' && !is_variable) {
    const size_t newline = text.rfind('\n');
    const size_t line_start = newline == std::string_view::npos ? 0 : newline + 1;
    if ((line_start > 0 || line_starting_) && Strip(text.substr(line_start), Side::kLeft).empty()) {
      text = text.substr(0, line_start);
    }
  }
  if (!text.empty()) Push(TokenKind::kData, std::string(text));
  Advance(length);
}

char Lexer::TakeSign() {
  const std::string_view rest = Rest();
  if (!rest.starts_with('-') && !rest.starts_with('+')) return 0;
  Advance(1);
  return rest[0];
}

// After a tag's closing delimiter: - eats all white space, a plain end of a block or comment one newline.
void Lexer::FinishTag(char sign, bool eats_newline) {
  if (sign == '-') {
    SkipSpace();
  } else if (sign == 0 && eats_newline && Rest().starts_with('\n')) {
    Advance(1);
  }
  line_starting_ = at_ > 0 && source_[at_ - 1] == '\n';
}

Status Lexer::TakeComment() {
  const size_t end = Rest().find("#}");
  if (end == std::string_view::npos) return Error("a comment is not closed by '#}}'");
  const char before = end > 0 ? Rest()[end - 1] : '\0';
  Advance(end + 2);
  FinishTag(before == '-' || before == '+' ? before : '\0', true);
  return {};
}

// At "{%": whether this is {% raw %}, and where its text begins.
bool Lexer::AtRaw(size_t* inner_start) const {
  std::string_view rest = Rest().substr(2);
  if (rest.starts_with('-') || rest.starts_with('+')) rest.remove_prefix(1);
  rest = Strip(rest, Side::kLeft);
  if (!rest.starts_with("raw")) return false;
  rest = Strip(rest.substr(3), Side::kLeft);
  if (rest.starts_with("%}")) {
    rest.remove_prefix(2);
  } else if (rest.starts_with("-%}")) {
    rest = Strip(rest.substr(3), Side::kLeft);
  } else {
    return false;
  }
  *inner_start = source_.size() - rest.size();
  return true;
}

Status Lexer::TakeRaw(size_t inner_start) {
  Advance(inner_start - at_);
  line_starting_ = source_[at_ - 1] == '\n';
  for (size_t open = Rest().find("{%"); open != std::string_view::npos; open = Rest().find("{%", open + 1)) {
    std::string_view tag = Rest().substr(open + 2);
    const char sign = tag.starts_with('-') || tag.starts_with('+') ? tag[0] : '\0';
    if (sign != 0) tag.remove_prefix(1);
    tag = Strip(tag, Side::kLeft);
    if (!tag.starts_with("endraw")) continue;
    tag = Strip(tag.substr(6), Side::kLeft);
    const char end_sign = tag.starts_with("-%}") || tag.starts_with("+%}") ? tag[0] : '\0';
    if (end_sign != 0) tag.remove_prefix(1);
    if (!tag.starts_with("%}")) continue;
    const size_t after = source_.size() - tag.size() + 2;
    TakeData(open, sign, false);
    Advance(after - at_);
    FinishTag(end_sign, true);
    return {};
  }
  return Error("a raw block is not closed by '{{% endraw %}}'");
}

// Takes the end of the tag if it is here. Inside brackets }} and %} are not ends.
Result<bool> Lexer::TakeEnd(TokenKind end) {
  if (!closers_.empty()) return false;
  const std::string_view delimiter = end == TokenKind::kBlockEnd ? "%}" : "}}";
  std::string_view rest = Rest();
  const bool may_keep = end == TokenKind::kBlockEnd && rest.starts_with('+');
  const char sign = rest.starts_with('-') || may_keep ? rest[0] : '\0';
  if (sign != 0) rest.remove_prefix(1);
  if (!rest.starts_with(delimiter)) return false;
  Push(end);
  Advance(2 + (sign != 0));
  FinishTag(sign, end == TokenKind::kBlockEnd);
  return true;
}

Status Lexer::TakeTag(TokenKind begin, TokenKind end) {
  Push(begin);
  closers_.clear();
  while (true) {
    SkipSpace();
    if (at_ == source_.size()) return Error("the tag is not closed before the end of the template");
    LARDER_ASSIGN(const bool ended, TakeEnd(end));
    if (ended) return {};
    LARDER_TRY(TakeToken());
  }
}

Status Lexer::TakeToken() {
  const char c = Rest()[0];
  if (IsDigit(c)) return TakeNumber();
  if (c == '\'' || c == '"') return TakeString();
  if (!IsNameByte(c)) return TakeOperator();
  const std::string_view rest = Rest();
  const auto end = std::find_if_not(rest.begin(), rest.end(), IsNameByte);
  const size_t length = static_cast<size_t>(end - rest.begin());
  Push(TokenKind::kName, std::string(rest.substr(0, length)));
  Advance(length);
  return {};
}

// Digits with single underscores between them; 0 when there are none at `from`.
size_t DigitRun(std::string_view text, size_t from, bool (*is_digit)(char)) {
  size_t end = from;
  while (end < text.size() && (is_digit(text[end]) || (text[end] == '_' && end > from &&
                                                       end + 1 < text.size() && is_digit(text[end + 1])))) {
    ++end;
  }
  return end - from;
}

Status Lexer::TakeNumber() {
  const std::string_view rest = Rest();
  const bool after_dot = at_ > 0 && source_[at_ - 1] == '.';
  const size_t whole = DigitRun(rest, 0, IsDigit);
  size_t end = whole;
  if (rest.substr(end).starts_with('.') && DigitRun(rest, end + 1, IsDigit) > 0) {
    end += 1 + DigitRun(rest, end + 1, IsDigit);
  }
  if (end < rest.size() && (rest[end] | 0x20) == 'e') {
    const size_t sign = end + 1 < rest.size() && (rest[end + 1] == '+' || rest[end + 1] == '-') ? 1 : 0;
    const size_t digits = DigitRun(rest, end + 1 + sign, IsDigit);
    if (digits > 0) end += 1 + sign + digits;
  }
  Token token{end > whole && !after_dot ? TokenKind::kFloat : TokenKind::kInteger, line_, {}};
  if (token.kind == TokenKind::kFloat) {
    token.number = ParseFloat(rest.substr(0, end)).value_or(0);
  } else {
    end = whole;
    const char mark = rest.size() > 2 && rest[0] == '0' ? static_cast<char>(rest[1] | 0x20) : '\0';
    if (mark == 'x' || mark == 'o' || mark == 'b') {
      end = 2 + DigitRun(rest, 2, [](char c) { return std::isxdigit(static_cast<unsigned char>(c)) != 0; });
    }
    const auto integer = ParseInt(rest.substr(0, end), 0);
    if (!integer || (mark == 0 && rest[0] == '0' && *integer != 0)) {
      return Error("'{}' is not an integer, or too large", rest.substr(0, std::min<size_t>(end, 40)));
    }
    token.integer = *integer;
  }
  tokens_.push_back(std::move(token));
  Advance(end);
  return {};
}

// One escape sequence of a string literal, `rest` behind its backslash: appends what it means and returns its
// length, 0 if it is malformed or not supported.
size_t Unescape(std::string_view rest, std::string* out) {
  constexpr std::string_view kNames = "abfnrtv\\'\"";
  constexpr std::string_view kMeanings = "\a\b\f\n\r\t\v\\'\"";
  const char c = rest[0];
  if (const size_t index = kNames.find(c); index != std::string_view::npos) {
    out->push_back(kMeanings[index]);
    return 1;
  }
  if (c == '\n') return 1;
  if (c >= '0' && c <= '7') {
    size_t length = 1;
    while (length < 3 && length < rest.size() && rest[length] >= '0' && rest[length] <= '7') ++length;
    AppendCodePoint(static_cast<char32_t>(*ParseInt(rest.substr(0, length), 8)), out);
    return length;
  }
  const size_t digits = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
  if (digits == 0) {
    if (c == 'N' || (c & 0x80) != 0) return 0;
    out->push_back('\\');  // an unknown escape stands for itself
    out->push_back(c);
    return 1;
  }
  if (rest.size() < 1 + digits) return 0;
  char32_t code_point = 0;
  for (const char digit : rest.substr(1, digits)) {
    if (!std::isxdigit(static_cast<unsigned char>(digit))) return 0;
    code_point =
        code_point * 16 + static_cast<char32_t>(IsDigit(digit) ? digit - '0' : (digit | 0x20) - 'a' + 10);
  }
  if (code_point > 0x10FFFF || (code_point >= 0xD800 && code_point < 0xE000)) return 0;
  AppendCodePoint(code_point, out);
  return 1 + digits;
}

Status Lexer::TakeString() {
  const std::string_view rest = Rest();
  std::string text;
  for (size_t i = 1; i < rest.size();) {
    if (rest[i] == rest[0]) {
      Push(TokenKind::kString, std::move(text));
      Advance(i + 1);
      return {};
    }
    if (rest[i] != '\\' || i + 1 >= rest.size()) {
      text.push_back(rest[i++]);
      continue;
    }
    const size_t length = Unescape(rest.substr(i + 1), &text);
    if (length == 0) {
      return Fail(ErrorKind::kUnsupported,
                  "chat template line {}: the escape '{}' in a string is not supported", line_,
                  rest.substr(i, 1 + ByteOffset(rest.substr(i + 1), 1)));
    }
    i += 1 + length;
  }
  return Error("a string is not closed");
}

Status Lexer::TakeOperator() {
  constexpr std::string_view kDouble[] = {"//", "**", "==", "!=", ">=", "<="};
  constexpr std::string_view kSingle = "+-/*%~[](){}><=.:|,;";
  const std::string_view rest = Rest();
  size_t length = 1;
  for (const std::string_view op : kDouble) {
    if (rest.starts_with(op)) length = 2;
  }
  const char c = rest[0];
  if (length == 1 && kSingle.find(c) == std::string_view::npos) {
    return Error("unexpected character '{}'", rest.substr(0, ByteOffset(rest, 1)));
  }
  if (c == '(' || c == '[' || c == '{') {
    closers_.push_back(c == '(' ? ')' : c == '[' ? ']' : '}');
  } else if (c == ')' || c == ']' || c == '}') {
    if (closers_.empty() || closers_.back() != c) return Error("unexpected '{}'", c);
    closers_.pop_back();
  }
  Push(TokenKind::kOperator, std::string(rest.substr(0, length)));
  Advance(length);
  return {};
}

Result<std::vector<Token>> Lexer::Run() {
  while (at_ < source_.size()) {
    const std::string_view rest = Rest();
    size_t open = rest.find('{');
    while (
        open != std::string_view::npos &&
        (open + 1 >= rest.size() || std::string_view("{%#").find(rest[open + 1]) == std::string_view::npos)) {
      open = rest.find('{', open + 1);
    }
    if (open == std::string_view::npos) {
      Push(TokenKind::kData, std::string(rest));
      Advance(rest.size());
      break;
    }
    const char mark = rest[open + 1];
    const char sign_char = open + 2 < rest.size() ? rest[open + 2] : '\0';
    TakeData(open, sign_char == '-' || sign_char == '+' ? sign_char : '\0', mark == '{');
    size_t inner_start = 0;
    if (mark == '%' && AtRaw(&inner_start)) {
      LARDER_TRY(TakeRaw(inner_start));
      continue;
    }
    Advance(2);
    TakeSign();
    if (mark == '#') {
      LARDER_TRY(TakeComment());
    } else if (mark == '%') {
      LARDER_TRY(TakeTag(TokenKind::kBlockBegin, TokenKind::kBlockEnd));
    } else {
      LARDER_TRY(TakeTag(TokenKind::kVariableBegin, TokenKind::kVariableEnd));
    }
  }
  Push(TokenKind::kEnd);
  return std::move(tokens_);
}

}  // namespace

Result<std::vector<Token>> Tokenize(std::string_view source) { return Lexer(source).Run(); }

}  // namespace larder::jinja
