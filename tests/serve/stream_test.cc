// Server-sent events: what nine real clients need and what silently breaks them.
#include "serve/serve_fixture.h"

namespace larder::testing {
namespace {

class StreamTest : public ServeTest {
 protected:
  Answer Stream(Json body = Json::object()) {
    body["stream"] = true;
    return Chat(body);
  }
};

TEST_F(StreamTest, EventsAreDataLinesOneWriteEach) {
  Start();
  const Answer answer = Stream();
  ASSERT_EQ(answer.status, 200);
  EXPECT_TRUE(answer.headers.at("content-type").starts_with("text/event-stream"));
  EXPECT_TRUE(answer.complete);
  for (const std::string& chunk : answer.chunks) {
    EXPECT_TRUE(chunk.starts_with("data: ") && chunk.ends_with("\n\n"));
    EXPECT_EQ(chunk.find('\n'), chunk.size() - 2) << "no event:, id: or comment lines";
  }
  EXPECT_EQ(answer.chunks.back(), "data: [DONE]\n\n");
}

TEST_F(StreamTest, RoleComesOnceWithTheFirstTokenAndFinishOnce) {
  Start();
  const std::vector<Json> events = Events(Stream());
  ASSERT_EQ(events.size(), 12u);
  std::string text;
  for (size_t i = 0; i < events.size(); ++i) {
    const Json& choice = events[i]["choices"][0];
    EXPECT_EQ(events[i]["object"], "chat.completion.chunk");
    EXPECT_FALSE(events[i].contains("usage"));
    ASSERT_TRUE(choice["delta"].is_object());
    EXPECT_EQ(choice["delta"].contains("role"), i == 0);
    EXPECT_EQ(choice["finish_reason"].is_null(), i + 1 < events.size());
    if (choice["delta"].contains("content")) text += choice["delta"]["content"];
  }
  EXPECT_EQ(events[0]["choices"][0]["delta"]["content"], "H");
  EXPECT_EQ(events.back()["choices"][0]["delta"], Json::object());
  EXPECT_EQ(events.back()["choices"][0]["finish_reason"], "stop");
  EXPECT_EQ(text, "Hello world");
}

TEST_F(StreamTest, RolesComeInIndexOrderWhateverTheEngineDoes) {
  backend_.script = [](const Request&) {
    Script script = Say("abc");
    script.reversed_choices = true;
    return script;
  };
  Start();
  std::vector<int> roles;
  std::map<int, std::string> texts;
  std::map<int, int> finishes;
  for (const Json& event : Events(Stream({{"n", 4}}))) {
    const Json& choice = event["choices"][0];
    const int index = choice["index"];
    if (choice["delta"].contains("role")) roles.push_back(index);
    if (choice["delta"].contains("content")) texts[index] += choice["delta"]["content"];
    if (!choice["finish_reason"].is_null()) ++finishes[index];
  }
  EXPECT_EQ(roles, std::vector<int>({0, 1, 2, 3}));
  for (int i = 0; i < 4; ++i) {
    EXPECT_EQ(texts[i], "abc");
    EXPECT_EQ(finishes[i], 1);
  }
}

TEST_F(StreamTest, NeverSplitsACharacter) {
  backend_.script = [](const Request&) { return Say("a€😀é"); };
  Start();
  std::string text;
  for (const Json& event : Events(Stream())) {
    const Json& delta = event["choices"][0]["delta"];
    if (!delta.contains("content")) continue;
    EXPECT_EQ(delta["content"].get<std::string>().find("\xEF\xBF\xBD"), std::string::npos);
    text += delta["content"];
  }
  EXPECT_EQ(text, "a€😀é");
}

TEST_F(StreamTest, EventsHaveNoUnescapedLineSeparators) {
  backend_.script = [](const Request&) { return Say("\xC2\x85\xE2\x80\xA8\xE2\x80\xA9"); };
  Start();
  const Answer answer = Stream();
  for (const char* raw : {"\xC2\x85", "\xE2\x80\xA8", "\xE2\x80\xA9"}) {
    EXPECT_EQ(answer.body.find(raw), std::string::npos);
  }
  EXPECT_EQ(Events(answer).size(), 5u);  // role and first part of nothing, three characters, finish
}

TEST_F(StreamTest, UsageComesLastAndOnlyIfWanted) {
  backend_.script = [](const Request&) {
    Script script = Say("abc");
    script.cached_tokens = 4;
    return script;
  };
  Start();
  const std::vector<Json> events = Events(Stream({{"stream_options", {{"include_usage", true}}}}));
  ASSERT_EQ(events.size(), 5u);
  EXPECT_EQ(events.back()["choices"], Json::array());
  EXPECT_EQ(events.back()["usage"]["completion_tokens"], 3);
  EXPECT_EQ(events.back()["usage"]["prompt_tokens_details"]["cached_tokens"], 4);
  for (size_t i = 0; i + 1 < events.size(); ++i) EXPECT_FALSE(events[i].contains("usage"));
}

TEST_F(StreamTest, ContinuousUsageGrows) {
  Start();
  const std::vector<Json> events =
      Events(Stream({{"stream_options", {{"include_usage", true}, {"continuous_usage_stats", true}}}}));
  int last = 0;
  for (const Json& event : events) {
    const int now = event["usage"]["completion_tokens"];
    EXPECT_GE(now, last);
    last = now;
  }
  EXPECT_EQ(events[0]["usage"]["completion_tokens"], 1);
  EXPECT_EQ(last, 11);
}

TEST_F(StreamTest, EndsTheBodyAtOnceAfterDone) {
  Start();
  HttpClient client(port_);
  const Json body = {{"messages", {{{"role", "user"}, {"content", "x"}}}}, {"stream", true}};
  client.Send(PostText("/v1/chat/completions", body.dump()));
  EXPECT_TRUE(client.Read().complete);
  client.Send(GetText("/health"));  // the connection goes on
  EXPECT_EQ(client.Read().status, 200);
}

TEST_F(StreamTest, AClientThatClosesAfterDoneIsNormal) {
  Start();
  {
    HttpClient client(port_);
    const Json body = {{"messages", {{{"role", "user"}, {"content", "x"}}}}, {"stream", true}};
    client.Send(PostText("/v1/chat/completions", body.dump()));
    client.ReadHead();
    while (const auto chunk = client.ReadChunk()) {
      if (*chunk == "data: [DONE]\n\n") break;
    }
  }
  EXPECT_EQ(Get("/health").status, 200);
  EXPECT_NE(Get("/metrics").body.find("larder_http_clients_gone_total 0\n"), std::string::npos);
}

TEST_F(StreamTest, FailureInMidStreamIsAnErrorEventAndAnUnfinishedBody) {
  backend_.script = [](const Request&) {
    Script script = Say("ab");
    script.error = Error{ErrorKind::kIo, "the disk is gone"};
    return script;
  };
  Start();
  for (const char* path : {"/v1/chat/completions", "/v1/completions"}) {
    const Json body = {
        {"messages", {{{"role", "user"}, {"content", "x"}}}}, {"prompt", "x"}, {"stream", true}};
    const Answer answer = Post(path, body);
    EXPECT_EQ(answer.status, 200);
    EXPECT_FALSE(answer.complete) << "an ended body counts as success";
    const std::vector<Json> events = Events(answer, false);
    ASSERT_FALSE(events.empty());
    EXPECT_EQ(events.back()["error"]["message"], "the disk is gone");
    EXPECT_EQ(events.back()["error"]["type"], "server_error");
  }
}

TEST_F(StreamTest, AnAnswerCutByTheServerIsNoSuccess) {
  backend_.script = [](const Request&) {
    Script script = Say("ab");
    script.reason = FinishReason::kCancelled;
    return script;
  };
  Start();
  const Answer answer = Stream();
  EXPECT_FALSE(answer.complete);
  EXPECT_TRUE(Events(answer, false).back().contains("error"));
  EXPECT_GE(Chat({}).status, 500);
}

TEST_F(StreamTest, HeldBackTextComesBeforeTheFinish) {
  backend_.script = [](const Request&) {
    Script script = Say("ab");
    script.held_back = "\n\nHum";
    return script;
  };
  Start();
  const std::vector<Json> events = Events(Stream());
  ASSERT_EQ(events.size(), 4u);
  EXPECT_EQ(events[2]["choices"][0]["delta"]["content"], "\n\nHum");
  EXPECT_TRUE(events[2]["choices"][0]["finish_reason"].is_null());
}

TEST_F(StreamTest, AnAnswerWithoutTokensHasItsRole) {
  backend_.script = [](const Request&) { return Script{}; };
  Start();
  const std::vector<Json> events = Events(Stream({{"n", 2}}));
  ASSERT_EQ(events.size(), 4u);
  EXPECT_EQ(events[0]["choices"][0]["delta"]["role"], "assistant");
}

TEST_F(StreamTest, LogprobsComeWithTheirTokens) {
  Start();
  size_t entries = 0;
  for (const Json& event : Events(Stream({{"logprobs", true}, {"top_logprobs", 1}}))) {
    const Json& logprobs = event["choices"][0]["logprobs"];
    if (!logprobs.is_null()) entries += logprobs["content"].size();
  }
  EXPECT_EQ(entries, 11u);
}

TEST_F(StreamTest, TokenIdsAreComplete) {
  Start();
  std::vector<int> ids;
  const std::vector<Json> events = Events(Stream({{"return_token_ids", true}}));
  for (const Json& event : events) {
    for (const Json& id : event["choices"][0].value("token_ids", Json::array())) ids.push_back(id);
  }
  EXPECT_EQ(ids.size(), 11u);
  EXPECT_TRUE(events[0]["prompt_token_ids"].is_array());
}

TEST_F(StreamTest, ExplainComesWithTheLastFinish) {
  Start();
  const std::vector<Json> events = Events(Stream({{"n", 2}, {"larder", {{"explain", true}}}}));
  for (size_t i = 0; i < events.size(); ++i) EXPECT_EQ(events[i].contains("larder"), i + 1 == events.size());
  EXPECT_FALSE(events.back()["choices"][0]["finish_reason"].is_null());
}

TEST_F(StreamTest, ToolCallsComeWholeAndOnce) {
  backend_.script = [](const Request&) {
    return Say(
        "Hm <tool_call>{\"name\":\"f\",\"arguments\":{}}</tool_call>\n"
        "<tool_call>{\"name\":\"g\",\"arguments\":{\"x\":\"é\"}}</tool_call>");
  };
  Start();
  const Json tools = {{{"type", "function"}, {"function", {{"name", "f"}}}}};
  std::vector<Json> calls;
  std::string text;
  const std::vector<Json> events = Events(Stream({{"tools", tools}}));
  for (const Json& event : events) {
    const Json& delta = event["choices"][0]["delta"];
    for (const Json& call : delta.value("tool_calls", Json::array())) calls.push_back(call);
    text += delta.value("content", "");
  }
  ASSERT_EQ(calls.size(), 2u);
  EXPECT_EQ(text, "Hm ");
  EXPECT_EQ(calls[0]["index"], 0);
  EXPECT_EQ(calls[1]["index"], 1);
  EXPECT_EQ(calls[1]["function"]["name"], "g");
  EXPECT_EQ(calls[1]["function"]["arguments"], "{\"x\":\"é\"}");
  EXPECT_EQ(events.back()["choices"][0]["finish_reason"], "tool_calls");
}

TEST_F(StreamTest, SeveralPromptsShareAStream) {
  Start();
  const Answer answer =
      Post("/v1/completions", {{"prompt", {"a", "b"}}, {"n", 2}, {"stream", true}, {"max_tokens", 5}});
  std::map<int, std::string> texts;
  for (const Json& event : Events(answer)) {
    EXPECT_EQ(event["object"], "text_completion");
    texts[event["choices"][0]["index"]] += event["choices"][0]["text"];
  }
  ASSERT_EQ(texts.size(), 4u);
  for (const auto& [index, text] : texts) EXPECT_EQ(text, "Hello");
}

TEST_F(StreamTest, OldClientsGetTheStreamUntilTheEnd) {
  Start();
  HttpClient client(port_);
  const std::string body = R"({"messages":[{"role":"user","content":"x"}],"stream":true})";
  client.Send(
      fmt::format("POST /v1/chat/completions HTTP/1.0\r\nContent-Length: {}\r\n\r\n{}", body.size(), body));
  const Answer answer = client.Read();
  EXPECT_FALSE(answer.headers.contains("transfer-encoding"));
  EXPECT_TRUE(answer.body.ends_with("data: [DONE]\n\n"));
}

}  // namespace
}  // namespace larder::testing
