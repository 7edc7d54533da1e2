// The parts below the endpoints.
#include <cmath>
#include <random>
#include <set>

#include "serve/explain.h"
#include "serve/fields.h"
#include "serve/generation_request.h"
#include "serve/http.h"
#include "serve/json_writer.h"
#include "serve/serve_fixture.h"
#include "serve/tool_calls.h"

namespace larder::testing {
namespace {

TEST(JsonWriter, WritesWhatAParserReadsBack) {
  JsonWriter json;
  json.BeginObject()
      .Field("s", "a\"\\\n\t\x01")
      .Field("i", int64_t{-5})
      .Field("u", uint64_t{18446744073709551615u});
  json.Field("b", true)
      .Field("d", 0.1)
      .Key("n")
      .Null()
      .Key("a")
      .BeginArray()
      .Integer(1)
      .BeginArray()
      .EndArray();
  json.EndArray().Key("f").Float(0.1f).Field("nan", std::nan("")).EndObject();
  const Json read = Json::parse(json.text());
  EXPECT_EQ(read["s"], "a\"\\\n\t\x01");
  EXPECT_EQ(read["i"], -5);
  EXPECT_EQ(read["u"], 18446744073709551615u);
  EXPECT_EQ(read["a"], Json::parse("[1,[]]"));
  EXPECT_EQ(read["f"].get<float>(), 0.1f);
  EXPECT_TRUE(read["nan"].is_null());
  EXPECT_NE(json.text().find("\"f\":0.1,"), std::string::npos);
}

TEST(JsonWriter, IsValidUtf8ForAnyBytes) {
  std::mt19937 random(1);
  for (int i = 0; i < 2000; ++i) {
    std::string bytes;
    for (int k = 0; k < 12; ++k) bytes += static_cast<char>(i % 2 == 0 ? random() : 0x80 + random() % 0x80);
    JsonWriter json;
    json.String(bytes);
    ASSERT_TRUE(Json::accept(json.text())) << i;
    EXPECT_EQ(Json::parse(json.text()).get<std::string>(), ValidUtf8(bytes));
  }
  EXPECT_EQ(ValidUtf8("\xED\xA0\x80"), "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD");  // a surrogate
  EXPECT_EQ(ValidUtf8("\xF0\x9F\x98\x80"), "\xF0\x9F\x98\x80");
  EXPECT_EQ(ValidUtf8("\xC0\xAF"), "\xEF\xBF\xBD\xEF\xBF\xBD");  // overlong
}

TEST(PercentDecode, RefusesBrokenEscapes) {
  EXPECT_EQ(PercentDecode("a%2Fb%20c"), "a/b c");
  EXPECT_EQ(PercentDecode("%4"), std::nullopt);
  EXPECT_EQ(PercentDecode("%"), std::nullopt);
  EXPECT_EQ(PercentDecode("%gg"), std::nullopt);
}

TEST(CheckJsonShape, BoundsDepthAndMembers) {
  EXPECT_TRUE(CheckJsonShape(std::string(64, '[') + std::string(64, ']')).has_value());
  EXPECT_FALSE(CheckJsonShape(std::string(65, '[')).has_value());
  EXPECT_TRUE(CheckJsonShape("\"" + std::string(1000, '[') + "\\\"[[\"").has_value());
  std::string members = "{";
  for (int i = 0; i < 20'000; ++i) members += fmt::format("\"{}\":1,", i);
  EXPECT_FALSE(CheckJsonShape(members + "\"x\":1}").has_value());
  EXPECT_TRUE(CheckJsonShape("[" + std::string(100'000, ',') + "]").has_value());
}

TEST(Fields, HaveUniqueNamesAndHelp) {
  for (const char* kind : {"chat", "completions", "tokenize", "detokenize"}) {
    std::set<std::string> names;
    const std::vector<FieldSpec> specs = DescribeRequest(kind);
    EXPECT_GE(specs.size(), 2u) << kind;
    for (const FieldSpec& spec : specs) {
      EXPECT_TRUE(names.insert(spec.name).second) << spec.name;
      EXPECT_FALSE(spec.help.empty()) << spec.name;
    }
  }
}

struct Parsed {
  std::string text;
  std::vector<OutputPiece> calls;
};

Parsed ParseInPieces(std::string_view output, size_t step) {
  ToolCallParser parser;
  Parsed parsed;
  const auto take = [&](const std::vector<OutputPiece>& pieces) {
    for (const OutputPiece& piece : pieces) {
      if (piece.is_call) {
        parsed.calls.push_back(piece);
      } else {
        parsed.text += piece.text;
      }
    }
  };
  for (size_t i = 0; i < output.size(); i += step) take(parser.Push(output.substr(i, step)));
  take(parser.Finish());
  return parsed;
}

TEST(ToolCallParser, GivesTheSameForEveryCut) {
  const std::string output =
      "a <tool_call>{\"name\":\"f\",\"arguments\":{\"x\":\"</tool\"}}</tool_call> \n"
      "<tool_call>{\"name\":\"g\",\"parameters\":{}}</tool_call>b<tool";
  for (size_t step = 1; step <= output.size(); ++step) {
    const Parsed parsed = ParseInPieces(output, step);
    ASSERT_EQ(parsed.calls.size(), 2u) << step;
    EXPECT_EQ(parsed.calls[0].arguments, R"({"x":"</tool"})");
    EXPECT_EQ(parsed.calls[1].name, "g");
    EXPECT_TRUE(parsed.text.starts_with("a ")) << parsed.text;
    EXPECT_TRUE(parsed.text.ends_with("b<tool")) << parsed.text;
  }
}

TEST(ToolCallParser, LeavesEverythingElseAsText) {
  for (const std::string output :
       {"<tool_call>not json</tool_call>", "<tool_call>{\"nom\":1}</tool_call>", "<tool_call",
        "a < b <tool_callx>", "<tool_call>[1]</tool_call>",
        "<tool_call>{\"name\":\"f\",\"arguments\":5}</tool_call>", "<tool_call>{\"name\""}) {
    for (const size_t step : {size_t{1}, size_t{3}, output.size()}) {
      const Parsed parsed = ParseInPieces(output, step);
      EXPECT_TRUE(parsed.calls.empty()) << output;
      EXPECT_EQ(parsed.text, output);
    }
  }
}

TEST(ToolCallParser, TakesACallWhoseEndTagIsMissing) {
  const Parsed parsed = ParseInPieces("<tool_call>{\"name\":\"f\"}\n", 4);
  ASSERT_EQ(parsed.calls.size(), 1u);
  EXPECT_EQ(parsed.calls[0].arguments, "{}");
  EXPECT_EQ(parsed.text, "");
}

TEST(Explain, SumsSeveralPromptsAndKeepsEach) {
  PromptReport first, second;
  first.report.read_memory = 1;
  second.report.read_memory = 2;
  second.report.outcome.reason = MissReason::kEvicted;
  second.report.outcome.policy = "lru";
  second.report.outcome.evicted_wall_ms = 77;
  JsonWriter json;
  WriteExplain(json, ByteTokenizer(false), {first, second});
  const Json read = Json::parse(json.text());
  EXPECT_EQ(read["cache"]["read"]["memory"], 3);
  EXPECT_EQ(read["cache"]["miss"]["reason"], "evicted");
  EXPECT_EQ(read["cache"]["miss"]["policy"], "lru");
  EXPECT_TRUE(read["prompts"][0]["cache"]["miss"].is_null());
  EXPECT_EQ(read["prompts"][1]["cache"]["miss"]["evicted_unix_ms"], 77);
}

}  // namespace
}  // namespace larder::testing
