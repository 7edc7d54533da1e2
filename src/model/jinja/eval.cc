// Expressions.
#include <algorithm>

#include "model/jinja/filters.h"
#include "model/jinja/interpreter.h"
#include "model/jinja/limits.h"
#include "model/jinja/operators.h"

namespace larder::jinja {

const Value* Scope::Find(Symbol symbol, size_t* looked_at) const {
  for (const Scope* scope = this; scope; scope = scope->parent.get()) {
    *looked_at += scope->variables.size();
    for (const auto& [name, value] : scope->variables) {
      if (name == symbol) return &value;
    }
  }
  return nullptr;
}

void Scope::Set(Symbol symbol, Value value) {
  for (auto& [name, old] : variables) {
    if (name != symbol) continue;
    old = std::move(value);
    return;
  }
  variables.emplace_back(symbol, std::move(value));
}

Cycler::Cycler(std::vector<Value> items_in) : items(std::move(items_in)), depth(1) {
  for (const Value& item : items) depth = std::max(depth, item.Depth() + 1);
}

Result<std::vector<std::optional<Value>>> Bind(std::string_view function, Arguments arguments,
                                               std::initializer_list<std::string_view> parameters,
                                               size_t required) {
  std::vector<std::optional<Value>> bound(parameters.size());
  if (arguments.positional.size() > parameters.size()) {
    return Fail(ErrorKind::kInvalid, "{} takes at most {} arguments, {} were given", function,
                parameters.size(), arguments.positional.size());
  }
  for (size_t i = 0; i < arguments.positional.size(); ++i) bound[i] = std::move(arguments.positional[i]);
  for (auto& [name, value] : arguments.named) {
    const auto place = std::find(parameters.begin(), parameters.end(), name);
    if (place == parameters.end())
      return Fail(ErrorKind::kInvalid, "{} has no argument '{}'", function, name);
    std::optional<Value>& slot = bound[static_cast<size_t>(place - parameters.begin())];
    if (slot) return Fail(ErrorKind::kInvalid, "{}: the argument '{}' is given twice", function, name);
    slot = std::move(value);
  }
  for (size_t i = 0; i < required; ++i) {
    if (bound[i]) continue;
    return Fail(ErrorKind::kInvalid, "{} needs the argument '{}'", function, *(parameters.begin() + i));
  }
  return bound;
}

Result<Interpreter::ScopePtr> Interpreter::NewScope(const ScopePtr& parent, const InitialScope& initial) {
  LARDER_TRY(heap_.Work(initial.size() * sizeof(initial[0])));
  return std::make_shared<Scope>(parent, initial);
}

Status Interpreter::Enter() {
  if (depth_ > kMaxEvalDepth) {
    return Fail(ErrorKind::kExhausted, "macros, loops and expressions are nested more than {} deep",
                kMaxEvalDepth);
  }
  return heap_.Work();
}

Result<Value> Interpreter::Eval(const Expr& expr, const ScopePtr& scope) {
  const Nested nested(this);
  LARDER_TRY(Enter());
  line_ = expr.line;
  return EvalKind(expr, scope);
}

Result<Value> Interpreter::EvalKind(const Expr& expr, const ScopePtr& scope) {
  switch (expr.kind) {
    case ExprKind::kConst:
      return expr.value;
    case ExprKind::kName:
      return EvalName(expr, *scope);
    case ExprKind::kHole:
      return hole_;
    case ExprKind::kList:
    case ExprKind::kTuple: {
      LARDER_ASSIGN(std::vector<Value> items, EvalAll(expr.parts, scope));
      return heap_.NewSequence(expr.kind == ExprKind::kList ? SequenceType::kList : SequenceType::kTuple,
                               std::move(items));
    }
    case ExprKind::kDict:
      return EvalDict(expr, scope);
    case ExprKind::kAttribute: {
      LARDER_ASSIGN(const Value object, Eval(*expr.parts[0], scope));
      return GetAttribute(object, expr.text);
    }
    case ExprKind::kItem: {
      LARDER_ASSIGN(const Value object, Eval(*expr.parts[0], scope));
      LARDER_ASSIGN(const Value index, Eval(*expr.parts[1], scope));
      return GetItem(object, index);
    }
    case ExprKind::kSlice:
      return EvalSlice(expr, scope);
    case ExprKind::kCall:
      return EvalCall(expr, scope, nullptr);
    case ExprKind::kFilter:
      return EvalFilter(expr, scope);
    case ExprKind::kTest:
      return EvalTest(expr, scope);
    case ExprKind::kConcat:
      return EvalConcat(expr, scope);
    case ExprKind::kCompare:
      return EvalCompare(expr, scope);
    case ExprKind::kConditional:
      return EvalConditional(expr, scope);
    case ExprKind::kNot: {
      LARDER_ASSIGN(const Value value, Eval(*expr.parts[0], scope));
      return Value::Bool(!Truth(value));
    }
    case ExprKind::kNegate:
    case ExprKind::kPlus: {
      LARDER_ASSIGN(const Value value, Eval(*expr.parts[0], scope));
      return expr.kind == ExprKind::kNegate ? Negate(value) : Plus(value);
    }
    case ExprKind::kAnd:
    case ExprKind::kOr: {
      LARDER_ASSIGN(Value left, Eval(*expr.parts[0], scope));
      if (Truth(left) == (expr.kind == ExprKind::kOr)) return left;
      return Eval(*expr.parts[1], scope);
    }
    case ExprKind::kBinary: {
      LARDER_ASSIGN(const Value left, Eval(*expr.parts[0], scope));
      LARDER_ASSIGN(const Value right, Eval(*expr.parts[1], scope));
      return ApplyBinary(expr.op, left, right, heap_);
    }
    case ExprKind::kNsAttribute:
      break;
  }
  return Fail(ErrorKind::kInvalid, "'{}' can only be assigned to", expr.text);
}

Result<Value> Interpreter::EvalName(const Expr& expr, const Scope& scope) {
  size_t looked_at = 0;
  const Value* found = scope.Find(expr.symbol, &looked_at);
  LARDER_TRY(heap_.Work(looked_at * kSearchBytes));
  if (found) return *found;
  if (const Value* value = context_.Find(expr.text)) return *value;
  if (IsFunction(expr.text)) return NewObject(std::make_shared<Function>(expr.text));
  if (expr.text == "lipsum" || expr.text == "self") {
    return Fail(ErrorKind::kUnsupported, "'{}' is not supported in chat templates", expr.text);
  }
  return Value::Undefined(fmt::format("'{}' is undefined", expr.text));
}

Result<std::vector<Value>> Interpreter::EvalAll(const std::vector<ExprPtr>& parts, const ScopePtr& scope) {
  std::vector<Value> values;
  values.reserve(parts.size());
  for (const ExprPtr& part : parts) {
    LARDER_ASSIGN(Value value, Eval(*part, scope));
    values.push_back(std::move(value));
  }
  return values;
}

Result<Value> Interpreter::EvalDict(const Expr& expr, const ScopePtr& scope) {
  Dict::Builder dict;
  for (size_t i = 0; i < expr.parts.size(); i += 2) {
    LARDER_ASSIGN(Value key, Eval(*expr.parts[i], scope));
    LARDER_ASSIGN(Value value, Eval(*expr.parts[i + 1], scope));
    LARDER_TRY(dict.Set(std::move(key), std::move(value)));
  }
  return heap_.NewDict(std::move(dict));
}

Result<Value> Interpreter::EvalConcat(const Expr& expr, const ScopePtr& scope) {
  std::string joined;
  for (const ExprPtr& part : expr.parts) {
    LARDER_ASSIGN(const Value value, Eval(*part, scope));
    if (value.Is(Kind::kText)) {
      LARDER_TRY(Heap::TextRoom(joined.size() + value.text().size()));
      joined += value.text();
    } else {
      LARDER_ASSIGN(const std::string text, Str(value));
      LARDER_TRY(Heap::TextRoom(joined.size() + text.size()));
      joined += text;
    }
  }
  return heap_.NewText(std::move(joined));
}

Result<Value> Interpreter::EvalCompare(const Expr& expr, const ScopePtr& scope) {
  LARDER_ASSIGN(Value left, Eval(*expr.parts[0], scope));
  for (size_t i = 0; i < expr.comparisons.size(); ++i) {
    LARDER_ASSIGN(Value right, Eval(*expr.parts[i + 1], scope));
    LARDER_ASSIGN(const bool holds, ApplyCompare(expr.comparisons[i], left, right, heap_));
    if (!holds) return Value::Bool(false);
    left = std::move(right);
  }
  return Value::Bool(true);
}

Result<Value> Interpreter::EvalConditional(const Expr& expr, const ScopePtr& scope) {
  LARDER_ASSIGN(const Value condition, Eval(*expr.parts[0], scope));
  if (Truth(condition)) return Eval(*expr.parts[1], scope);
  if (expr.parts[2]) return Eval(*expr.parts[2], scope);
  return Value::Undefined(fmt::format("the inline if on line {} was false and has no else", expr.line));
}

Result<Value> Interpreter::EvalSlice(const Expr& expr, const ScopePtr& scope) {
  LARDER_ASSIGN(const Value object, Eval(*expr.parts[0], scope));
  std::optional<Value> bounds[3];
  for (size_t i = 0; i < 3; ++i) {
    if (!expr.parts[i + 1]) continue;
    LARDER_ASSIGN(Value bound, Eval(*expr.parts[i + 1], scope));
    if (!bound.Is(Kind::kNone)) bounds[i] = std::move(bound);
  }
  return Slice(object, bounds);
}

Result<Arguments> Interpreter::EvalArguments(const ArgumentNodes& nodes, const ScopePtr& scope) {
  Arguments arguments;
  LARDER_ASSIGN(arguments.positional, EvalAll(nodes.positional, scope));
  for (const auto& [name, expr] : nodes.named) {
    LARDER_ASSIGN(Value value, Eval(*expr, scope));
    arguments.named.emplace_back(name, std::move(value));
  }
  if (nodes.rest_positional) {
    LARDER_ASSIGN(const Value rest, Eval(*nodes.rest_positional, scope));
    LARDER_ASSIGN(const std::vector<Value> items, Iterate(rest, heap_));
    LARDER_TRY(heap_.ListRoom(arguments.positional.size() + items.size()));
    arguments.positional.insert(arguments.positional.end(), items.begin(), items.end());
  }
  if (nodes.rest_named) {
    LARDER_ASSIGN(const Value rest, Eval(*nodes.rest_named, scope));
    if (!rest.Is(Kind::kDict))
      return Fail(ErrorKind::kInvalid, "'**' needs a dict, not '{}'", rest.TypeName());
    for (const auto& [key, value] : rest.dict().items) {
      if (!key.Is(Kind::kText))
        return Fail(ErrorKind::kInvalid, "the keys of a dict behind '**' must be texts");
      LARDER_TRY(heap_.Work(key.text().size()));
      const auto same = [&key](const auto& argument) { return argument.first == key.text(); };
      if (std::any_of(arguments.named.begin(),
                      arguments.named.begin() + static_cast<ptrdiff_t>(nodes.named.size()), same)) {
        return Fail(ErrorKind::kInvalid, "the argument '{}' is given twice", key.text());
      }
      arguments.named.emplace_back(std::string(key.text()), value);
    }
  }
  return arguments;
}

// `caller`: the macro of a call block, passed along as an argument of that name.
Result<Value> Interpreter::EvalCall(const Expr& expr, const ScopePtr& scope, const Value* caller) {
  LARDER_ASSIGN(const Value callee, Eval(*expr.parts[0], scope));
  LARDER_ASSIGN(Arguments arguments, EvalArguments(*expr.arguments, scope));
  if (caller) arguments.named.emplace_back("caller", *caller);
  line_ = expr.line;
  return Call(callee, std::move(arguments));
}

Result<Value> Interpreter::EvalFilter(const Expr& expr, const ScopePtr& scope) {
  LARDER_ASSIGN(const Value input, Eval(*expr.parts[0], scope));
  LARDER_ASSIGN(Arguments arguments, EvalArguments(*expr.arguments, scope));
  line_ = expr.line;
  if (!expr.filter) return Fail(ErrorKind::kUnsupported, "the filter '{}' is not known", expr.text);
  return expr.filter->apply(*this, input, std::move(arguments));
}

Result<Value> Interpreter::EvalTest(const Expr& expr, const ScopePtr& scope) {
  LARDER_ASSIGN(const Value input, Eval(*expr.parts[0], scope));
  LARDER_ASSIGN(Arguments arguments, EvalArguments(*expr.arguments, scope));
  line_ = expr.line;
  if (!expr.test) return Fail(ErrorKind::kUnsupported, "the test '{}' is not known", expr.text);
  LARDER_ASSIGN(const bool holds, expr.test->apply(*this, input, std::move(arguments)));
  return Value::Bool(holds);
}

}  // namespace larder::jinja
