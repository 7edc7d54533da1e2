// Calls of macros, methods, functions and recursive loops.
#include <algorithm>

#include "model/jinja/interpreter.h"

namespace larder::jinja {

Result<Value> Interpreter::Call(const Value& callee, Arguments arguments) {
  if (callee.Is(Kind::kUndefined)) return Fail(ErrorKind::kInvalid, "{}", callee.reason());
  if (const auto macro = callee.As<Macro>()) return CallMacro(*macro, std::move(arguments));
  if (const auto function = callee.As<Function>())
    return CallFunction(*this, function->name, std::move(arguments));
  if (const auto loop = callee.As<LoopState>()) return CallLoop(*loop, std::move(arguments));
  if (const auto joiner = callee.As<Joiner>()) {
    LARDER_TRY(Bind("a joiner", std::move(arguments), {}, 0));
    return std::exchange(joiner->used, true) ? joiner->separator : heap_.NewText("");
  }
  const auto method = callee.As<BoundMethod>();
  if (!method) return Fail(ErrorKind::kInvalid, "a value of type '{}' cannot be called", callee.TypeName());
  switch (method->self.kind()) {
    case Kind::kText:
      return CallTextMethod(heap_, method->self, method->name, std::move(arguments));
    case Kind::kDict:
      return CallDictMethod(heap_, method->self, method->name, std::move(arguments));
    case Kind::kSequence:
      return CallSequenceMethod(heap_, method->self, method->name, std::move(arguments));
    default:
      return CallObjectMethod(*method, std::move(arguments));
  }
}

Result<Value> Interpreter::CallObjectMethod(const BoundMethod& method, Arguments arguments) {
  if (const auto cycler = method.self.As<Cycler>()) {
    LARDER_TRY(Bind(method.name, std::move(arguments), {}, 0));
    if (method.name == "reset") {
      cycler->position = 0;
      return Value::None();
    }
    const size_t position = cycler->position;
    cycler->position = (position + 1) % cycler->items.size();
    return cycler->items[position];
  }
  const auto loop = method.self.As<LoopState>();
  if (!loop || !loop->items)
    return Fail(ErrorKind::kUnsupported, "'loop.{}' is not possible here", method.name);
  if (!arguments.named.empty())
    return Fail(ErrorKind::kInvalid, "'loop.{}' takes no named arguments", method.name);
  if (method.name == "cycle") {
    if (arguments.positional.empty())
      return Fail(ErrorKind::kInvalid, "'loop.cycle' needs something to cycle through");
    return arguments.positional[loop->index % arguments.positional.size()];
  }
  bool changed = !loop->has_changed || loop->last_changed.size() != arguments.positional.size();
  for (size_t i = 0; !changed && i < arguments.positional.size(); ++i) {
    LARDER_ASSIGN(const bool same, Equal(loop->last_changed[i], arguments.positional[i], heap_));
    changed = !same;
  }
  loop->has_changed = true;
  loop->last_changed = std::move(arguments.positional);
  return Value::Bool(changed);
}

Result<Value> Interpreter::CallLoop(const LoopState& loop, Arguments arguments) {
  const Nested nested(this);
  LARDER_TRY(Enter());
  LARDER_ASSIGN(const auto bound, Bind("loop", std::move(arguments), {"iterable"}, 1));
  if (!loop.loop) return Fail(ErrorKind::kInvalid, "only a loop marked 'recursive' can be called");
  Output output(&heap_);
  const ScopePtr scope = loop.scope;
  LARDER_TRY(ExecFor(*loop.loop, scope, *bound[0], loop.depth + 1, &output));
  return heap_.NewText(output.Take());
}

// Puts the arguments into the macro's new scope, with defaults for those not given.
Status Interpreter::BindMacro(const Macro& macro, Arguments arguments, const ScopePtr& scope) {
  const MacroDef& def = *macro.def;
  LARDER_TRY(heap_.Work(arguments.named.size() * def.parameters.size() * kSearchBytes));
  const auto take_named = [&arguments](std::string_view name) -> std::optional<Value> {
    auto& named = arguments.named;
    const auto place =
        std::find_if(named.begin(), named.end(), [name](const auto& one) { return one.first == name; });
    if (place == named.end()) return std::nullopt;
    Value value = std::move(place->second);
    named.erase(place);
    return value;
  };
  const size_t given = std::min(arguments.positional.size(), def.parameters.size());
  std::vector<std::optional<Value>> values(def.parameters.size());
  for (size_t i = 0; i < given; ++i) values[i] = std::move(arguments.positional[i]);
  for (size_t i = given; i < values.size(); ++i) values[i] = take_named(def.parameters[i].second);
  if (def.uses_caller) {
    std::optional<Value> caller = take_named("caller");
    scope->Set(kCallerSymbol, caller ? *std::move(caller) : Value::Undefined("no caller is defined"));
  }
  if (def.uses_kwargs) {
    Dict::Builder rest;
    for (auto& [name, value] : arguments.named) LARDER_TRY(rest.Set(Value::Constant(name), std::move(value)));
    LARDER_ASSIGN(Value kwargs, heap_.NewDict(std::move(rest)));
    scope->Set(kKwargsSymbol, std::move(kwargs));
  } else if (!arguments.named.empty()) {
    return Fail(ErrorKind::kInvalid, "the macro '{}' takes no argument '{}'", def.name,
                arguments.named[0].first);
  }
  if (def.uses_varargs) {
    std::vector<Value> rest(arguments.positional.begin() + static_cast<ptrdiff_t>(given),
                            arguments.positional.end());
    LARDER_ASSIGN(Value varargs, heap_.NewSequence(SequenceType::kTuple, std::move(rest)));
    scope->Set(kVarargsSymbol, std::move(varargs));
  } else if (arguments.positional.size() > def.parameters.size()) {
    return Fail(ErrorKind::kInvalid, "the macro '{}' takes at most {} arguments", def.name,
                def.parameters.size());
  }
  const size_t first_default = def.parameters.size() - def.defaults.size();
  for (size_t i = 0; i < values.size(); ++i) {
    const auto& [symbol, name] = def.parameters[i];
    if (!values[i] && i >= first_default) {
      LARDER_ASSIGN(values[i], Eval(*def.defaults[i - first_default], scope));
    }
    scope->Set(symbol, values[i]
                           ? *std::move(values[i])
                           : Value::Undefined(fmt::format("the parameter '{}' was not provided", name)));
  }
  return {};
}

Result<Value> Interpreter::CallMacro(const Macro& macro, Arguments arguments) {
  const Nested nested(this);
  LARDER_TRY(Enter());
  LARDER_ASSIGN(const ScopePtr scope, NewScope(macro.scope, macro.def->scope));
  LARDER_TRY(BindMacro(macro, std::move(arguments), scope));
  Output output(&heap_);
  LARDER_TRY(ExecBody(macro.def->body, scope, &output));
  return heap_.NewText(output.Take());
}

}  // namespace larder::jinja
