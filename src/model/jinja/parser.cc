#include "model/jinja/parser.h"

#include <algorithm>
#include <utility>

#include "model/jinja/limits.h"
#include "model/jinja/parser_impl.h"
#include "model/jinja/scopes.h"
#include "model/utf8.h"

namespace larder::jinja {
namespace {

constexpr std::string_view kRefusedTags[] = {"include", "import",     "from",  "extends", "block",
                                             "trans",   "autoescape", "debug", "do"};

void Deepen(int* depth, const ExprPtr& expr) {
  if (expr) *depth = std::max(*depth, expr->depth + 1);
}

void Deepen(int* depth, const Body& body) {
  for (const StmtPtr& stmt : body) *depth = std::max(*depth, stmt->depth + 1);
}

int Depth(const Stmt& stmt) {
  int depth = 1;
  Deepen(&depth, stmt.target);
  Deepen(&depth, stmt.expr);
  Deepen(&depth, stmt.condition);
  Deepen(&depth, stmt.body);
  Deepen(&depth, stmt.else_body);
  for (const auto& [test, body] : stmt.branches) {
    Deepen(&depth, test);
    Deepen(&depth, body);
  }
  if (stmt.macro) Deepen(&depth, stmt.macro->body);
  return depth;
}

}  // namespace

Parser::Parser(std::vector<Token> tokens) : tokens_(std::move(tokens)) {
  for (const char* name : {"loop", "caller", "varargs", "kwargs"}) Intern(name);
}

StmtPtr Parser::NewStmt(StmtKind kind) const {
  auto stmt = std::make_unique<Stmt>();
  stmt->kind = kind;
  stmt->line = Peek().line;
  return stmt;
}

Result<Template> Parser::Run() {
  LARDER_ASSIGN(Body body, ParseBody({}));
  if (!unknown_.empty()) return std::unexpected(unknown_.front());
  if (names_.size() > kMaxNames) {
    return Fail(ErrorKind::kExhausted, "the chat template has more than {} variables", kMaxNames);
  }
  Template parsed{std::move(body), std::move(names_), {}};
  ResolveScopes(&parsed);
  return parsed;
}

// Until the end of the template, or until a tag of one of the given names, which is left to be read ("{%" is
// not).
Result<Body> Parser::ParseBody(std::initializer_list<std::string_view> end_names) {
  const Nested nested(this);
  LARDER_TRY(CheckDepth());
  Body body;
  while (Peek().kind != TokenKind::kEnd) {
    if (Peek().kind == TokenKind::kData) {
      StmtPtr data = NewStmt(StmtKind::kData);
      data->text = Next().text;
      body.push_back(std::move(data));
    } else if (Peek().kind == TokenKind::kVariableBegin) {
      Next();
      StmtPtr output = NewStmt(StmtKind::kOutput);
      LARDER_ASSIGN(output->expr, ParseTuple(Conditionals::kAllowed, false));
      if (Peek().kind != TokenKind::kVariableEnd) return Unexpected("'}}'");
      Next();
      output->depth = Depth(*output);
      body.push_back(std::move(output));
    } else {
      Next();
      if (Peek().kind == TokenKind::kName &&
          std::find(end_names.begin(), end_names.end(), Peek().text) != end_names.end()) {
        return body;
      }
      LARDER_TRY(AppendStatement(&body));
    }
  }
  if (end_names.size() == 0) return body;
  return Unexpected(fmt::format("'{{% {} %}}'", *(end_names.end() - 1)));
}

Status Parser::AppendStatement(Body* body) {
  LARDER_ASSIGN(StmtPtr stmt, ParseStatement());
  LARDER_TRY(ExpectBlockEnd());
  stmt->depth = Depth(*stmt);
  if (stmt->depth > kMaxTreeDepth) {
    return Error(ErrorKind::kExhausted, stmt->line, "constructs are nested more than {} deep", kMaxTreeDepth);
  }
  body->push_back(std::move(stmt));
  return {};
}

// The rest of an opening tag, then its body; ends behind the name of the closing tag when there is only one
// such name.
Result<Body> Parser::ParseInnerBody(std::initializer_list<std::string_view> end_names) {
  SkipOperator(":");
  LARDER_TRY(ExpectBlockEnd());
  LARDER_ASSIGN(Body body, ParseBody(end_names));
  if (end_names.size() == 1) Next();
  return body;
}

Result<StmtPtr> Parser::ParseStatement() {
  const Token& token = Peek();
  if (token.kind != TokenKind::kName) return Unexpected("the name of a tag");
  const std::string& tag = token.text;
  if (tag == "if") return ParseIf();
  if (tag == "for") return ParseFor();
  if (tag == "set") return ParseSet();
  if (tag == "macro") return ParseMacro();
  if (tag == "call") return ParseCallBlock();
  if (tag == "filter") return ParseFilterBlock();
  if (tag == "with") return ParseWith();
  if (tag == "generation") return ParseGeneration();
  if (tag == "print") return ParsePrint();
  if (tag == "break") return ParseLoopControl(StmtKind::kBreak);
  if (tag == "continue") return ParseLoopControl(StmtKind::kContinue);
  if (std::find(std::begin(kRefusedTags), std::end(kRefusedTags), tag) != std::end(kRefusedTags)) {
    return Error(ErrorKind::kUnsupported, token.line, "the tag '{}' is not supported in chat templates", tag);
  }
  return Error(ErrorKind::kInvalid, token.line, "unknown tag '{}'", tag);
}

Result<StmtPtr> Parser::ParseIf() {
  const bool outer_soft = std::exchange(soft_, true);
  StmtPtr stmt = NewStmt(StmtKind::kIf);
  while (SkipName("if") || SkipName("elif")) {
    LARDER_ASSIGN(ExprPtr test, ParseTuple(Conditionals::kExcluded, false));
    LARDER_ASSIGN(Body body, ParseInnerBody({"elif", "else", "endif"}));
    stmt->branches.emplace_back(std::move(test), std::move(body));
  }
  if (Next().text == "else") {
    LARDER_ASSIGN(stmt->else_body, ParseInnerBody({"endif"}));
  }
  soft_ = outer_soft;
  return stmt;
}

Result<StmtPtr> Parser::ParseFor() {
  StmtPtr stmt = NewStmt(StmtKind::kFor);
  Next();
  LARDER_ASSIGN(stmt->target, ParseTarget(false));
  if (!SkipName("in")) return Unexpected("'in'");
  LARDER_ASSIGN(stmt->expr, ParseTuple(Conditionals::kExcluded, false));
  const bool outer_soft = std::exchange(soft_, false);
  if (SkipName("if")) {
    LARDER_ASSIGN(stmt->condition, ParseExpression());
  }
  stmt->recursive = SkipName("recursive");
  ++loop_depth_;
  LARDER_ASSIGN(stmt->body, ParseInnerBody({"else", "endfor"}));
  --loop_depth_;
  if (Next().text == "else") {
    LARDER_ASSIGN(stmt->else_body, ParseInnerBody({"endfor"}));
  }
  soft_ = outer_soft;
  return stmt;
}

Result<StmtPtr> Parser::ParseSet() {
  StmtPtr stmt = NewStmt(StmtKind::kSet);
  Next();
  LARDER_ASSIGN(stmt->target, ParseTarget(true));
  if (SkipOperator("=")) {
    LARDER_ASSIGN(stmt->expr, ParseTuple(Conditionals::kAllowed, false));
    return stmt;
  }
  stmt->kind = StmtKind::kSetBlock;
  if (AtOperator("|")) {
    stmt->expr = NewExpr(ExprKind::kHole, Peek().line);
    while (SkipOperator("|")) {
      LARDER_ASSIGN(stmt->expr, ParseFilter(std::move(stmt->expr)));
    }
  }
  const bool outer_soft = std::exchange(soft_, false);
  const int outer_loops = std::exchange(loop_depth_, 0);
  LARDER_ASSIGN(stmt->body, ParseInnerBody({"endset"}));
  soft_ = outer_soft;
  loop_depth_ = outer_loops;
  return stmt;
}

// Names with commas between them, nested in parentheses if need be; for `set` also namespace.attribute.
Result<ExprPtr> Parser::ParseTarget(bool with_namespace) {
  const Nested nested(this);
  LARDER_TRY(CheckDepth());
  ExprPtr tuple = NewExpr(ExprKind::kTuple, Peek().line);
  bool is_tuple = false;
  while (Peek().kind == TokenKind::kName ? !AtName("in") : AtOperator("(")) {
    LARDER_ASSIGN(ExprPtr part, ParseTargetPart(with_namespace));
    tuple->parts.push_back(std::move(part));
    if (!SkipOperator(",")) break;
    is_tuple = true;
  }
  if (tuple->parts.empty()) return Unexpected("a name to assign to");
  if (!is_tuple) return std::move(tuple->parts[0]);
  return Finish(std::move(tuple));
}

Result<ExprPtr> Parser::ParseTargetPart(bool with_namespace) {
  if (SkipOperator("(")) {
    LARDER_ASSIGN(ExprPtr inner, ParseTarget(with_namespace));
    LARDER_TRY(ExpectOperator(")"));
    return inner;
  }
  LARDER_ASSIGN(ExprPtr target, ParseName());
  if (target->kind != ExprKind::kName)
    return Error(ErrorKind::kInvalid, target->line, "a constant cannot be assigned to");
  if (with_namespace && SkipOperator(".")) {
    target->kind = ExprKind::kNsAttribute;
    LARDER_ASSIGN(target->text, ExpectName());
  } else if (target->text == "loop" && loop_depth_ > 0) {
    return Error(ErrorKind::kUnsupported, target->line, "assigning to 'loop' inside a loop is not supported");
  }
  return target;
}

Status Parser::ParseSignature(MacroDef* macro) {
  LARDER_TRY(ExpectOperator("("));
  while (!AtOperator(")")) {
    if (macro->parameters.size() >= kMaxArguments) {
      return Error(ErrorKind::kExhausted, macro->line, "a macro has more than {} parameters", kMaxArguments);
    }
    LARDER_ASSIGN(std::string name, ExpectName());
    macro->parameters.emplace_back(Intern(name), name);
    if (SkipOperator("=")) {
      LARDER_ASSIGN(ExprPtr value, ParseExpression());
      macro->defaults.push_back(std::move(value));
    } else if (!macro->defaults.empty()) {
      return Error(ErrorKind::kInvalid, macro->line,
                   "a parameter without a default follows one with a default");
    }
    if (!AtOperator(")")) LARDER_TRY(ExpectOperator(","));
  }
  Next();
  return {};
}

Status Parser::ParseMacroBody(MacroDef* macro, std::string_view end_name) {
  const bool outer_soft = std::exchange(soft_, false);
  const int outer_loops = std::exchange(loop_depth_, 0);
  macros_.push_back(macro);
  LARDER_ASSIGN(macro->body, ParseInnerBody({end_name}));
  macros_.pop_back();
  soft_ = outer_soft;
  loop_depth_ = outer_loops;
  const auto special = [](const auto& parameter) { return parameter.first <= kKwargsSymbol; };
  if (std::any_of(macro->parameters.begin(), macro->parameters.end(), special)) {
    return Error(ErrorKind::kUnsupported, macro->line,
                 "a parameter named loop, caller, varargs or kwargs is not supported");
  }
  return {};
}

Result<StmtPtr> Parser::ParseMacro() {
  StmtPtr stmt = NewStmt(StmtKind::kMacro);
  stmt->macro = std::make_unique<MacroDef>();
  stmt->macro->line = Next().line;
  LARDER_ASSIGN(stmt->macro->name, ExpectName());
  stmt->macro->symbol = Intern(stmt->macro->name);
  LARDER_TRY(ParseSignature(stmt->macro.get()));
  LARDER_TRY(ParseMacroBody(stmt->macro.get(), "endmacro"));
  return stmt;
}

Result<StmtPtr> Parser::ParseCallBlock() {
  StmtPtr stmt = NewStmt(StmtKind::kCallBlock);
  stmt->macro = std::make_unique<MacroDef>();
  stmt->macro->line = Next().line;
  stmt->macro->name = "caller";
  if (AtOperator("(")) LARDER_TRY(ParseSignature(stmt->macro.get()));
  LARDER_ASSIGN(stmt->expr, ParseExpression());
  if (stmt->expr->kind != ExprKind::kCall) {
    return Error(ErrorKind::kInvalid, stmt->line, "a call block needs a call, as in '{{% call name() %}}'");
  }
  LARDER_TRY(ParseMacroBody(stmt->macro.get(), "endcall"));
  return stmt;
}

Result<StmtPtr> Parser::ParseFilterBlock() {
  StmtPtr stmt = NewStmt(StmtKind::kFilterBlock);
  Next();
  const bool outer_soft = std::exchange(soft_, false);
  const int outer_loops = std::exchange(loop_depth_, 0);
  stmt->expr = NewExpr(ExprKind::kHole, stmt->line);
  do {
    LARDER_ASSIGN(stmt->expr, ParseFilter(std::move(stmt->expr)));
  } while (SkipOperator("|"));
  LARDER_ASSIGN(stmt->body, ParseInnerBody({"endfilter"}));
  soft_ = outer_soft;
  loop_depth_ = outer_loops;
  return stmt;
}

Result<StmtPtr> Parser::ParseWith() {
  StmtPtr stmt = NewStmt(StmtKind::kWith);
  Next();
  while (Peek().kind != TokenKind::kBlockEnd) {
    if (!stmt->assignments.empty()) LARDER_TRY(ExpectOperator(","));
    LARDER_ASSIGN(ExprPtr target, ParseTargetPart(false));
    LARDER_TRY(ExpectOperator("="));
    LARDER_ASSIGN(ExprPtr value, ParseExpression());
    stmt->assignments.emplace_back(std::move(target), std::move(value));
  }
  const bool outer_soft = std::exchange(soft_, false);
  LARDER_ASSIGN(stmt->body, ParseInnerBody({"endwith"}));
  soft_ = outer_soft;
  return stmt;
}

// {% generation %} marks the assistant's text for training masks; rendering only gives it a scope.
Result<StmtPtr> Parser::ParseGeneration() {
  StmtPtr stmt = NewStmt(StmtKind::kScope);
  Next();
  const bool outer_soft = std::exchange(soft_, false);
  const int outer_loops = std::exchange(loop_depth_, 0);
  LARDER_ASSIGN(stmt->body, ParseInnerBody({"endgeneration"}));
  soft_ = outer_soft;
  loop_depth_ = outer_loops;
  return stmt;
}

Result<StmtPtr> Parser::ParsePrint() {
  StmtPtr stmt = NewStmt(StmtKind::kOutput);
  Next();
  LARDER_ASSIGN(stmt->expr, ParseExpression());
  return stmt;
}

Result<StmtPtr> Parser::ParseLoopControl(StmtKind kind) {
  StmtPtr stmt = NewStmt(kind);
  const Token& token = Next();
  if (loop_depth_ > 0) return stmt;
  return Error(ErrorKind::kInvalid, token.line, "'{}' is outside of a loop", token.text);
}

Result<Template> ParseTemplate(std::string_view source) {
  if (source.size() > kMaxSourceBytes) {
    return Fail(ErrorKind::kExhausted, "the chat template is longer than {} bytes", kMaxSourceBytes);
  }
  if (ValidUtf8Prefix(source) != source.size())
    return Fail(ErrorKind::kInvalid, "the chat template is not valid UTF-8");
  LARDER_ASSIGN(std::vector<Token> tokens, Tokenize(source));
  return Parser(std::move(tokens)).Run();
}

}  // namespace larder::jinja
