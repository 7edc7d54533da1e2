// Statements.
#include "model/jinja/filters.h"
#include "model/jinja/interpreter.h"

namespace larder::jinja {

Status Output::Append(std::string_view text) {
  LARDER_TRY(Heap::TextRoom(text_.size() + text.size()));
  LARDER_TRY(heap_->Room(text.size()));
  LARDER_TRY(heap_->Work(text.size()));
  held_.Grow(text.size());
  text_ += text;
  return {};
}

Interpreter::Interpreter(const Template& parsed, const Dict& context, int64_t unix_seconds)
    : template_(parsed), context_(context), unix_seconds_(unix_seconds) {}

Interpreter::~Interpreter() {
  for (const ScopePtr& scope : captured_) {
    scope->variables.clear();
    scope->parent.reset();
  }
  for (const auto& space : namespaces_) space->attributes.clear();
}

std::unexpected<Error> Interpreter::Raise(std::string message) {
  raised_ = true;
  return Fail(ErrorKind::kInvalid, "{}", message);
}

Result<Value> Interpreter::NewNamespace(std::vector<std::pair<std::string, Value>> attributes) {
  auto space = std::make_shared<Namespace>();
  size_t bytes = 0;
  for (const auto& [name, value] : attributes) bytes += name.size() + sizeof(attributes[0]);
  space->attributes = std::move(attributes);
  namespaces_.push_back(space);
  return NewObject(std::move(space), bytes);
}

Result<std::string> Interpreter::Run() {
  Output output(&heap_);
  const auto root = std::make_shared<Scope>(nullptr, template_.scope);
  const auto flow = ExecBody(template_.body, root, &output);
  if (flow) return output.Take();
  if (raised_) return std::unexpected(flow.error());
  return Fail(flow.error().kind, "chat template line {}: {}", line_, flow.error().message);
}

Result<Interpreter::Flow> Interpreter::ExecBody(const Body& body, const ScopePtr& scope, Output* output) {
  for (const StmtPtr& stmt : body) {
    LARDER_ASSIGN(const Flow flow, Exec(*stmt, scope, output));
    if (flow != Flow::kNext) return flow;
  }
  return Flow::kNext;
}

Result<Interpreter::Flow> Interpreter::ExecInner(const Body& body, const ScopePtr& scope,
                                                 const InitialScope& initial, Output* output) {
  LARDER_ASSIGN(const ScopePtr inner, NewScope(scope, initial));
  return ExecBody(body, inner, output);
}

Result<Interpreter::Flow> Interpreter::Exec(const Stmt& stmt, const ScopePtr& scope, Output* output) {
  const Nested nested(this);
  LARDER_TRY(Enter());
  line_ = stmt.line;
  switch (stmt.kind) {
    case StmtKind::kIf:
      return ExecIf(stmt, scope, output);
    case StmtKind::kWith:
      return ExecWith(stmt, scope, output);
    case StmtKind::kBreak:
      return Flow::kBreak;
    case StmtKind::kContinue:
      return Flow::kContinue;
    case StmtKind::kFor: {
      LARDER_ASSIGN(const Value iterable, Eval(*stmt.expr, scope));
      return ExecFor(stmt, scope, iterable, 0, output);
    }
    case StmtKind::kScope:
      return ExecInner(stmt.body, scope, stmt.scope, output);
    case StmtKind::kData:
      LARDER_TRY(output->Append(stmt.text));
      break;
    case StmtKind::kOutput:
      LARDER_TRY(ExecOutput(stmt, scope, output));
      break;
    case StmtKind::kMacro:
      LARDER_TRY(ExecMacro(stmt, scope));
      break;
    case StmtKind::kCallBlock:
      LARDER_TRY(ExecCallBlock(stmt, scope, output));
      break;
    case StmtKind::kSet: {
      LARDER_ASSIGN(Value value, Eval(*stmt.expr, scope));
      LARDER_TRY(Assign(*stmt.target, std::move(value), scope));
      break;
    }
    case StmtKind::kSetBlock: {
      Value text;
      LARDER_TRY(ExecBlockFilter(stmt, scope, &text));
      LARDER_TRY(Assign(*stmt.target, std::move(text), scope));
      break;
    }
    case StmtKind::kFilterBlock: {
      Value value;
      LARDER_TRY(ExecBlockFilter(stmt, scope, &value));
      LARDER_ASSIGN(const std::string text, Str(value));
      LARDER_TRY(output->Append(text));
      break;
    }
  }
  return Flow::kNext;
}

Status Interpreter::ExecOutput(const Stmt& stmt, const ScopePtr& scope, Output* output) {
  LARDER_ASSIGN(const Value value, Eval(*stmt.expr, scope));
  if (value.Is(Kind::kText)) return output->Append(value.text());
  LARDER_ASSIGN(const std::string text, Str(value));
  return output->Append(text);
}

Result<Interpreter::Flow> Interpreter::ExecIf(const Stmt& stmt, const ScopePtr& scope, Output* output) {
  for (const auto& [test, body] : stmt.branches) {
    LARDER_ASSIGN(const Value value, Eval(*test, scope));
    if (Truth(value)) return ExecBody(body, scope, output);
  }
  return ExecBody(stmt.else_body, scope, output);
}

// What the loop really runs over: the items for which its condition holds.
Result<Value> Interpreter::SelectLoopItems(const Stmt& stmt, const ScopePtr& scope, const Value& iterable) {
  const bool shared = iterable.Is(Kind::kSequence) && iterable.sequence()->type != SequenceType::kGenerator;
  if (shared && !stmt.condition) return iterable;
  LARDER_ASSIGN(std::vector<Value> items, Iterate(iterable, heap_));
  if (!stmt.condition) return heap_.NewList(std::move(items));
  std::vector<Value> selected;
  for (Value& item : items) {
    LARDER_ASSIGN(const ScopePtr inner, NewScope(scope, {}));
    LARDER_TRY(Assign(*stmt.target, item, inner));
    LARDER_ASSIGN(const Value holds, Eval(*stmt.condition, inner));
    if (Truth(holds)) selected.push_back(std::move(item));
  }
  return heap_.NewList(std::move(selected));
}

Result<Interpreter::Flow> Interpreter::ExecFor(const Stmt& stmt, const ScopePtr& scope, const Value& iterable,
                                               int depth, Output* output) {
  LARDER_ASSIGN(const Value items, SelectLoopItems(stmt, scope, iterable));
  const auto loop = std::make_shared<LoopState>();
  loop->items = items.sequence();
  loop->depth = depth;
  if (stmt.recursive) {
    loop->loop = &stmt;
    loop->scope = scope;
  }
  const auto flow = ExecIterations(stmt, scope, loop, output);
  loop->Finish();
  if (!flow) return flow;
  if (items.sequence()->items.empty()) return ExecInner(stmt.else_body, scope, stmt.else_scope, output);
  return Flow::kNext;
}

Result<Interpreter::Flow> Interpreter::ExecIterations(const Stmt& stmt, const ScopePtr& scope,
                                                      const std::shared_ptr<LoopState>& loop,
                                                      Output* output) {
  ScopePtr inner;
  const std::shared_ptr<Sequence> items = loop->items;
  for (loop->index = 0; loop->index < items->items.size(); ++loop->index) {
    if (inner.use_count() == 1) {  // no macro has kept it
      LARDER_TRY(heap_.Work(stmt.scope.size() * sizeof(stmt.scope[0])));
      inner->variables = stmt.scope;
    } else {
      LARDER_ASSIGN(inner, NewScope(scope, stmt.scope));
    }
    LARDER_TRY(heap_.Work());
    inner->Set(kLoopSymbol, Value(std::shared_ptr<Object>(loop)));
    LARDER_TRY(Assign(*stmt.target, items->items[loop->index], inner));
    LARDER_ASSIGN(const Flow flow, ExecBody(stmt.body, inner, output));
    if (flow == Flow::kBreak) break;
  }
  return Flow::kNext;
}

// The text of the statement's body, through its filters if it has any.
Status Interpreter::ExecBlockFilter(const Stmt& stmt, const ScopePtr& scope, Value* result) {
  LARDER_ASSIGN(const ScopePtr inner, NewScope(scope, stmt.scope));
  Output captured(&heap_);
  LARDER_TRY(ExecBody(stmt.body, inner, &captured));
  LARDER_ASSIGN(*result, heap_.NewText(captured.Take()));
  if (!stmt.expr) return {};
  Value outer_hole = std::exchange(hole_, *result);
  auto filtered = Eval(*stmt.expr, inner);
  hole_ = std::move(outer_hole);
  LARDER_ASSIGN(*result, std::move(filtered));
  return {};
}

Result<Interpreter::Flow> Interpreter::ExecWith(const Stmt& stmt, const ScopePtr& scope, Output* output) {
  LARDER_ASSIGN(const ScopePtr inner, NewScope(scope, stmt.scope));
  for (const auto& [target, expr] : stmt.assignments) {
    LARDER_ASSIGN(Value value, Eval(*expr, scope));
    LARDER_TRY(Assign(*target, std::move(value), inner));
  }
  return ExecBody(stmt.body, inner, output);
}

Result<Value> Interpreter::NewMacro(const MacroDef& def, const ScopePtr& scope) {
  if (!scope->captured) {
    scope->captured = true;
    captured_.push_back(scope);
  }
  return NewObject(std::make_shared<Macro>(&def, scope), sizeof(Scope));
}

Status Interpreter::ExecMacro(const Stmt& stmt, const ScopePtr& scope) {
  LARDER_ASSIGN(Value macro, NewMacro(*stmt.macro, scope));
  scope->Set(stmt.macro->symbol, std::move(macro));
  return {};
}

Status Interpreter::ExecCallBlock(const Stmt& stmt, const ScopePtr& scope, Output* output) {
  LARDER_ASSIGN(const Value caller, NewMacro(*stmt.macro, scope));
  LARDER_ASSIGN(const Value value, EvalCall(*stmt.expr, scope, &caller));
  LARDER_ASSIGN(const std::string text, Str(value));
  return output->Append(text);
}

Status Interpreter::Assign(const Expr& target, Value value, const ScopePtr& scope) {
  if (target.kind == ExprKind::kName) {
    scope->Set(target.symbol, std::move(value));
    return {};
  }
  if (target.kind == ExprKind::kNsAttribute) {
    size_t looked_at = 0;
    const Value* found = scope->Find(target.symbol, &looked_at);
    const auto space = found ? found->As<Namespace>() : nullptr;
    LARDER_TRY(heap_.Work((looked_at + (space ? space->attributes.size() : 0)) * kSearchBytes));
    if (!space) {
      return Fail(ErrorKind::kInvalid, "'{}' is not a namespace, so '{}' of it cannot be set",
                  template_.names[target.symbol], target.text);
    }
    for (auto& [name, old] : space->attributes) {
      if (name != target.text) continue;
      old = std::move(value);
      return {};
    }
    space->attributes.emplace_back(target.text, std::move(value));
    return {};
  }
  LARDER_ASSIGN(std::vector<Value> items, Iterate(value, heap_));
  if (items.size() != target.parts.size()) {
    return Fail(ErrorKind::kInvalid, "{} values cannot be unpacked into {} names", items.size(),
                target.parts.size());
  }
  for (size_t i = 0; i < items.size(); ++i) LARDER_TRY(Assign(*target.parts[i], std::move(items[i]), scope));
  return {};
}

}  // namespace larder::jinja
