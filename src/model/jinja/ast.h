// The parsed template. One node type for expressions and one for statements; the comment at each kind says
// which fields it uses. Trees are at most kMaxTreeDepth deep, so that recursion over them is safe.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "model/jinja/value.h"

namespace larder::jinja {

struct FilterEntry;
struct TestEntry;

// A name of the template as a small number.
using Symbol = uint32_t;
inline constexpr Symbol kLoopSymbol = 0;
inline constexpr Symbol kCallerSymbol = 1;
inline constexpr Symbol kVarargsSymbol = 2;
inline constexpr Symbol kKwargsSymbol = 3;

struct Expr;
struct Stmt;
using ExprPtr = std::unique_ptr<Expr>;
using StmtPtr = std::unique_ptr<Stmt>;
using Body = std::vector<StmtPtr>;

struct ArgumentNodes {
  std::vector<ExprPtr> positional;
  std::vector<std::pair<std::string, ExprPtr>> named;
  ExprPtr rest_positional;  // *list
  ExprPtr rest_named;       // **dict
};

enum class ExprKind : uint8_t {
  kConst,        // value
  kName,         // symbol, text; also a target
  kHole,         // the text of the enclosing filter or set block
  kList,         // parts
  kTuple,        // parts; also a target
  kDict,         // parts: key, value, key, value, ...
  kAttribute,    // parts[0].text
  kNsAttribute,  // symbol.text: a target only
  kItem,         // parts[0][parts[1]]
  kSlice,        // parts[0][parts[1]:parts[2]:parts[3]], the last three may be null
  kCall,         // parts[0](arguments)
  kFilter,       // parts[0] | text(arguments); filter is null for an unknown one that is never reached
  kTest,         // parts[0] is text(arguments); test likewise
  kNot,          // not parts[0]
  kNegate,       // -parts[0]
  kPlus,         // +parts[0]
  kAnd,          // parts[0] and parts[1]
  kOr,           // parts[0] or parts[1]
  kBinary,       // parts[0] op parts[1]
  kConcat,       // parts joined by ~
  kCompare,      // parts[0] comparisons[0] parts[1] comparisons[1] parts[2] ...
  kConditional,  // parts[1] if parts[0] else parts[2], which may be null
};

enum class BinaryOp : uint8_t { kAdd, kSubtract, kMultiply, kDivide, kFloorDivide, kModulo, kPower };
enum class CompareOp : uint8_t { kEqual, kNotEqual, kLess, kLessEqual, kGreater, kGreaterEqual, kIn, kNotIn };

struct Expr {
  ExprKind kind;
  int line;
  int depth = 1;
  BinaryOp op = BinaryOp::kAdd;
  Symbol symbol = 0;
  std::string text;
  Value value;
  std::vector<ExprPtr> parts;
  std::vector<CompareOp> comparisons;
  std::unique_ptr<ArgumentNodes> arguments;
  const FilterEntry* filter = nullptr;
  const TestEntry* test = nullptr;
};

// What a block's scope holds when it begins: the names it assigns before it reads them, undefined until then,
// so that a value of the context is not seen in their place.
using InitialScope = std::vector<std::pair<Symbol, Value>>;

// A macro, or the body of a call block (named "caller").
struct MacroDef {
  std::string name;
  Symbol symbol = 0;
  int line = 0;
  std::vector<std::pair<Symbol, std::string>> parameters;
  std::vector<ExprPtr> defaults;  // of the last parameters
  Body body;
  bool uses_caller = false;
  bool uses_varargs = false;
  bool uses_kwargs = false;
  InitialScope scope;
};

enum class StmtKind : uint8_t {
  kData,         // text
  kOutput,       // expr
  kIf,           // branches, else_body
  kFor,          // target in expr if condition; body, else_body, recursive
  kSet,          // target = expr
  kSetBlock,     // target = body, through the filters of expr (with a kHole) unless null
  kMacro,        // macro
  kCallBlock,    // expr (a kCall) with macro as its caller
  kFilterBlock,  // expr (with a kHole) over body
  kWith,         // assignments, body
  kScope,        // body in a scope of its own
  kBreak,
  kContinue,
};

struct Stmt {
  StmtKind kind;
  int line;
  int depth = 1;
  bool recursive = false;
  std::string text;
  ExprPtr target;
  ExprPtr expr;
  ExprPtr condition;
  std::vector<std::pair<ExprPtr, Body>> branches;
  std::vector<std::pair<ExprPtr, ExprPtr>> assignments;
  std::unique_ptr<MacroDef> macro;
  Body body;
  Body else_body;
  InitialScope scope;       // of body
  InitialScope else_scope;  // of a loop's else_body
};

}  // namespace larder::jinja
