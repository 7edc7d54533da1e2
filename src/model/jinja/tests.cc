// The tests (x is name) and the lookup of filters and tests.
#include <algorithm>

#include "model/jinja/filters.h"
#include "model/jinja/operators.h"

namespace larder::jinja {
namespace {

constexpr std::string_view kRefusedFilters[] = {"filesizeformat", "forceescape", "groupby",   "pprint",
                                                "random",         "slice",       "striptags", "truncate",
                                                "urlencode",      "urlize",      "wordwrap",  "xmlattr"};
constexpr std::string_view kRefusedTests[] = {"filter", "test"};

Status NoArguments(std::string_view test, Arguments arguments) {
  const auto bound = Bind(test, std::move(arguments), {}, 0);
  if (bound) return {};
  return std::unexpected(bound.error());
}

template <bool (*kHolds)(const Value&)>
Result<bool> Plain(Interpreter&, const Value& input, Arguments arguments) {
  LARDER_TRY(NoArguments("the test", std::move(arguments)));
  return kHolds(input);
}

bool IsDefined(const Value& value) { return !value.Is(Kind::kUndefined); }
bool IsUndefined(const Value& value) { return value.Is(Kind::kUndefined); }
bool IsNone(const Value& value) { return value.Is(Kind::kNone); }
bool IsBoolean(const Value& value) { return value.Is(Kind::kBool); }
bool IsTrue(const Value& value) { return value.Is(Kind::kBool) && value.bool_value(); }
bool IsFalse(const Value& value) { return value.Is(Kind::kBool) && !value.bool_value(); }
bool IsInteger(const Value& value) { return value.Is(Kind::kInt); }
bool IsFloat(const Value& value) { return value.Is(Kind::kFloat); }
bool IsNumber(const Value& value) { return value.IsNumber(); }
bool IsText(const Value& value) { return value.Is(Kind::kText); }
bool IsMapping(const Value& value) { return value.Is(Kind::kDict); }
bool IsEscaped(const Value& value) { return value.is_markup(); }

bool IsIterable(const Value& value) {
  return value.Is(Kind::kText) || value.Is(Kind::kSequence) || value.Is(Kind::kDict) ||
         value.Is(Kind::kUndefined) || value.As<LoopState>();
}

// Has a length and can be subscribed; the undefined value claims both.
bool IsSequence(const Value& value) {
  return value.Is(Kind::kText) || value.Is(Kind::kDict) || value.Is(Kind::kUndefined) ||
         (value.Is(Kind::kSequence) && value.sequence()->IsIndexed());
}

bool IsCallable(const Value& value) {
  return value.Is(Kind::kUndefined) || (value.Is(Kind::kObject) && value.object()->IsCallable());
}

template <bool (*kHolds)(std::string_view)>
Result<bool> OfText(Interpreter& interpreter, const Value& input, Arguments arguments) {
  LARDER_TRY(NoArguments("the test", std::move(arguments)));
  LARDER_ASSIGN(const std::string text, Str(input));
  LARDER_TRY(interpreter.heap().Work(text.size() * 4));
  return kHolds(text);
}

template <CompareOp kOp>
Result<bool> Compares(Interpreter& interpreter, const Value& input, Arguments arguments) {
  LARDER_ASSIGN(const auto bound, Bind("the test", std::move(arguments), {"other"}, 1));
  return ApplyCompare(kOp, input, *bound[0], interpreter.heap());
}

Result<bool> Divides(Interpreter& interpreter, const Value& input, const Value& divisor,
                     const Value& remainder) {
  LARDER_ASSIGN(const Value rest, ApplyBinary(BinaryOp::kModulo, input, divisor, interpreter.heap()));
  return Equal(rest, remainder, interpreter.heap());
}

Result<bool> OddTest(Interpreter& interpreter, const Value& input, Arguments arguments) {
  LARDER_TRY(NoArguments("the test 'odd'", std::move(arguments)));
  return Divides(interpreter, input, Value::Integer(2), Value::Integer(1));
}

Result<bool> EvenTest(Interpreter& interpreter, const Value& input, Arguments arguments) {
  LARDER_TRY(NoArguments("the test 'even'", std::move(arguments)));
  return Divides(interpreter, input, Value::Integer(2), Value::Integer(0));
}

Result<bool> DivisibleByTest(Interpreter& interpreter, const Value& input, Arguments arguments) {
  LARDER_ASSIGN(const auto bound, Bind("the test 'divisibleby'", std::move(arguments), {"num"}, 1));
  return Divides(interpreter, input, *bound[0], Value::Integer(0));
}

// Identity. For numbers and texts it depends on how Python shares them, so it is refused when it could.
Result<bool> SameAsTest(Interpreter&, const Value& input, Arguments arguments) {
  LARDER_ASSIGN(const auto bound, Bind("the test 'sameas'", std::move(arguments), {"other"}, 1));
  if (input.kind() != bound[0]->kind()) return false;
  if (input.Is(Kind::kInt) || input.Is(Kind::kFloat) || input.Is(Kind::kText) || input.Is(Kind::kUndefined)) {
    return Fail(ErrorKind::kUnsupported, "the test 'sameas' between values of type '{}' is not supported",
                input.TypeName());
  }
  return input.IsSame(*bound[0]);
}

constexpr TestEntry kTests[] = {{"defined", Plain<IsDefined>},
                                {"undefined", Plain<IsUndefined>},
                                {"none", Plain<IsNone>},
                                {"boolean", Plain<IsBoolean>},
                                {"true", Plain<IsTrue>},
                                {"false", Plain<IsFalse>},
                                {"integer", Plain<IsInteger>},
                                {"float", Plain<IsFloat>},
                                {"number", Plain<IsNumber>},
                                {"string", Plain<IsText>},
                                {"mapping", Plain<IsMapping>},
                                {"escaped", Plain<IsEscaped>},
                                {"iterable", Plain<IsIterable>},
                                {"sequence", Plain<IsSequence>},
                                {"callable", Plain<IsCallable>},
                                {"lower", OfText<IsLower>},
                                {"upper", OfText<IsUpper>},
                                {"odd", OddTest},
                                {"even", EvenTest},
                                {"divisibleby", DivisibleByTest},
                                {"sameas", SameAsTest},
                                {"in", Compares<CompareOp::kIn>},
                                {"==", Compares<CompareOp::kEqual>},
                                {"eq", Compares<CompareOp::kEqual>},
                                {"equalto", Compares<CompareOp::kEqual>},
                                {"!=", Compares<CompareOp::kNotEqual>},
                                {"ne", Compares<CompareOp::kNotEqual>},
                                {">", Compares<CompareOp::kGreater>},
                                {"gt", Compares<CompareOp::kGreater>},
                                {"greaterthan", Compares<CompareOp::kGreater>},
                                {">=", Compares<CompareOp::kGreaterEqual>},
                                {"ge", Compares<CompareOp::kGreaterEqual>},
                                {"<", Compares<CompareOp::kLess>},
                                {"lt", Compares<CompareOp::kLess>},
                                {"lessthan", Compares<CompareOp::kLess>},
                                {"<=", Compares<CompareOp::kLessEqual>},
                                {"le", Compares<CompareOp::kLessEqual>}};

template <class Table>
auto FindIn(const Table& table, std::string_view name) -> decltype(std::data(table)) {
  const auto place = std::find_if(std::begin(table), std::end(table),
                                  [name](const auto& entry) { return entry.name == name; });
  return place == std::end(table) ? nullptr : &*place;
}

}  // namespace

const FilterEntry* FindFilter(std::string_view name) {
  const FilterEntry* filter = FindIn(TextFilters(), name);
  return filter ? filter : FindIn(ListFilters(), name);
}

const TestEntry* FindTest(std::string_view name) { return FindIn(kTests, name); }

bool IsRefusedFilter(std::string_view name) {
  return std::find(std::begin(kRefusedFilters), std::end(kRefusedFilters), name) != std::end(kRefusedFilters);
}

bool IsRefusedTest(std::string_view name) {
  return std::find(std::begin(kRefusedTests), std::end(kRefusedTests), name) != std::end(kRefusedTests);
}

}  // namespace larder::jinja
