// Do hints reach the engine as what they mean, are malformed ones refused in the usual shape, and does nobody
// see what is another tenant's?
#include <algorithm>
#include <fstream>
#include <ranges>

#include "serve/serve_fixture.h"

namespace larder::testing {
namespace {

class HintsTest : public ServeTest {
 protected:
  CacheHints ChatHints(Json body, std::string_view headers = "") {
    if (!body.contains("messages")) body["messages"] = Json::array({{{"role", "user"}, {"content", "Hi"}}});
    EXPECT_EQ(Post("/v1/chat/completions", body, headers).status, 200);
    return backend_.last().hints;
  }
  Answer Hint(const Json& body) { return Post("/v1/cache/hints", body); }
};

TEST_F(HintsTest, ARequestWithoutHintsHasNone) {
  Start();
  const CacheHints hints = ChatHints({});
  EXPECT_EQ(hints.program, "");
  EXPECT_TRUE(hints.retain.empty());
  EXPECT_FALSE(hints.last_step);
}

TEST_F(HintsTest, AProgramsTurnsHaveItsNameUnderAllNames) {
  Start();
  EXPECT_EQ(ChatHints({{"larder", {{"program_id", "p"}}}}).program, "p");
  EXPECT_EQ(ChatHints({{"job_id", "p"}}).program, "p");
  EXPECT_EQ(ChatHints({{"job_id", 12}}).program, "12");
  EXPECT_EQ(ChatHints({{"agent_hint", {{"session_id", "p"}}}}).program, "p");
  EXPECT_EQ(ChatHints({}, "X-Session-Id: p\r\n").program, "p");
  EXPECT_EQ(
      ChatHints({{"larder", {{"program_id", "own"}}}, {"job_id", "other"}}, "X-Session-Id: s\r\n").program,
      "own");
  EXPECT_TRUE(ChatHints({{"larder", {{"program_id", "p"}, {"is_last_step", true}}}}).last_step);
  EXPECT_TRUE(ChatHints({{"job_id", "p"}, {"is_last_step", true}}).last_step);
  const CacheHints usual = ChatHints({{"larder", {{"program_id", "p"}}}});
  EXPECT_EQ(usual.turn.ttl_ms, 300'000);
  EXPECT_EQ(usual.turn.priority, 35);
  const Json control = {{"ttl_ms", 9000}, {"priority", 80}};
  const CacheHints own = ChatHints({{"larder", {{"program_id", "p"}, {"cache_control", control}}}});
  EXPECT_EQ(own.turn.ttl_ms, 9000);
  EXPECT_EQ(own.turn.priority, 80);
  EXPECT_TRUE(own.retain.empty()) << "the turn's lease is the one";
  const Json session = {{"session_id", "p"}, {"cache_control", {{"type", "ephemeral"}, {"ttl", 30}}}};
  EXPECT_EQ(ChatHints({{"agent_hint", session}}).turn.ttl_ms, 30'000);
}

TEST_F(HintsTest, RetentionIsAskedForInManyWays) {
  Start();
  const auto only = [&](const CacheHints& hints) {
    EXPECT_EQ(hints.retain.size(), 1u);
    return hints.retain.empty() ? Retention{} : hints.retain[0];
  };
  EXPECT_EQ(only(ChatHints({{"prompt_cache_retention", "24h"}})).ttl_ms, 24 * 3'600'000);
  EXPECT_EQ(only(ChatHints({{"prompt_cache_retention", "in_memory"}})).ttl_ms, 300'000);
  EXPECT_EQ(only(ChatHints({{"prompt_cache_retention", "in-memory"}})).rows, -1);
  EXPECT_EQ(ChatHints({{"prompt_cache_key", "k"}}).key, "k");
  EXPECT_TRUE(ChatHints({{"prompt_cache_key", "k"}, {"prompt_cache_retention", nullptr}}).retain.empty());
  EXPECT_EQ(only(ChatHints({{"cache_control", {{"type", "ephemeral"}}}})).ttl_ms, 300'000);
  EXPECT_EQ(only(ChatHints({{"cache_control", {{"type", "ephemeral"}, {"ttl", "1h"}}}})).ttl_ms, 3'600'000);
  const Retention own = only(ChatHints({{"larder", {{"cache_control", {{"ttl_ms", 5}, {"priority", 99}}}}}}));
  EXPECT_EQ(own.ttl_ms, 5);
  EXPECT_EQ(own.priority, 99);
  const Json ranges = Json::array(
      {{{"start", 0}, {"end", 10}, {"priority", 90}, {"ttl_ms", 7}}, {{"start", 10}, {"end", 20}}});
  const CacheHints hints = ChatHints({{"larder", {{"cache_control", {{"ranges", ranges}}}}}});
  ASSERT_EQ(hints.retain.size(), 2u);
  EXPECT_EQ(hints.retain[0].rows, 10);
  EXPECT_EQ(hints.retain[0].ttl_ms, 7);
  EXPECT_EQ(hints.retain[1].rows, 20);
  EXPECT_EQ(hints.retain[1].priority, 35);
  EXPECT_EQ(Post("/v1/completions", {{"prompt", "a"}, {"prompt_cache_retention", "24h"}}).status, 200);
  EXPECT_EQ(backend_.last().hints.retain.size(), 1u);
}

// The fake template is ChatML of bytes: "<|im_start|>role\ncontent<|im_end|>\n".
TEST_F(HintsTest, MarksOnMessagesEndWhereTheMessageEnds) {
  Start();
  const Json mark = {{"type", "ephemeral"}, {"ttl", "1h"}};
  const auto message = [](const char* role, Json content) {
    return Json{{"role", role}, {"content", content}};
  };
  Json messages = Json::array({message("system", "You are terse."), message("user", "Hello there"),
                               message("assistant", "Hi"), message("user", "Bye")});
  ASSERT_TRUE(ChatHints({{"messages", messages}}).retain.empty());
  const std::vector<int32_t> unmarked = backend_.last().prompt;
  messages[0]["cache_control"] = mark;
  messages[1]["content"] =
      Json::array({{{"type", "text"}, {"text", "Hello"}, {"cache_control", {{"type", "ephemeral"}}}},
                   {{"type", "text"}, {"text", "there"}}});
  const CacheHints hints = ChatHints({{"messages", messages}});
  std::vector<int32_t> same = unmarked;
  const auto joint = std::ranges::search(
      same, std::string("o there") | std::views::transform([](char c) { return int32_t{c}; }));
  *std::next(joint.begin()) = '\n';  // how parts are joined
  EXPECT_EQ(backend_.last().prompt, same) << "marks change the prompt";
  ASSERT_EQ(hints.retain.size(), 2u);
  const int64_t system = 1 + 7 + 14 + 1 + 1;  // <|im_start|> "system\n" text <|im_end|> "\n"
  EXPECT_EQ(hints.retain[0].rows, system);
  EXPECT_EQ(hints.retain[0].ttl_ms, 3'600'000);
  EXPECT_EQ(hints.retain[1].rows, system + 1 + 5 + 5) << "up to the end of the first part's text";
  EXPECT_EQ(hints.retain[1].ttl_ms, 300'000);
}

TEST_F(HintsTest, AMarkOnAToolCountsForTheSystemMessageAndIsNoPartOfTheTool) {
  Start();
  const Json messages =
      Json::array({{{"role", "system"}, {"content", "Be."}}, {{"role", "user"}, {"content", "x"}}});
  const Json tool = {
      {"type", "function"}, {"function", {{"name", "f"}}}, {"cache_control", {{"type", "ephemeral"}}}};
  const CacheHints hints = ChatHints({{"messages", messages}, {"tools", Json::array({tool})}});
  ASSERT_EQ(hints.retain.size(), 1u);
  EXPECT_EQ(hints.retain[0].rows, 1 + 7 + 3 + 2);
  EXPECT_EQ(backend_.rendered_context().find("cache_control"), std::string::npos);
}

TEST(HintsBos, AMarkCountsABosThatTheTemplateDoesNotPrint) {
  FakeBackend backend(true);
  ServeOptions options;
  options.port = 0;
  auto server = Server::Create(&backend, options);
  ASSERT_TRUE(server.has_value());
  std::thread runner([&] { (*server)->Run(); });
  HttpClient client((*server)->port());
  const Json message = {{"role", "user"}, {"content", "abc"}, {"cache_control", {{"type", "ephemeral"}}}};
  client.Send(PostText("/v1/chat/completions", Json{{"messages", Json::array({message})}}.dump()));
  EXPECT_EQ(client.Read().status, 200);
  ASSERT_EQ(backend.last().hints.retain.size(), 1u);
  EXPECT_EQ(backend.last().hints.retain[0].rows, 1 + 1 + 5 + 3 + 2);
  (*server)->Stop();
  runner.join();
}

TEST_F(HintsTest, MalformedFieldsAreRefusedByName) {
  Start();
  const auto refuse = [&](const Json& body, const std::string& param) {
    ExpectError(Chat(body), 400, param);
  };
  refuse({{"prompt_cache_key", 5}}, "prompt_cache_key");
  refuse({{"prompt_cache_key", std::string(257, 'k')}}, "prompt_cache_key");
  refuse({{"prompt_cache_retention", "forever"}}, "prompt_cache_retention");
  refuse({{"cache_control", "ephemeral"}}, "cache_control");
  refuse({{"cache_control", {{"type", "eternal"}}}}, "cache_control");
  refuse({{"cache_control", {{"type", "ephemeral"}, {"ttl", "2h"}}}}, "cache_control.ttl");
  refuse({{"cache_control", {{"type", "ephemeral"}, {"ttl", -1}}}}, "cache_control.ttl");
  refuse({{"job_id", Json::array()}}, "job_id");
  refuse({{"agent_hint", 1}}, "agent_hint");
  refuse({{"agent_hint", {{"cache_control", {{"ttl", 3601}}}}}}, "agent_hint.cache_control.ttl");
  refuse({{"is_last_step", "yes"}}, "is_last_step");
  const auto larder = [&](const Json& fields, const std::string& param) {
    refuse({{"larder", fields}}, param);
  };
  larder({{"program_id", std::string(300, 'p')}}, "larder.program_id");
  larder({{"program_id", 1}}, "larder.program_id");
  larder({{"step", "one"}}, "larder.step");
  larder({{"last_tool_ms", "long"}}, "larder.last_tool_ms");
  larder({{"slo", 5}}, "larder.slo");
  larder({{"cache_control", {{"ttl_ms", 0}}}}, "larder.cache_control.ttl_ms");
  larder({{"cache_control", {{"ttl_ms", int64_t{31} * 24 * 3'600'000}}}}, "larder.cache_control.ttl_ms");
  larder({{"cache_control", {{"priority", 101}}}}, "larder.cache_control.priority");
  larder({{"cache_control", {{"ranges", 5}}}}, "larder.cache_control.ranges");
  const auto range = [&](const Json& one, const std::string& field) {
    larder({{"cache_control", {{"ranges", Json::array({one})}}}}, "larder.cache_control.ranges[0]" + field);
  };
  range(5, "");
  range({{"end", 5}}, ".start");
  range({{"start", 0}}, ".end");
  range({{"start", 5}, {"end", 5}}, ".end");
  range({{"start", -1}, {"end", 5}}, ".start");
  range({{"start", 0}, {"end", 5.5}}, ".end");
  range({{"start", 0}, {"end", 1e300}}, ".end");
  range({{"start", 0}, {"end", 5}, {"priority", -1}}, ".priority");
  range({{"start", 0}, {"end", 5}, {"ttl_ms", "x"}}, ".ttl_ms");
  larder({{"cache_control", {{"ranges", Json(65, Json{{"start", 0}, {"end", 1}})}}}},
         "larder.cache_control.ranges");
  Json message = {{"role", "user"}, {"content", "x"}, {"cache_control", {{"type", "other"}}}};
  refuse({{"messages", Json::array({message})}}, "messages[0].cache_control");
  message["cache_control"] = {{"type", "ephemeral"}};
  refuse({{"messages", Json(5, message)}}, "messages[4]");
  EXPECT_TRUE(backend_.requests().empty());
}

TEST_F(HintsTest, OtherClientsFieldsAreAccepted) {
  Start();
  ChatHints({{"nvext", {{"agent_hints", {{"osl", 5}, {"priority", 1}}}}},
             {"last_func_call", nullptr},
             {"this_func_call", "search"},
             {"agent_id", 7},
             {"larder",
              {{"parent_program_id", "q"},
               {"this_tool", "t"},
               {"last_tool", "t"},
               {"workflow_id", "w"},
               {"agent", "a"},
               {"steps_to_execution", {{"a", 1}}},
               {"slo", {{"ttft_ms", 5}}},
               {"context", {0.5}}}}});
}

TEST_F(HintsTest, ExplainTellsWhatBecameOfLeases) {
  backend_.script = [](const Request&) {
    Script script = Say("x");
    script.report.leases = {{100, 5000, 35, ""}, {64, 1000, 90, "only 64 of 70"}, {0, 10, 1, "nothing"}};
    return script;
  };
  Start();
  const Json explained = Json::parse(Chat({{"larder", {{"explain", true}}}}).body)["larder"];
  ASSERT_EQ(explained["lease"].size(), 3u);
  EXPECT_EQ(explained["lease"][0],
            Json({{"status", "accepted"}, {"tokens", 100}, {"ttl_ms", 5000}, {"priority", 35}}));
  EXPECT_EQ(explained["lease"][1]["status"], "clipped");
  EXPECT_EQ(explained["lease"][1]["reason"], "only 64 of 70");
  EXPECT_EQ(explained["lease"][2]["status"], "rejected");
  backend_.script = [](const Request&) { return Say("x"); };
  EXPECT_FALSE(Json::parse(Chat({{"larder", {{"explain", true}}}}).body)["larder"].contains("lease"));
}

TEST_F(HintsTest, ControlCallsNameTheirTargetInFiveWays) {
  Start();
  const Answer answer = Hint({{"action", "pin"},
                              {"target", {{"prompt", "abc"}}},
                              {"ttl_ms", 1000},
                              {"priority", 7},
                              {"strength", "soft"},
                              {"program_id", "me"}});
  EXPECT_EQ(Json::parse(answer.body), Json({{"status", "accepted"}, {"tokens", 3}, {"reason", nullptr}}));
  const larder::Hint& pin = backend_.hints.back();
  EXPECT_EQ(pin.action, HintAction::kPin);
  EXPECT_EQ(pin.tenant, "default");
  EXPECT_EQ(pin.target.tokens, (std::vector<int32_t>{97, 98, 99}));
  EXPECT_EQ(pin.ttl_ms, 1000);
  EXPECT_EQ(pin.priority, 7);
  EXPECT_FALSE(pin.hard);
  EXPECT_EQ(pin.holder, "me");

  EXPECT_EQ(Hint({{"action", "unpin"}, {"target", {{"tokens", {1, 2}}}}}).status, 200);
  EXPECT_EQ(backend_.hints.back().target.tokens, (std::vector<int32_t>{1, 2}));
  EXPECT_EQ(backend_.hints.back().action, HintAction::kUnpin);
  EXPECT_TRUE(backend_.hints.back().hard);
  const Json messages = Json::array({{{"role", "user"}, {"content", "x"}}});
  EXPECT_EQ(Hint({{"action", "prefetch"}, {"target", {{"messages", messages}}}}).status, 200);
  EXPECT_EQ(backend_.hints.back().target.tokens.back(), '\n') << "no beginning of an answer";
  EXPECT_EQ(backend_.hints.back().target.tokens.size(), 1u + 5 + 1 + 2);
  const std::string name = "00ff" + std::string(60, 'a');
  EXPECT_EQ(Hint({{"action", "demote"}, {"target", {{"block", name}}}}).status, 200);
  EXPECT_EQ(backend_.hints.back().target.block->Hex(), name);
  EXPECT_EQ(Hint({{"action", "evict"}, {"target", {{"program_id", "p"}}}}).status, 200);
  EXPECT_EQ(backend_.hints.back().target.holder, "p");

  backend_.answer_hint = [](const larder::Hint&) { return HintAnswer{HintStatus::kClipped, 64, "no room"}; };
  EXPECT_EQ(Json::parse(Hint({{"action", "pin"}, {"target", {{"prompt", "abc"}}}}).body),
            Json({{"status", "clipped"}, {"tokens", 64}, {"reason", "no room"}}));
}

TEST_F(HintsTest, MalformedControlCallsAreRefused) {
  Start();
  const Json target = {{"prompt", "abc"}};
  ExpectError(Hint({{"target", target}}), 400, "action");
  ExpectError(Hint({{"action", "hug"}, {"target", target}}), 400, "action");
  ExpectError(Hint({{"action", "pin"}}), 400, "target");
  ExpectError(Hint({{"action", "pin"}, {"target", Json::object()}}), 400, "target");
  ExpectError(Hint({{"action", "pin"}, {"target", "abc"}}), 400, "target");
  ExpectError(Hint({{"action", "pin"}, {"target", {{"prompt", "a"}, {"tokens", {1}}}}}), 400, "target");
  ExpectError(Hint({{"action", "pin"}, {"target", {{"tokens", {100'000}}}}}), 400);
  ExpectError(Hint({{"action", "pin"}, {"target", {{"tokens", {"a"}}}}}), 400, "target.tokens");
  ExpectError(Hint({{"action", "pin"}, {"target", {{"block", "abc"}}}}), 400, "target.block");
  ExpectError(Hint({{"action", "pin"}, {"target", {{"block", std::string(64, 'G')}}}}), 400, "target.block");
  ExpectError(Hint({{"action", "pin"}, {"target", {{"program_id", std::string(257, 'p')}}}}), 400);
  ExpectError(Hint({{"action", "pin"}, {"target", target}, {"ttl_ms", 0}}), 400, "ttl_ms");
  ExpectError(Hint({{"action", "pin"}, {"target", target}, {"priority", 1000}}), 400, "priority");
  ExpectError(Hint({{"action", "pin"}, {"target", target}, {"strength", "weak"}}), 400, "strength");
  ExpectError(Post("/v1/cache/hints", Json::array()), 400);
  ExpectError(Get("/v1/cache/hints"), 405);
  EXPECT_TRUE(backend_.hints.empty());
}

TEST_F(HintsTest, LeasesAreListed) {
  backend_.leases = {{"default", "p", LeaseKind::kTurn, false, 35, 100, 900}};
  Start();
  EXPECT_EQ(Json::parse(Get("/v1/cache/leases").body)["leases"][0], Json({{"holder", "p"},
                                                                          {"kind", "turn"},
                                                                          {"strength", "soft"},
                                                                          {"priority", 35},
                                                                          {"tokens", 100},
                                                                          {"ttl_ms", 900}}));
}

TEST_F(HintsTest, LmcacheControllersCallsAreAnswered) {
  backend_.lookup = {{"memory", 10}, {"disk", 12}, {"redis", 12}};
  Start();
  const auto call = [&](const std::string& name, const Json& body) {
    return Post("/v1/cache/lmcache/" + name, body);
  };
  const auto ok = [&](const std::string& name, const Json& body) {
    const Answer answer = call(name, body);
    EXPECT_EQ(answer.status, 200) << answer.body;
    return Json::parse(answer.body);
  };
  const Json tokens = {97, 98, 99};
  EXPECT_EQ(ok("query_instance", {{"event_id", "e"}, {"ip", "10.0.0.1"}})["res"], "larder");
  EXPECT_EQ(ok("lookup", {{"tokens", tokens}})["layout_info"], Json({{"larder", {"LocalDiskBackend", 12}}}));
  backend_.lookup = {{"memory", 0}};
  EXPECT_EQ(ok("lookup", {{"tokens", tokens}})["layout_info"], Json::object());

  const Json pinned =
      ok("pin",
         {{"tokens", tokens}, {"instance_id", "lmcache_default_instance"}, {"location", "LocalCPUBackend"}});
  EXPECT_EQ(pinned["num_tokens"], 3);
  EXPECT_EQ(backend_.hints.back().action, HintAction::kPin);
  EXPECT_EQ(backend_.hints.back().ttl_ms, 3'600'000);
  EXPECT_EQ(ok("check_finish", {{"event_id", pinned["event_id"]}})["status"], "finished");
  ExpectError(call("check_finish", {{"event_id", "made up"}}), 404, "event_id");

  const auto move = [&](const char* from, const char* to, bool copy) {
    return Json{{"old_position", {"larder", from}},
                {"new_position", {"larder", to}},
                {"tokens", tokens},
                {"copy", copy}};
  };
  EXPECT_EQ(ok("move", move("LocalCPUBackend", "LocalDiskBackend", false))["num_tokens"], 3);
  EXPECT_EQ(backend_.hints.back().action, HintAction::kDemote);
  EXPECT_EQ(ok("move", move("LocalDiskBackend", "LocalCPUBackend", true))["num_tokens"], 3);
  EXPECT_EQ(backend_.hints.back().action, HintAction::kPrefetch);
  backend_.answer_hint = [](const larder::Hint&) {
    return HintAnswer{HintStatus::kDeferred, 3, "it is being looked for below", 7};
  };
  const Json under_way = ok("move", move("LocalDiskBackend", "LocalCPUBackend", true));
  backend_.fetching = 7;
  EXPECT_EQ(ok("check_finish", {{"event_id", under_way["event_id"]}})["status"], "in_progress");
  EXPECT_EQ(ok("check_finish", {{"event_id", pinned["event_id"]}})["status"], "finished");
  backend_.fetching = 8;
  EXPECT_EQ(ok("check_finish", {{"event_id", under_way["event_id"]}})["status"], "finished");
  ExpectError(call("check_finish", {{"event_id", "Move-0123456789abcdef01234567"}}), 404, "event_id");
  backend_.answer_hint = [](const larder::Hint& hint) {
    return HintAnswer{HintStatus::kAccepted, static_cast<int64_t>(hint.target.tokens.size()), ""};
  };
  backend_.lookup = {{"memory", 3}, {"disk", 2}};
  EXPECT_EQ(ok("move", move("LocalCPUBackend", "LocalDiskBackend", true))["num_tokens"], 2);
  ExpectError(call("move", move("LocalDiskBackend", "LocalCPUBackend", false)), 501, "", "unsupported");

  EXPECT_EQ(
      ok("clear",
         {{"instance_id", "larder"}, {"location", "LocalCPUBackend"}, {"tokens", tokens}})["num_tokens"],
      3);
  EXPECT_EQ(backend_.hints.back().action, HintAction::kEvict);
  EXPECT_EQ(ok("clear", {{"instance_id", "larder"}, {"location", "LocalCPUBackend"}})["num_tokens"], 256);
  EXPECT_EQ(backend_.cleared, "default");
  for (const std::string name : {"compress", "decompress"}) {
    const auto refused =
        call(name, {{"instance_id", "larder"}, {"method", "cachegen"}, {"location", "LocalCPUBackend"}});
    ExpectError(refused, 501, "", "unsupported");
    EXPECT_NE(refused.body.find("--kv-type"), std::string::npos) << "what to do instead: " << refused.body;
  }
  const Json health = ok("health", {{"instance_id", "larder"}});
  EXPECT_EQ(health["error_code"], 0);
  EXPECT_EQ(health["error_codes"], Json({{"0", 0}}));

  ExpectError(call("lookup", Json::object()), 400, "tokens");
  ExpectError(call("lookup", {{"tokens", {1'000'000}}}), 400, "tokens");
  ExpectError(call("pin", {{"tokens", tokens}, {"instance_id", "other"}, {"location", "LocalCPUBackend"}}),
              404);
  ExpectError(call("pin", {{"tokens", tokens}, {"instance_id", "larder"}, {"location", "Moon"}}), 400,
              "location");
  ExpectError(call("move", {{"tokens", tokens}, {"old_position", {"larder"}}}), 400, "old_position");
  ExpectError(call("health", {{"instance_id", 5}}), 400, "instance_id");
}

TEST_F(HintsTest, EventsArePagedByWhatTheAnswerSaysIsNext) {
  std::vector<EventCursor> asked;
  backend_.events = [&](const std::string& tenant, bool all, const EventCursor& cursor, size_t limit) {
    EXPECT_EQ(tenant, "default");
    EXPECT_FALSE(all);
    EXPECT_EQ(limit, asked.empty() ? 1000u : 7u);
    asked.push_back(cursor);
    EventPage page{.reset = cursor.fresh};
    KvEvent stored;
    stored.sequence = cursor.fresh ? 0 : 5;
    stored.tenant = "default";
    stored.kinds = 3;
    stored.rows = 2;
    stored.tokens = {1, 2};
    KvEvent removed;
    removed.sequence = 6;
    removed.type = EventType::kRemoved;
    removed.tier = EventTier::kDisk;
    removed.tenant = "default";
    removed.kinds = 2;
    page.events = {stored, removed};
    page.next = {.fresh = false,
                 .epoch = 0xabc,
                 .sequence = 6,
                 .snapshot = cursor.fresh ? 9u : 0u,
                 .tier = cursor.fresh ? 1u : 0u};
    return page;
  };
  Start();
  const Json first = Json::parse(Get("/v1/cache/events").body);
  EXPECT_EQ(first["epoch"], "0000000000000abc");
  EXPECT_EQ(first["reset"], true);
  EXPECT_EQ(first["next"], "0000000000000abc:6:9:1");
  EXPECT_EQ(first["events"][0]["seq"], nullptr);
  EXPECT_EQ(first["events"][0]["kinds"], Json({"full", "window512"}));
  EXPECT_EQ(first["events"][0]["tokens"], Json({1, 2}));
  EXPECT_EQ(first["events"][1]["type"], "removed");
  EXPECT_EQ(first["events"][1]["tier"], "disk");
  EXPECT_EQ(first["events"][1]["kinds"], Json({"window512"}));
  EXPECT_FALSE(first["events"][1].contains("tokens"));
  const Json second = Json::parse(Get("/v1/cache/events?limit=7&after=0000000000000abc%3A6%3A9%3A1").body);
  EXPECT_EQ(second["next"], "0000000000000abc:6");
  EXPECT_EQ(second["reset"], false);
  ASSERT_EQ(asked.size(), 2u);
  EXPECT_EQ(asked[1].epoch, 0xabcu);
  EXPECT_EQ(asked[1].sequence, 6u);
  EXPECT_EQ(asked[1].snapshot, 9u);
  EXPECT_EQ(asked[1].tier, 1u);
  for (const char* bad :
       {"after=x", "after=5", "after=zz:1", "after=1:-1", "after=1:2:x", "after=1:2:3", "after=1:2:3:4:5",
        "limit=0", "limit=x", "limit=10001", "wait_ms=x", "wait_ms=-1", "wait_ms=30001"})
    ExpectError(Get(std::string("/v1/cache/events?") + bad), 400);
}

TEST_F(HintsTest, MetricsTellOfLeasesAndEvents) {
  backend_.stats.leases.leases = 4;
  backend_.stats.leases.broken = 2;
  backend_.stats.events = 11;
  Start();
  const std::string metrics = Get("/metrics").body;
  EXPECT_NE(metrics.find("larder_kv_leases 4\n"), std::string::npos);
  EXPECT_NE(metrics.find("larder_kv_lease_changes_total{change=\"broken\"} 2\n"), std::string::npos);
  EXPECT_NE(metrics.find("larder_kv_events_total 11\n"), std::string::npos);
  EXPECT_EQ(Json::parse(Get("/v1/cache/stats").body)["leases"]["count"], 4);
}

// Only the operator sees others' blocks, and not even the operator their tokens.
class HintsTenants : public ServeTest {
 protected:
  void SetUp() override {
    keys_ = ::testing::TempDir() + "/hints_test_keys";
    std::ofstream(keys_) << "alice: key-a\noperator: key-o\n";
    backend_.events = [](const std::string& tenant, bool all, const EventCursor& cursor, size_t) {
      EventPage page{.next = cursor};
      KvEvent own, other;
      own.tenant = tenant;
      other.tenant = "bob";
      own.tokens = other.tokens = {1, 2, 3};
      page.events.push_back(own);
      if (all) page.events.push_back(other);
      return page;
    };
    ServeOptions options;
    options.api_keys = keys_;
    Start(options);
  }
  std::string keys_;
};

TEST_F(HintsTenants, SeeTheirOwnAndTheOperatorNoStrangersTokens) {
  const Json alice = Json::parse(Get("/v1/cache/events", "Authorization: Bearer key-a\r\n").body);
  ASSERT_EQ(alice["events"].size(), 1u);
  EXPECT_EQ(alice["events"][0]["tokens"].size(), 3u);
  const Json all = Json::parse(Get("/v1/cache/events", "Authorization: Bearer key-o\r\n").body);
  ASSERT_EQ(all["events"].size(), 2u);
  EXPECT_EQ(all["events"][1]["tenant"], "bob");
  EXPECT_FALSE(all["events"][1].contains("tokens"));
  const Json body = {{"action", "pin"}, {"tenant", "bob"}, {"target", {{"prompt", "x"}}}};
  EXPECT_EQ(Post("/v1/cache/hints", body, "Authorization: Bearer key-a\r\n").status, 200);
  EXPECT_EQ(backend_.hints.back().tenant, "alice")
      << "the tenant comes from the credential, not from the body";
  for (const char* path : {"/v1/cache/events", "/v1/cache/leases"}) EXPECT_EQ(Get(path).status, 401);
  EXPECT_EQ(Post("/v1/cache/hints", body).status, 401);
  EXPECT_EQ(Post("/v1/cache/lmcache/lookup", {{"tokens", {1}}}).status, 401);
  const Answer health =
      Post("/v1/cache/lmcache/health", {{"instance_id", "larder"}}, "Authorization: Bearer key-o\r\n");
  const Json asked = {{"event_id", Json::parse(health.body)["event_id"]}};
  EXPECT_EQ(Post("/v1/cache/lmcache/check_finish", asked, "Authorization: Bearer key-o\r\n").status, 200);
  EXPECT_EQ(Post("/v1/cache/lmcache/check_finish", asked, "Authorization: Bearer key-a\r\n").status, 404)
      << "another tenant's call";
}

TEST_F(HintsTenants, KeyringFiguresAreTheOperators) {
  backend_.stats.tiers = {{"redis", {}}};
  backend_.stats.keyring = KeyringStats{.tenants = 5, .refused_entries = 2, .local_entries = 1};
  const std::string operators = "Authorization: Bearer key-o\r\n", others = "Authorization: Bearer key-a\r\n";
  EXPECT_EQ(Json::parse(Get("/v1/cache/stats", operators).body)["keyring"],
            Json({{"tenants", 5}, {"refused_entries", 2}, {"local_entries", 1}}));
  EXPECT_FALSE(Json::parse(Get("/v1/cache/stats", others).body).contains("keyring"));
  const std::string metrics = Get("/metrics", operators).body;
  EXPECT_NE(metrics.find("larder_keyring_tenants 5\n"), std::string::npos);
  EXPECT_NE(metrics.find("larder_keyring_refused_entries_total 2\n"), std::string::npos);
  EXPECT_NE(metrics.find("larder_keyring_local_entries_total 1\n"), std::string::npos);
  EXPECT_EQ(Get("/metrics", others).body.find("larder_keyring"), std::string::npos);
}

}  // namespace
}  // namespace larder::testing
