// Filters over lists, dicts and what else can be iterated over.
#include <algorithm>
#include <cmath>

#include "model/jinja/filters.h"
#include "model/jinja/operators.h"

namespace larder::jinja {
namespace {

using Bound = std::vector<std::optional<Value>>;

// -- attributes named by an argument: "a.b.0"
// --------------------------------------------------------------------------

Result<std::vector<Value>> AttributePath(const std::optional<Value>& attribute) {
  std::vector<Value> path;
  if (!attribute || attribute->Is(Kind::kNone)) return path;
  if (!attribute->Is(Kind::kText)) {
    path.push_back(*attribute);
    return path;
  }
  for (const std::string_view part : Split(attribute->text(), ".", kAllSplits, false)) {
    const bool digits =
        !part.empty() && std::all_of(part.begin(), part.end(), [](char c) { return c >= '0' && c <= '9'; });
    const auto index = digits ? ParseInt(part, 10) : std::nullopt;
    path.push_back(index ? Value::Integer(*index) : Value::Constant(std::string(part)));
  }
  return path;
}

Result<Value> Follow(Interpreter& interpreter, Value item, const std::vector<Value>& path,
                     const std::optional<Value>& otherwise = std::nullopt) {
  for (const Value& part : path) {
    LARDER_ASSIGN(item, interpreter.GetItem(item, part));
    if (otherwise && !otherwise->Is(Kind::kNone) && item.Is(Kind::kUndefined)) item = *otherwise;
  }
  return item;
}

// What sorting, uniqueness and min/max look at.
Result<Value> SortKey(Interpreter& interpreter, const Value& item, const std::vector<Value>& path,
                      bool case_sensitive) {
  LARDER_TRY(interpreter.heap().Work());
  LARDER_ASSIGN(Value key, Follow(interpreter, item, path));
  if (case_sensitive || !key.Is(Kind::kText)) return key;
  LARDER_TRY(interpreter.heap().Work(key.text().size() * 8));
  LARDER_ASSIGN(std::string lower, Lower(key.text()));
  return interpreter.heap().NewText(std::move(lower));
}

bool Flag(const std::optional<Value>& value) { return value && Truth(*value); }

Result<Value> Generator(Interpreter& interpreter, std::vector<Value> items) {
  return interpreter.heap().NewSequence(SequenceType::kGenerator, std::move(items));
}

// -- plain ones
// --------------------------------------------------------------------------------------------------------

Result<Value> DefaultFilter(Interpreter& interpreter, const Value& input, Arguments arguments) {
  LARDER_ASSIGN(const Bound bound, Bind("default", std::move(arguments), {"default_value", "boolean"}, 0));
  const bool missing = input.Is(Kind::kUndefined) || (Flag(bound[1]) && !Truth(input));
  if (!missing) return input;
  return bound[0] ? *bound[0] : interpreter.heap().NewText("");
}

Result<Value> LengthFilter(Interpreter& interpreter, const Value& input, Arguments arguments) {
  LARDER_TRY(Bind("length", std::move(arguments), {}, 0));
  if (const auto loop = input.As<LoopState>(); loop && loop->items) {
    return Value::Integer(static_cast<Int>(loop->items->items.size()));
  }
  LARDER_ASSIGN(const size_t length, Length(input, interpreter.heap()));
  return Value::Integer(static_cast<Int>(length));
}

Result<Value> FirstFilter(Interpreter& interpreter, const Value& input, Arguments arguments) {
  LARDER_TRY(Bind("first", std::move(arguments), {}, 0));
  if (input.Is(Kind::kSequence)) {
    Sequence& sequence = *input.sequence();
    if (sequence.consumed >= sequence.items.size()) return Value::Undefined("there is no first item");
    const size_t position = sequence.consumed;
    if (sequence.type == SequenceType::kGenerator) ++sequence.consumed;
    return sequence.items[position];
  }
  if (input.Is(Kind::kText) && !input.text().empty()) return interpreter.GetItem(input, Value::Integer(0));
  LARDER_ASSIGN(std::vector<Value> items, Iterate(input, interpreter.heap()));
  return items.empty() ? Value::Undefined("there is no first item") : std::move(items[0]);
}

Result<Value> LastFilter(Interpreter& interpreter, const Value& input, Arguments arguments) {
  LARDER_TRY(Bind("last", std::move(arguments), {}, 0));
  if (input.Is(Kind::kSequence) && input.sequence()->type == SequenceType::kGenerator) {
    return Fail(ErrorKind::kInvalid, "the filter 'last' cannot read a generator backwards; use |list first");
  }
  LARDER_ASSIGN(std::vector<Value> items, Iterate(input, interpreter.heap()));
  return items.empty() ? Value::Undefined("there is no last item") : std::move(items.back());
}

Result<Value> ListFilter(Interpreter& interpreter, const Value& input, Arguments arguments) {
  LARDER_TRY(Bind("list", std::move(arguments), {}, 0));
  LARDER_ASSIGN(std::vector<Value> items, Iterate(input, interpreter.heap()));
  return interpreter.heap().NewList(std::move(items));
}

Result<Value> ItemsFilter(Interpreter& interpreter, const Value& input, Arguments arguments) {
  LARDER_TRY(Bind("items", std::move(arguments), {}, 0));
  if (input.Is(Kind::kUndefined)) return Generator(interpreter, {});
  if (!input.Is(Kind::kDict))
    return Fail(ErrorKind::kInvalid, "the filter 'items' needs a dict, not '{}'", input.TypeName());
  LARDER_ASSIGN(const Value view, CallDictMethod(interpreter.heap(), input, "items", {}));
  return Generator(interpreter, view.sequence()->items);
}

Result<Value> ReverseFilter(Interpreter& interpreter, const Value& input, Arguments arguments) {
  LARDER_TRY(Bind("reverse", std::move(arguments), {}, 0));
  LARDER_ASSIGN(std::vector<Value> items, Iterate(input, interpreter.heap()));
  std::reverse(items.begin(), items.end());
  if (input.Is(Kind::kSequence) && input.sequence()->type == SequenceType::kGenerator) {
    return interpreter.heap().NewList(std::move(items));
  }
  if (!input.Is(Kind::kText)) return Generator(interpreter, std::move(items));
  std::string text;
  for (const Value& item : items) text += item.text();
  return interpreter.heap().NewText(std::move(text), input.is_markup());
}

Result<Value> JoinFilter(Interpreter& interpreter, const Value& input, Arguments arguments) {
  LARDER_ASSIGN(const Bound bound, Bind("join", std::move(arguments), {"d", "attribute"}, 0));
  LARDER_ASSIGN(std::vector<Value> items, Iterate(input, interpreter.heap()));
  LARDER_ASSIGN(const std::vector<Value> path, AttributePath(bound[1]));
  for (Value& item : items) {
    LARDER_ASSIGN(item, Follow(interpreter, std::move(item), path));
  }
  LARDER_ASSIGN(const std::string separator, bound[0] ? Str(*bound[0]) : Result<std::string>(""));
  return JoinTexts(interpreter.heap(), separator, items, true);
}

Result<Value> AttrFilter(Interpreter& interpreter, const Value& input, Arguments arguments) {
  LARDER_ASSIGN(const Bound bound, Bind("attr", std::move(arguments), {"name"}, 1));
  if (!bound[0]->Is(Kind::kText))
    return Fail(ErrorKind::kInvalid, "the filter 'attr' needs the name of an attribute");
  if (input.Is(Kind::kDict) && !IsDictMethod(bound[0]->text())) {
    return Value::Undefined(
        fmt::format("'dict object' has no attribute '{}'", bound[0]->text().substr(0, 200)));
  }
  return interpreter.GetAttribute(input, bound[0]->text());
}

Result<Value> BatchFilter(Interpreter& interpreter, const Value& input, Arguments arguments) {
  LARDER_ASSIGN(const Bound bound, Bind("batch", std::move(arguments), {"linecount", "fill_with"}, 1));
  if (!bound[0]->IsIntegral() || bound[0]->int_value() < 1) {
    return Fail(ErrorKind::kInvalid, "the filter 'batch' needs a positive number of items");
  }
  LARDER_ASSIGN(const std::vector<Value> items, Iterate(input, interpreter.heap()));
  const bool fills = bound[1] && !bound[1]->Is(Kind::kNone) && !items.empty();
  if (fills && bound[0]->int_value() > Int{1'000'000})
    return Fail(ErrorKind::kExhausted, "the filter 'batch' makes too long lists");
  const size_t size =
      static_cast<size_t>(std::min(bound[0]->int_value(), static_cast<Int>(items.size() + 1'000'000)));
  std::vector<Value> batches;
  for (size_t start = 0; start < items.size(); start += size) {
    const size_t end = std::min(start + size, items.size());
    std::vector<Value> batch(items.begin() + static_cast<ptrdiff_t>(start),
                             items.begin() + static_cast<ptrdiff_t>(end));
    if (fills) batch.resize(size, *bound[1]);
    LARDER_ASSIGN(Value list, interpreter.heap().NewList(std::move(batch)));
    batches.push_back(std::move(list));
  }
  return Generator(interpreter, std::move(batches));
}

// -- sorting
// -----------------------------------------------------------------------------------------------------------

struct Keyed {
  std::vector<Value> keys;
  Value item;
};

// Stable. Comparisons can fail; the first failure ends the sorting. Several keys compare as a list of them
// does: equal ones are passed over, whether their type has an order or not.
Status Sort(std::vector<Keyed>* entries, bool as_lists, bool reverse, Heap& heap) {
  LARDER_TRY(heap.ListRoom(entries->size() * 4));
  std::optional<Error> error;
  const auto compare = [&](const Value& a, const Value& b) -> Result<Order> {
    if (as_lists) {
      LARDER_ASSIGN(const bool same, Equal(a, b, heap));
      if (same) return Order::kEqual;
    }
    LARDER_ASSIGN(const Order order, Compare(a, b, heap));
    if (order == Order::kNone) return Fail(ErrorKind::kUnsupported, "sorting NaN is not supported");
    return order;
  };
  const auto less = [&](const Keyed& a, const Keyed& b) {
    for (size_t i = 0; i < a.keys.size() && !error; ++i) {
      const auto order = compare(a.keys[i], b.keys[i]);
      if (!order) {
        error = order.error();
      } else if (*order != Order::kEqual) {
        return *order == Order::kLess;
      }
    }
    return false;
  };
  if (reverse) std::reverse(entries->begin(), entries->end());
  std::stable_sort(entries->begin(), entries->end(), less);
  if (reverse) std::reverse(entries->begin(), entries->end());
  if (error) return std::unexpected(*std::move(error));
  return {};
}

Result<Value> SortedList(Interpreter& interpreter, std::vector<Keyed> entries, bool as_lists, bool reverse) {
  LARDER_TRY(Sort(&entries, as_lists, reverse, interpreter.heap()));
  std::vector<Value> items;
  items.reserve(entries.size());
  for (Keyed& entry : entries) items.push_back(std::move(entry.item));
  return interpreter.heap().NewList(std::move(items));
}

Result<Value> SortFilter(Interpreter& interpreter, const Value& input, Arguments arguments) {
  LARDER_ASSIGN(const Bound bound,
                Bind("sort", std::move(arguments), {"reverse", "case_sensitive", "attribute"}, 0));
  std::vector<std::vector<Value>> paths;
  if (bound[2] && bound[2]->Is(Kind::kText)) {
    for (const std::string_view name : Split(bound[2]->text(), ",", kAllSplits, false)) {
      LARDER_ASSIGN(std::vector<Value> path, AttributePath(Value::Constant(std::string(name))));
      paths.push_back(std::move(path));
    }
  } else {
    LARDER_ASSIGN(std::vector<Value> path, AttributePath(bound[2]));
    paths.push_back(std::move(path));
  }
  LARDER_ASSIGN(const std::vector<Value> items, Iterate(input, interpreter.heap()));
  std::vector<Keyed> entries;
  for (const Value& item : items) {
    Keyed entry{{}, item};
    for (const auto& path : paths) {
      LARDER_ASSIGN(Value key, SortKey(interpreter, item, path, Flag(bound[1])));
      entry.keys.push_back(std::move(key));
    }
    entries.push_back(std::move(entry));
  }
  return SortedList(interpreter, std::move(entries), true, Flag(bound[0]));
}

Result<Value> DictSortFilter(Interpreter& interpreter, const Value& input, Arguments arguments) {
  LARDER_ASSIGN(const Bound bound,
                Bind("dictsort", std::move(arguments), {"case_sensitive", "by", "reverse"}, 0));
  if (!input.Is(Kind::kDict))
    return Fail(ErrorKind::kInvalid, "the filter 'dictsort' needs a dict, not '{}'", input.TypeName());
  LARDER_ASSIGN(const std::string by, bound[1] ? Str(*bound[1]) : Result<std::string>("key"));
  if (by != "key" && by != "value")
    return Fail(ErrorKind::kInvalid, "the filter 'dictsort' sorts by key or value, not '{}'", by);
  std::vector<Keyed> entries;
  for (const auto& [key, value] : input.dict().items) {
    LARDER_ASSIGN(Value sort_key, SortKey(interpreter, by == "key" ? key : value, {}, Flag(bound[0])));
    LARDER_ASSIGN(Value pair, interpreter.heap().NewSequence(SequenceType::kTuple, {key, value}));
    entries.push_back(Keyed{{std::move(sort_key)}, std::move(pair)});
  }
  return SortedList(interpreter, std::move(entries), false, Flag(bound[2]));
}

Result<Value> UniqueFilter(Interpreter& interpreter, const Value& input, Arguments arguments) {
  LARDER_ASSIGN(const Bound bound, Bind("unique", std::move(arguments), {"case_sensitive", "attribute"}, 0));
  LARDER_ASSIGN(const std::vector<Value> path, AttributePath(bound[1]));
  LARDER_ASSIGN(const std::vector<Value> items, Iterate(input, interpreter.heap()));
  Dict::Builder seen;
  std::vector<Value> unique;
  for (const Value& item : items) {
    LARDER_ASSIGN(Value key, SortKey(interpreter, item, path, Flag(bound[0])));
    const size_t before = seen.items.size();
    LARDER_TRY(seen.Set(std::move(key), Value::None()));
    if (seen.items.size() > before) unique.push_back(item);
  }
  return Generator(interpreter, std::move(unique));
}

Result<Value> Extreme(Interpreter& interpreter, const Value& input, Arguments arguments, Order wanted) {
  LARDER_ASSIGN(const Bound bound, Bind(wanted == Order::kLess ? "min" : "max", std::move(arguments),
                                        {"case_sensitive", "attribute"}, 0));
  LARDER_ASSIGN(const std::vector<Value> path, AttributePath(bound[1]));
  LARDER_ASSIGN(const std::vector<Value> items, Iterate(input, interpreter.heap()));
  if (items.empty()) return Value::Undefined("the sequence is empty");
  Value best = items[0];
  LARDER_ASSIGN(Value best_key, SortKey(interpreter, best, path, Flag(bound[0])));
  for (size_t i = 1; i < items.size(); ++i) {
    LARDER_ASSIGN(Value key, SortKey(interpreter, items[i], path, Flag(bound[0])));
    LARDER_ASSIGN(const Order order, Compare(key, best_key, interpreter.heap()));
    if (order != wanted) continue;
    best = items[i];
    best_key = std::move(key);
  }
  return best;
}

Result<Value> MinFilter(Interpreter& interpreter, const Value& input, Arguments arguments) {
  return Extreme(interpreter, input, std::move(arguments), Order::kLess);
}
Result<Value> MaxFilter(Interpreter& interpreter, const Value& input, Arguments arguments) {
  return Extreme(interpreter, input, std::move(arguments), Order::kGreater);
}

Result<Value> SumFilter(Interpreter& interpreter, const Value& input, Arguments arguments) {
  LARDER_ASSIGN(const Bound bound, Bind("sum", std::move(arguments), {"attribute", "start"}, 0));
  LARDER_ASSIGN(const std::vector<Value> path, AttributePath(bound[0]));
  LARDER_ASSIGN(const std::vector<Value> items, Iterate(input, interpreter.heap()));
  Value sum = bound[1].value_or(Value::Integer(0));
  if (sum.Is(Kind::kText))
    return Fail(ErrorKind::kInvalid, "the filter 'sum' does not join texts; use |join");
  for (const Value& item : items) {
    LARDER_ASSIGN(const Value term, Follow(interpreter, item, path));
    LARDER_ASSIGN(sum, ApplyBinary(BinaryOp::kAdd, sum, term, interpreter.heap()));
  }
  return sum;
}

// -- map and select
// ----------------------------------------------------------------------------------------------------

Result<Value> MapFilter(Interpreter& interpreter, const Value& input, Arguments arguments) {
  if (!Truth(input)) return Generator(interpreter, {});
  LARDER_ASSIGN(std::vector<Value> items, Iterate(input, interpreter.heap()));
  if (arguments.positional.empty()) {
    LARDER_ASSIGN(const Bound bound, Bind("map", std::move(arguments), {"attribute", "default"}, 1));
    LARDER_ASSIGN(const std::vector<Value> path, AttributePath(bound[0]));
    for (Value& item : items) {
      LARDER_ASSIGN(item, Follow(interpreter, std::move(item), path, bound[1]));
    }
    return Generator(interpreter, std::move(items));
  }
  LARDER_ASSIGN(const std::string name, Str(arguments.positional[0]));
  arguments.positional.erase(arguments.positional.begin());
  const FilterEntry* filter = FindFilter(name);
  if (!filter && !items.empty()) return Fail(ErrorKind::kUnsupported, "the filter '{}' is not known", name);
  for (Value& item : items) {
    LARDER_TRY(interpreter.heap().Work());
    LARDER_ASSIGN(item, filter->apply(interpreter, item, arguments));
  }
  return Generator(interpreter, std::move(items));
}

// The items for which a test (or their truth) is as wanted; `by_attribute`: the test of the attribute named
// first.
Result<Value> Select(Interpreter& interpreter, const Value& input, Arguments arguments, bool by_attribute,
                     bool wanted) {
  if (!Truth(input)) return Generator(interpreter, {});
  std::vector<Value> path;
  if (by_attribute) {
    if (arguments.positional.empty())
      return Fail(ErrorKind::kInvalid, "the name of the attribute is missing");
    LARDER_ASSIGN(path, AttributePath(arguments.positional[0]));
    arguments.positional.erase(arguments.positional.begin());
  }
  const TestEntry* test = nullptr;
  LARDER_ASSIGN(std::vector<Value> items, Iterate(input, interpreter.heap()));
  const bool tests = !arguments.positional.empty();
  if (tests) {
    LARDER_ASSIGN(const std::string name, Str(arguments.positional[0]));
    arguments.positional.erase(arguments.positional.begin());
    test = FindTest(name);
    if (!test && !items.empty()) return Fail(ErrorKind::kUnsupported, "the test '{}' is not known", name);
  }
  std::vector<Value> selected;
  for (Value& item : items) {
    LARDER_TRY(interpreter.heap().Work());
    LARDER_ASSIGN(const Value subject, Follow(interpreter, item, path));
    LARDER_ASSIGN(const bool holds,
                  tests ? test->apply(interpreter, subject, arguments) : Result<bool>(Truth(subject)));
    if (holds == wanted) selected.push_back(std::move(item));
  }
  return Generator(interpreter, std::move(selected));
}

Result<Value> SelectFilter(Interpreter& interpreter, const Value& input, Arguments arguments) {
  return Select(interpreter, input, std::move(arguments), false, true);
}
Result<Value> RejectFilter(Interpreter& interpreter, const Value& input, Arguments arguments) {
  return Select(interpreter, input, std::move(arguments), false, false);
}
Result<Value> SelectAttrFilter(Interpreter& interpreter, const Value& input, Arguments arguments) {
  return Select(interpreter, input, std::move(arguments), true, true);
}
Result<Value> RejectAttrFilter(Interpreter& interpreter, const Value& input, Arguments arguments) {
  return Select(interpreter, input, std::move(arguments), true, false);
}

constexpr FilterEntry kFilters[] = {{"default", DefaultFilter},
                                    {"d", DefaultFilter},
                                    {"length", LengthFilter},
                                    {"count", LengthFilter},
                                    {"first", FirstFilter},
                                    {"last", LastFilter},
                                    {"list", ListFilter},
                                    {"items", ItemsFilter},
                                    {"reverse", ReverseFilter},
                                    {"join", JoinFilter},
                                    {"attr", AttrFilter},
                                    {"batch", BatchFilter},
                                    {"sort", SortFilter},
                                    {"dictsort", DictSortFilter},
                                    {"unique", UniqueFilter},
                                    {"min", MinFilter},
                                    {"max", MaxFilter},
                                    {"sum", SumFilter},
                                    {"map", MapFilter},
                                    {"select", SelectFilter},
                                    {"reject", RejectFilter},
                                    {"selectattr", SelectAttrFilter},
                                    {"rejectattr", RejectAttrFilter}};

}  // namespace

std::span<const FilterEntry> ListFilters() { return kFilters; }

}  // namespace larder::jinja
