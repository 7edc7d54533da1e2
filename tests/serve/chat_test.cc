// Chat completions: prompts, answers, tools, explanations.
#include "serve/serve_fixture.h"

namespace larder::testing {
namespace {

class ChatTest : public ServeTest {
 protected:
  std::string PromptText() { return backend_.tokenizer().Decode(backend_.last().prompt, true); }
  static Json User(const Json& content) { return {{"role", "user"}, {"content", content}}; }
};

TEST_F(ChatTest, AnswersInOpenAisShape) {
  Start();
  const Answer answer = Chat({});
  ASSERT_EQ(answer.status, 200) << answer.body;
  const Json body = Json::parse(answer.body);
  EXPECT_EQ(body["object"], "chat.completion");
  EXPECT_EQ(body["system_fingerprint"], "fp_test");
  const Json& choice = body["choices"][0];
  EXPECT_EQ(choice["message"]["role"], "assistant");
  EXPECT_EQ(choice["message"]["content"], "Hello world");
  EXPECT_EQ(choice["finish_reason"], "stop");
  EXPECT_FALSE(body.contains("larder"));
  EXPECT_EQ(PromptText(), "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n");
  EXPECT_EQ(backend_.last().prompt.front(), 258);  // control tokens are recognised
  EXPECT_EQ(backend_.last().tenant, "default");
  EXPECT_EQ(backend_.last().max_tokens, -1);
  EXPECT_FLOAT_EQ(backend_.last().sampling.temperature, 1.0f);
}

TEST_F(ChatTest, SamplingFieldsReachTheEngine) {
  Start();
  const Json body = {{"temperature", 0.5},
                     {"top_p", 0.9},
                     {"top_k", 7},
                     {"min_p", 0.05},
                     {"seed", -3},
                     {"n", 2},
                     {"presence_penalty", 0.25},
                     {"frequency_penalty", -0.5},
                     {"repetition_penalty", 1.5},
                     {"logit_bias", {{"65", -100}, {"66", 3}}},
                     {"stop", {"x", "yz"}},
                     {"max_completion_tokens", 9},
                     {"min_tokens", 2},
                     {"ignore_eos", true},
                     {"priority", -4},
                     {"stop_token_ids", {70}}};
  ASSERT_EQ(Chat(body).status, 200);
  const Request request = backend_.last();
  EXPECT_FLOAT_EQ(request.sampling.temperature, 0.5f);
  EXPECT_FLOAT_EQ(request.sampling.top_p, 0.9f);
  EXPECT_EQ(request.sampling.top_k, 7);
  EXPECT_FLOAT_EQ(request.sampling.min_p, 0.05f);
  EXPECT_EQ(request.sampling.seed, static_cast<uint64_t>(-3));
  EXPECT_FLOAT_EQ(request.sampling.presence_penalty, 0.25f);
  EXPECT_FLOAT_EQ(request.sampling.frequency_penalty, -0.5f);
  EXPECT_FLOAT_EQ(request.sampling.repetition_penalty, 1.5f);
  EXPECT_EQ(request.sampling.logit_bias, (std::vector<std::pair<int32_t, float>>{{65, -100.0f}, {66, 3.0f}}));
  EXPECT_EQ(request.stop, std::vector<std::string>({"x", "yz"}));
  EXPECT_EQ(request.stop_tokens, std::vector<int32_t>({70}));
  EXPECT_EQ(request.max_tokens, 9);
  EXPECT_EQ(request.min_tokens, 2);
  EXPECT_EQ(request.priority, -4);
  EXPECT_EQ(request.n, 2);
  EXPECT_TRUE(request.ignore_eos);
}

TEST_F(ChatTest, StopIsAStringAListOrNothing) {
  Start();
  const std::vector<std::string> many(100, "s");
  for (const auto& [stop, expected] : std::vector<std::pair<Json, std::vector<std::string>>>{
           {"a", {"a"}}, {Json::array(), {}}, {nullptr, {}}, {Json(many), many}}) {
    ASSERT_EQ(Chat({{"stop", stop}}).status, 200);
    EXPECT_EQ(backend_.last().stop, expected);
  }
}

TEST_F(ChatTest, SeedsDifferWhereNoneIsGiven) {
  Start();
  Chat({});
  Chat({});
  EXPECT_NE(backend_.requests()[0].sampling.seed, backend_.requests()[1].sampling.seed);
}

TEST_F(ChatTest, NullIsAbsentAndUnknownFieldsAreIgnored) {
  Start();
  const Json body = {{"logprobs", nullptr},
                     {"seed", nullptr},
                     {"max_tokens", nullptr},
                     {"stop", nullptr},
                     {"tools", nullptr},
                     {"stream", nullptr},
                     {"stream_options", nullptr},
                     {"temperature", nullptr},
                     {"store", true},
                     {"metadata", {{"a", "b"}}},
                     {"user", "u"},
                     {"service_tier", "auto"},
                     {"prompt_cache_key", "k"},
                     {"include", Json::array()}};
  EXPECT_EQ(Chat(body).status, 200);
}

TEST_F(ChatTest, ContentIsAStringPartsOrNull) {
  Start();
  const Json parts = {{{"type", "text"}, {"text", "one"}}, {{"type", "text"}, {"text", "two"}}};
  const Json call = {
      {"id", "c1"}, {"type", "function"}, {"function", {{"name", "f"}, {"arguments", R"({"b":1,"a":2})"}}}};
  const Json messages = {{{"role", "developer"}, {"content", "Rules"}},
                         User(parts),
                         {{"role", "assistant"}, {"content", nullptr}, {"tool_calls", {call}}},
                         {{"role", "tool"}, {"tool_call_id", "c1"}, {"content", "4"}}};
  const Answer answer = Chat({{"messages", messages}});
  ASSERT_EQ(answer.status, 200) << answer.body;
  const auto context = nlohmann::ordered_json::parse(backend_.rendered_context());
  EXPECT_EQ(context["messages"][0]["role"], "system");  // this template does not know developer
  EXPECT_EQ(context["messages"][1]["content"], "one\ntwo");
  EXPECT_EQ(context["messages"][2]["content"], "");
  EXPECT_EQ(context["messages"][2]["tool_calls"][0]["function"]["arguments"].dump(), R"({"b":1,"a":2})");
  EXPECT_EQ(context["messages"][3]["tool_call_id"], "c1");
  EXPECT_TRUE(context["tools"].is_null());
  EXPECT_EQ(context["eos_token"], "</s>");
}

TEST_F(ChatTest, DeveloperStaysWhereTheTemplateKnowsIt) {
  backend_.template_source = "{% if message.role == 'developer' %}";
  Start();
  Chat({{"messages", {{{"role", "developer"}, {"content", "x"}}}}});
  EXPECT_EQ(Json::parse(backend_.rendered_context())["messages"][0]["role"], "developer");
}

TEST_F(ChatTest, BadMessagesAreRefusedByName) {
  Start();
  ExpectError(Post("/v1/chat/completions", Json::object()), 400, "messages");
  ExpectError(Chat({{"messages", Json::array()}}), 400, "messages");
  ExpectError(Chat({{"messages", {User("a"), 3}}}), 400, "messages[1]");
  ExpectError(Chat({{"messages", {{{"role", "king"}, {"content", "x"}}}}}), 400, "messages[0].role");
  ExpectError(Chat({{"messages", {User(nullptr)}}}), 400, "messages[0].content");
  ExpectError(Chat({{"messages", {User(5)}}}), 400, "messages[0].content");
  const Json image = {{{"type", "image_url"}, {"image_url", {{"url", "x"}}}}};
  ExpectError(Chat({{"messages", {User(image)}}}), 400, "messages[0].content[0].type");
}

TEST_F(ChatTest, ContinuesTheFinalMessage) {
  Start();
  const Json messages = {User("Q"), {{"role", "assistant"}, {"content", "The answer is"}}};
  ASSERT_EQ(Chat({{"messages", messages}, {"continue_final_message", true}}).status, 200);
  EXPECT_EQ(PromptText(), "<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\nThe answer is");
  ExpectError(Chat({{"continue_final_message", true}}), 400, "continue_final_message");
}

TEST_F(ChatTest, AModelWithoutTemplateRefusesWithTheRemedy) {
  backend_.template_source = "";
  Start();
  const Answer answer = Chat({});
  ExpectError(answer, 400);
  EXPECT_NE(answer.body.find("chat template"), std::string::npos);
  EXPECT_EQ(Post("/v1/completions", {{"prompt", "a"}}).status, 200);
}

TEST_F(ChatTest, LogprobsHaveBytesAndAlternatives) {
  backend_.script = [](const Request&) { return Say("é"); };
  Start();
  const Json choice = Json::parse(Chat({{"logprobs", true}, {"top_logprobs", 2}}).body)["choices"][0];
  const Json content = choice["logprobs"]["content"];
  ASSERT_EQ(content.size(), 2u);
  EXPECT_EQ(content[0]["bytes"], Json({0xC3}));
  EXPECT_TRUE(content[0]["token"].is_string());
  ASSERT_EQ(content[0]["top_logprobs"].size(), 2u);
  EXPECT_EQ(content[0]["top_logprobs"][0]["logprob"].dump(), content[0]["logprob"].dump());
  EXPECT_FALSE(content[0]["top_logprobs"][1]["bytes"].is_null());
  EXPECT_EQ(choice["message"]["content"], "é");
  ExpectError(Chat({{"top_logprobs", 2}}), 400, "top_logprobs");
  EXPECT_TRUE(Json::parse(Chat({{"logprobs", false}}).body)["choices"][0]["logprobs"].is_null());
}

TEST_F(ChatTest, ResponseFormatsThatCannotBeKeptAreRefused) {
  Start();
  EXPECT_EQ(Chat({{"response_format", {{"type", "text"}}}}).status, 200);
  ExpectError(Chat({{"response_format", {{"type", "json_object"}}}}), 400, "response_format");
  ExpectError(Chat({{"response_format", {{"typ", "text"}}}}), 400, "response_format.type");
  ExpectError(Chat({{"tool_choice", "required"}}), 400, "tool_choice");
  ExpectError(Chat({{"max_tokens", 0}}), 400, "max_tokens");
}

TEST_F(ChatTest, ToolsAreRenderedAndCallsParsed) {
  backend_.script = [](const Request&) {
    return Say("Let me look.<tool_call>\n{\"name\": \"f\", \"arguments\": {\"x\": 1}}\n</tool_call>");
  };
  Start();
  const Json tools = {{{"type", "function"}, {"function", {{"name", "f"}, {"parameters", Json::object()}}}}};
  Json body = Json::parse(Chat({{"tools", tools}}).body);
  const Json message = body["choices"][0]["message"];
  EXPECT_EQ(body["choices"][0]["finish_reason"], "tool_calls");
  EXPECT_EQ(message["content"], "Let me look.");
  EXPECT_EQ(message["tool_calls"][0]["function"]["name"], "f");
  EXPECT_EQ(message["tool_calls"][0]["function"]["arguments"], R"({"x":1})");
  EXPECT_TRUE(message["tool_calls"][0]["id"].is_string());
  EXPECT_EQ(Json::parse(backend_.rendered_context())["tools"], tools);

  body = Json::parse(Chat({{"tools", tools}, {"tool_choice", "none"}}).body);
  EXPECT_FALSE(body["choices"][0]["message"].contains("tool_calls"));
  EXPECT_TRUE(Json::parse(backend_.rendered_context())["tools"].is_null());
  ExpectError(Chat({{"tools", {1}}}), 400, "tools");
}

TEST_F(ChatTest, TooLongIsSaidInTheWordsClientsKnow) {
  backend_.context_tokens = 64;
  Start();
  const Answer long_prompt = Chat({{"messages", {User(std::string(80, 'x'))}}});
  ExpectError(long_prompt, 400, "", "context_length_exceeded");
  EXPECT_NE(long_prompt.body.find("This model's maximum context length is 64 tokens"), std::string::npos);
  ExpectError(Chat({{"max_tokens", 60}}), 400, "", "context_length_exceeded");
  const Json huge = {{"prompt", std::string(100'000, 'x')}};  // refused without being encoded
  ExpectError(Post("/v1/completions", huge), 400, "", "context_length_exceeded");
  EXPECT_TRUE(backend_.requests().empty());
}

TEST_F(ChatTest, ExplainSaysWhatTheCacheDid) {
  backend_.script = [](const Request& request) {
    Script script = Say("x");
    EXPECT_TRUE(request.explain);
    script.report.read_memory = 5;
    script.report.recomputed = 7;
    script.report.written = 8;
    script.report.outcome.reason = MissReason::kDiverged;
    script.report.outcome.token = 5;
    script.report.outcome.cached = {'o', 'l', 'd'};
    script.report.outcome.requested = {'n', 'e', 'w'};
    return script;
  };
  Start();
  const Json larder = Json::parse(Chat({{"larder", {{"explain", true}}}}).body)["larder"];
  EXPECT_EQ(larder["cache"]["read"]["memory"], 5);
  EXPECT_EQ(larder["cache"]["recomputed"], 7);
  EXPECT_EQ(larder["cache"]["written"], 8);
  EXPECT_EQ(larder["cache"]["miss"]["reason"], "diverged");
  EXPECT_EQ(larder["cache"]["miss"]["token"], 5);
  EXPECT_EQ(larder["cache"]["miss"]["cached"], "old");
  EXPECT_EQ(larder["cache"]["miss"]["requested"], "new");
}

// That a stranger sent the same text is not for this tenant to know.
TEST_F(ChatTest, ExplainTellsNothingOfOtherTenants) {
  MissReason reason = MissReason::kOtherTenant;
  backend_.script = [&](const Request&) {
    Script script = Say("x");
    script.report.outcome.reason = reason;
    script.report.outcome.policy = reason == MissReason::kOtherTenant ? "lru" : "";
    return script;
  };
  Start();
  const auto miss = [&] {
    return Json::parse(Chat({{"larder", {{"explain", true}}}}).body)["larder"]["cache"]["miss"];
  };
  const Json other = miss();
  reason = MissReason::kNeverSeen;
  EXPECT_EQ(other, miss());
}

TEST_F(ChatTest, EngineErrorsBeforeTheFirstTokenAreStatuses) {
  backend_.script = [](const Request&) {
    Script script;
    script.error = Error{ErrorKind::kExhausted, "the cache is too small"};
    return script;
  };
  Start();
  for (const bool stream : {false, true}) {
    const Answer answer = Chat({{"stream", stream}});
    ExpectError(answer, 503);
    EXPECT_TRUE(answer.headers.contains("retry-after"));
  }
}

TEST_F(ChatTest, TextIsEscapedWhereClientsSplitLines) {
  backend_.script = [](const Request&) {
    return Say(
        "a\xC2\x85"
        "b\xE2\x80\xA8"
        "c\xE2\x80\xA9"
        "d\n\"\\\xFF");
  };
  Start();
  const Answer answer = Chat({});
  EXPECT_NE(answer.body.find("a\\u0085b\\u2028c\\u2029d\\n\\\"\\\\"), std::string::npos) << answer.body;
  EXPECT_TRUE(Json::accept(answer.body));
}

}  // namespace
}  // namespace larder::testing
