#include <algorithm>
#include <utility>

#include "model/jinja/filters.h"
#include "model/jinja/limits.h"
#include "model/jinja/parser_impl.h"

namespace larder::jinja {

// -- tokens and nodes
// --------------------------------------------------------------------------------------------------

const Token& Parser::Next() {
  const Token& token = Peek();
  if (at_ + 1 < tokens_.size()) ++at_;
  return token;
}

bool Parser::AtName(std::string_view name, size_t ahead) const {
  return Peek(ahead).kind == TokenKind::kName && Peek(ahead).text == name;
}

bool Parser::AtOperator(std::string_view op, size_t ahead) const {
  return Peek(ahead).kind == TokenKind::kOperator && Peek(ahead).text == op;
}

bool Parser::SkipName(std::string_view name) {
  const bool here = AtName(name);
  if (here) Next();
  return here;
}

bool Parser::SkipOperator(std::string_view op) {
  const bool here = AtOperator(op);
  if (here) Next();
  return here;
}

std::unexpected<larder::Error> Parser::Unexpected(std::string_view wanted) const {
  constexpr std::string_view kNames[] = {
      "text", "'{%'", "'%}'", "'{{'", "'}}'", "", "", "number", "number", "", "the end of the template"};
  const Token& token = Peek();
  const std::string_view name = kNames[static_cast<size_t>(token.kind)];
  return Error(ErrorKind::kInvalid, token.line, "expected {}, found {}", wanted,
               name.empty() ? fmt::format("'{}'", token.text) : std::string(name));
}

Status Parser::ExpectOperator(std::string_view op) {
  if (SkipOperator(op)) return {};
  return Unexpected(fmt::format("'{}'", op));
}

Status Parser::ExpectBlockEnd() {
  if (Peek().kind != TokenKind::kBlockEnd) return Unexpected("'%}'");
  Next();
  return {};
}

Result<std::string> Parser::ExpectName() {
  if (Peek().kind != TokenKind::kName) return Unexpected("a name");
  return Next().text;
}

Status Parser::CheckDepth() const {
  if (depth_ <= kMaxParseDepth) return {};
  return Error(ErrorKind::kExhausted, Peek().line, "constructs are nested more than {} deep", kMaxParseDepth);
}

Symbol Parser::Intern(std::string_view name) {
  const auto [place, is_new] = symbols_.try_emplace(std::string(name), static_cast<Symbol>(names_.size()));
  if (is_new) names_.emplace_back(name);
  return place->second;
}

ExprPtr Parser::NewExpr(ExprKind kind, int line) const {
  auto expr = std::make_unique<Expr>();
  expr->kind = kind;
  expr->line = line;
  return expr;
}

Result<ExprPtr> Parser::Finish(ExprPtr expr) const {
  const auto add = [&expr](const ExprPtr& part) {
    if (part) expr->depth = std::max(expr->depth, part->depth + 1);
  };
  for (const ExprPtr& part : expr->parts) add(part);
  if (expr->arguments) {
    for (const ExprPtr& argument : expr->arguments->positional) add(argument);
    for (const auto& [name, argument] : expr->arguments->named) add(argument);
    add(expr->arguments->rest_positional);
    add(expr->arguments->rest_named);
  }
  if (expr->depth <= kMaxTreeDepth) return expr;
  return Error(ErrorKind::kExhausted, expr->line, "an expression has more than {} operations in a row",
               kMaxTreeDepth);
}

Result<ExprPtr> Parser::Unary(ExprKind kind, int line, Result<ExprPtr> operand) const {
  if (!operand) return operand;
  ExprPtr expr = NewExpr(kind, line);
  expr->parts.push_back(*std::move(operand));
  return Finish(std::move(expr));
}

Result<ExprPtr> Parser::Binary(ExprKind kind, int line, ExprPtr left, Result<ExprPtr> right) const {
  if (!right) return right;
  ExprPtr expr = NewExpr(kind, line);
  expr->parts.push_back(std::move(left));
  expr->parts.push_back(*std::move(right));
  return Finish(std::move(expr));
}

// -- expressions
// -------------------------------------------------------------------------------------------------------

// One expression, or several with commas between them. Without parentheses it ends where its tag or clause
// ends.
Result<ExprPtr> Parser::ParseTuple(Conditionals conditionals, bool in_parentheses) {
  const int line = Peek().line;
  std::vector<ExprPtr> items;
  bool is_tuple = false;
  while (true) {
    const TokenKind kind = Peek().kind;
    if (kind == TokenKind::kVariableEnd || kind == TokenKind::kBlockEnd || AtOperator(")")) break;
    LARDER_ASSIGN(ExprPtr item, conditionals == Conditionals::kAllowed ? ParseConditional() : ParseOr());
    items.push_back(std::move(item));
    if (!SkipOperator(",")) break;
    is_tuple = true;
  }
  if (!is_tuple && !items.empty()) return std::move(items[0]);
  if (!is_tuple && !in_parentheses) return Unexpected("an expression");
  ExprPtr tuple = NewExpr(ExprKind::kTuple, line);
  tuple->parts = std::move(items);
  return Finish(std::move(tuple));
}

Result<ExprPtr> Parser::ParseConditional() {
  const Nested nested(this);
  LARDER_TRY(CheckDepth());
  const size_t unknown_before = unknown_.size();
  LARDER_ASSIGN(ExprPtr expr, ParseOr());
  while (AtName("if")) {
    const int line = Next().line;
    ExprPtr conditional = NewExpr(ExprKind::kConditional, line);
    LARDER_ASSIGN(ExprPtr condition, ParseOr());
    ExprPtr otherwise;
    if (SkipName("else")) {
      LARDER_ASSIGN(otherwise, ParseConditional());
    }
    conditional->parts.push_back(std::move(condition));
    conditional->parts.push_back(std::move(expr));
    conditional->parts.push_back(std::move(otherwise));
    LARDER_ASSIGN(expr, Finish(std::move(conditional)));
    unknown_.resize(unknown_before);
  }
  return expr;
}

Result<ExprPtr> Parser::ParseOr() {
  LARDER_ASSIGN(ExprPtr expr, ParseAnd());
  while (AtName("or")) {
    const int line = Next().line;
    LARDER_ASSIGN(expr, Binary(ExprKind::kOr, line, std::move(expr), ParseAnd()));
  }
  return expr;
}

Result<ExprPtr> Parser::ParseAnd() {
  LARDER_ASSIGN(ExprPtr expr, ParseNot());
  while (AtName("and")) {
    const int line = Next().line;
    LARDER_ASSIGN(expr, Binary(ExprKind::kAnd, line, std::move(expr), ParseNot()));
  }
  return expr;
}

Result<ExprPtr> Parser::ParseNot() {
  if (!AtName("not")) return ParseCompare();
  const Nested nested(this);
  LARDER_TRY(CheckDepth());
  const int line = Next().line;
  return Unary(ExprKind::kNot, line, ParseNot());
}

bool Parser::TakeCompareOp(CompareOp* op) {
  constexpr std::pair<std::string_view, CompareOp> kOperators[] = {
      {"==", CompareOp::kEqual},     {"!=", CompareOp::kNotEqual}, {"<", CompareOp::kLess},
      {"<=", CompareOp::kLessEqual}, {">", CompareOp::kGreater},   {">=", CompareOp::kGreaterEqual}};
  for (const auto& [text, meaning] : kOperators) {
    if (!SkipOperator(text)) continue;
    *op = meaning;
    return true;
  }
  *op = CompareOp::kIn;
  if (SkipName("in")) return true;
  if (!AtName("not") || !AtName("in", 1)) return false;
  Next();
  Next();
  *op = CompareOp::kNotIn;
  return true;
}

Result<ExprPtr> Parser::ParseCompare() {
  const int line = Peek().line;
  LARDER_ASSIGN(ExprPtr first, ParseSum());
  CompareOp op;
  if (!TakeCompareOp(&op)) return first;
  ExprPtr compare = NewExpr(ExprKind::kCompare, line);
  compare->parts.push_back(std::move(first));
  do {
    LARDER_ASSIGN(ExprPtr operand, ParseSum());
    compare->comparisons.push_back(op);
    compare->parts.push_back(std::move(operand));
  } while (TakeCompareOp(&op));
  return Finish(std::move(compare));
}

Result<ExprPtr> Parser::ParseSum() {
  LARDER_ASSIGN(ExprPtr expr, ParseConcat());
  while (AtOperator("+") || AtOperator("-")) {
    const BinaryOp op = AtOperator("+") ? BinaryOp::kAdd : BinaryOp::kSubtract;
    const int line = Next().line;
    LARDER_ASSIGN(expr, Binary(ExprKind::kBinary, line, std::move(expr), ParseConcat()));
    expr->op = op;
  }
  return expr;
}

Result<ExprPtr> Parser::ParseConcat() {
  const int line = Peek().line;
  LARDER_ASSIGN(ExprPtr first, ParseProduct());
  if (!AtOperator("~")) return first;
  ExprPtr concat = NewExpr(ExprKind::kConcat, line);
  concat->parts.push_back(std::move(first));
  while (SkipOperator("~")) {
    LARDER_ASSIGN(ExprPtr part, ParseProduct());
    concat->parts.push_back(std::move(part));
  }
  return Finish(std::move(concat));
}

Result<ExprPtr> Parser::ParseProduct() {
  constexpr std::pair<std::string_view, BinaryOp> kOperators[] = {{"*", BinaryOp::kMultiply},
                                                                  {"/", BinaryOp::kDivide},
                                                                  {"//", BinaryOp::kFloorDivide},
                                                                  {"%", BinaryOp::kModulo}};
  LARDER_ASSIGN(ExprPtr expr, ParsePower());
  while (true) {
    const auto* found = std::find_if(std::begin(kOperators), std::end(kOperators),
                                     [this](const auto& candidate) { return AtOperator(candidate.first); });
    if (found == std::end(kOperators)) return expr;
    const int line = Next().line;
    LARDER_ASSIGN(expr, Binary(ExprKind::kBinary, line, std::move(expr), ParsePower()));
    expr->op = found->second;
  }
}

namespace {

// Whether Jinja would compute the expression while it compiles the template.
bool IsConstant(const Expr& expr) {
  if (expr.kind == ExprKind::kName || expr.kind == ExprKind::kCall) return false;
  return std::all_of(expr.parts.begin(), expr.parts.end(),
                     [](const ExprPtr& part) { return !part || IsConstant(*part); });
}

}  // namespace

Result<ExprPtr> Parser::ParsePower() {
  LARDER_ASSIGN(ExprPtr expr, ParseUnary(true));
  while (AtOperator("**")) {  // binds to the left, unlike Python's
    const int line = Next().line;
    LARDER_ASSIGN(ExprPtr exponent, ParseUnary(true));
    // Jinja writes a computed -2 into the code it makes without parentheses, where -2 ** n means -(2 ** n).
    if (expr->kind != ExprKind::kConst && IsConstant(*expr) && !IsConstant(*exponent)) {
      return Error(ErrorKind::kUnsupported, line,
                   "'**' between a computed constant and a variable is not supported");
    }
    LARDER_ASSIGN(expr, Binary(ExprKind::kBinary, line, std::move(expr), std::move(exponent)));
    expr->op = BinaryOp::kPower;
  }
  return expr;
}

Result<ExprPtr> Parser::ParseUnary(bool with_filter) {
  const Nested nested(this);
  LARDER_TRY(CheckDepth());
  ExprPtr expr;
  if (AtOperator("-") || AtOperator("+")) {
    const ExprKind kind = AtOperator("-") ? ExprKind::kNegate : ExprKind::kPlus;
    const int line = Next().line;
    LARDER_ASSIGN(expr, Unary(kind, line, ParseUnary(false)));
  } else {
    LARDER_ASSIGN(expr, ParsePrimary());
  }
  LARDER_ASSIGN(expr, ParsePostfix(std::move(expr)));
  return with_filter ? ParseFilters(std::move(expr)) : Result<ExprPtr>(std::move(expr));
}

Result<ExprPtr> Parser::ParsePrimary() {
  const Token& token = Peek();
  ExprPtr expr = NewExpr(ExprKind::kConst, token.line);
  switch (token.kind) {
    case TokenKind::kName:
      return ParseName();
    case TokenKind::kString: {
      std::string text;
      while (Peek().kind == TokenKind::kString) text += Next().text;
      expr->value = Value::Constant(std::move(text));
      return expr;
    }
    case TokenKind::kInteger:
      expr->value = Value::Integer(Next().integer);
      return expr;
    case TokenKind::kFloat:
      expr->value = Value::Float(Next().number);
      return expr;
    default:
      break;
  }
  if (AtOperator("[")) return ParseList();
  if (AtOperator("{")) return ParseDict();
  if (!SkipOperator("(")) return Unexpected("an expression");
  LARDER_ASSIGN(expr, ParseTuple(Conditionals::kAllowed, true));
  LARDER_TRY(ExpectOperator(")"));
  return expr;
}

Result<ExprPtr> Parser::ParseName() {
  const Token& token = Next();
  ExprPtr expr = NewExpr(ExprKind::kConst, token.line);
  if (token.text == "true" || token.text == "True" || token.text == "false" || token.text == "False") {
    expr->value = Value::Bool(token.text == "true" || token.text == "True");
    return expr;
  }
  if (token.text == "none" || token.text == "None") {
    expr->value = Value::None();
    return expr;
  }
  expr->kind = ExprKind::kName;
  expr->text = token.text;
  expr->symbol = Intern(token.text);
  for (MacroDef* macro : macros_) {
    macro->uses_caller = macro->uses_caller || expr->symbol == kCallerSymbol;
    macro->uses_varargs = macro->uses_varargs || expr->symbol == kVarargsSymbol;
    macro->uses_kwargs = macro->uses_kwargs || expr->symbol == kKwargsSymbol;
  }
  return expr;
}

Result<ExprPtr> Parser::ParseList() {
  ExprPtr list = NewExpr(ExprKind::kList, Next().line);
  while (!AtOperator("]")) {
    LARDER_ASSIGN(ExprPtr item, ParseExpression());
    list->parts.push_back(std::move(item));
    if (!AtOperator("]")) LARDER_TRY(ExpectOperator(","));
  }
  Next();
  return Finish(std::move(list));
}

Result<ExprPtr> Parser::ParseDict() {
  ExprPtr dict = NewExpr(ExprKind::kDict, Next().line);
  while (!AtOperator("}")) {
    LARDER_ASSIGN(ExprPtr key, ParseExpression());
    LARDER_TRY(ExpectOperator(":"));
    LARDER_ASSIGN(ExprPtr value, ParseExpression());
    dict->parts.push_back(std::move(key));
    dict->parts.push_back(std::move(value));
    if (!AtOperator("}")) LARDER_TRY(ExpectOperator(","));
  }
  Next();
  return Finish(std::move(dict));
}

Result<ExprPtr> Parser::ParsePostfix(ExprPtr expr) {
  while (true) {
    if (AtOperator(".") || AtOperator("[")) {
      LARDER_ASSIGN(expr, ParseSubscript(std::move(expr)));
    } else if (AtOperator("(")) {
      LARDER_ASSIGN(expr, ParseCall(std::move(expr)));
    } else {
      return expr;
    }
  }
}

Result<ExprPtr> Parser::ParseFilters(ExprPtr expr) {
  while (true) {
    if (SkipOperator("|")) {
      LARDER_ASSIGN(expr, ParseFilter(std::move(expr)));
    } else if (SkipName("is")) {
      LARDER_ASSIGN(expr, ParseTest(std::move(expr)));
    } else if (AtOperator("(")) {
      LARDER_ASSIGN(expr, ParseCall(std::move(expr)));
    } else {
      return expr;
    }
  }
}

Result<ExprPtr> Parser::ParseSubscript(ExprPtr expr) {
  const Token& opening = Next();
  if (opening.text == "[") return ParseIndex(std::move(expr), opening.line);
  const Token& token = Next();
  if (token.kind == TokenKind::kName) {
    ExprPtr attribute = NewExpr(ExprKind::kAttribute, token.line);
    attribute->text = token.text;
    attribute->parts.push_back(std::move(expr));
    return Finish(std::move(attribute));
  }
  if (token.kind != TokenKind::kInteger) {
    return Error(ErrorKind::kInvalid, token.line, "expected a name or a number after '.'");
  }
  ExprPtr index = NewExpr(ExprKind::kConst, token.line);
  index->value = Value::Integer(token.integer);
  return Binary(ExprKind::kItem, token.line, std::move(expr), std::move(index));
}

Result<ExprPtr> Parser::ParseIndex(ExprPtr expr, int line) {
  ExprPtr bounds[3];
  int colons = 0;
  while (!AtOperator("]")) {
    if (SkipOperator(":")) {
      if (++colons > 2) return Unexpected("']'");
    } else if (bounds[colons]) {
      if (AtOperator(","))
        return Error(ErrorKind::kUnsupported, line, "a tuple as a subscript is not supported");
      return Unexpected("']'");
    } else {
      LARDER_ASSIGN(bounds[colons], ParseExpression());
    }
  }
  Next();
  if (colons == 0) {
    if (!bounds[0]) return Error(ErrorKind::kInvalid, line, "a subscript is empty");
    return Binary(ExprKind::kItem, line, std::move(expr), std::move(bounds[0]));
  }
  ExprPtr slice = NewExpr(ExprKind::kSlice, line);
  slice->parts.push_back(std::move(expr));
  for (ExprPtr& bound : bounds) slice->parts.push_back(std::move(bound));
  return Finish(std::move(slice));
}

Result<ExprPtr> Parser::ParseCall(ExprPtr expr) {
  ExprPtr call = NewExpr(ExprKind::kCall, Peek().line);
  call->parts.push_back(std::move(expr));
  LARDER_ASSIGN(call->arguments, ParseArguments());
  return Finish(std::move(call));
}

Status Parser::ParseArgument(int line, ArgumentNodes* arguments) {
  const bool starred = arguments->rest_positional || arguments->rest_named;
  bool in_order = true;
  if (SkipOperator("*")) {
    in_order = !starred;
    LARDER_ASSIGN(arguments->rest_positional, ParseExpression());
  } else if (SkipOperator("**")) {
    in_order = !arguments->rest_named;
    LARDER_ASSIGN(arguments->rest_named, ParseExpression());
  } else if (Peek().kind == TokenKind::kName && AtOperator("=", 1)) {
    in_order = !arguments->rest_named;
    std::string name = Next().text;
    Next();
    LARDER_ASSIGN(ExprPtr value, ParseExpression());
    const auto same = [&name](const auto& argument) { return argument.first == name; };
    if (std::any_of(arguments->named.begin(), arguments->named.end(), same)) {
      return Error(ErrorKind::kInvalid, line, "the argument '{}' is given twice", name);
    }
    arguments->named.emplace_back(std::move(name), std::move(value));
  } else {
    in_order = !starred && arguments->named.empty();
    LARDER_ASSIGN(ExprPtr value, ParseExpression());
    arguments->positional.push_back(std::move(value));
  }
  if (in_order) return {};
  return Error(ErrorKind::kInvalid, line, "the arguments of a call are in the wrong order");
}

Result<std::unique_ptr<ArgumentNodes>> Parser::ParseArguments() {
  const int line = Next().line;
  auto arguments = std::make_unique<ArgumentNodes>();
  while (!AtOperator(")")) {
    if (arguments->positional.size() + arguments->named.size() >= kMaxArguments) {
      return Error(ErrorKind::kExhausted, line, "a call has more than {} arguments", kMaxArguments);
    }
    LARDER_TRY(ParseArgument(line, arguments.get()));
    if (!AtOperator(")")) LARDER_TRY(ExpectOperator(","));
  }
  Next();
  return arguments;
}

Result<std::string> Parser::ParseDottedName() {
  LARDER_ASSIGN(std::string name, ExpectName());
  while (SkipOperator(".")) {
    LARDER_ASSIGN(const std::string part, ExpectName());
    name += "." + part;
  }
  return name;
}

void Parser::NoteUnknown(int line, std::string_view what, std::string_view name) {
  if (soft_) return;
  unknown_.push_back(Error(ErrorKind::kUnsupported, line, "the {} '{}' is not known", what, name).error());
}

Status Parser::ResolveFilter(Expr* expr) {
  if (IsRefusedFilter(expr->text)) {
    return Error(ErrorKind::kUnsupported, expr->line, "the filter '{}' is not supported", expr->text);
  }
  expr->filter = FindFilter(expr->text);
  if (!expr->filter) NoteUnknown(expr->line, "filter", expr->text);
  return {};
}

Status Parser::ResolveTest(Expr* expr) {
  if (IsRefusedTest(expr->text)) {
    return Error(ErrorKind::kUnsupported, expr->line, "the test '{}' is not supported", expr->text);
  }
  expr->test = FindTest(expr->text);
  if (!expr->test) NoteUnknown(expr->line, "test", expr->text);
  return {};
}

Result<ExprPtr> Parser::ParseFilter(ExprPtr expr) {
  ExprPtr filter = NewExpr(ExprKind::kFilter, Peek().line);
  LARDER_ASSIGN(filter->text, ParseDottedName());
  LARDER_TRY(ResolveFilter(filter.get()));
  filter->parts.push_back(std::move(expr));
  filter->arguments = std::make_unique<ArgumentNodes>();
  if (AtOperator("(")) {
    LARDER_ASSIGN(filter->arguments, ParseArguments());
  }
  return Finish(std::move(filter));
}

Result<ExprPtr> Parser::ParseTest(ExprPtr expr) {
  const int line = Peek().line;
  const bool negated = SkipName("not");
  ExprPtr test = NewExpr(ExprKind::kTest, line);
  LARDER_ASSIGN(test->text, ParseDottedName());
  LARDER_TRY(ResolveTest(test.get()));
  test->parts.push_back(std::move(expr));
  test->arguments = std::make_unique<ArgumentNodes>();
  const TokenKind kind = Peek().kind;
  const bool literal = kind == TokenKind::kName || kind == TokenKind::kString ||
                       kind == TokenKind::kInteger || kind == TokenKind::kFloat || AtOperator("[") ||
                       AtOperator("{");
  if (AtOperator("(")) {
    LARDER_ASSIGN(test->arguments, ParseArguments());
  } else if (literal && !AtName("else") && !AtName("or") && !AtName("and")) {
    if (AtName("is")) return Error(ErrorKind::kInvalid, line, "tests cannot be chained with 'is'");
    LARDER_ASSIGN(ExprPtr argument, ParsePrimary());
    LARDER_ASSIGN(argument, ParsePostfix(std::move(argument)));
    test->arguments->positional.push_back(std::move(argument));
  }
  LARDER_ASSIGN(test, Finish(std::move(test)));
  return negated ? Unary(ExprKind::kNot, line, std::move(test)) : Result<ExprPtr>(std::move(test));
}

}  // namespace larder::jinja
