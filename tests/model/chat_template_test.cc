// Chat templates: the language against Python's Jinja (tests/data/chat_templates/language.json, written by
// scripts/goldens/chat_templates.py), what is refused, and the limits against hostile templates.
#include "model/chat_template.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace larder {
namespace {

Result<std::string> Render(std::string_view source, std::string_view context = "{}") {
  auto parsed = ChatTemplate::Parse(source);
  if (!parsed) return std::unexpected(parsed.error());
  parsed->SetTime(1767323045);  // 2026-01-02 03:04:05 UTC
  return parsed->Render(context);
}

// The error of rendering, "none" when there is none.
Error ErrorOf(std::string_view source, std::string_view context = "{}") {
  const auto output = Render(source, context);
  if (output) return Error{ErrorKind::kIo, "none"};
  return output.error();
}

std::string Repeat(std::string_view text, int times) {
  std::string out;
  for (int i = 0; i < times; ++i) out += text;
  return out;
}

TEST(ChatTemplate, SpeaksJinjaAsPythonDoes) {
  setenv("TZ", "UTC", 1);
  std::ifstream in(LARDER_TEST_DATA "/chat_templates/language.json", std::ios::binary);
  const auto data = nlohmann::ordered_json::parse(std::string(std::istreambuf_iterator<char>(in), {}));
  const std::string context = data["context"].dump();
  ASSERT_GT(data["snippets"].size(), 150u);
  for (const auto& snippet : data["snippets"]) {
    const auto output = Render(snippet["template"].get<std::string>(), context);
    if (snippet["output"].is_null()) {
      EXPECT_FALSE(output.has_value()) << snippet["template"] << " gives " << *output;
    } else {
      ASSERT_TRUE(output.has_value()) << snippet["template"] << ": " << output.error().message;
      EXPECT_EQ(*output, snippet["output"].get<std::string>()) << snippet["template"];
    }
  }
}

TEST(ChatTemplate, GivesTheMessageOfRaiseExceptionUnchanged) {
  const Error error = ErrorOf("a\n{{ raise_exception('Roles must alternate!') }}");
  EXPECT_EQ(error.kind, ErrorKind::kInvalid);
  EXPECT_EQ(error.message, "Roles must alternate!");
}

TEST(ChatTemplate, NamesTheLineOfAnError) {
  EXPECT_EQ(ErrorOf("a\n\n{{ x.y }}").message, "chat template line 3: 'x' is undefined");
  EXPECT_EQ(ErrorOf("a\n{% if %}").message, "chat template line 2: expected an expression, found '%}'");
  EXPECT_EQ(ErrorOf("{% for x in y %}\n").message,
            "chat template line 1: expected '{% endfor %}', found the end of the template");
}

TEST(ChatTemplate, RefusesOtherConstructsByName) {
  for (const char* tag : {"include 'x'", "import 'x' as y", "from 'x' import y", "extends 'x'", "block b",
                          "autoescape true", "do x", "trans", "debug"}) {
    const Error error = ErrorOf(std::string("text\n{% ") + tag + " %}");
    const std::string name = std::string(tag).substr(0, std::string(tag).find(' '));
    EXPECT_EQ(error.kind, ErrorKind::kUnsupported) << tag;
    EXPECT_EQ(error.message,
              "chat template line 2: the tag '" + name + "' is not supported in chat templates");
  }
  for (const char* filter : {"groupby('x')", "truncate(3)", "urlize", "pprint", "random", "nosuchfilter"}) {
    const auto parsed = ChatTemplate::Parse(std::string("\n\n{{ x | ") + filter + " }}");
    ASSERT_FALSE(parsed.has_value()) << filter;
    EXPECT_EQ(parsed.error().kind, ErrorKind::kUnsupported);
    EXPECT_TRUE(parsed.error().message.starts_with("chat template line 3: the filter '"))
        << parsed.error().message;
  }
}

// Where Jinja would go on, but with something not reproduced here, there must be an error and not another
// text.
TEST(ChatTemplate, RefusesWhatItWouldGetWrong) {
  for (const char* source :
       {"{{ range(3) }}", "{{ [1] | map('string') }}", "{{ namespace(a=1) }}", "{{ 'x'.strip }}",
        "{{ 'x'.__class__ }}", "{{ 'ŉ'.upper() }}", "{{ 'ΟΔΟΣ'.lower() }}", "{{ 'é'.isalpha() }}",
        "{{ 'x'.encode() }}", "{{ '{0.x}'.format(1) }}", "{{ lipsum() }}", "{{ 1 is sameas 1 }}",
        "{{ 2 ** 200 }}", "{{ -2 ** n }}", "{{ '\\N{DASH}' }}", "{{ ('a' | safe).strip() }}"}) {
    EXPECT_EQ(ErrorOf(source).kind, ErrorKind::kUnsupported) << source << ": " << ErrorOf(source).message;
  }
}

TEST(ChatTemplate, KeepsWhatJsonSays) {
  const std::string context = R"({"a": {"z": 1, "a": 1.0, "m": 18446744073709551615, "z": 2}})";
  const std::string json = R"({"z": 2, "a": 1.0, "m": 18446744073709551615})";
  const std::string python = "{'z': 2, 'a': 1.0, 'm': 18446744073709551615}";
  EXPECT_EQ(*Render("{{ a | tojson }}", context), json);
  EXPECT_EQ(*Render("{{ a }}", context), python);
  const std::string huge = "340282366920938463463374607431768";
  EXPECT_EQ(*Render("{{ a }}", "{\"a\": " + huge + "}"), huge);
}

TEST(ChatTemplate, RefusesABadContext) {
  EXPECT_EQ(ErrorOf("x", "{").kind, ErrorKind::kInvalid);
  EXPECT_EQ(ErrorOf("x", "[]").kind, ErrorKind::kInvalid);
  EXPECT_EQ(ErrorOf("x", "{} {}").kind, ErrorKind::kInvalid);
  EXPECT_EQ(ErrorOf("x", "{\"a\": 1e999}").kind, ErrorKind::kInvalid);
  EXPECT_EQ(ErrorOf("x", "{\"a\": \"\xff\"}").kind, ErrorKind::kInvalid);
  EXPECT_EQ(ErrorOf("x", "{\"a\": " + Repeat("9", 60) + "}").kind, ErrorKind::kUnsupported);
  EXPECT_EQ(ErrorOf("x", "{\"a\": " + Repeat("[", 100000)).kind, ErrorKind::kExhausted);
}

TEST(ChatTemplate, RefusesASourceThatIsNotUtf8) { EXPECT_EQ(ErrorOf("a\xff").kind, ErrorKind::kInvalid); }

TEST(ChatTemplate, FormatsTheTimeItIsGiven) {
  setenv("TZ", "UTC", 1);
  auto parsed = ChatTemplate::Parse("{{ strftime_now('%d %b %Y %H:%M:%S') }}");
  ASSERT_TRUE(parsed.has_value());
  parsed->SetTime(0);
  EXPECT_EQ(*parsed->Render("{}"), "01 Jan 1970 00:00:00");
  EXPECT_EQ(ErrorOf("{{ strftime_now('" + Repeat("%c", 400) + "') }}").kind, ErrorKind::kExhausted);
}

TEST(ChatTemplate, RendersManyTimesWithoutLeavingTraces) {
  const auto parsed = ChatTemplate::Parse(
      "{% set ns = namespace(x=x) %}{% macro m() %}{{ ns.x }}{% endmacro %}"
      "{% set ns.m = m %}{% set ns.self = [ns] %}{{ ns.m() }}");
  ASSERT_TRUE(parsed.has_value());
  const std::string one = R"({"x": 1})";
  const std::string two = R"({"x": 2})";
  EXPECT_EQ(*parsed->Render(one), "1");
  EXPECT_EQ(*parsed->Render(two), "2");
}

// -- hostile templates
// -------------------------------------------------------------------------------------------------

TEST(ChatTemplateLimits, EndlessRecursion) {
  EXPECT_EQ(ErrorOf("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}").kind, ErrorKind::kExhausted);
  EXPECT_EQ(ErrorOf("{% for x in [1] recursive %}{{ loop([x]) }}{% endfor %}").kind, ErrorKind::kExhausted);
  EXPECT_EQ(ErrorOf("{% macro f() %}{% call f() %}{{ caller() }}{% endcall %}{{ caller() }}{% endmacro %}"
                    "{% call f() %}{% endcall %}")
                .kind,
            ErrorKind::kExhausted);
}

TEST(ChatTemplateLimits, DeepRecursionThatEndsIsFine) {
  const auto output =
      Render("{% macro f(n) %}{% if n %}{{ f(n - 1) }}{% else %}end{% endif %}{% endmacro %}{{ f(100) }}");
  ASSERT_TRUE(output.has_value()) << output.error().message;
  EXPECT_EQ(*output, "end");
}

TEST(ChatTemplateLimits, DeepSource) {
  const std::pair<const char*, const char*> nested[] = {{"(", ")"},  {"[", "]"},          {"{1:", "}"},
                                                        {"x[", "]"}, {"x(", ")"},         {"not ", ""},
                                                        {"- ", ""},  {"1 if 1 else ", ""}};
  for (const auto& [open, close] : nested) {
    const std::string source = "{{ " + Repeat(open, 20000) + "1" + Repeat(close, 20000) + " }}";
    EXPECT_EQ(ErrorOf(source).kind, ErrorKind::kExhausted) << open << ": " << ErrorOf(source).message;
  }
  for (const char* more : {"+1", "|trim", ".a", "()", "[0]", " or 1", "**2"}) {
    EXPECT_EQ(ErrorOf("{{ 1" + Repeat(more, 50000) + " }}").kind, ErrorKind::kExhausted) << more;
  }
  EXPECT_EQ(ErrorOf(Repeat("{% if 1 %}", 20000)).kind, ErrorKind::kExhausted);
  EXPECT_EQ(ErrorOf(Repeat("{% for x in y %}", 20000)).kind, ErrorKind::kExhausted);
  EXPECT_EQ(ErrorOf("{% set " + Repeat("(", 20000) + "x" + Repeat(")", 20000) + " = 1 %}").kind,
            ErrorKind::kExhausted);
  EXPECT_EQ(ErrorOf(Repeat("x", (512 << 10) + 1)).kind, ErrorKind::kExhausted);
}

TEST(ChatTemplateLimits, LoopsWithoutEnd) {
  EXPECT_EQ(
      ErrorOf("{% set r = range(100000) %}{% for a in r %}{% for b in r %}{% endfor %}{% endfor %}").kind,
      ErrorKind::kExhausted);
  EXPECT_EQ(ErrorOf("{{ range(100001) }}").kind, ErrorKind::kExhausted);
  EXPECT_EQ(ErrorOf("{{ range(-9223372036854775807, 9223372036854775807) }}").kind, ErrorKind::kExhausted);
}

TEST(ChatTemplateLimits, LargeTexts) {
  for (const char* source :
       {"{{ 'x' * 1000000000000 }}", "{{ [1] * 1000000000000 }}", "{{ 'x'.center(1000000000) }}",
        "{{ 'x'.zfill(9000000000000000000) }}", "{{ '%999999999d' % 1 }}", "{{ '{:999999999}'.format(1) }}",
        "{{ '%.999999999f' % 1 }}", "{{ 'a\nb' | indent(999999999) }}",
        "{{ [1] | tojson(indent=999999999) }}",
        "{{ [1] | batch(2, 1) | list and [1] | batch(999999999, 1) | list }}",
        "{% set ns = namespace(x='x') %}{% for i in range(99) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
        "{% set ns = namespace(x=[1]) %}{% for i in range(99) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
        "{% set ns = namespace(x='x' * 100000) %}{% for i in range(9) %}{% set ns.x = ns.x.replace('x', "
        "ns.x) %}{% endfor %}",
        "{% set x = 'x' * 60000000 %}{{ x }}{{ x }}",
        "{% set x = 'x' * 60000000 %}{% set a = x ~ 1 %}{% set b = x ~ 2 %}{% set c = x ~ 3 %}{% set d = x ~ "
        "4 %}",
        "{% set x = 'x' * 30000000 %}{{ x | list | length }}"}) {
    const Error error = ErrorOf(source);
    EXPECT_TRUE(error.kind == ErrorKind::kExhausted || error.message.find("precision") != std::string::npos)
        << source << ": " << error.message;
  }
}

TEST(ChatTemplateLimits, DeepAndTangledValues) {
  EXPECT_EQ(
      ErrorOf("{% set ns = namespace(x=1) %}{% for i in range(99999) %}{% set ns.x = [ns.x] %}{% endfor %}")
          .kind,
      ErrorKind::kExhausted);
  EXPECT_EQ(
      ErrorOf(
          "{% set ns = namespace(x=1) %}{% for i in range(99999) %}{% set ns.x = cycler(ns.x) %}{% endfor %}")
          .kind,
      ErrorKind::kExhausted);
  // Twice the same doubled list: small to hold, endless to write, compare or sort.
  const std::string tangled =
      "{% set ns = namespace(a=[1], b=[1]) %}{% for i in range(100) %}"
      "{% set ns.a = [ns.a, ns.a] %}{% set ns.b = [ns.b, ns.b] %}{% endfor %}";
  for (const char* use : {"{{ ns.a }}", "{{ ns.a == ns.b }}", "{{ ns.a | tojson }}", "{{ ns.a in [ns.b] }}",
                          "{{ ns.a < ns.b }}", "{{ [ns.a, ns.b] | sort | length }}"}) {
    EXPECT_EQ(ErrorOf(tangled + use).kind, ErrorKind::kExhausted) << use;
  }
}

TEST(ChatTemplateLimits, ChainsOfNamespacesAndMacrosUnwind) {
  EXPECT_TRUE(Render("{% set ns = namespace(x=1) %}{% for i in range(99999) %}{% set t = namespace(x=ns.x) %}"
                     "{% set ns.x = t %}{% endfor %}")
                  .has_value());
  EXPECT_TRUE(
      Render("{% set ns = namespace(m=1) %}{% macro outer(prev) %}{% macro inner() %}{{ prev }}{% endmacro %}"
             "{% set ns.m = inner %}{% endmacro %}{% for i in range(20000) %}{{ outer(ns.m) }}{% endfor %}")
          .has_value());
}

TEST(ChatTemplateLimits, SlowSearches) {
  EXPECT_EQ(ErrorOf("{% set t = 'a' * 40000000 %}{% set n = 'a' * 20000000 ~ 'b' %}{{ n in t }}").kind,
            ErrorKind::kExhausted);
}

}  // namespace
}  // namespace larder
