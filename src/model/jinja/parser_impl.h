// The parser's state and its token helpers; expressions are in parser_expr.cc, statements in parser.cc.
#pragma once

#include <initializer_list>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "model/jinja/lexer.h"
#include "model/jinja/parser.h"

namespace larder::jinja {

class Parser {
 public:
  explicit Parser(std::vector<Token> tokens);
  Result<Template> Run();

 private:
  // Counts nested constructs while it lives.
  class Nested {
   public:
    explicit Nested(Parser* parser) : parser_(parser) { ++parser_->depth_; }
    Nested(const Nested&) = delete;
    Nested& operator=(const Nested&) = delete;
    ~Nested() { --parser_->depth_; }

   private:
    Parser* parser_;
  };

  const Token& Peek(size_t ahead = 0) const { return tokens_[std::min(at_ + ahead, tokens_.size() - 1)]; }
  const Token& Next();
  bool AtName(std::string_view name, size_t ahead = 0) const;
  bool AtOperator(std::string_view op, size_t ahead = 0) const;
  bool SkipName(std::string_view name);
  bool SkipOperator(std::string_view op);
  Status ExpectOperator(std::string_view op);
  Status ExpectBlockEnd();
  Result<std::string> ExpectName();
  template <class... Args>
  std::unexpected<Error> Error(ErrorKind kind, int line, fmt::format_string<Args...> format,
                               Args&&... args) const {
    return Fail(kind, "chat template line {}: {}", line, fmt::format(format, std::forward<Args>(args)...));
  }
  std::unexpected<larder::Error> Unexpected(std::string_view wanted) const;
  Status CheckDepth() const;

  Symbol Intern(std::string_view name);
  ExprPtr NewExpr(ExprKind kind, int line) const;
  // Sets the depth from the parts; kExhausted when the tree is too deep.
  Result<ExprPtr> Finish(ExprPtr expr) const;
  Result<ExprPtr> Unary(ExprKind kind, int line, Result<ExprPtr> operand) const;
  Result<ExprPtr> Binary(ExprKind kind, int line, ExprPtr left, Result<ExprPtr> right) const;

  // Expressions, loosest binding first.
  enum class Conditionals { kAllowed, kExcluded };
  Result<ExprPtr> ParseTuple(Conditionals conditionals, bool in_parentheses);
  Result<ExprPtr> ParseExpression() { return ParseConditional(); }
  Result<ExprPtr> ParseConditional();
  Result<ExprPtr> ParseOr();
  Result<ExprPtr> ParseAnd();
  Result<ExprPtr> ParseNot();
  Result<ExprPtr> ParseCompare();
  bool TakeCompareOp(CompareOp* op);
  Result<ExprPtr> ParseSum();
  Result<ExprPtr> ParseConcat();
  Result<ExprPtr> ParseProduct();
  Result<ExprPtr> ParsePower();
  Result<ExprPtr> ParseUnary(bool with_filter);
  Result<ExprPtr> ParsePrimary();
  Result<ExprPtr> ParseName();
  Result<ExprPtr> ParseList();
  Result<ExprPtr> ParseDict();
  Result<ExprPtr> ParsePostfix(ExprPtr expr);
  Result<ExprPtr> ParseFilters(ExprPtr expr);
  Result<ExprPtr> ParseSubscript(ExprPtr expr);
  Result<ExprPtr> ParseIndex(ExprPtr expr, int line);
  Result<ExprPtr> ParseCall(ExprPtr expr);
  Status ParseArgument(int line, ArgumentNodes* arguments);
  Result<std::unique_ptr<ArgumentNodes>> ParseArguments();
  Result<ExprPtr> ParseFilter(ExprPtr expr);  // behind the |
  Result<ExprPtr> ParseTest(ExprPtr expr);    // behind `is`
  Result<std::string> ParseDottedName();
  Status ResolveFilter(Expr* expr);
  Status ResolveTest(Expr* expr);
  void NoteUnknown(int line, std::string_view what, std::string_view name);

  // Statements.
  Result<Body> ParseBody(std::initializer_list<std::string_view> end_names);
  Result<Body> ParseInnerBody(std::initializer_list<std::string_view> end_names);
  Status AppendStatement(Body* body);
  Result<StmtPtr> ParseStatement();
  Result<StmtPtr> ParseIf();
  Result<StmtPtr> ParseFor();
  Result<StmtPtr> ParseSet();
  Result<StmtPtr> ParseMacro();
  Result<StmtPtr> ParseCallBlock();
  Result<StmtPtr> ParseFilterBlock();
  Result<StmtPtr> ParseWith();
  Result<StmtPtr> ParseGeneration();
  Result<StmtPtr> ParsePrint();
  Result<StmtPtr> ParseLoopControl(StmtKind kind);
  Result<ExprPtr> ParseTarget(bool with_namespace);
  Result<ExprPtr> ParseTargetPart(bool with_namespace);
  Status ParseSignature(MacroDef* macro);
  Status ParseMacroBody(MacroDef* macro, std::string_view end_name);
  StmtPtr NewStmt(StmtKind kind) const;

  std::vector<Token> tokens_;
  size_t at_ = 0;
  int depth_ = 0;
  int loop_depth_ = 0;  // loops that a break here could leave
  // Jinja lets a template name an unknown filter or test where it may never be reached: in the branches of an
  // if and in conditional expressions. soft_ is set there; elsewhere the first unknown name is the template's
  // error.
  bool soft_ = false;
  std::vector<larder::Error> unknown_;
  std::vector<MacroDef*> macros_;  // the ones being parsed, outermost first
  std::vector<std::string> names_;
  std::unordered_map<std::string, Symbol> symbols_;
};

}  // namespace larder::jinja
