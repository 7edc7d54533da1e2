// Filters that give a text or a number.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>

#include "model/jinja/filters.h"
#include "model/jinja/format.h"
#include "model/jinja/json.h"
#include "model/jinja/limits.h"

namespace larder::jinja {
namespace {

using Bound = std::vector<std::optional<Value>>;

std::unexpected<Error> RefuseMarkup(std::string_view filter) {
  return Fail(ErrorKind::kUnsupported, "the filter '{}' on a text marked as safe is not supported", filter);
}

Result<Int> NeedInteger(const Value& value, std::string_view filter) {
  if (value.IsIntegral()) return value.int_value();
  return Fail(ErrorKind::kInvalid, "the filter '{}' needs an integer, not '{}'", filter, value.TypeName());
}

// The filters that work on str(input) and keep its mark as safe.
Result<Value> MapText(Interpreter& interpreter, const Value& input,
                      Result<std::string> (*map)(std::string_view)) {
  LARDER_ASSIGN(const std::string text, Str(input));
  LARDER_TRY(interpreter.heap().Work(text.size() * 8));
  LARDER_ASSIGN(std::string mapped, map(text));
  return interpreter.heap().NewText(std::move(mapped), input.is_markup());
}

Result<Value> UpperFilter(Interpreter& interpreter, const Value& input, Arguments arguments) {
  LARDER_TRY(Bind("upper", std::move(arguments), {}, 0));
  return MapText(interpreter, input, Upper);
}

Result<Value> LowerFilter(Interpreter& interpreter, const Value& input, Arguments arguments) {
  LARDER_TRY(Bind("lower", std::move(arguments), {}, 0));
  return MapText(interpreter, input, Lower);
}

Result<Value> CapitalizeFilter(Interpreter& interpreter, const Value& input, Arguments arguments) {
  LARDER_TRY(Bind("capitalize", std::move(arguments), {}, 0));
  return MapText(interpreter, input, Capitalize);
}

// Words begin behind white space and -({[<, unlike in str.title().
Result<std::string> TitleWords(std::string_view text) {
  std::string out;
  bool at_start = true;
  for (size_t at = 0; at < text.size();) {
    const size_t start = at;
    const char32_t c = NextCodePoint(text, &at);
    const std::string_view piece = text.substr(start, at - start);
    const bool separates = IsSpace(c) || (c < 0x80 && std::string_view("-({[<").find(static_cast<char>(c)) !=
                                                          std::string_view::npos);
    LARDER_ASSIGN(const std::string mapped, at_start && !separates ? Upper(piece) : Lower(piece));
    out += mapped;
    at_start = separates;
  }
  return out;
}

Result<Value> TitleFilter(Interpreter& interpreter, const Value& input, Arguments arguments) {
  LARDER_TRY(Bind("title", std::move(arguments), {}, 0));
  if (input.is_markup()) return RefuseMarkup("title");
  return MapText(interpreter, input, TitleWords);
}

Result<Value> TrimFilter(Interpreter& interpreter, const Value& input, Arguments arguments) {
  LARDER_ASSIGN(const Bound bound, Bind("trim", std::move(arguments), {"chars"}, 0));
  LARDER_ASSIGN(const std::string text, Str(input));
  std::optional<std::string_view> characters;
  if (bound[0] && !bound[0]->Is(Kind::kNone)) {
    if (!bound[0]->Is(Kind::kText))
      return Fail(ErrorKind::kInvalid, "the filter 'trim' needs a text to strip");
    characters = bound[0]->text();
    LARDER_TRY(interpreter.heap().SearchWork(text.size() + characters->size(), characters->size()));
  }
  return interpreter.heap().NewText(Strip(text, Side::kBoth, characters), input.is_markup());
}

Result<Value> StringFilter(Interpreter& interpreter, const Value& input, Arguments arguments) {
  LARDER_TRY(Bind("string", std::move(arguments), {}, 0));
  if (input.Is(Kind::kText)) return input;
  LARDER_ASSIGN(std::string text, Str(input));
  return interpreter.heap().NewText(std::move(text));
}

Result<Value> SafeFilter(Interpreter& interpreter, const Value& input, Arguments arguments) {
  LARDER_TRY(Bind("safe", std::move(arguments), {}, 0));
  LARDER_ASSIGN(std::string text, Str(input));
  return interpreter.heap().NewText(std::move(text), true);
}

Result<Value> EscapeFilter(Interpreter& interpreter, const Value& input, Arguments arguments) {
  LARDER_TRY(Bind("escape", std::move(arguments), {}, 0));
  if (input.is_markup()) return input;
  LARDER_ASSIGN(const std::string text, Str(input));
  return interpreter.heap().NewText(EscapeHtml(text), true);
}

Result<Value> ReplaceFilter(Interpreter& interpreter, const Value& input, Arguments arguments) {
  LARDER_ASSIGN(const Bound bound, Bind("replace", std::move(arguments), {"old", "new", "count"}, 2));
  LARDER_ASSIGN(const std::string text, Str(input));
  LARDER_ASSIGN(const std::string from, Str(*bound[0]));
  LARDER_ASSIGN(const std::string to, Str(*bound[1]));
  Int limit = -1;
  if (bound[2] && !bound[2]->Is(Kind::kNone)) {
    LARDER_ASSIGN(limit, NeedInteger(*bound[2], "replace"));
  }
  return ReplaceText(interpreter.heap(), text, from, to, limit);
}

// All lines but the first get the indentation, blank ones only on request.
Result<Value> IndentFilter(Interpreter& interpreter, const Value& input, Arguments arguments) {
  LARDER_ASSIGN(const Bound bound, Bind("indent", std::move(arguments), {"width", "first", "blank"}, 0));
  if (input.is_markup()) return RefuseMarkup("indent");
  if (!input.Is(Kind::kText))
    return Fail(ErrorKind::kInvalid, "the filter 'indent' needs a text, not '{}'", input.TypeName());
  std::string indentation(4, ' ');
  if (bound[0] && bound[0]->Is(Kind::kText)) {
    indentation = bound[0]->text();
  } else if (bound[0]) {
    LARDER_ASSIGN(const Int width, NeedInteger(*bound[0], "indent"));
    LARDER_TRY(Heap::TextRoom(width > Int{kMaxTextBytes} ? kMaxTextBytes + 1 : 0));
    indentation.assign(static_cast<size_t>(std::max(width, Int{0})), ' ');
  }
  const bool first = bound[1] && Truth(*bound[1]);
  const bool blank = bound[2] && Truth(*bound[2]);
  const std::string text = std::string(input.text()) + "\n";
  LARDER_TRY(interpreter.heap().Room(text.size() * sizeof(std::string_view)));
  const std::vector<std::string_view> lines = SplitLines(text, false);
  std::string out = first ? indentation : "";
  for (size_t i = 0; i < lines.size(); ++i) {
    LARDER_TRY(Heap::TextRoom(out.size() + indentation.size() + lines[i].size() + 1));
    if (i > 0) out += "\n";
    if (i > 0 && (blank || !lines[i].empty())) out += indentation;
    out += lines[i];
  }
  return interpreter.heap().NewText(std::move(out));
}

Result<Value> CenterFilter(Interpreter& interpreter, const Value& input, Arguments arguments) {
  LARDER_ASSIGN(Bound bound, Bind("center", std::move(arguments), {"width"}, 0));
  if (input.is_markup()) return RefuseMarkup("center");
  LARDER_ASSIGN(std::string text, Str(input));
  LARDER_ASSIGN(const Value value, interpreter.heap().NewText(std::move(text)));
  return CallTextMethod(interpreter.heap(), value, "center",
                        Arguments{{bound[0].value_or(Value::Integer(80))}, {}});
}

Result<Value> FormatFilter(Interpreter& interpreter, const Value& input, Arguments arguments) {
  if (input.is_markup()) return RefuseMarkup("format");
  if (!arguments.positional.empty() && !arguments.named.empty()) {
    return Fail(ErrorKind::kInvalid, "the filter 'format' takes positional or named arguments, not both");
  }
  Heap& heap = interpreter.heap();
  Value values;
  if (arguments.named.empty()) {
    LARDER_ASSIGN(values, heap.NewSequence(SequenceType::kTuple, std::move(arguments.positional)));
  } else {
    Dict::Builder named;
    for (auto& [name, value] : arguments.named)
      LARDER_TRY(named.Set(Value::Constant(name), std::move(value)));
    LARDER_ASSIGN(values, heap.NewDict(std::move(named)));
  }
  LARDER_ASSIGN(const std::string format, Str(input));
  LARDER_ASSIGN(std::string text, PercentFormat(format, values, heap));
  return heap.NewText(std::move(text));
}

Result<Value> WordCountFilter(Interpreter& interpreter, const Value& input, Arguments arguments) {
  LARDER_TRY(Bind("wordcount", std::move(arguments), {}, 0));
  LARDER_ASSIGN(const std::string text, Str(input));
  LARDER_TRY(interpreter.heap().Work(text.size()));
  Int count = 0;
  bool in_word = false;
  for (const char c : text) {
    if ((c & 0x80) != 0)
      return Fail(ErrorKind::kUnsupported, "the filter 'wordcount' beyond ASCII is not supported");
    const bool word = std::isalnum(static_cast<unsigned char>(c)) || c == '_';
    count += word && !in_word;
    in_word = word;
  }
  return Value::Integer(count);
}

// -- numbers
// -----------------------------------------------------------------------------------------------------------

Result<std::optional<Int>> Truncated(double value) {
  if (std::isnan(value) || std::isinf(value)) return std::optional<Int>();
  if (std::abs(value) > 1e36) return Fail(ErrorKind::kUnsupported, "integers of this size are not supported");
  return std::optional<Int>(static_cast<Int>(value));
}

Result<Value> IntFilter(Interpreter& interpreter, const Value& input, Arguments arguments) {
  LARDER_ASSIGN(const Bound bound, Bind("int", std::move(arguments), {"default", "base"}, 0));
  Value otherwise = bound[0].value_or(Value::Integer(0));
  Int base = 10;
  if (bound[1]) {
    LARDER_ASSIGN(base, NeedInteger(*bound[1], "int"));
    if (base != 2 && base != 8 && base != 10 && base != 16) {
      return Fail(ErrorKind::kUnsupported, "the filter 'int' with base {} is not supported", IntText(base));
    }
  }
  if (input.Is(Kind::kUndefined)) return Fail(ErrorKind::kInvalid, "{}", input.reason());
  if (input.IsIntegral()) return Value::Integer(input.int_value());
  if (input.Is(Kind::kFloat)) {
    LARDER_ASSIGN(const auto whole, Truncated(input.float_value()));
    if (!whole && std::isinf(input.float_value()))
      return Fail(ErrorKind::kInvalid, "infinity has no integer");
    return whole ? Value::Integer(*whole) : otherwise;
  }
  if (!input.Is(Kind::kText)) return otherwise;
  LARDER_TRY(interpreter.heap().Work(input.text().size()));
  if (const auto integer = ParseInt(input.text(), static_cast<int>(base))) return Value::Integer(*integer);
  const auto number = ParseFloat(input.text());
  if (!number) return otherwise;
  LARDER_ASSIGN(const auto whole, Truncated(*number));
  return whole ? Value::Integer(*whole) : otherwise;
}

Result<Value> FloatFilter(Interpreter& interpreter, const Value& input, Arguments arguments) {
  LARDER_ASSIGN(const Bound bound, Bind("float", std::move(arguments), {"default"}, 0));
  if (input.Is(Kind::kUndefined)) return Fail(ErrorKind::kInvalid, "{}", input.reason());
  if (input.IsNumber()) return Value::Float(input.number());
  if (input.Is(Kind::kText)) {
    LARDER_TRY(interpreter.heap().Work(input.text().size()));
    if (const auto number = ParseFloat(input.text())) return Value::Float(*number);
  }
  return bound[0].value_or(Value::Float(0));
}

Result<Value> AbsFilter(Interpreter&, const Value& input, Arguments arguments) {
  LARDER_TRY(Bind("abs", std::move(arguments), {}, 0));
  if (input.Is(Kind::kUndefined)) return Fail(ErrorKind::kInvalid, "{}", input.reason());
  if (input.IsIntegral())
    return Value::Integer(input.int_value() < 0 ? -input.int_value() : input.int_value());
  if (input.Is(Kind::kFloat)) return Value::Float(std::abs(input.float_value()));
  return Fail(ErrorKind::kInvalid, "the filter 'abs' needs a number, not '{}'", input.TypeName());
}

Result<Value> RoundFilter(Interpreter&, const Value& input, Arguments arguments) {
  LARDER_ASSIGN(const Bound bound, Bind("round", std::move(arguments), {"precision", "method"}, 0));
  LARDER_ASSIGN(const Int precision, bound[0] ? NeedInteger(*bound[0], "round") : Result<Int>(0));
  std::string method = "common";
  if (bound[1]) {
    LARDER_ASSIGN(method, Str(*bound[1]));
  }
  if (!input.IsNumber())
    return Fail(ErrorKind::kInvalid, "the filter 'round' needs a number, not '{}'", input.TypeName());
  if (precision < 0 || precision > 20) {
    return Fail(ErrorKind::kUnsupported, "the filter 'round' with precision {} is not supported",
                IntText(precision));
  }
  const double value = input.number();
  if (method == "common") {
    if (input.IsIntegral()) return Value::Integer(input.int_value());
    if (!std::isfinite(value)) return input;
    char buffer[400];  // correctly rounded decimal, as Python's round()
    std::snprintf(buffer, sizeof buffer, "%.*f", static_cast<int>(precision), value);
    return Value::Float(std::strtod(buffer, nullptr));
  }
  if (method != "ceil" && method != "floor") {
    return Fail(ErrorKind::kInvalid, "the filter 'round' knows common, ceil and floor, not '{}'", method);
  }
  const double scale = std::pow(10.0, static_cast<double>(precision));
  const double scaled = method == "ceil" ? std::ceil(value * scale) : std::floor(value * scale);
  if (!std::isfinite(scaled)) return Fail(ErrorKind::kInvalid, "the filter 'round' needs a finite number");
  return Value::Float(scaled == 0 ? 0.0 : scaled / scale);  // math.ceil gives an integer, which has no -0
}

// -- JSON
// --------------------------------------------------------------------------------------------------------------

Result<Value> ToJsonFilter(Interpreter& interpreter, const Value& input, Arguments arguments) {
  LARDER_ASSIGN(const Bound bound, Bind("tojson", std::move(arguments),
                                        {"ensure_ascii", "indent", "separators", "sort_keys"}, 0));
  JsonStyle style;
  style.ascii_only = bound[0] && Truth(*bound[0]);
  style.sort_keys = bound[3] && Truth(*bound[3]);
  if (bound[1] && !bound[1]->Is(Kind::kNone)) {
    if (bound[1]->Is(Kind::kText)) {
      style.indent = std::string(bound[1]->text());
    } else {
      LARDER_ASSIGN(const Int width, NeedInteger(*bound[1], "tojson"));
      LARDER_TRY(Heap::TextRoom(width > Int{kMaxTextBytes} ? kMaxTextBytes + 1 : 0));
      style.indent = std::string(static_cast<size_t>(std::max(width, Int{0})), ' ');
    }
    style.item_separator = ",";
  }
  if (bound[2] && !bound[2]->Is(Kind::kNone)) {
    LARDER_ASSIGN(const std::vector<Value> separators, Iterate(*bound[2], interpreter.heap()));
    if (separators.size() != 2 || !separators[0].Is(Kind::kText) || !separators[1].Is(Kind::kText)) {
      return Fail(ErrorKind::kInvalid, "the filter 'tojson' needs two texts as separators");
    }
    style.item_separator = separators[0].text();
    style.key_separator = separators[1].text();
  }
  LARDER_ASSIGN(std::string text, DumpJson(input, style, interpreter.heap()));
  return interpreter.heap().NewText(std::move(text));
}

constexpr FilterEntry kFilters[] = {{"upper", UpperFilter},
                                    {"lower", LowerFilter},
                                    {"capitalize", CapitalizeFilter},
                                    {"title", TitleFilter},
                                    {"trim", TrimFilter},
                                    {"string", StringFilter},
                                    {"safe", SafeFilter},
                                    {"escape", EscapeFilter},
                                    {"e", EscapeFilter},
                                    {"replace", ReplaceFilter},
                                    {"indent", IndentFilter},
                                    {"center", CenterFilter},
                                    {"format", FormatFilter},
                                    {"wordcount", WordCountFilter},
                                    {"int", IntFilter},
                                    {"float", FloatFilter},
                                    {"abs", AbsFilter},
                                    {"round", RoundFilter},
                                    {"tojson", ToJsonFilter}};

}  // namespace

std::span<const FilterEntry> TextFilters() { return kFilters; }

}  // namespace larder::jinja
