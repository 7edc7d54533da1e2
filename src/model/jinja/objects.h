// The values with identity: what can change while a template runs, and what can be called.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "model/jinja/ast.h"
#include "model/jinja/value.h"

namespace larder::jinja {

// Variables of one block. Scopes nest as the text of the template does; a name not found in any is looked up
// in the context, then among the global functions.
struct Scope {
  explicit Scope(std::shared_ptr<Scope> parent_in, const InitialScope& initial)
      : parent(std::move(parent_in)), variables(initial) {}
  // Null when no scope has it. Adds the number of names looked at to *looked_at.
  const Value* Find(Symbol symbol, size_t* looked_at) const;
  void Set(Symbol symbol, Value value);

  std::shared_ptr<Scope> parent;
  std::vector<std::pair<Symbol, Value>> variables;
  bool captured = false;  // a macro refers to it
};

class Namespace : public Object {
 public:
  std::string_view TypeName() const override { return "Namespace"; }
  std::vector<std::pair<std::string, Value>> attributes;
};

class Macro : public Object {
 public:
  Macro(const MacroDef* def_in, std::shared_ptr<Scope> scope_in) : def(def_in), scope(std::move(scope_in)) {}
  std::string_view TypeName() const override { return "Macro"; }
  bool IsCallable() const override { return true; }
  const MacroDef* def;
  std::shared_ptr<Scope> scope;  // where it was defined
};

// `loop`. Emptied when its loop ends, so that it cannot be part of a cycle of references.
class LoopState : public Object {
 public:
  std::string_view TypeName() const override { return "LoopContext"; }
  bool IsCallable() const override { return true; }
  void Finish() {
    items.reset();
    last_changed.clear();
    scope.reset();
  }
  std::shared_ptr<Sequence> items;
  size_t index = 0;
  int depth = 0;  // of a recursive loop, from 0
  std::vector<Value> last_changed;
  bool has_changed = false;
  const Stmt* loop = nullptr;    // of a recursive loop
  std::shared_ptr<Scope> scope;  // around the loop
};

class BoundMethod : public Object {
 public:
  BoundMethod(Value self_in, std::string name_in) : self(std::move(self_in)), name(std::move(name_in)) {}
  std::string_view TypeName() const override { return "method"; }
  bool IsCallable() const override { return true; }
  int Depth() const override { return self.Depth(); }
  Value self;
  std::string name;
};

class Function : public Object {
 public:
  explicit Function(std::string_view name_in) : name(name_in) {}
  std::string_view TypeName() const override { return "function"; }
  bool IsCallable() const override { return true; }
  std::string name;
};

class Cycler : public Object {
 public:
  explicit Cycler(std::vector<Value> items_in);
  std::string_view TypeName() const override { return "Cycler"; }
  int Depth() const override { return depth; }
  std::vector<Value> items;
  size_t position = 0;
  int depth;
};

class Joiner : public Object {
 public:
  explicit Joiner(Value separator_in) : separator(std::move(separator_in)) {}
  std::string_view TypeName() const override { return "Joiner"; }
  bool IsCallable() const override { return true; }
  int Depth() const override { return separator.Depth() + 1; }
  Value separator;
  bool used = false;
};

}  // namespace larder::jinja
