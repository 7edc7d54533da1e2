// Runs a parsed template over a context. One Interpreter is one rendering.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "model/jinja/ast.h"
#include "model/jinja/objects.h"
#include "model/jinja/parser.h"
#include "model/jinja/value.h"

namespace larder::jinja {

struct Arguments {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> named;
};

// The values of a function's parameters, by position; those not given are empty. kInvalid names a parameter
// that is missing (of the first `required`), unknown, given twice, or one too many.
Result<std::vector<std::optional<Value>>> Bind(std::string_view function, Arguments arguments,
                                               std::initializer_list<std::string_view> parameters,
                                               size_t required);

// Text being written, checked against the limits.
class Output {
 public:
  explicit Output(Heap* heap) : heap_(heap), held_(heap, 0) {}
  Status Append(std::string_view text);
  std::string Take() { return std::move(text_); }

 private:
  Heap* heap_;
  std::string text_;
  Held held_;
};

class Interpreter {
 public:
  // All are kept by reference. unix_seconds: for strftime_now.
  Interpreter(const Template& parsed, const Dict& context, int64_t unix_seconds);
  Interpreter(const Interpreter&) = delete;
  Interpreter& operator=(const Interpreter&) = delete;
  ~Interpreter();

  // Errors name the line, except the message of raise_exception, which stands alone.
  Result<std::string> Run();

  // For filters, tests and functions.
  Heap& heap() { return heap_; }
  int64_t unix_seconds() const { return unix_seconds_; }
  Result<Value> GetAttribute(const Value& object, std::string_view name);  // object.name
  Result<Value> GetItem(const Value& object, const Value& index);          // object[index]
  Result<Value> NewNamespace(std::vector<std::pair<std::string, Value>> attributes);
  template <class T>
  Result<Value> NewObject(std::shared_ptr<T> object, size_t extra_bytes = 0) {
    LARDER_TRY(heap_.Adopt(object.get(), extra_bytes));
    return Value(std::shared_ptr<Object>(std::move(object)));
  }
  // The error of raise_exception(message).
  std::unexpected<Error> Raise(std::string message);

 private:
  using ScopePtr = std::shared_ptr<Scope>;
  enum class Flow { kNext, kBreak, kContinue };
  class Nested;

  // What looking at one name of a scope or namespace costs, in bytes of Heap::Work.
  static constexpr size_t kSearchBytes = 16;

  Status Enter();
  Result<ScopePtr> NewScope(const ScopePtr& parent, const InitialScope& initial);

  // Expressions (eval.cc).
  Result<Value> Eval(const Expr& expr, const ScopePtr& scope);
  Result<Value> EvalKind(const Expr& expr, const ScopePtr& scope);
  Result<Value> EvalName(const Expr& expr, const Scope& scope);
  Result<std::vector<Value>> EvalAll(const std::vector<ExprPtr>& parts, const ScopePtr& scope);
  Result<Value> EvalDict(const Expr& expr, const ScopePtr& scope);
  Result<Value> EvalConcat(const Expr& expr, const ScopePtr& scope);
  Result<Value> EvalCompare(const Expr& expr, const ScopePtr& scope);
  Result<Value> EvalConditional(const Expr& expr, const ScopePtr& scope);
  Result<Value> EvalSlice(const Expr& expr, const ScopePtr& scope);
  Result<Value> EvalCall(const Expr& expr, const ScopePtr& scope, const Value* caller);
  Result<Value> EvalFilter(const Expr& expr, const ScopePtr& scope);
  Result<Value> EvalTest(const Expr& expr, const ScopePtr& scope);
  Result<Arguments> EvalArguments(const ArgumentNodes& nodes, const ScopePtr& scope);

  // Attributes and subscripts (attributes.cc). Empty when there is none.
  Result<std::optional<Value>> FindAttribute(const Value& object, std::string_view name);
  Result<std::optional<Value>> FindLoopAttribute(const LoopState& loop, std::string_view name);
  Result<std::optional<Value>> FindItem(const Value& object, const Value& index);
  Result<Value> Slice(const Value& object, const std::optional<Value> bounds[3]);

  // Calls (call.cc).
  Result<Value> Call(const Value& callee, Arguments arguments);
  Result<Value> CallMacro(const Macro& macro, Arguments arguments);
  Status BindMacro(const Macro& macro, Arguments arguments, const ScopePtr& scope);
  Result<Value> CallLoop(const LoopState& loop, Arguments arguments);
  Result<Value> CallObjectMethod(const BoundMethod& method, Arguments arguments);

  // Statements (exec.cc).
  Result<Flow> ExecInner(const Body& body, const ScopePtr& scope, const InitialScope& initial,
                         Output* output);
  Result<Flow> ExecBody(const Body& body, const ScopePtr& scope, Output* output);
  Result<Flow> Exec(const Stmt& stmt, const ScopePtr& scope, Output* output);
  Result<Flow> ExecIf(const Stmt& stmt, const ScopePtr& scope, Output* output);
  Result<Flow> ExecFor(const Stmt& stmt, const ScopePtr& scope, const Value& iterable, int depth,
                       Output* output);
  Result<Value> SelectLoopItems(const Stmt& stmt, const ScopePtr& scope, const Value& iterable);
  Result<Flow> ExecIterations(const Stmt& stmt, const ScopePtr& scope, const std::shared_ptr<LoopState>& loop,
                              Output* output);
  Status ExecOutput(const Stmt& stmt, const ScopePtr& scope, Output* output);
  Status ExecBlockFilter(const Stmt& stmt, const ScopePtr& scope, Value* result);
  Result<Flow> ExecWith(const Stmt& stmt, const ScopePtr& scope, Output* output);
  Status ExecMacro(const Stmt& stmt, const ScopePtr& scope);
  Status ExecCallBlock(const Stmt& stmt, const ScopePtr& scope, Output* output);
  Result<Value> NewMacro(const MacroDef& def, const ScopePtr& scope);
  Status Assign(const Expr& target, Value value, const ScopePtr& scope);

  Heap heap_;  // first: the values below give their bytes back to it
  const Template& template_;
  const Dict& context_;
  int64_t unix_seconds_;
  int depth_ = 0;
  int line_ = 0;  // of what is being evaluated
  bool raised_ = false;
  Value hole_;  // the text that the filters of a block apply to
  // What may be part of a cycle of references; taken apart at the end.
  std::vector<ScopePtr> captured_;
  std::vector<std::shared_ptr<Namespace>> namespaces_;
};

// Counts nested evaluations while it lives.
class Interpreter::Nested {
 public:
  explicit Nested(Interpreter* interpreter) : interpreter_(interpreter) { ++interpreter_->depth_; }
  Nested(const Nested&) = delete;
  Nested& operator=(const Nested&) = delete;
  ~Nested() { --interpreter_->depth_; }

 private:
  Interpreter* interpreter_;
};

// The functions every template knows (globals.cc): range, namespace, raise_exception, ...
bool IsFunction(std::string_view name);
Result<Value> CallFunction(Interpreter& interpreter, std::string_view name, Arguments arguments);

// Methods of text, lists and dicts (methods.cc). Which names are methods at all: also those that are refused
// when called.
bool IsTextMethod(std::string_view name);
Result<Value> CallTextMethod(Heap& heap, const Value& self, std::string_view name, Arguments arguments);
bool IsDictMethod(std::string_view name);
Result<Value> CallDictMethod(Heap& heap, const Value& self, std::string_view name, Arguments arguments);
bool IsSequenceMethod(SequenceType type, std::string_view name);
Result<Value> CallSequenceMethod(Heap& heap, const Value& self, std::string_view name, Arguments arguments);
// Shared by methods and filters of the same name. limit < 0: all. `convert`: items that are not text become
// it.
Result<Value> ReplaceText(Heap& heap, std::string_view text, std::string_view from, std::string_view to,
                          Int limit);
Result<Value> JoinTexts(Heap& heap, std::string_view separator, const std::vector<Value>& items,
                        bool convert);
// Names the sandbox hides because they would change the value.
bool IsMutator(const Value& self, std::string_view name);

}  // namespace larder::jinja
