#include "model/jinja/scopes.h"

#include <unordered_map>
#include <unordered_set>

namespace larder::jinja {
namespace {

// Where a block takes a name's first value from.
enum class Source { kOuter, kUndefined, kParameter };

// The names one block knows.
struct Names {
  bool Knows(Symbol symbol) const { return sources.contains(symbol) || (parent && parent->Knows(symbol)); }
  void Read(Symbol symbol) {
    if (!Knows(symbol)) sources[symbol] = Source::kOuter;
  }
  void Assign(Symbol symbol) {
    assigned.insert(symbol);
    if (sources.contains(symbol)) return;
    sources[symbol] = parent && parent->Knows(symbol) ? Source::kOuter : Source::kUndefined;
  }
  void AddParameter(Symbol symbol) {
    assigned.insert(symbol);
    sources[symbol] = Source::kParameter;
  }

  const Names* parent = nullptr;
  std::unordered_map<Symbol, Source> sources;
  std::unordered_set<Symbol> assigned;
};

class Resolver {
 public:
  explicit Resolver(const std::vector<std::string>& names) : names_(names) {}

  void ResolveBlock(const Body& body, const Names* parent, const std::vector<Symbol>& parameters,
                    InitialScope* scope) {
    Names names;
    names.parent = parent;
    for (const Symbol symbol : parameters) names.AddParameter(symbol);
    VisitBody(body, &names);
    for (const auto& [symbol, source] : names.sources) {
      if (source != Source::kUndefined) continue;
      scope->emplace_back(symbol, Value::Undefined(fmt::format("'{}' is undefined", names_[symbol])));
    }
    for (const StmtPtr& stmt : body) ResolveInner(*stmt, names);
  }

 private:
  void ReadAll(const Expr* expr, Names* names);
  void AssignTarget(const Expr& target, Names* names);
  static void TargetNames(const Expr& target, std::vector<Symbol>* symbols);
  void VisitBody(const Body& body, Names* names) {
    for (const StmtPtr& stmt : body) Visit(*stmt, names);
  }
  void Visit(const Stmt& stmt, Names* names);
  void VisitIf(const Stmt& stmt, Names* names);
  void ResolveMacro(MacroDef* macro, const Names& names);
  void ResolveInner(Stmt& stmt, const Names& names);

  const std::vector<std::string>& names_;
};

void Resolver::ReadAll(const Expr* expr, Names* names) {
  if (!expr) return;
  if (expr->kind == ExprKind::kName || expr->kind == ExprKind::kNsAttribute) names->Read(expr->symbol);
  for (const ExprPtr& part : expr->parts) ReadAll(part.get(), names);
  if (!expr->arguments) return;
  for (const ExprPtr& argument : expr->arguments->positional) ReadAll(argument.get(), names);
  for (const auto& [name, argument] : expr->arguments->named) ReadAll(argument.get(), names);
  ReadAll(expr->arguments->rest_positional.get(), names);
  ReadAll(expr->arguments->rest_named.get(), names);
}

void Resolver::AssignTarget(const Expr& target, Names* names) {
  if (target.kind == ExprKind::kName) names->Assign(target.symbol);
  if (target.kind == ExprKind::kNsAttribute) names->Read(target.symbol);
  for (const ExprPtr& part : target.parts) AssignTarget(*part, names);
}

void Resolver::TargetNames(const Expr& target, std::vector<Symbol>* symbols) {
  if (target.kind == ExprKind::kName) symbols->push_back(target.symbol);
  for (const ExprPtr& part : target.parts) TargetNames(*part, symbols);
}

// What the statement reads and assigns in the block it stands in; inner blocks are looked at later.
void Resolver::Visit(const Stmt& stmt, Names* names) {
  switch (stmt.kind) {
    case StmtKind::kOutput:
    case StmtKind::kFor:
    case StmtKind::kCallBlock:
    case StmtKind::kFilterBlock:
      ReadAll(stmt.expr.get(), names);
      break;
    case StmtKind::kSet:
      ReadAll(stmt.expr.get(), names);
      AssignTarget(*stmt.target, names);
      break;
    case StmtKind::kSetBlock:
      AssignTarget(*stmt.target, names);
      break;
    case StmtKind::kMacro:
      names->Assign(stmt.macro->symbol);
      break;
    case StmtKind::kWith:
      for (const auto& [target, expr] : stmt.assignments) ReadAll(expr.get(), names);
      break;
    case StmtKind::kIf:
      VisitIf(stmt, names);
      break;
    default:
      break;
  }
}

// What is assigned on a branch for the first time has its outer meaning before, even if every branch assigns
// it.
void Resolver::VisitIf(const Stmt& stmt, Names* names) {
  const std::unordered_set<Symbol> before = names->assigned;
  for (const auto& [test, body] : stmt.branches) {
    ReadAll(test.get(), names);
    VisitBody(body, names);
  }
  VisitBody(stmt.else_body, names);
  for (const Symbol symbol : names->assigned) {
    if (!before.contains(symbol)) names->sources[symbol] = Source::kOuter;
  }
}

void Resolver::ResolveMacro(MacroDef* macro, const Names& names) {
  std::vector<Symbol> parameters = {kCallerSymbol, kVarargsSymbol, kKwargsSymbol};
  for (const auto& [symbol, name] : macro->parameters) parameters.push_back(symbol);
  ResolveBlock(macro->body, &names, parameters, &macro->scope);
}

void Resolver::ResolveInner(Stmt& stmt, const Names& names) {
  for (const auto& [test, body] : stmt.branches) {
    for (const StmtPtr& inner : body) ResolveInner(*inner, names);
  }
  if (stmt.macro) ResolveMacro(stmt.macro.get(), names);
  if (stmt.kind == StmtKind::kIf) {
    for (const StmtPtr& inner : stmt.else_body) ResolveInner(*inner, names);
    return;
  }
  std::vector<Symbol> parameters;
  if (stmt.kind == StmtKind::kFor) {
    ResolveBlock(stmt.else_body, &names, {}, &stmt.else_scope);
    parameters.push_back(kLoopSymbol);
    TargetNames(*stmt.target, &parameters);
  }
  for (const auto& [target, expr] : stmt.assignments) TargetNames(*target, &parameters);
  ResolveBlock(stmt.body, &names, parameters, &stmt.scope);
}

}  // namespace

void ResolveScopes(Template* parsed) {
  Resolver(parsed->names).ResolveBlock(parsed->body, nullptr, {}, &parsed->scope);
}

}  // namespace larder::jinja
