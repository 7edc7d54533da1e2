#include "model/jinja/operators.h"

#include <cmath>
#include <utility>

#include "model/jinja/format.h"
#include "model/jinja/limits.h"

namespace larder::jinja {
namespace {

std::string_view OpText(BinaryOp op) {
  constexpr std::string_view kTexts[] = {"+", "-", "*", "/", "//", "%", "**"};
  return kTexts[static_cast<size_t>(op)];
}

bool IsSmall(Int value) { return value >= INT64_MIN && value <= INT64_MAX; }

Result<Value> ZeroDivision() { return Fail(ErrorKind::kInvalid, "division by zero"); }

// base ** exponent, exponent >= 0.
Result<Value> IntPower(Int base, Int exponent) {
  Int result = 1;
  if (base == 0 || base == 1) return Value::Integer(exponent == 0 ? Int{1} : base);
  if (base == -1) return Value::Integer(exponent % 2 == 0 ? 1 : -1);
  for (; exponent > 0; --exponent) {
    if (!IsSmall(result)) return Fail(ErrorKind::kUnsupported, "integers beyond 64 bits are not supported");
    result *= base;
  }
  return Value::Integer(result);
}

Result<Value> FloatPower(double base, double exponent) {
  const double power = std::pow(base, exponent);
  if (std::isfinite(power) || !std::isfinite(base) || !std::isfinite(exponent)) return Value::Float(power);
  return Fail(ErrorKind::kInvalid, "{} ** {} is no number or too large for one", FloatText(base),
              FloatText(exponent));
}

Result<Value> IntBinary(BinaryOp op, Int a, Int b) {
  // The sum and the product of two 64-bit integers fit 128 bits; larger operands are not worked with.
  if (!IsSmall(a) || !IsSmall(b)) {
    return Fail(ErrorKind::kUnsupported, "arithmetic on integers beyond 64 bits is not supported");
  }
  const bool divides = op == BinaryOp::kDivide || op == BinaryOp::kFloorDivide || op == BinaryOp::kModulo;
  if (divides && b == 0) return ZeroDivision();
  const Int remainder = divides ? a % b : 0;
  const bool rounds_down = remainder != 0 && (remainder < 0) != (b < 0);
  switch (op) {
    case BinaryOp::kAdd:
      return Value::Integer(a + b);
    case BinaryOp::kSubtract:
      return Value::Integer(a - b);
    case BinaryOp::kMultiply:
      return Value::Integer(a * b);
    case BinaryOp::kDivide:
      return Value::Float(static_cast<double>(a) / static_cast<double>(b));
    case BinaryOp::kFloorDivide:
      return Value::Integer(a / b - rounds_down);
    case BinaryOp::kModulo:
      return Value::Integer(remainder + (rounds_down ? b : 0));
    case BinaryOp::kPower:
      break;
  }
  if (b >= 0) return IntPower(a, b);
  if (a == 0) return ZeroDivision();
  return FloatPower(static_cast<double>(a), static_cast<double>(b));
}

Result<Value> FloatBinary(BinaryOp op, double a, double b) {
  const bool divides = op == BinaryOp::kDivide || op == BinaryOp::kFloorDivide || op == BinaryOp::kModulo;
  if (divides && b == 0) return ZeroDivision();
  switch (op) {
    case BinaryOp::kAdd:
      return Value::Float(a + b);
    case BinaryOp::kSubtract:
      return Value::Float(a - b);
    case BinaryOp::kMultiply:
      return Value::Float(a * b);
    case BinaryOp::kDivide:
      return Value::Float(a / b);
    case BinaryOp::kPower:
      return FloatPower(a, b);
    default:
      break;
  }
  double remainder = std::fmod(a, b);
  if (remainder != 0 && (remainder < 0) != (b < 0)) remainder += b;
  if (op == BinaryOp::kModulo) return Value::Float(remainder == 0 ? std::copysign(0.0, b) : remainder);
  // As in CPython: the quotient of the exact multiple, rounded to the nearest whole number.
  const double quotient = (a - remainder) / b;
  if (quotient == 0) return Value::Float(std::copysign(0.0, a / b));
  const double whole = std::floor(quotient);
  return Value::Float(quotient - whole > 0.5 ? whole + 1 : whole);
}

Result<Value> AddText(const Value& left, const Value& right, Heap& heap) {
  const bool markup = left.is_markup() || right.is_markup();
  const auto part = [markup](const Value& value) {
    return markup && !value.is_markup() ? EscapeHtml(value.text()) : std::string(value.text());
  };
  LARDER_TRY(Heap::TextRoom(left.text().size() + right.text().size()));
  std::string joined;
  joined.reserve(left.text().size() + right.text().size());
  joined += part(left);
  joined += part(right);
  return heap.NewText(std::move(joined), markup);
}

bool IsListOrTuple(const Value& value) {
  return value.Is(Kind::kSequence) &&
         (value.sequence()->type == SequenceType::kList || value.sequence()->type == SequenceType::kTuple);
}

Result<Value> AddSequences(const Sequence& left, const Sequence& right, Heap& heap) {
  LARDER_TRY(heap.ListRoom(left.items.size() + right.items.size()));
  std::vector<Value> items;
  items.reserve(left.items.size() + right.items.size());
  items.insert(items.end(), left.items.begin(), left.items.end());
  items.insert(items.end(), right.items.begin(), right.items.end());
  return heap.NewSequence(left.type, std::move(items));
}

Result<Value> Repeat(const Value& value, Int times, Heap& heap) {
  const Int size = value.Is(Kind::kText) ? Int{value.text().size()} : Int{value.sequence()->items.size()};
  if (!IsSmall(times))
    return Fail(ErrorKind::kInvalid, "a value cannot be repeated {} times", IntText(times));
  if (times < 0 || size == 0) times = 0;
  if (times > Int{kMaxLiveBytes} || times * size > Int{kMaxLiveBytes}) {
    return Fail(ErrorKind::kExhausted, "repeating a value this often takes more than {} MiB",
                kMaxLiveBytes >> 20);
  }
  if (value.Is(Kind::kText)) {
    LARDER_TRY(Heap::TextRoom(static_cast<size_t>(times * size)));
    std::string text;
    text.reserve(static_cast<size_t>(times * size));
    for (Int i = 0; i < times; ++i) text += value.text();
    return heap.NewText(std::move(text), value.is_markup());
  }
  LARDER_TRY(heap.ListRoom(static_cast<size_t>(times * size)));
  std::vector<Value> items;
  items.reserve(static_cast<size_t>(times * size));
  const auto& once = value.sequence()->items;
  for (Int i = 0; i < times; ++i) items.insert(items.end(), once.begin(), once.end());
  return heap.NewSequence(value.sequence()->type, std::move(items));
}

}  // namespace

Result<Value> ApplyBinary(BinaryOp op, const Value& left, const Value& right, Heap& heap) {
  if (left.IsIntegral() && right.IsIntegral()) return IntBinary(op, left.int_value(), right.int_value());
  if (left.IsNumber() && right.IsNumber()) return FloatBinary(op, left.number(), right.number());
  if (op == BinaryOp::kModulo && left.is_markup()) {
    return Fail(ErrorKind::kUnsupported, "formatting a text marked as safe is not supported");
  }
  if (op == BinaryOp::kModulo && left.Is(Kind::kText)) {
    LARDER_ASSIGN(std::string text, PercentFormat(left.text(), right, heap));
    return heap.NewText(std::move(text));
  }
  for (const Value* operand : {&left, &right}) {
    if (operand->Is(Kind::kUndefined)) return Fail(ErrorKind::kInvalid, "{}", operand->reason());
  }
  if (op == BinaryOp::kAdd) {
    if (left.Is(Kind::kText) && right.Is(Kind::kText)) return AddText(left, right, heap);
    const bool same =
        IsListOrTuple(left) && IsListOrTuple(right) && left.sequence()->type == right.sequence()->type;
    if (same) return AddSequences(*left.sequence(), *right.sequence(), heap);
  }
  if (op == BinaryOp::kMultiply) {
    const auto repeats = [](const Value& value) { return value.Is(Kind::kText) || IsListOrTuple(value); };
    if (repeats(left) && right.IsIntegral()) return Repeat(left, right.int_value(), heap);
    if (repeats(right) && left.IsIntegral()) return Repeat(right, left.int_value(), heap);
  }
  return Fail(ErrorKind::kInvalid, "'{}' does not work between '{}' and '{}'", OpText(op), left.TypeName(),
              right.TypeName());
}

Result<Value> Negate(const Value& value) {
  if (value.IsIntegral()) return Value::Integer(-value.int_value());
  if (value.Is(Kind::kFloat)) return Value::Float(-value.float_value());
  if (value.Is(Kind::kUndefined)) return Fail(ErrorKind::kInvalid, "{}", value.reason());
  return Fail(ErrorKind::kInvalid, "'-' does not work on '{}'", value.TypeName());
}

Result<Value> Plus(const Value& value) {
  if (value.IsIntegral()) return Value::Integer(value.int_value());
  if (value.Is(Kind::kFloat)) return value;
  if (value.Is(Kind::kUndefined)) return Fail(ErrorKind::kInvalid, "{}", value.reason());
  return Fail(ErrorKind::kInvalid, "'+' does not work on '{}'", value.TypeName());
}

Result<bool> Contains(const Value& container, const Value& item, Heap& heap) {
  switch (container.kind()) {
    case Kind::kUndefined:
      return false;
    case Kind::kText:
      if (!item.Is(Kind::kText)) {
        return Fail(ErrorKind::kInvalid, "'in' on a text needs a text on its left, not '{}'",
                    item.TypeName());
      }
      LARDER_TRY(heap.SearchWork(container.text().size(), item.text().size()));
      return container.text().find(item.text()) != std::string_view::npos;
    case Kind::kSequence: {
      Sequence& sequence = *container.sequence();
      const bool is_generator = sequence.type == SequenceType::kGenerator;
      for (size_t i = sequence.consumed; i < sequence.items.size(); ++i) {
        if (is_generator) sequence.consumed = i + 1;
        if (sequence.items[i].IsSame(item)) return true;
        LARDER_ASSIGN(const bool same, Equal(sequence.items[i], item, heap));
        if (same) return true;
      }
      return false;
    }
    case Kind::kDict: {
      LARDER_TRY(heap.Work());
      if (item.Is(Kind::kUndefined)) return false;  // could be a key in Python, but is never one here
      LARDER_ASSIGN(const Value* found, container.dict().Find(item));
      return found != nullptr;
    }
    default:
      return Fail(ErrorKind::kInvalid, "'{}' contains nothing that 'in' could find", container.TypeName());
  }
}

Result<bool> ApplyCompare(CompareOp op, const Value& left, const Value& right, Heap& heap) {
  if (op == CompareOp::kIn || op == CompareOp::kNotIn) {
    LARDER_ASSIGN(const bool found, Contains(right, left, heap));
    return found == (op == CompareOp::kIn);
  }
  if (op == CompareOp::kEqual || op == CompareOp::kNotEqual) {
    LARDER_ASSIGN(const bool same, Equal(left, right, heap));
    return same == (op == CompareOp::kEqual);
  }
  LARDER_ASSIGN(const Order order, Compare(left, right, heap));
  switch (op) {
    case CompareOp::kLess:
      return order == Order::kLess;
    case CompareOp::kLessEqual:
      return order == Order::kLess || order == Order::kEqual;
    case CompareOp::kGreater:
      return order == Order::kGreater;
    default:
      return order == Order::kGreater || order == Order::kEqual;
  }
}

}  // namespace larder::jinja
