// Malformed requests, generated: each gets a 4xx in the error's shape, and the server lives on.
#include <map>

#include "serve/generation_request.h"
#include "serve/serve_fixture.h"

namespace larder::testing {
namespace {

class BadInputTest : public ServeTest {
 protected:
  void SetUp() override {
    ServeOptions options;
    options.max_body_bytes = 1 << 20;
    Start(options);
  }
  void TearDown() override {
    EXPECT_EQ(Get("/health").status, 200) << "the server must live";
    EXPECT_TRUE(backend_.requests().empty()) << "nothing of this may reach the engine";
    ServeTest::TearDown();
  }

  void ExpectRefused(const std::string& bytes, const std::string& what) {
    SCOPED_TRACE(what);
    ++tried_;
    HttpClient client(port_);
    client.Send(bytes);
    const Answer answer = client.Read();
    EXPECT_GE(answer.status, 400);
    EXPECT_LT(answer.status, 500);
    ExpectError(answer, answer.status);
  }
  void ExpectFieldRefused(const std::string& path, const Json& body, const std::string& field) {
    SCOPED_TRACE(path + " " + field + " " + body.dump().substr(0, 200));
    ++tried_;
    ExpectError(Post(path, body), 400, field);
  }

  static std::map<std::string, std::pair<std::string, Json>> Kinds() {
    const Json messages = {{{"role", "user"}, {"content", "x"}}};
    return {{"chat", {"/v1/chat/completions", {{"messages", messages}}}},
            {"completions", {"/v1/completions", {{"prompt", "x"}}}},
            {"tokenize", {"/tokenize", {{"prompt", "x"}}}},
            {"detokenize", {"/detokenize", {{"tokens", {97}}}}}};
  }
  // `body` with the field (maybe "outer.inner", to any depth) set.
  static Json WithField(Json body, const std::string& name, const Json& value) {
    Json* at = &body;
    size_t begin = 0;
    for (size_t dot; (dot = name.find('.', begin)) != std::string::npos; begin = dot + 1) {
      at = &(*at)[name.substr(begin, dot - begin)];
    }
    (*at)[name.substr(begin)] = value;
    return body;
  }

  int tried_ = 0;
};

bool Fits(FieldSpec::Type type, const Json& value) {
  using Type = FieldSpec::Type;
  switch (type) {
    case Type::kBool:
      return value.is_boolean();
    case Type::kInt:
      return value.is_number();
    case Type::kFloat:
      return value.is_number();
    case Type::kString:
      return value.is_string();
    case Type::kStrings:
      return value.is_string() || value.is_array();
    case Type::kPrompt:
      return value.is_string() || value.is_array();
    case Type::kTokens:
    case Type::kAnyArray:
      return value.is_array();
    case Type::kBiases:
    case Type::kObject:
    case Type::kAnyObject:
      return value.is_object();
    case Type::kAny:
      return true;
  }
  return false;
}

TEST_F(BadInputTest, EveryDeclaredFieldRefusesEveryWrongType) {
  const Json values[] = {true, 7, 1.5, "text", Json::array({Json::object()}), Json::object({{"a", "b"}})};
  for (const auto& [kind, place] : Kinds()) {
    for (const FieldSpec& spec : DescribeRequest(kind)) {
      for (const Json& value : values) {
        if (Fits(spec.type, value)) continue;
        ExpectFieldRefused(place.first, WithField(place.second, spec.name, value), spec.name);
      }
    }
  }
  EXPECT_GE(tried_, 200);
}

TEST_F(BadInputTest, NumbersOutOfRangeAreRefused) {
  for (const auto& [kind, place] : Kinds()) {
    for (const FieldSpec& spec : DescribeRequest(kind)) {
      if (spec.type != FieldSpec::Type::kInt && spec.type != FieldSpec::Type::kFloat) continue;
      if (spec.type == FieldSpec::Type::kInt) {
        ExpectFieldRefused(place.first, WithField(place.second, spec.name, 1.5), spec.name);
        ExpectFieldRefused(place.first, WithField(place.second, spec.name, 18446744073709551615u), spec.name);
      }
      if (spec.range.empty() || spec.name == "seed") continue;
      ExpectFieldRefused(place.first, WithField(place.second, spec.name, 1e15), spec.name);
      ExpectFieldRefused(place.first, WithField(place.second, spec.name, -1e15), spec.name);
    }
  }
  EXPECT_GE(tried_, 60);
}

TEST_F(BadInputTest, ListsAndMapsAreCheckedInside) {
  const auto chat = [&](const Json& fields, const std::string& field) {
    Json body = Kinds()["chat"].second;
    body.update(fields);
    ExpectFieldRefused("/v1/chat/completions", body, field);
  };
  chat({{"stop", {"a", 1}}}, "stop");
  chat({{"stop", {""}}}, "stop");
  chat({{"stop", Json(std::vector<std::string>(257, "x"))}}, "stop");
  chat({{"stop_token_ids", {"a"}}}, "stop_token_ids");
  chat({{"stop_token_ids", {-1}}}, "stop_token_ids");
  chat({{"stop_token_ids", {260}}}, "stop_token_ids");
  chat({{"logit_bias", {{"x", 1}}}}, "logit_bias");
  chat({{"logit_bias", {{"1", "1"}}}}, "logit_bias");
  chat({{"logit_bias", {{"1", 101}}}}, "logit_bias");
  chat({{"logit_bias", {{"9999", 1}}}}, "logit_bias");
  chat({{"logit_bias", {{"1 ", 1}}}}, "logit_bias");
  chat({{"larder", {{"forced_output", {-5}}}}}, "larder.forced_output");
  chat({{"larder", {{"forced_output", {5000}}}}}, "larder.forced_output");
  chat({{"min_tokens", 5}, {"max_tokens", 4}}, "min_tokens");
  const auto completion = [&](const Json& prompt) {
    ExpectFieldRefused("/v1/completions", {{"prompt", prompt}}, "prompt");
  };
  completion(Json::array());
  completion({"a", 1});
  completion({1, "a"});
  completion({1, 2.5});
  completion({-1});
  completion({260});
  completion({1e18});
  completion({true});
  completion(Json::parse("[[1],\"a\"]"));
  completion(Json::parse("[[]]"));
  completion(Json::parse("[[[1]]]"));
}

TEST_F(BadInputTest, BadJsonIsRefused) {
  const std::string bodies[] = {"",
                                " ",
                                "null",
                                "true",
                                "5",
                                "\"x\"",
                                "[]",
                                "{",
                                "}",
                                "{]",
                                "[}",
                                "{\"a\"}",
                                "{\"a\":}",
                                "{\"a\":1,}",
                                "{'a':1}",
                                "{a:1}",
                                "{\"a\":01}",
                                "{\"a\":1e999}",
                                "{\"a\":+1}",
                                "{\"a\":.5}",
                                "{\"a\":NaN}",
                                "{\"a\":Infinity}",
                                "{\"a\":tru}",
                                "{\"a\":\"x}",
                                "{\"a\":\"\x01\"}",
                                "{\"a\":\"\\x\"}",
                                "{\"a\":\"\\ud800\"}",
                                "{\"a\":\"\\udc00\"}",
                                "{\"a\":\"\\u12\"}",
                                "{\"a\":\"\xFF\"}",
                                "{\"a\":\"\xC0\xAF\"}",
                                "{\"a\":\"\xED\xA0\x80\"}",
                                "{\"a\":\"\xF5\x80\x80\x80\"}",
                                "{\"a\":\"\xE2\x82\"}",
                                "\xFF\xFE{\"a\":1}",
                                "{\"a\":1}{\"a\":1}",
                                "{\"a\":1}x",
                                "/*c*/{\"a\":1",
                                "{\"prompt\":\"a\" \"b\"}",
                                std::string(5, '\0'),
                                std::string(100'000, '['),
                                "{\"a\":" + std::string(100'000, '{'),
                                "{\"prompt\":" + std::string(65, '[') + std::string(65, ']') + "}",
                                "{\"messages\":[{\"role\":\"user\",\"content\":" + std::string(500'000, '[')};
  for (const std::string& body : bodies) {
    for (const char* path : {"/v1/chat/completions", "/v1/completions", "/tokenize"}) {
      ExpectRefused(PostText(path, body), body.substr(0, 60));
    }
  }
}

TEST_F(BadInputTest, BadHttpIsRefused) {
  const std::string requests[] = {
      "GARBAGE\r\n\r\n",
      "GET\r\n\r\n",
      "GET /health\r\n\r\n",
      "GET /health HTP/1.1\r\n\r\n",
      "GET  HTTP/1.1\r\n\r\n",
      "GET /health HTTP/1.1\r\nBad Header: x\r\n\r\n",
      "GET /health HTTP/1.1\r\n: x\r\n\r\n",
      "GET /health HTTP/1.1\r\nNoColon\r\n\r\n",
      "GET /health HTTP/1.1\r\nX: a\x01b\r\n\r\n",
      "GET /he\x01lth HTTP/1.1\r\n\r\n",
      "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 a TLS hello\r\n\r\n",
      "POST /v1/completions HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
      "POST /v1/completions HTTP/1.1\r\nContent-Length: abc\r\n\r\n",
      "POST /v1/completions HTTP/1.1\r\nContent-Length: 99999999999999999999999\r\n\r\n",
      "POST /v1/completions HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n{\"a\":1}",
      "POST /v1/completions HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
      "POST /v1/completions HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
      "POST /v1/completions HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nabc\r\n",
      "POST /v1/completions HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcdefgh\r\n",
      "POST /v1/completions HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\nabc\r\n",
      "POST /v1/completions HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5;" + std::string(100'000, 'x'),
      "POST /v1/completions HTTP/1.1\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc",
      "POST /v1/completions HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n",
      "POST /v1/completions HTTP/1.1\r\n\r\n",
      "POST /nowhere HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}",
      "PUT /v1/completions HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}",
      "GET /v1/completions HTTP/1.1\r\n\r\n",
      "GET /../../etc/passwd HTTP/1.1\r\n\r\n",
      "GET /v1/models/%00 HTTP/1.1\r\n\r\n",
      "GET /" + std::string(90'000, 'a') + " HTTP/1.1\r\n\r\n",
      "GET /health HTTP/1.1\r\nX: " + std::string(90'000, 'a') + "\r\n\r\n",
      std::string(90'000, 'A'),
  };
  for (const std::string& request : requests) ExpectRefused(request, request.substr(0, 120));
}

TEST_F(BadInputTest, TruncatedRequestsEndQuietly) {
  const std::string whole = PostText("/v1/completions", R"({"prompt":"x"})");
  for (size_t length = 0; length < whole.size(); ++length) {
    HttpClient client(port_);
    client.Send(std::string_view(whole).substr(0, length));
    client.CloseSending();
    EXPECT_TRUE(client.Closed());
  }
}

TEST_F(BadInputTest, WhatMessagesSayIsCheckedInDepth) {
  const auto refused = [&](const Json& message) {
    ++tried_;
    SCOPED_TRACE(message.dump());
    const Answer answer = Post("/v1/chat/completions", {{"messages", {message}}});
    ExpectError(answer, 400);
    EXPECT_TRUE(Json::parse(answer.body)["error"]["param"].get<std::string>().starts_with("messages[0]"));
  };
  for (const Json& message : {Json(nullptr), Json("x"), Json(1), Json::array(), Json::object()})
    refused(message);
  for (const Json& role : {Json(nullptr), Json(1), Json(""), Json("USER"), Json(Json::array())}) {
    refused({{"role", role}, {"content", "x"}});
  }
  for (const Json& content :
       {Json(1), Json(true), Json(nullptr), Json::object(), Json::parse("[1]"), Json::parse("[null]"),
        Json::parse("[{}]"), Json::parse(R"([{"type":"text"}])"),
        Json::parse(R"([{"type":"text","text":5}])"), Json::parse(R"([{"type":5,"text":"x"}])")}) {
    refused({{"role", "user"}, {"content", content}});
  }
  for (const Json& calls :
       {Json(1), Json::parse("[1]"), Json::parse("[{}]"), Json::parse(R"([{"function":1}])"),
        Json::parse(R"([{"function":{}}])"), Json::parse(R"([{"function":{"name":1}}])")}) {
    refused({{"role", "assistant"}, {"content", nullptr}, {"tool_calls", calls}});
  }
  ++tried_;
  ExpectError(
      Post("/v1/chat/completions",
           {{"messages",
             {{{"role", "assistant"},
               {"tool_calls", {{{"function", {{"name", "f"}, {"arguments", std::string(5000, '[')}}}}}}}}}}),
      400);
}

}  // namespace
}  // namespace larder::testing
