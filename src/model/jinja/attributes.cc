// object.name, object[index] and slices, with the sandbox's rules: an attribute comes before a key for `.`, a
// key before an attribute for [], and what would change a value does not exist.
#include <algorithm>

#include "model/jinja/interpreter.h"

namespace larder::jinja {
namespace {

constexpr std::string_view kNumberAttributes[] = {
    "real",     "imag",       "numerator",        "denominator", "conjugate", "bit_length", "bit_count",
    "to_bytes", "from_bytes", "as_integer_ratio", "is_integer",  "hex",       "fromhex"};

std::string Missing(const Value& object, std::string_view name) {
  const std::string_view type = object.TypeName();
  return object.Is(Kind::kNone) ? fmt::format("'None' has no attribute '{}'", name)
                                : fmt::format("'{} object' has no attribute '{}'", type, name);
}

// Index into a sequence of `size`; empty when outside.
std::optional<size_t> Position(Int index, size_t size) {
  if (index < 0) index += static_cast<Int>(size);
  if (index < 0 || index >= static_cast<Int>(size)) return std::nullopt;
  return static_cast<size_t>(index);
}

Result<Value> CodePointAt(const Value& text, Int index, Heap& heap) {
  LARDER_TRY(heap.Work(text.text().size()));
  const auto position = Position(index, CountCodePoints(text.text()));
  if (!position) return Value::Undefined(fmt::format("the text has no position {}", IntText(index)));
  const size_t start = ByteOffset(text.text(), *position);
  size_t end = start;
  NextCodePoint(text.text(), &end);
  return heap.NewText(text.text().substr(start, end - start), text.is_markup());
}

}  // namespace

Result<std::optional<Value>> Interpreter::FindLoopAttribute(const LoopState& loop, std::string_view name) {
  if (!loop.items)
    return Fail(ErrorKind::kUnsupported, "using 'loop' after its loop has ended is not supported");
  const Int index = static_cast<Int>(loop.index);
  const Int length = static_cast<Int>(loop.items->items.size());
  if (name == "index") return Value::Integer(index + 1);
  if (name == "index0") return Value::Integer(index);
  if (name == "revindex") return Value::Integer(length - index);
  if (name == "revindex0") return Value::Integer(length - index - 1);
  if (name == "first") return Value::Bool(index == 0);
  if (name == "last") return Value::Bool(index + 1 == length);
  if (name == "length") return Value::Integer(length);
  if (name == "depth") return Value::Integer(loop.depth + 1);
  if (name == "depth0") return Value::Integer(loop.depth);
  if (name == "previtem") {
    return index > 0 ? loop.items->items[loop.index - 1] : Value::Undefined("there is no previous item");
  }
  if (name == "nextitem") {
    return index + 1 < length ? loop.items->items[loop.index + 1] : Value::Undefined("there is no next item");
  }
  return std::optional<Value>();
}

// What Python's getattr() finds on the object itself.
Result<std::optional<Value>> Interpreter::FindAttribute(const Value& object, std::string_view name) {
  if (name.starts_with("__")) {
    return Fail(ErrorKind::kUnsupported, "attributes that begin with '__' are not supported, such as '{}'",
                name);
  }
  if (IsMutator(object, name)) {
    return Value::Undefined(
        fmt::format("'{}' would change a {}, which chat templates may not do", name, object.TypeName()));
  }
  bool is_method = false;
  switch (object.kind()) {
    case Kind::kText:
      is_method = IsTextMethod(name);
      break;
    case Kind::kDict:
      is_method = IsDictMethod(name);
      break;
    case Kind::kSequence:
      is_method = IsSequenceMethod(object.sequence()->type, name);
      break;
    case Kind::kBool:
    case Kind::kInt:
    case Kind::kFloat:
      if (std::find(std::begin(kNumberAttributes), std::end(kNumberAttributes), name) ==
          std::end(kNumberAttributes)) {
        return std::optional<Value>();
      }
      return Fail(ErrorKind::kUnsupported, "the attribute '{}' of a number is not supported", name);
    case Kind::kObject: {
      if (const auto space = object.As<Namespace>()) {
        LARDER_TRY(heap_.Work(space->attributes.size() * kSearchBytes));
        for (const auto& [attribute, value] : space->attributes) {
          if (attribute == name) return value;
        }
        return std::optional<Value>();
      }
      if (const auto cycler = object.As<Cycler>(); cycler && name == "current")
        return cycler->items[cycler->position];
      const auto loop = object.As<LoopState>();
      is_method = (loop && (name == "cycle" || name == "changed")) ||
                  (object.As<Cycler>() && (name == "next" || name == "reset"));
      if (loop && !is_method) return FindLoopAttribute(*loop, name);
      if (!is_method)
        return Fail(ErrorKind::kUnsupported, "the attribute '{}' of a {} is not supported", name,
                    object.TypeName());
      break;
    }
    default:
      break;
  }
  if (!is_method) return std::optional<Value>();
  LARDER_ASSIGN(Value method, NewObject(std::make_shared<BoundMethod>(object, std::string(name))));
  return method;
}

// What Python's object[index] finds.
Result<std::optional<Value>> Interpreter::FindItem(const Value& object, const Value& index) {
  if (object.Is(Kind::kDict)) {
    const bool can_be_key = !index.Is(Kind::kDict) && !index.Is(Kind::kObject) && !index.Is(Kind::kUndefined);
    if (!can_be_key) return std::optional<Value>();
    const auto found = object.dict().Find(index);
    if (!found || !*found) return std::optional<Value>();
    return **found;
  }
  if (!index.IsIntegral()) return std::optional<Value>();
  if (object.Is(Kind::kText)) return CodePointAt(object, index.int_value(), heap_);
  if (!object.Is(Kind::kSequence) || !object.sequence()->IsIndexed()) return std::optional<Value>();
  const auto position = Position(index.int_value(), object.sequence()->items.size());
  if (!position) return std::optional<Value>();
  return object.sequence()->items[*position];
}

Result<Value> Interpreter::GetAttribute(const Value& object, std::string_view name) {
  if (object.Is(Kind::kUndefined)) return Fail(ErrorKind::kInvalid, "{}", object.reason());
  LARDER_ASSIGN(std::optional<Value> attribute, FindAttribute(object, name));
  if (attribute) return *std::move(attribute);
  if (object.Is(Kind::kDict)) {
    if (const Value* item = object.dict().Find(name)) return *item;
  }
  return Value::Undefined(Missing(object, name));
}

Result<Value> Interpreter::GetItem(const Value& object, const Value& index) {
  if (object.Is(Kind::kUndefined)) return Fail(ErrorKind::kInvalid, "{}", object.reason());
  LARDER_TRY(heap_.Work(index.Is(Kind::kText) ? index.text().size() : 0));
  LARDER_ASSIGN(std::optional<Value> item, FindItem(object, index));
  if (item) return *std::move(item);
  if (index.Is(Kind::kText)) {
    LARDER_ASSIGN(std::optional<Value> attribute, FindAttribute(object, index.text()));
    if (attribute) return *std::move(attribute);
    return Value::Undefined(Missing(object, index.text().substr(0, 200)));
  }
  return Value::Undefined(fmt::format("'{} object' has no such element", object.TypeName()));
}

namespace {

// Python's slice.indices(): clamps start and stop to a sequence of `size`.
struct SliceRange {
  Int start;
  Int stop;
  Int step;
};

Result<SliceRange> ResolveSlice(const std::optional<Value> bounds[3], size_t size) {
  for (int i = 0; i < 3; ++i) {
    if (!bounds[i] || bounds[i]->IsIntegral()) continue;
    if (bounds[i]->Is(Kind::kUndefined)) return Fail(ErrorKind::kInvalid, "{}", bounds[i]->reason());
    return Fail(ErrorKind::kInvalid, "a slice needs integers, not '{}'", bounds[i]->TypeName());
  }
  const Int length = static_cast<Int>(size);
  SliceRange range;
  range.step = bounds[2] ? bounds[2]->int_value() : 1;
  if (range.step == 0) return Fail(ErrorKind::kInvalid, "the step of a slice is zero");
  const Int lowest = range.step < 0 ? -1 : 0;
  const Int highest = range.step < 0 ? length - 1 : length;
  const auto clamp = [&](const std::optional<Value>& bound, Int otherwise) {
    if (!bound) return otherwise;
    Int value = bound->int_value();
    if (value < 0) value += length;
    return std::clamp(value, lowest, highest);
  };
  range.start = clamp(bounds[0], range.step < 0 ? highest : 0);
  range.stop = clamp(bounds[1], range.step < 0 ? lowest : length);
  return range;
}

}  // namespace

Result<Value> Interpreter::Slice(const Value& object, const std::optional<Value> bounds[3]) {
  if (object.Is(Kind::kUndefined)) return Fail(ErrorKind::kInvalid, "{}", object.reason());
  if (object.Is(Kind::kText)) {
    const std::string_view text = object.text();
    LARDER_TRY(heap_.Work(text.size()));
    LARDER_ASSIGN(const SliceRange range, ResolveSlice(bounds, CountCodePoints(text)));
    if (range.step == 1) {
      const size_t start = ByteOffset(text, static_cast<size_t>(range.start));
      const size_t length =
          range.stop > range.start
              ? ByteOffset(text.substr(start), static_cast<size_t>(range.stop - range.start))
              : 0;
      return heap_.NewText(text.substr(start, length), object.is_markup());
    }
    std::vector<size_t> starts;
    LARDER_TRY(heap_.Room(text.size() * sizeof(size_t)));
    for (size_t at = 0; at < text.size(); NextCodePoint(text, &at)) starts.push_back(at);
    std::string out;
    for (Int i = range.start; range.step > 0 ? i < range.stop : i > range.stop; i += range.step) {
      size_t end = starts[static_cast<size_t>(i)];
      NextCodePoint(text, &end);
      out += text.substr(starts[static_cast<size_t>(i)], end - starts[static_cast<size_t>(i)]);
    }
    return heap_.NewText(std::move(out), object.is_markup());
  }
  const bool is_list = object.Is(Kind::kSequence) && object.sequence()->IsIndexed();
  if (!is_list) return Fail(ErrorKind::kInvalid, "'{}' cannot be sliced", object.TypeName());
  const Sequence& sequence = *object.sequence();
  if (sequence.type == SequenceType::kRange)
    return Fail(ErrorKind::kUnsupported, "slicing a range is not supported");
  LARDER_TRY(heap_.ListRoom(sequence.items.size()));
  LARDER_ASSIGN(const SliceRange range, ResolveSlice(bounds, sequence.items.size()));
  std::vector<Value> items;
  for (Int i = range.start; range.step > 0 ? i < range.stop : i > range.stop; i += range.step) {
    items.push_back(sequence.items[static_cast<size_t>(i)]);
  }
  return heap_.NewSequence(sequence.type, std::move(items));
}

}  // namespace larder::jinja
