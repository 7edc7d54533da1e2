// Everything besides generating: models, tokens, cache, metrics, health, the page, headers and paths.
#include "serve/serve_fixture.h"

namespace larder::testing {
namespace {

class EndpointsTest : public ServeTest {};

TEST_F(EndpointsTest, EveryPathExistsWithAndWithoutV1) {
  Start();
  for (const char* path :
       {"/health", "/models", "/tokenizer_info", "/metrics", "/cache/stats", "/cache/blocks", "/version"}) {
    EXPECT_EQ(Get(path).status, 200) << path;
    EXPECT_EQ(Get(std::string("/v1") + path).status, 200) << path;
    EXPECT_EQ(Get(std::string("/v1") + path + "/").status, 200) << path;
    const Answer head = Exchange("HEAD " + std::string(path) + " HTTP/1.1\r\nHost: x\r\n\r\n");
    EXPECT_EQ(head.status, 200) << path;
    EXPECT_TRUE(head.body.empty());
    EXPECT_NE(head.headers.at("content-length"), "0");
  }
  const Json text = {{"prompt", "a"}, {"messages", {{{"role", "user"}, {"content", "x"}}}}, {"tokens", {97}}};
  for (const char* path : {"/chat/completions", "/completions", "/tokenize", "/detokenize", "/cache/clear"}) {
    EXPECT_EQ(Post(path, text).status, 200) << path;
    EXPECT_EQ(Post(std::string("/v1") + path, text).status, 200) << path;
  }
}

TEST_F(EndpointsTest, HeadAnswersKeepTheConnectionInStep) {
  Start();
  HttpClient client(port_);
  client.Send("HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
  EXPECT_EQ(client.Read(true).status, 200);
  client.Send(GetText("/health"));
  EXPECT_EQ(client.Read().body, R"({"status":"ok"})");
}

TEST_F(EndpointsTest, ModelsAreListedAndFoundByEncodedName) {
  Start();
  const Json list = Json::parse(Get("/v1/models").body);
  EXPECT_EQ(list["object"], "list");
  EXPECT_EQ(list["data"][0]["id"], "fake/model one");
  EXPECT_EQ(list["data"][0]["root"], "fake/model one");
  EXPECT_EQ(list["data"][0]["max_model_len"], 4096);
  EXPECT_EQ(Json::parse(Get("/v1/models/fake%2Fmodel%20one").body)["id"], "fake/model one");
  EXPECT_EQ(Get("/models/fake/model%20one").status, 200);
  ExpectError(Get("/v1/models/nope"), 404, "model", "model_not_found");
  ExpectError(Get("/v1/models/%zz"), 404, "model", "model_not_found");
}

TEST_F(EndpointsTest, TokenizesInBothDialects) {
  Start();
  const Json vllm =
      Json::parse(Post("/tokenize", {{"prompt", "ab</s>"}, {"add_special_tokens", false}}).body);
  EXPECT_EQ(vllm["tokens"], Json({97, 98, 257}));
  EXPECT_EQ(vllm["count"], 3);
  EXPECT_EQ(vllm["max_model_len"], 4096);
  const Json llama = Json::parse(Post("/tokenize", {{"content", "a</s>"}, {"parse_special", false}}).body);
  EXPECT_EQ(llama["tokens"].size(), 5u);
  const Json pieces =
      Json::parse(Post("/tokenize", {{"content", "aé"}, {"with_pieces", true}}).body)["tokens"];
  EXPECT_EQ(pieces[0], Json({{"id", 97}, {"piece", "a"}}));
  EXPECT_EQ(pieces[1]["piece"], Json({0xC3}));
  const Json chat =
      Json::parse(Post("/tokenize", {{"messages", {{{"role", "user"}, {"content", "x"}}}}}).body);
  EXPECT_EQ(chat["tokens"][0], 258);
  ExpectError(Post("/tokenize", Json::object()), 400, "prompt");
}

TEST(EndpointsBos, AddSpecialHasTheDefaultOfItsDialect) {
  FakeBackend backend(true);
  ServeOptions options;
  options.port = 0;
  auto server = Server::Create(&backend, options);
  ASSERT_TRUE(server.has_value());
  std::thread runner([&] { (*server)->Run(); });
  const auto first = [&](const char* body) {
    HttpClient client((*server)->port());
    client.Send(PostText("/tokenize", body));
    return Json::parse(client.Read().body)["tokens"][0].get<int>();
  };
  EXPECT_EQ(first(R"({"prompt":"a"})"), 256);
  EXPECT_EQ(first(R"({"prompt":"a","add_special_tokens":false})"), 'a');
  EXPECT_EQ(first(R"({"prompt":"a","add_special":false})"), 'a');
  EXPECT_EQ(first(R"({"content":"a"})"), 'a');
  EXPECT_EQ(first(R"({"content":"a","add_special":true})"), 256);
  EXPECT_EQ(first(R"({"messages":[{"role":"user","content":"a"}]})"), 256);
  // A template that prints BOS itself does not get a second one.
  EXPECT_EQ(first(R"({"prompt":"a"})"), 256);
  (*server)->Stop();
  runner.join();
}

TEST_F(EndpointsTest, DetokenizesInBothDialects) {
  Start();
  const Json body = Json::parse(Post("/detokenize", {{"tokens", {97, 257, 98}}}).body);
  EXPECT_EQ(body["prompt"], "a</s>b");
  EXPECT_EQ(body["content"], "a</s>b");
  ExpectError(Post("/detokenize", {{"tokens", {260}}}), 400, "tokens");
  ExpectError(Post("/detokenize", {{"tokens", {-1}}}), 400, "tokens");
  ExpectError(Post("/detokenize", Json::object()), 400, "tokens");
  EXPECT_TRUE(Json::accept(Post("/detokenize", {{"tokens", {0xC3}}}).body));
}

TEST_F(EndpointsTest, TokenizerInfoIsEnoughForRemoteTokenizers) {
  Start();
  const Json info = Json::parse(Get("/tokenizer_info").body);
  EXPECT_TRUE(info["tokenizer_class"].is_string());
  EXPECT_EQ(info["bos_token"], "<s>");
  EXPECT_EQ(info["eos_token"], "</s>");
  EXPECT_EQ(info["chat_template"], "{{ messages }}");
}

TEST_F(EndpointsTest, CacheStatsHaveTheStableNames) {
  backend_.stats.kv.used_bytes = 10;
  backend_.stats.kv.limit_bytes = 40;
  backend_.stats.running = 2;
  backend_.stats.waiting = 3;
  backend_.stats.misses = {{"none", 9}, {"never seen", 4}, {"other tenant", 1}};
  Start();
  const Json stats = Json::parse(Get("/v1/cache/stats").body);
  EXPECT_EQ(stats["memory"]["used_bytes"], 10);
  EXPECT_EQ(stats["memory"]["limit_bytes"], 40);
  EXPECT_EQ(stats["requests"]["running"], 2);
  EXPECT_EQ(stats["requests"]["waiting"], 3);
  EXPECT_EQ(stats["misses"], Json({{"never_seen", 4}, {"other_tenant", 1}}));
}

TEST_F(EndpointsTest, CacheBlocksAreListedUpToTheLimit) {
  for (int i = 0; i < 5; ++i) {
    KvBlockInfo block{};
    block.name = std::to_string(i);
    block.tenant = i == 4 ? "stranger" : "default";
    block.tokens = {1, 2};
    backend_.blocks.push_back(block);
  }
  Start();
  EXPECT_EQ(Json::parse(Get("/v1/cache/blocks?limit=2").body)["blocks"].size(), 2u);
  EXPECT_EQ(Json::parse(Get("/v1/cache/blocks").body)["blocks"].size(), 4u);  // never a stranger's
  ExpectError(Get("/v1/cache/blocks?limit=0"), 400, "limit");
  ExpectError(Get("/v1/cache/blocks?limit=x"), 400, "limit");
  EXPECT_EQ(Json::parse(Post("/v1/cache/clear", Json::object()).body)["dropped_blocks"], 3);
  EXPECT_EQ(backend_.cleared, "default");
}

TEST_F(EndpointsTest, ChunksAreListedPageByPage) {
  for (uint8_t i = 1; i <= 5; ++i)
    backend_.chunks["default"].push_back({.name = {{i}}, .tokens = 64 + i, .prefix_tokens = 1, .bytes = 7});
  backend_.chunks["default"][1].in_memory = true;
  backend_.chunks["default"][2].below = true;
  backend_.chunks["default"][3].held = true;
  backend_.chunks["stranger"].push_back({.name = {{9}}});
  Start();
  const auto list = [&](const std::string& query) {
    const Answer answer = Get("/v1/cache/chunks" + query);
    EXPECT_EQ(answer.status, 200) << answer.body;
    return Json::parse(answer.body);
  };
  const Json all = list("");
  EXPECT_EQ(all["object"], "list");
  EXPECT_EQ(all["pending"], false);
  EXPECT_EQ(all["next"], nullptr);
  ASSERT_EQ(all["data"].size(), 5u);
  EXPECT_EQ(all["data"][1], Json({{"id", Digest{{2}}.Hex()},
                                  {"object", "cache.chunk"},
                                  {"tokens", 66},
                                  {"prefix_tokens", 1},
                                  {"bytes", 7},
                                  {"in_memory", true},
                                  {"below", false},
                                  {"held", false}}));
  EXPECT_EQ(all["data"][2]["below"], true);
  EXPECT_EQ(all["data"][3]["held"], true);
  Json seen = Json::array();
  std::string after;
  for (const size_t size : {2u, 2u, 1u}) {
    const Json page = list("?limit=2&after=" + after);
    EXPECT_EQ(page["data"].size(), size);
    for (const Json& chunk : page["data"]) seen.push_back(chunk);
    EXPECT_EQ(page["next"].is_null(), size == 1);
    if (size == 2) after = page["next"];
  }
  EXPECT_EQ(seen, all["data"]);
  EXPECT_EQ(list("?limit=5")["next"], nullptr) << "nothing is left behind a full page";
  for (const char* limit : {"0", "10001", "x", "", "1e3", "-1", "%zz"})
    ExpectError(Get(std::string("/v1/cache/chunks?limit=") + limit), 400, "limit");
  for (const char* wrong : {"x", "0", "%zz"})
    ExpectError(Get(std::string("/v1/cache/chunks?after=") + wrong), 400, "after");
  ExpectError(Get("/v1/cache/chunks?after=" + std::string(63, '0') + "G"), 400, "after");
}

TEST_F(EndpointsTest, AChunkOfOnesOwnIsRemoved) {
  backend_.chunks["default"].push_back({.name = {{1}}});
  backend_.chunks["stranger"].push_back({.name = {{2}}});
  Start();
  const auto remove = [&](const std::string& id) {
    return Exchange("DELETE /v1/cache/chunks/" + id + " HTTP/1.1\r\nHost: x\r\n\r\n");
  };
  const std::string id = Digest{{1}}.Hex();
  const Answer removed = remove(id);
  EXPECT_EQ(removed.status, 200);
  EXPECT_EQ(Json::parse(removed.body), Json({{"id", id}, {"object", "cache.chunk"}, {"deleted", true}}));
  EXPECT_TRUE(backend_.chunks["default"].empty());
  ExpectError(remove(id), 404, "", "not_found");
  ExpectError(remove(Digest{{2}}.Hex()), 404, "", "not_found");
  EXPECT_EQ(backend_.chunks["stranger"].size(), 1u);
  for (const char* wrong : {"x", "%31", "0/0"}) ExpectError(remove(wrong), 400, "id");
  ExpectError(remove(""), 405);
  const Answer read = Get("/v1/cache/chunks/" + id);
  ExpectError(read, 405, "", "method_not_allowed");
  EXPECT_EQ(read.headers.at("allow"), "DELETE, OPTIONS");
}

TEST_F(EndpointsTest, StatesAreListedInTheSameWay) {
  for (uint8_t i = 1; i <= 3; ++i)
    backend_.states["default"].push_back({{{i}}, "h2o:budget=64", 100 + i, 7, i == 2});
  backend_.states["stranger"].push_back({.name = {{9}}});
  Start();
  const Json first = Json::parse(Get("/v1/cache/states?limit=2").body);
  ASSERT_EQ(first["data"].size(), 2u);
  EXPECT_EQ(first["data"][1], Json({{"id", Digest{{2}}.Hex()},
                                    {"object", "cache.state"},
                                    {"method", "h2o:budget=64"},
                                    {"tokens", 102},
                                    {"bytes", 7},
                                    {"held", true}}));
  EXPECT_EQ(first["next"], first["data"][1]["id"]);
  const Json last = Json::parse(Get("/v1/cache/states?after=" + first["next"].get<std::string>()).body);
  ASSERT_EQ(last["data"].size(), 1u);
  EXPECT_EQ(last["data"][0]["tokens"], 103);
  EXPECT_EQ(last["next"], nullptr);
  ExpectError(Get("/v1/cache/states?limit=0"), 400, "limit");
  ExpectError(Get("/v1/cache/states?after=x"), 400, "after");
}

TEST_F(EndpointsTest, APathMayHaveSeveralMethods) {
  Start();
  const std::string path = "/v1/cache/chunks";
  EXPECT_EQ(Get(path).status, 200);
  const Answer head = Exchange("HEAD " + path + " HTTP/1.1\r\nHost: x\r\n\r\n");
  EXPECT_EQ(head.status, 200);
  EXPECT_TRUE(head.body.empty());
  ExpectError(Post(path, Json::object()), 400, "chunks");
  const Answer wrong = Exchange("PUT " + path + " HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n");
  ExpectError(wrong, 405, "", "method_not_allowed");
  EXPECT_EQ(wrong.headers.at("allow"), "GET, HEAD, POST, OPTIONS");
  const Answer model = Exchange("POST /v1/models/x HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n");
  ExpectError(model, 405, "", "method_not_allowed");
  EXPECT_EQ(model.headers.at("allow"), "GET, HEAD, OPTIONS");
}

TEST_F(EndpointsTest, MetricsAreWellFormedAndHaveFamiliarNames) {
  backend_.stats.prompt_tokens = 12;
  backend_.stats.generation_tokens = 34;
  backend_.stats.running = 2;
  backend_.stats.kv.used_bytes = 1;
  backend_.stats.kv.limit_bytes = 4;
  backend_.id = "quote\"d";
  Start();
  const Answer answer = Get("/metrics");
  EXPECT_TRUE(answer.headers.at("content-type").starts_with("text/plain; version=0.0.4"));
  const std::string label = "{model_name=\"quote\\\"d\"}";
  for (const std::string& line :
       {"vllm:num_requests_running" + label + " 2", "vllm:num_requests_waiting" + label + " 0",
        "vllm:kv_cache_usage_perc" + label + " 0.25", "vllm:prompt_tokens_total" + label + " 12",
        "vllm:generation_tokens_total" + label + " 34"}) {
    EXPECT_NE(answer.body.find(line + "\n"), std::string::npos) << line;
  }
  // Every sample has HELP and TYPE before it.
  std::string described;
  size_t from = 0;
  for (size_t end; (end = answer.body.find('\n', from)) != std::string::npos; from = end + 1) {
    const std::string line = answer.body.substr(from, end - from);
    if (line.starts_with("# TYPE ")) described = line.substr(7, line.find(' ', 7) - 7);
    if (!line.starts_with("#")) {
      EXPECT_TRUE(line.starts_with(described)) << line;
    }
  }
}

TEST_F(EndpointsTest, MetricsHaveTheFiguresOfChunksAndStates) {
  backend_.stats.chunks = {.chunks = 1,
                           .tokens = 2,
                           .bytes = 3,
                           .limit_bytes = 4,
                           .stored = 5,
                           .evicted = 6,
                           .matches = 7,
                           .matched_tokens = 8,
                           .below = 9,
                           .restored = 10};
  backend_.stats.states = {.states = 11,
                           .tokens = 12,
                           .bytes = 13,
                           .limit_bytes = 14,
                           .stored = 15,
                           .refused = 16,
                           .evicted = 17,
                           .hits = 18,
                           .hit_tokens = 19};
  Start();
  const std::string body = Get("/metrics").body;
  for (const char* sample :
       {"chunks 1", "chunk_tokens 2", "chunk_bytes 3", "chunk_limit_bytes 4",
        "chunk_changes_total{change=\"stored\"} 5", "chunk_changes_total{change=\"evicted\"} 6",
        "chunk_matches_total 7", "chunk_matched_tokens_total 8", "chunks_below 9",
        "chunk_changes_total{change=\"restored\"} 10", "states 11", "state_tokens 12", "state_bytes 13",
        "state_limit_bytes 14", "state_changes_total{change=\"stored\"} 15",
        "state_changes_total{change=\"refused\"} 16", "state_changes_total{change=\"evicted\"} 17",
        "state_hits_total 18", "state_hit_tokens_total 19"}) {
    EXPECT_NE(body.find(std::string("\nlarder_kv_") + sample + "\n"), std::string::npos) << sample;
  }
}

TEST_F(EndpointsTest, RequestIdsComeBack) {
  Start();
  const Answer own = Get("/health", "X-Request-ID: abc-123\r\n");
  EXPECT_EQ(own.headers.at("x-request-id"), "abc-123");
  EXPECT_EQ(own.headers.at("request-id"), "abc-123");
  EXPECT_FALSE(Get("/health").headers.at("x-request-id").empty());
  const std::string huge(300, 'x');
  EXPECT_NE(Get("/health", "X-Request-ID: " + huge + "\r\n").headers.at("x-request-id"), huge);
}

TEST_F(EndpointsTest, BrowsersOfOtherOriginsAreServed) {
  Start();
  const Answer preflight = Exchange(
      "OPTIONS /v1/chat/completions HTTP/1.1\r\nHost: x\r\nOrigin: http://ui.example\r\n"
      "Access-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: "
      "authorization,x-stainless-os\r\n\r\n");
  EXPECT_EQ(preflight.status, 200);
  EXPECT_EQ(preflight.headers.at("access-control-allow-origin"), "http://ui.example");
  EXPECT_NE(preflight.headers.at("access-control-allow-methods").find("POST"), std::string::npos);
  EXPECT_NE(preflight.headers.at("access-control-allow-headers").find("x-stainless-os"), std::string::npos);
  EXPECT_EQ(preflight.headers.at("access-control-allow-credentials"), "true");
  EXPECT_EQ(Get("/health", "Origin: http://ui.example\r\n").headers.at("access-control-allow-origin"),
            "http://ui.example");
}

TEST_F(EndpointsTest, AnyContentTypeAndAnyHeaderCaseIsFine) {
  Start();
  for (const char* type :
       {"", "Content-Type: text/plain\r\n", "CONTENT-TYPE: application/x-www-form-urlencoded\r\n",
        "content-type: application/json; charset=utf-8\r\n"}) {
    EXPECT_EQ(Post("/v1/completions", {{"prompt", "a"}}, type).status, 200) << type;
  }
  const std::string body = R"({"prompt":"a"})";
  EXPECT_EQ(Exchange("POST /v1/completions HTTP/1.1\r\nhOsT: x\r\ncOnTeNt-LeNgTh: " +
                     std::to_string(body.size()) + "\r\n\r\n" + body)
                .status,
            200);
  EXPECT_EQ(Exchange("POST http://proxy.example/v1/completions HTTP/1.1\r\nContent-Length: " +
                     std::to_string(body.size()) + "\r\n\r\n" + body)
                .status,
            200);
}

TEST_F(EndpointsTest, WrongPathsAndMethodsHaveTheErrorShape) {
  Start();
  ExpectError(Get("/v1/nothing"), 404, "", "not_found");
  ExpectError(Get("/v1/v1/models"), 404);
  const Answer wrong = Get("/v1/chat/completions");
  ExpectError(wrong, 405, "", "method_not_allowed");
  EXPECT_EQ(wrong.headers.at("allow"), "POST, OPTIONS");
  ExpectError(Exchange("DELETE /v1/models HTTP/1.1\r\nHost: x\r\n\r\n"), 405);
  ExpectError(Exchange("BREW /v1/models HTTP/1.1\r\nHost: x\r\n\r\n"), 405);
}

TEST_F(EndpointsTest, TheStatusPageIsSelfContained) {
  Start();
  const Answer page = Get("/");
  EXPECT_EQ(page.status, 200);
  EXPECT_TRUE(page.headers.at("content-type").starts_with("text/html"));
  EXPECT_NE(page.body.find("v1/cache/stats"), std::string::npos);
  EXPECT_EQ(page.body.find("http://"), std::string::npos);
  EXPECT_EQ(page.body.find("https://"), std::string::npos);
}

}  // namespace
}  // namespace larder::testing
