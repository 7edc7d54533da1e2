// Methods of text, dicts and sequences.
#include <algorithm>
#include <array>
#include <functional>

#include "model/jinja/format.h"
#include "model/jinja/interpreter.h"
#include "model/jinja/limits.h"

namespace larder::jinja {
namespace {

using Bound = std::vector<std::optional<Value>>;

constexpr std::string_view kTextMethods[] = {
    "capitalize", "casefold",     "center",       "count",   "encode",     "endswith",    "expandtabs",
    "find",       "format",       "format_map",   "index",   "isalnum",    "isalpha",     "isascii",
    "isdecimal",  "isdigit",      "isidentifier", "islower", "isnumeric",  "isprintable", "isspace",
    "istitle",    "isupper",      "join",         "ljust",   "lower",      "lstrip",      "maketrans",
    "partition",  "removeprefix", "removesuffix", "replace", "rfind",      "rindex",      "rjust",
    "rpartition", "rsplit",       "rstrip",       "split",   "splitlines", "startswith",  "strip",
    "swapcase",   "title",        "translate",    "upper",   "zfill"};
constexpr std::string_view kDictMethods[] = {"copy", "fromkeys", "get", "items", "keys", "values"};
constexpr std::string_view kDictMutators[] = {"clear", "pop", "popitem", "setdefault", "update"};
constexpr std::string_view kListMutators[] = {"append", "clear", "pop",    "reverse",
                                              "insert", "sort",  "extend", "remove"};

template <size_t kCount>
bool In(const std::string_view (&names)[kCount], std::string_view name) {
  return std::find(std::begin(names), std::end(names), name) != std::end(names);
}

std::unexpected<Error> Refused(const Value& self, std::string_view name) {
  return Fail(ErrorKind::kUnsupported, "the method '{}' of '{}' is not supported in chat templates", name,
              self.TypeName());
}

Result<std::string_view> NeedText(const Value& value, std::string_view method) {
  if (value.Is(Kind::kText)) return value.text();
  return Fail(ErrorKind::kInvalid, "{}() needs a text, not '{}'", method, value.TypeName());
}

// An optional text argument where None means not given.
Result<std::optional<std::string_view>> OptionalText(const std::optional<Value>& value,
                                                     std::string_view method) {
  if (!value || value->Is(Kind::kNone)) return std::optional<std::string_view>();
  LARDER_ASSIGN(const std::string_view text, NeedText(*value, method));
  return std::optional<std::string_view>(text);
}

Result<Int> IntegerOr(const std::optional<Value>& value, Int otherwise, std::string_view method) {
  if (!value) return otherwise;
  if (value->IsIntegral()) return value->int_value();
  return Fail(ErrorKind::kInvalid, "{}() needs an integer, not '{}'", method, value->TypeName());
}

Result<Value> StripMethod(Heap& heap, std::string_view text, std::string_view name, Arguments arguments) {
  LARDER_ASSIGN(const Bound bound, Bind(name, std::move(arguments), {"chars"}, 0));
  LARDER_ASSIGN(const auto characters, OptionalText(bound[0], name));
  if (characters) LARDER_TRY(heap.SearchWork(text.size() + characters->size(), characters->size()));
  const Side side = name == "strip" ? Side::kBoth : name == "lstrip" ? Side::kLeft : Side::kRight;
  return heap.NewText(Strip(text, side, characters));
}

Result<Value> ListOfTexts(Heap& heap, const std::vector<std::string_view>& parts) {
  LARDER_TRY(heap.ListRoom(parts.size()));
  std::vector<Value> items;
  items.reserve(parts.size());
  for (const std::string_view part : parts) {
    LARDER_ASSIGN(Value item, heap.NewText(part));
    items.push_back(std::move(item));
  }
  return heap.NewList(std::move(items));
}

Result<Value> SplitMethod(Heap& heap, std::string_view text, std::string_view name, Arguments arguments) {
  LARDER_ASSIGN(const Bound bound, Bind(name, std::move(arguments), {"sep", "maxsplit"}, 0));
  LARDER_ASSIGN(const auto separator, OptionalText(bound[0], name));
  LARDER_ASSIGN(const Int limit, IntegerOr(bound[1], -1, name));
  if (separator && separator->empty()) return Fail(ErrorKind::kInvalid, "{}() by an empty text", name);
  LARDER_TRY(heap.SearchWork(text.size(), separator ? separator->size() : 1));
  LARDER_TRY(heap.Room(text.size() * sizeof(std::string_view)));
  const int64_t max_splits = limit < 0 || limit > Int{kAllSplits} ? kAllSplits : static_cast<int64_t>(limit);
  return ListOfTexts(heap, Split(text, separator, max_splits, name == "rsplit"));
}

Result<Value> SplitLinesMethod(Heap& heap, std::string_view text, std::string_view name,
                               Arguments arguments) {
  LARDER_ASSIGN(const Bound bound, Bind(name, std::move(arguments), {"keepends"}, 0));
  LARDER_TRY(heap.Work(text.size()));
  LARDER_TRY(heap.Room(text.size() * sizeof(std::string_view)));
  return ListOfTexts(heap, SplitLines(text, bound[0] && Truth(*bound[0])));
}

Result<Value> PartitionMethod(Heap& heap, std::string_view text, std::string_view name, Arguments arguments) {
  LARDER_ASSIGN(const Bound bound, Bind(name, std::move(arguments), {"sep"}, 1));
  LARDER_ASSIGN(const std::string_view separator, NeedText(*bound[0], name));
  if (separator.empty()) return Fail(ErrorKind::kInvalid, "{}() by an empty text", name);
  LARDER_TRY(heap.SearchWork(text.size(), separator.size()));
  const bool from_right = name == "rpartition";
  const size_t at = from_right ? text.rfind(separator) : text.find(separator);
  std::array<std::string_view, 3> parts = {text, "", ""};
  if (at != std::string_view::npos) {
    parts = {text.substr(0, at), separator, text.substr(at + separator.size())};
  } else if (from_right) {
    parts = {"", "", text};
  }
  std::vector<Value> items;
  for (const std::string_view part : parts) {
    LARDER_ASSIGN(Value item, heap.NewText(part));
    items.push_back(std::move(item));
  }
  return heap.NewSequence(SequenceType::kTuple, std::move(items));
}

// startswith and endswith, of one text or any of a tuple.
Result<Value> AffixMethod(Heap& heap, std::string_view text, std::string_view name, Arguments arguments) {
  if (arguments.positional.size() > 1)
    return Fail(ErrorKind::kUnsupported, "{}() with positions is not supported", name);
  LARDER_ASSIGN(const Bound bound, Bind(name, std::move(arguments), {"affix"}, 1));
  const Value& affix = *bound[0];
  const auto matches = [&](std::string_view candidate) {
    return name == "startswith" ? text.starts_with(candidate) : text.ends_with(candidate);
  };
  LARDER_TRY(heap.Work());
  if (!affix.Is(Kind::kSequence) || affix.sequence()->type != SequenceType::kTuple) {
    LARDER_ASSIGN(const std::string_view candidate, NeedText(affix, name));
    return Value::Bool(matches(candidate));
  }
  for (const Value& item : affix.sequence()->items) {
    LARDER_TRY(heap.Work());
    LARDER_ASSIGN(const std::string_view candidate, NeedText(item, name));
    if (matches(candidate)) return Value::Bool(true);
  }
  return Value::Bool(false);
}

// find, rfind, index, rindex and count, over the whole text.
Result<Value> SearchMethod(Heap& heap, std::string_view text, std::string_view name, Arguments arguments) {
  if (arguments.positional.size() > 1)
    return Fail(ErrorKind::kUnsupported, "{}() with positions is not supported", name);
  LARDER_ASSIGN(const Bound bound, Bind(name, std::move(arguments), {"sub"}, 1));
  LARDER_ASSIGN(const std::string_view wanted, NeedText(*bound[0], name));
  LARDER_TRY(heap.SearchWork(text.size(), wanted.size()));
  if (name == "count") {
    if (wanted.empty()) return Value::Integer(static_cast<Int>(CountCodePoints(text)) + 1);
    Int count = 0;
    for (size_t at = text.find(wanted); at != std::string_view::npos;
         at = text.find(wanted, at + wanted.size()))
      ++count;
    return Value::Integer(count);
  }
  const size_t at = name.starts_with('r') ? text.rfind(wanted) : text.find(wanted);
  if (at != std::string_view::npos)
    return Value::Integer(static_cast<Int>(CountCodePoints(text.substr(0, at))));
  if (name.ends_with("find")) return Value::Integer(-1);
  return Fail(ErrorKind::kInvalid, "{}(): the text is not found", name);
}

}  // namespace

Result<Value> ReplaceText(Heap& heap, std::string_view text, std::string_view from, std::string_view to,
                          Int limit) {
  LARDER_TRY(heap.SearchWork(text.size(), from.size()));
  if (limit < 0) limit = Int{INT64_MAX};
  std::string out;
  size_t at = 0;
  const auto put = [&out](std::string_view piece) -> Status {
    LARDER_TRY(Heap::TextRoom(out.size() + piece.size()));
    out += piece;
    return {};
  };
  if (from.empty()) {  // goes between all code points, and around them
    for (; limit > 0; --limit) {
      LARDER_TRY(put(to));
      if (at == text.size()) break;
      const size_t start = at;
      NextCodePoint(text, &at);
      LARDER_TRY(put(text.substr(start, at - start)));
    }
  } else {
    for (; limit > 0; --limit) {
      const size_t found = text.find(from, at);
      if (found == std::string_view::npos) break;
      LARDER_TRY(put(text.substr(at, found - at)));
      LARDER_TRY(put(to));
      at = found + from.size();
    }
  }
  LARDER_TRY(put(text.substr(at)));
  return heap.NewText(std::move(out));
}

Result<Value> JoinTexts(Heap& heap, std::string_view separator, const std::vector<Value>& items,
                        bool convert) {
  std::string out;
  for (size_t i = 0; i < items.size(); ++i) {
    if (!convert && !items[i].Is(Kind::kText)) {
      return Fail(ErrorKind::kInvalid, "join() needs texts, item {} is '{}'", i, items[i].TypeName());
    }
    LARDER_ASSIGN(const std::string text, Str(items[i]));
    LARDER_TRY(Heap::TextRoom(out.size() + separator.size() + text.size()));
    if (i > 0) out += separator;
    out += text;
  }
  return heap.NewText(std::move(out));
}

namespace {

Result<Value> ReplaceMethod(Heap& heap, std::string_view text, std::string_view name, Arguments arguments) {
  LARDER_ASSIGN(const Bound bound, Bind(name, std::move(arguments), {"old", "new", "count"}, 2));
  LARDER_ASSIGN(const std::string_view from, NeedText(*bound[0], name));
  LARDER_ASSIGN(const std::string_view to, NeedText(*bound[1], name));
  LARDER_ASSIGN(const Int limit, IntegerOr(bound[2], -1, name));
  return ReplaceText(heap, text, from, to, limit);
}

Result<Value> CaseMethod(Heap& heap, std::string_view text, std::string_view name, Arguments arguments) {
  LARDER_TRY(Bind(name, std::move(arguments), {}, 0));
  LARDER_TRY(heap.Work(text.size() * 8));
  LARDER_ASSIGN(std::string mapped, name == "upper"        ? Upper(text)
                                    : name == "lower"      ? Lower(text)
                                    : name == "capitalize" ? Capitalize(text)
                                                           : Title(text));
  return heap.NewText(std::move(mapped));
}

// isdigit, isalpha and the like. Beyond ASCII only white space is known here; the rest is refused.
Result<Value> ClassMethod(Heap& heap, std::string_view text, std::string_view name, Arguments arguments) {
  LARDER_TRY(Bind(name, std::move(arguments), {}, 0));
  LARDER_TRY(heap.Work(text.size()));
  if (name == "isupper") return Value::Bool(IsUpper(text));
  if (name == "islower") return Value::Bool(IsLower(text));
  const auto is_ascii = [](char c) { return (c & 0x80) == 0; };
  const bool ascii = std::all_of(text.begin(), text.end(), is_ascii);
  if (name == "isascii") return Value::Bool(ascii);
  if (name == "isspace") return Value::Bool(!text.empty() && Strip(text, Side::kLeft).empty());
  if (!ascii) return Fail(ErrorKind::kUnsupported, "{}() is not supported for text beyond ASCII", name);
  const auto digit = [](char c) { return c >= '0' && c <= '9'; };
  const auto letter = [](char c) { return (c | 0x20) >= 'a' && (c | 0x20) <= 'z'; };
  const auto wanted = [&](char c) {
    if (name == "isalpha") return letter(c);
    return digit(c) || (name == "isalnum" && letter(c));
  };
  return Value::Bool(!text.empty() && std::all_of(text.begin(), text.end(), wanted));
}

// center, ljust, rjust and zfill.
Result<Value> PadMethod(Heap& heap, std::string_view text, std::string_view name, Arguments arguments) {
  LARDER_ASSIGN(const Bound bound, Bind(name, std::move(arguments), {"width", "fillchar"}, 1));
  LARDER_ASSIGN(const Int width, IntegerOr(bound[0], 0, name));
  if (bound[1]) return Fail(ErrorKind::kUnsupported, "{}() with a fill character is not supported", name);
  const Int length = static_cast<Int>(CountCodePoints(text));
  if (width <= length) return heap.NewText(text);
  LARDER_TRY(Heap::TextRoom(width > Int{kMaxTextBytes} ? kMaxTextBytes + 1 : static_cast<size_t>(width)));
  const size_t missing = static_cast<size_t>(width - length);
  if (name == "zfill") {
    const size_t sign = text.starts_with('-') || text.starts_with('+') ? 1 : 0;
    return heap.NewText(std::string(text.substr(0, sign)) + std::string(missing, '0') +
                        std::string(text.substr(sign)));
  }
  // CPython puts the odd blank of an odd total width on the left.
  const size_t left = name == "ljust"   ? 0
                      : name == "rjust" ? missing
                                        : missing / 2 + (missing & static_cast<size_t>(width) & 1);
  return heap.NewText(std::string(left, ' ') + std::string(text) + std::string(missing - left, ' '));
}

Result<Value> RemoveMethod(Heap& heap, std::string_view text, std::string_view name, Arguments arguments) {
  LARDER_ASSIGN(const Bound bound, Bind(name, std::move(arguments), {"affix"}, 1));
  LARDER_ASSIGN(const std::string_view affix, NeedText(*bound[0], name));
  if (name == "removeprefix" && text.starts_with(affix)) return heap.NewText(text.substr(affix.size()));
  if (name == "removesuffix" && text.ends_with(affix))
    return heap.NewText(text.substr(0, text.size() - affix.size()));
  return heap.NewText(text);
}

Result<Value> JoinMethod(Heap& heap, std::string_view text, std::string_view name, Arguments arguments) {
  LARDER_ASSIGN(const Bound bound, Bind(name, std::move(arguments), {"iterable"}, 1));
  LARDER_ASSIGN(const std::vector<Value> items, Iterate(*bound[0], heap));
  return JoinTexts(heap, text, items, false);
}

Result<Value> FormatMethod(Heap& heap, std::string_view text, std::string_view, Arguments arguments) {
  const Arguments values = std::move(arguments);
  LARDER_ASSIGN(std::string formatted, BraceFormat(text, values, heap));
  return heap.NewText(std::move(formatted));
}

struct TextMethod {
  std::string_view name;
  Result<Value> (*call)(Heap&, std::string_view, std::string_view, Arguments);
  bool gives_text = true;  // of a text marked as safe it would give such a text again
};

constexpr TextMethod kTextTable[] = {{"strip", StripMethod},
                                     {"lstrip", StripMethod},
                                     {"rstrip", StripMethod},
                                     {"split", SplitMethod},
                                     {"rsplit", SplitMethod},
                                     {"splitlines", SplitLinesMethod},
                                     {"partition", PartitionMethod},
                                     {"rpartition", PartitionMethod},
                                     {"startswith", AffixMethod, false},
                                     {"endswith", AffixMethod, false},
                                     {"find", SearchMethod, false},
                                     {"rfind", SearchMethod, false},
                                     {"index", SearchMethod, false},
                                     {"rindex", SearchMethod, false},
                                     {"count", SearchMethod, false},
                                     {"replace", ReplaceMethod},
                                     {"upper", CaseMethod},
                                     {"lower", CaseMethod},
                                     {"capitalize", CaseMethod},
                                     {"title", CaseMethod},
                                     {"isupper", ClassMethod, false},
                                     {"islower", ClassMethod, false},
                                     {"isascii", ClassMethod, false},
                                     {"isspace", ClassMethod, false},
                                     {"isdigit", ClassMethod, false},
                                     {"isdecimal", ClassMethod, false},
                                     {"isnumeric", ClassMethod, false},
                                     {"isalpha", ClassMethod, false},
                                     {"isalnum", ClassMethod, false},
                                     {"center", PadMethod},
                                     {"ljust", PadMethod},
                                     {"rjust", PadMethod},
                                     {"zfill", PadMethod},
                                     {"removeprefix", RemoveMethod},
                                     {"removesuffix", RemoveMethod},
                                     {"join", JoinMethod},
                                     {"format", FormatMethod}};

}  // namespace

bool IsTextMethod(std::string_view name) { return In(kTextMethods, name); }
bool IsDictMethod(std::string_view name) { return In(kDictMethods, name); }

bool IsSequenceMethod(SequenceType type, std::string_view name) {
  if (type == SequenceType::kList && name == "copy") return true;
  return (type == SequenceType::kList || type == SequenceType::kTuple || type == SequenceType::kRange) &&
         (name == "count" || name == "index");
}

bool IsMutator(const Value& self, std::string_view name) {
  if (self.Is(Kind::kDict)) return In(kDictMutators, name);
  return self.Is(Kind::kSequence) && self.sequence()->type == SequenceType::kList && In(kListMutators, name);
}

Result<Value> CallTextMethod(Heap& heap, const Value& self, std::string_view name, Arguments arguments) {
  const auto* method = std::find_if(std::begin(kTextTable), std::end(kTextTable),
                                    [name](const TextMethod& candidate) { return candidate.name == name; });
  if (method == std::end(kTextTable) || (self.is_markup() && method->gives_text)) return Refused(self, name);
  return method->call(heap, self.text(), name, std::move(arguments));
}

Result<Value> CallDictMethod(Heap& heap, const Value& self, std::string_view name, Arguments arguments) {
  const Dict& dict = self.dict();
  if (name == "get") {
    if (!arguments.named.empty()) return Fail(ErrorKind::kInvalid, "get() takes no named arguments");
    LARDER_ASSIGN(const Bound bound, Bind(name, std::move(arguments), {"key", "default"}, 1));
    LARDER_TRY(heap.Work(bound[0]->Is(Kind::kText) ? bound[0]->text().size() : 0));
    if (bound[0]->Is(Kind::kUndefined)) return bound[1].value_or(Value::None());
    LARDER_ASSIGN(const Value* found, dict.Find(*bound[0]));
    return found ? *found : bound[1].value_or(Value::None());
  }
  LARDER_TRY(Bind(name, std::move(arguments), {}, 0));
  if (name == "copy") return self;
  if (name != "keys" && name != "values" && name != "items") return Refused(self, name);
  LARDER_TRY(heap.ListRoom(dict.items.size()));
  std::vector<Value> items;
  items.reserve(dict.items.size());
  for (const auto& [key, value] : dict.items) {
    if (name != "items") {
      items.push_back(name == "keys" ? key : value);
      continue;
    }
    LARDER_ASSIGN(Value pair, heap.NewSequence(SequenceType::kTuple, {key, value}));
    items.push_back(std::move(pair));
  }
  const SequenceType type = name == "keys"     ? SequenceType::kKeys
                            : name == "values" ? SequenceType::kValues
                                               : SequenceType::kItems;
  return heap.NewSequence(type, std::move(items));
}

Result<Value> CallSequenceMethod(Heap& heap, const Value& self, std::string_view name, Arguments arguments) {
  if (name == "copy") {
    LARDER_TRY(Bind(name, std::move(arguments), {}, 0));
    return self;
  }
  LARDER_ASSIGN(const Bound bound, Bind(name, std::move(arguments), {"value"}, 1));
  Int count = 0;
  const auto& items = self.sequence()->items;
  for (size_t i = 0; i < items.size(); ++i) {
    LARDER_ASSIGN(const bool same, Equal(items[i], *bound[0], heap));
    if (same && name == "index") return Value::Integer(static_cast<Int>(i));
    count += same;
  }
  if (name == "count") return Value::Integer(count);
  return Fail(ErrorKind::kInvalid, "index(): the value is not in the list");
}

}  // namespace larder::jinja
