#include "model/jinja/format.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "model/jinja/limits.h"

namespace larder::jinja {
namespace {

// What stands between the % or the : and the type letter.
struct Spec {
  std::string fill = " ";
  char align = 0;  // < > ^ = or 0 for the type's own
  char sign = 0;   // + or space
  bool alternate = false;
  bool thousands = false;
  size_t width = 0;
  int precision = -1;
  char type = 0;
};

constexpr int kMaxPrecision = 400;

template <class... Args>
std::unexpected<Error> Bad(fmt::format_string<Args...> format, Args&&... args) {
  return Fail(ErrorKind::kInvalid, "in a format: {}", fmt::format(format, std::forward<Args>(args)...));
}

// Reads digits at *at; kExhausted beyond what any text may hold.
Result<size_t> TakeNumber(std::string_view format, size_t* at) {
  size_t number = 0;
  while (*at < format.size() && format[*at] >= '0' && format[*at] <= '9') {
    number = number * 10 + static_cast<size_t>(format[(*at)++] - '0');
    LARDER_TRY(Heap::TextRoom(number));
  }
  return number;
}

std::string Pad(std::string_view text, const Spec& spec, char own_align) {
  const size_t length = CountCodePoints(text);
  if (length >= spec.width) return std::string(text);
  const size_t missing = spec.width - length;
  const char align = spec.align ? spec.align : own_align;
  const auto fill = [&spec](size_t count) {
    std::string out;
    for (size_t i = 0; i < count; ++i) out += spec.fill;
    return out;
  };
  if (align == '<') return std::string(text) + fill(missing);
  if (align == '^') return fill(missing / 2) + std::string(text) + fill(missing - missing / 2);
  const size_t sign =
      align == '=' && (text.starts_with('-') || text.starts_with('+') || text.starts_with(' ')) ? 1 : 0;
  return std::string(text.substr(0, sign)) + fill(missing) + std::string(text.substr(sign));
}

std::string WithSign(std::string digits, bool negative, const Spec& spec) {
  if (negative) return "-" + digits;
  if (spec.sign) return spec.sign + digits;
  return digits;
}

// 1234567.5 -> 1,234,567.5
std::string WithThousands(std::string digits) {
  size_t end = digits.find_first_not_of("0123456789");
  if (end == std::string::npos) end = digits.size();
  for (size_t i = end; i > 3; i -= 3) digits.insert(i - 3, 1, ',');
  return digits;
}

Result<std::string> FormatInteger(Int value, const Spec& spec) {
  const unsigned base = spec.type == 'x' || spec.type == 'X' ? 16
                        : spec.type == 'o'                   ? 8
                        : spec.type == 'b'                   ? 2
                                                             : 10;
  unsigned __int128 rest = value;
  if (value < 0) rest = -rest;
  std::string digits;
  do {
    const unsigned digit = static_cast<unsigned>(rest % base);
    digits.insert(digits.begin(), (spec.type == 'X' ? "0123456789ABCDEF" : "0123456789abcdef")[digit]);
    rest /= base;
  } while (rest != 0);
  if (spec.precision > static_cast<int>(digits.size())) digits.insert(0, spec.precision - digits.size(), '0');
  if (spec.thousands) digits = WithThousands(std::move(digits));
  if (spec.alternate && base != 10) digits = std::string("0") + spec.type + digits;
  return WithSign(std::move(digits), value < 0, spec);
}

Result<std::string> FormatFloat(double value, const Spec& spec) {
  if (spec.alternate) return Bad("'#' is not supported with a float");
  if (!std::isfinite(value)) return WithSign(std::isnan(value) ? "nan" : "inf", value < 0, spec);
  const bool percent = spec.type == '%';
  const char conversion = percent ? 'f' : spec.type;
  const char pattern[] = {'%', '.', '*', conversion, 0};
  char buffer[kMaxPrecision + 400];
  const int precision = spec.precision < 0 ? 6 : spec.precision;
  std::snprintf(buffer, sizeof buffer, pattern, precision, std::abs(value) * (percent ? 100 : 1));
  std::string digits = buffer;
  if (spec.thousands) digits = WithThousands(std::move(digits));
  if (percent) digits += '%';
  return WithSign(std::move(digits), std::signbit(value), spec);
}

std::string Shortened(std::string text, const Spec& spec) {
  if (spec.precision >= 0) text.resize(ByteOffset(text, static_cast<size_t>(spec.precision)));
  return text;
}

// -- "..." % values
// ----------------------------------------------------------------------------------------------------

class PercentFormatter {
 public:
  PercentFormatter(std::string_view format, const Value& values, Heap& heap)
      : format_(format), values_(values), heap_(heap) {}
  Result<std::string> Run();

 private:
  Result<Spec> TakeSpec();
  Result<std::string> TakeKey();
  Result<Value> NextValue();
  Result<std::string> Convert(const Spec& spec, const Value& value);

  std::string_view format_;
  const Value& values_;
  Heap& heap_;
  size_t at_ = 0;
  size_t next_ = 0;
  bool by_name_ = false;
};

Result<Spec> PercentFormatter::TakeSpec() {
  Spec spec;
  bool zero = false;
  for (; at_ < format_.size(); ++at_) {
    const char c = format_[at_];
    if (c == '-') {
      spec.align = '<';
    } else if (c == '0') {
      zero = true;
    } else if (c == '+' || (c == ' ' && spec.sign == 0)) {
      spec.sign = c;
    } else if (c == '#') {
      spec.alternate = true;
    } else if (c != ' ') {
      break;
    }
  }
  LARDER_ASSIGN(spec.width, TakeNumber(format_, &at_));
  if (at_ < format_.size() && format_[at_] == '.') {
    ++at_;
    LARDER_ASSIGN(const size_t precision, TakeNumber(format_, &at_));
    spec.precision = static_cast<int>(precision);
  }
  if (at_ >= format_.size()) return Bad("the text ends within a conversion");
  spec.type = format_[at_++];
  if (spec.type == '*') return Bad("'*' as a width is not supported");
  if (zero && spec.align == 0 && std::string_view("diouxXeEfFgG").find(spec.type) != std::string_view::npos) {
    spec.fill = "0";
    spec.align = '=';
  }
  return spec;
}

Result<std::string> PercentFormatter::TakeKey() {
  const size_t end = format_.find(')', at_);
  if (end == std::string_view::npos) return Bad("a '(' is not closed");
  std::string key(format_.substr(at_ + 1, end - at_ - 1));
  at_ = end + 1;
  return key;
}

Result<Value> PercentFormatter::NextValue() {
  const bool is_tuple = values_.Is(Kind::kSequence) && values_.sequence()->type == SequenceType::kTuple;
  const size_t count = is_tuple ? values_.sequence()->items.size() : 1;
  if (next_ >= count) return Bad("there are more conversions than values");
  return is_tuple ? values_.sequence()->items[next_++] : (++next_, values_);
}

Result<std::string> PercentFormatter::Convert(const Spec& spec, const Value& value) {
  if (spec.type == 's' || spec.type == 'r' || spec.type == 'a') {
    if (spec.type == 'a') return Bad("the conversion 'a' is not supported");
    std::string text;
    if (spec.type == 'r') {
      LARDER_TRY(AppendRepr(value, &text));
    } else {
      LARDER_ASSIGN(text, Str(value));
    }
    return Pad(Shortened(std::move(text), spec), spec, '>');
  }
  if (std::string_view("diuoxXeEfFgG").find(spec.type) == std::string_view::npos) {
    return Bad("the conversion '{}' is not supported", spec.type);
  }
  if (spec.precision > kMaxPrecision) return Bad("a precision above {} is not supported", kMaxPrecision);
  if (!value.IsNumber()) return Bad("'%{}' needs a number, not '{}'", spec.type, value.TypeName());
  const bool whole = std::string_view("diuoxX").find(spec.type) != std::string_view::npos;
  if (!whole) {
    LARDER_ASSIGN(const std::string text, FormatFloat(value.number(), spec));
    return Pad(text, spec, '>');
  }
  if (value.Is(Kind::kFloat)) {
    const bool decimal = spec.type == 'd' || spec.type == 'i' || spec.type == 'u';
    if (!decimal || !(std::abs(value.float_value()) < 1e18)) return Bad("'%{}' needs an integer", spec.type);
  }
  const Int integer = value.Is(Kind::kFloat) ? static_cast<Int>(value.float_value()) : value.int_value();
  LARDER_ASSIGN(const std::string text, FormatInteger(integer, spec));
  return Pad(text, spec, '>');
}

Result<std::string> PercentFormatter::Run() {
  std::string out;
  while (at_ < format_.size()) {
    const size_t percent = std::min(format_.find('%', at_), format_.size());
    out += format_.substr(at_, percent - at_);
    at_ = percent + 1;
    if (percent == format_.size()) break;
    LARDER_TRY(heap_.Work());
    Value value;
    bool named = false;
    if (at_ < format_.size() && format_[at_] == '(') {
      LARDER_ASSIGN(const std::string key, TakeKey());
      if (!values_.Is(Kind::kDict)) return Bad("'%({})' needs a dict", key);
      const Value* found = values_.dict().Find(key);
      if (!found) return Bad("the dict has no key '{}'", key);
      value = *found;
      named = by_name_ = true;
    }
    LARDER_ASSIGN(const Spec spec, TakeSpec());
    if (spec.type == '%') {
      out += '%';
      continue;
    }
    if (!named) {
      LARDER_ASSIGN(value, NextValue());
    }
    LARDER_ASSIGN(const std::string text, Convert(spec, value));
    LARDER_TRY(Heap::TextRoom(out.size() + text.size()));
    LARDER_TRY(heap_.Work(text.size()));
    out += text;
  }
  const bool is_tuple = values_.Is(Kind::kSequence) && values_.sequence()->type == SequenceType::kTuple;
  const bool may_rest = by_name_ || values_.Is(Kind::kDict) || values_.Is(Kind::kUndefined) ||
                        (values_.Is(Kind::kSequence) && values_.sequence()->IsIndexed() && !is_tuple);
  if (!may_rest && next_ < (is_tuple ? values_.sequence()->items.size() : 1)) {
    return Bad("there are more values than conversions");
  }
  return out;
}

// -- "...".format(...)
// -------------------------------------------------------------------------------------------------

Result<Spec> ParseBraceSpec(std::string_view text) {
  Spec spec;
  size_t at = 0;
  const auto is_align = [](char c) { return c == '<' || c == '>' || c == '^' || c == '='; };
  const size_t first = ByteOffset(text, 1);
  if (first < text.size() && is_align(text[first])) {
    spec.fill = std::string(text.substr(0, first));
    spec.align = text[first];
    at = first + 1;
  } else if (!text.empty() && is_align(text[0])) {
    spec.align = text[at++];
  }
  const auto take = [&text, &at](std::string_view any) {
    const bool here = at < text.size() && any.find(text[at]) != std::string_view::npos;
    return here ? text[at++] : '\0';
  };
  const char sign = take("+- ");
  spec.sign = sign == '-' ? '\0' : sign;
  spec.alternate = take("#") != 0;
  if (take("0") && spec.align == 0) {
    spec.fill = "0";
    spec.align = '=';
  }
  LARDER_ASSIGN(spec.width, TakeNumber(text, &at));
  spec.thousands = take(",") != 0;
  if (take(".")) {
    const size_t digits = at;
    LARDER_ASSIGN(const size_t precision, TakeNumber(text, &at));
    if (digits == at) return Bad("a '.' is not followed by a precision");
    spec.precision = static_cast<int>(precision);
  }
  spec.type = take("sdxXobeEfFgG%");
  if (at < text.size()) return Bad("the specification '{}' is not supported", text);
  return spec;
}

Result<std::string> FormatField(const Value& value, std::string_view spec_text) {
  if (spec_text.empty()) return Str(value);
  LARDER_ASSIGN(Spec spec, ParseBraceSpec(spec_text));
  if (value.Is(Kind::kText)) {
    if ((spec.type != 0 && spec.type != 's') || spec.align == '=' || spec.sign || spec.alternate ||
        spec.thousands) {
      return Bad("the specification '{}' does not fit a text", spec_text);
    }
    return Pad(Shortened(std::string(value.text()), spec), spec, '<');
  }
  if (!value.IsNumber()) return Bad("a value of type '{}' takes no specification", value.TypeName());
  if (spec.precision > kMaxPrecision) return Bad("a precision above {} is not supported", kMaxPrecision);
  const bool float_type =
      std::string_view("eEfFgG%").find(spec.type) != std::string_view::npos && spec.type != 0;
  if (value.IsIntegral() && !float_type) {
    if (spec.type == 's' || spec.precision >= 0 || (spec.thousands && spec.type != 0 && spec.type != 'd')) {
      return Bad("the specification '{}' does not fit an integer", spec_text);
    }
    LARDER_ASSIGN(const std::string text, FormatInteger(value.int_value(), spec));
    return Pad(text, spec, '>');
  }
  if (!float_type) return Bad("the specification '{}' of a float is not supported", spec_text);
  LARDER_ASSIGN(const std::string text, FormatFloat(value.number(), spec));
  return Pad(text, spec, '>');
}

class BraceFormatter {
 public:
  BraceFormatter(std::string_view format, const Arguments& arguments, Heap& heap)
      : format_(format), arguments_(arguments), heap_(heap) {}
  Result<std::string> Run();

 private:
  Result<const Value*> Find(std::string_view name);
  Result<std::string> Field(std::string_view field);

  std::string_view format_;
  const Arguments& arguments_;
  Heap& heap_;
  size_t next_ = 0;
  bool numbered_ = false;
};

Result<const Value*> BraceFormatter::Find(std::string_view name) {
  if (name.find_first_of(".[") != std::string_view::npos) {
    return Fail(ErrorKind::kUnsupported,
                "the field '{{{}}}' of a format is not supported; only names and numbers are", name);
  }
  const auto number = name.empty() ? std::nullopt : ParseInt(name, 10);
  if (name.empty() || number) {
    if (name.empty() ? numbered_ : next_ > 0) return Bad("numbered and unnumbered fields are mixed");
    numbered_ = !name.empty();
    const Int index = number ? *number : Int{static_cast<int64_t>(next_++)};
    if (index < 0 || index >= Int{static_cast<int64_t>(arguments_.positional.size())}) {
      return Bad("there is no value for the field '{}'", name);
    }
    return &arguments_.positional[static_cast<size_t>(index)];
  }
  LARDER_TRY(heap_.Work(arguments_.named.size() * 16));
  for (const auto& [argument, value] : arguments_.named) {
    if (argument == name) return &value;
  }
  return Bad("there is no value for the field '{}'", name);
}

Result<std::string> BraceFormatter::Field(std::string_view field) {
  if (field.find('{') != std::string_view::npos)
    return Bad("fields inside a specification are not supported");
  const size_t name_end = std::min(field.find_first_of("!:"), field.size());
  LARDER_ASSIGN(const Value* value, Find(field.substr(0, name_end)));
  std::string_view rest = field.substr(name_end);
  Value converted = *value;
  if (rest.starts_with('!')) {
    const char conversion = rest.size() > 1 ? rest[1] : '\0';
    if ((conversion != 'r' && conversion != 's') || (rest.size() > 2 && rest[2] != ':')) {
      return Bad("the conversion '{}' is not supported", rest);
    }
    std::string text;
    if (conversion == 'r') {
      LARDER_TRY(AppendRepr(*value, &text));
    } else {
      LARDER_ASSIGN(text, Str(*value));
    }
    LARDER_ASSIGN(converted, heap_.NewText(std::move(text)));
    rest.remove_prefix(2);
  }
  return FormatField(converted, rest.empty() ? rest : rest.substr(1));
}

Result<std::string> BraceFormatter::Run() {
  std::string out;
  for (size_t at = 0; at < format_.size();) {
    const char c = format_[at];
    const bool doubled = at + 1 < format_.size() && format_[at + 1] == c;
    if (c != '{' && c != '}') {
      out.push_back(c);
      ++at;
    } else if (doubled) {
      out.push_back(c);
      at += 2;
    } else {
      const size_t end = c == '{' ? format_.find('}', at) : std::string_view::npos;
      if (end == std::string_view::npos) return Bad("a single '{}'", c);
      LARDER_ASSIGN(const std::string text, Field(format_.substr(at + 1, end - at - 1)));
      LARDER_TRY(Heap::TextRoom(out.size() + text.size()));
      LARDER_TRY(heap_.Work(text.size()));
      out += text;
      at = end + 1;
    }
  }
  return out;
}

}  // namespace

Result<std::string> PercentFormat(std::string_view format, const Value& values, Heap& heap) {
  LARDER_TRY(heap.Work(format.size()));
  return PercentFormatter(format, values, heap).Run();
}

Result<std::string> BraceFormat(std::string_view format, const Arguments& arguments, Heap& heap) {
  LARDER_TRY(heap.Work(format.size()));
  return BraceFormatter(format, arguments, heap).Run();
}

}  // namespace larder::jinja
