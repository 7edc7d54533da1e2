// Text completions as OpenAI's clients and lm-eval use them.
#include "serve/serve_fixture.h"

namespace larder::testing {
namespace {

class CompletionsTest : public ServeTest {
 protected:
  Answer Complete(Json body) { return Post("/v1/completions", body); }
};

TEST_F(CompletionsTest, AnswersInOpenAisShape) {
  backend_.script = [](const Request&) {
    Script script = Say("Hello world");
    script.cached_tokens = 2;
    return script;
  };
  Start();
  const Answer answer = Complete({{"prompt", "abc"}});
  ASSERT_EQ(answer.status, 200) << answer.body;
  const Json body = Json::parse(answer.body);
  EXPECT_EQ(body["object"], "text_completion");
  EXPECT_EQ(body["model"], "fake/model one");
  EXPECT_TRUE(body["id"].get<std::string>().starts_with("cmpl-"));
  EXPECT_TRUE(body["created"].is_number_integer());
  ASSERT_EQ(body["choices"].size(), 1u);
  EXPECT_EQ(body["choices"][0]["text"], "Hello world");
  EXPECT_EQ(body["choices"][0]["finish_reason"], "stop");
  EXPECT_TRUE(body["choices"][0]["logprobs"].is_null());
  EXPECT_EQ(body["usage"]["prompt_tokens"], 3);
  EXPECT_EQ(body["usage"]["completion_tokens"], 11);
  EXPECT_EQ(body["usage"]["total_tokens"], 14);
  EXPECT_EQ(body["usage"]["prompt_tokens_details"]["cached_tokens"], 2);
  EXPECT_EQ(backend_.last().max_tokens, 16);  // OpenAI's default for completions
}

TEST_F(CompletionsTest, TakesThePromptInFourForms) {
  Start();
  const auto texts = [&](const Json& prompt) {
    const Answer answer = Complete({{"prompt", prompt}, {"echo", true}, {"max_tokens", 0}});
    EXPECT_EQ(answer.status, 200) << answer.body;
    std::vector<std::string> found;
    const Json body = Json::parse(answer.body);
    for (const Json& choice : body["choices"]) {
      EXPECT_EQ(choice["index"], found.size());
      found.push_back(choice["text"]);
    }
    return found;
  };
  EXPECT_EQ(texts("ab"), std::vector<std::string>({"ab"}));
  EXPECT_EQ(texts({"ab", "c"}), std::vector<std::string>({"ab", "c"}));
  EXPECT_EQ(texts({97, 98}), std::vector<std::string>({"ab"}));
  EXPECT_EQ(texts(Json::parse("[[97,98],[99]]")), std::vector<std::string>({"ab", "c"}));
}

TEST_F(CompletionsTest, ChoiceIndexIsPromptTimesNPlusI) {
  backend_.script = [](const Request& request) {
    return Say(std::string(1, static_cast<char>(request.prompt[0])));
  };
  Start();
  const Json body = Json::parse(Complete({{"prompt", {"x", "y", "z"}}, {"n", 2}}).body);
  ASSERT_EQ(body["choices"].size(), 6u);
  for (int i = 0; i < 6; ++i) {
    EXPECT_EQ(body["choices"][i]["index"], i);
    EXPECT_EQ(body["choices"][i]["text"], std::string(1, static_cast<char>('x' + i / 2)));
  }
  EXPECT_EQ(body["usage"]["prompt_tokens"], 3);
  EXPECT_EQ(body["usage"]["completion_tokens"], 6);
}

TEST(CompletionsBos, IsPutBeforeTextButNeverBeforeTokens) {
  FakeBackend backend(true);
  ServeOptions options;
  options.port = 0;
  auto server = Server::Create(&backend, options);
  ASSERT_TRUE(server.has_value());
  std::thread runner([&] { (*server)->Run(); });
  const auto send = [&](const char* body) {
    HttpClient client((*server)->port());
    client.Send(PostText("/v1/completions", body));
    EXPECT_EQ(client.Read().status, 200);
    return backend.last().prompt;
  };
  EXPECT_EQ(send(R"({"prompt":"ab"})"), std::vector<int32_t>({256, 97, 98}));
  EXPECT_EQ(send(R"({"prompt":[97,98]})"), std::vector<int32_t>({97, 98}));
  EXPECT_EQ(send(R"({"prompt":[[97,98]]})"), std::vector<int32_t>({97, 98}));
  (*server)->Stop();
  runner.join();
}

// What lm-eval relies on: N + max_tokens entries, the first null, the chosen value equal to its entry among
// the alternatives digit by digit, a generated end token counted.
TEST_F(CompletionsTest, EchoWithLogprobsScoresThePrompt) {
  backend_.script = [](const Request&) {
    Script script;
    script.tokens = {257};  // the end token
    return script;
  };
  Start();
  for (const int max_tokens : {0, 1}) {
    const Answer answer = Complete({{"prompt", "abcde"},
                                    {"echo", true},
                                    {"logprobs", 1},
                                    {"max_tokens", max_tokens},
                                    {"temperature", 0}});
    ASSERT_EQ(answer.status, 200) << answer.body;
    const Json choice = Json::parse(answer.body)["choices"][0];
    const Json logprobs = choice["logprobs"];
    const size_t entries = 5 + static_cast<size_t>(max_tokens);
    for (const char* list : {"tokens", "token_logprobs", "top_logprobs", "text_offset"}) {
      EXPECT_EQ(logprobs[list].size(), entries) << list;
    }
    EXPECT_TRUE(logprobs["token_logprobs"][0].is_null());
    EXPECT_TRUE(logprobs["top_logprobs"][0].is_null());
    EXPECT_EQ(choice["text"], "abcde");
    for (size_t i = 1; i < entries; ++i) {
      const auto token = logprobs["tokens"][i].get<std::string>();
      EXPECT_EQ(logprobs["token_logprobs"][i].dump(), logprobs["top_logprobs"][i][token].dump());
    }
    EXPECT_EQ(logprobs["text_offset"][4], 4);
    if (max_tokens == 1) {
      EXPECT_EQ(logprobs["tokens"][5], "</s>");
    }
  }
  EXPECT_EQ(backend_.last().prompt_logprobs, 1);
}

TEST_F(CompletionsTest, EchoScoresAPromptOfOneToken) {
  Start();
  const Json choice = Json::parse(
      Complete({{"prompt", {97}}, {"echo", true}, {"logprobs", 1}, {"max_tokens", 0}}).body)["choices"][0];
  EXPECT_EQ(choice["logprobs"]["tokens"], Json({"a"}));
  EXPECT_EQ(choice["logprobs"]["token_logprobs"], Json::parse("[null]"));
}

TEST_F(CompletionsTest, StreamedEchoCarriesThePromptsScoresFirst) {
  Start();
  for (const int max_tokens : {0, 3}) {
    const Answer answer = Complete(
        {{"prompt", "abc"}, {"echo", true}, {"logprobs", 1}, {"max_tokens", max_tokens}, {"stream", true}});
    std::string text;
    size_t entries = 0;
    for (const Json& event : Events(answer)) {
      const Json& choice = event["choices"][0];
      text += choice["text"];
      if (!choice["logprobs"].is_null()) entries += choice["logprobs"]["tokens"].size();
    }
    EXPECT_EQ(text, max_tokens == 0 ? "abc" : "abcHel");
    EXPECT_EQ(entries, 3u + static_cast<size_t>(max_tokens));
  }
}

TEST_F(CompletionsTest, ReturnsTokenIds) {
  Start();
  const Json choice = Json::parse(
      Complete({{"prompt", "ab"}, {"max_tokens", 3}, {"return_token_ids", true}}).body)["choices"][0];
  EXPECT_EQ(choice["token_ids"], Json({'H', 'e', 'l'}));
  EXPECT_EQ(choice["prompt_token_ids"], Json({97, 98}));
  EXPECT_EQ(choice["finish_reason"], "length");
}

TEST_F(CompletionsTest, ForcedOutputReachesTheEngine) {
  Start();
  const Json body = {
      {"prompt", "ab"}, {"larder", {{"forced_output", {120, 121}}}}, {"return_token_ids", true}};
  EXPECT_EQ(Json::parse(Complete(body).body)["choices"][0]["token_ids"], Json({120, 121}));
  EXPECT_EQ(backend_.last().forced_output, std::vector<int32_t>({120, 121}));
}

TEST_F(CompletionsTest, SuffixAndBestOfAreRefused) {
  Start();
  ExpectError(Complete({{"prompt", "a"}, {"suffix", "z"}}), 400, "suffix");
  ExpectError(Complete({{"prompt", "a"}, {"best_of", 3}}), 400, "best_of");
  EXPECT_EQ(Complete({{"prompt", "a"}, {"suffix", ""}, {"best_of", 2}, {"n", 2}}).status, 200);
  EXPECT_EQ(Complete({{"prompt", "a"}, {"suffix", nullptr}, {"best_of", nullptr}}).status, 200);
}

TEST_F(CompletionsTest, TextOffsetsCountCharacters) {
  Start();
  const Json choice = Json::parse(
      Complete({{"prompt", "é€x"}, {"echo", true}, {"logprobs", 0}, {"max_tokens", 0}}).body)["choices"][0];
  // Tokens are bytes here: two of é, three of €, one of x.
  EXPECT_EQ(choice["logprobs"]["text_offset"], Json({0, 0, 1, 1, 1, 2}));
  EXPECT_EQ(choice["logprobs"]["tokens"][0], "bytes:\\xc3");
  EXPECT_TRUE(choice["logprobs"]["top_logprobs"][1].is_null());
}

TEST_F(CompletionsTest, OneRefusedPromptRefusesAll) {
  int seen = 0;
  backend_.script = [](const Request&) {
    Script script = Say("x");
    script.endless = true;
    return script;
  };
  backend_.refuse = [&](const Request&) -> std::optional<Error> {
    if (++seen < 3) return std::nullopt;
    return Error{ErrorKind::kUnavailable, "the queue is full"};
  };
  Start();
  const Answer answer = Complete({{"prompt", {"a", "b", "c"}}, {"stream", true}, {"max_tokens", nullptr}});
  ExpectError(answer, 429);
  EXPECT_TRUE(backend_.WaitCancelled(2));
}

}  // namespace
}  // namespace larder::testing
