// Connections: many, idle, early, slow, gone, and the server's end.
#include <sys/resource.h>

#include <atomic>
#include <thread>

#include "serve/serve_fixture.h"

namespace larder::testing {
namespace {

Script Endless() {
  Script script = Say("tick ");
  script.endless = true;
  return script;
}

class ConnectionTest : public ServeTest {
 protected:
  static std::string ChatText(bool stream, int max_tokens = 0) {
    Json body = {{"messages", {{{"role", "user"}, {"content", "x"}}}}, {"stream", stream}};
    if (max_tokens > 0) body["max_tokens"] = max_tokens;
    return PostText("/v1/chat/completions", body.dump());
  }
};

TEST_F(ConnectionTest, IdleConnectionsRestForAtLeastFiveMinutes) {
  EXPECT_GE(ServeOptions().idle_timeout_s, 300);
}

TEST_F(ConnectionTest, HundredsOfIdleConnectionsDoNotDisturb) {
  rlimit limit{};
  getrlimit(RLIMIT_NOFILE, &limit);
  limit.rlim_cur = std::min<rlim_t>(limit.rlim_max, 4096);
  setrlimit(RLIMIT_NOFILE, &limit);
  Start();
  std::vector<HttpClient> idle;
  for (int i = 0; i < 500; ++i) {
    idle.emplace_back(port_);
    ASSERT_TRUE(idle.back().connected()) << i;
  }
  for (int i = 0; i < 500; i += 25) {
    idle[static_cast<size_t>(i)].Send(GetText("/health"));
    EXPECT_EQ(idle[static_cast<size_t>(i)].Read().status, 200);
  }
  EXPECT_EQ(Chat({}).status, 200);
  for (HttpClient& client : idle) client.Send(ChatText(true));
  for (HttpClient& client : idle) EXPECT_TRUE(client.Read().complete);
}

TEST_F(ConnectionTest, OneConnectionTakesAnyNumberOfRequests) {
  Start();
  HttpClient client(port_);
  for (int i = 0; i < 300; ++i) {
    client.Send(i % 3 == 0 ? ChatText(true) : i % 3 == 1 ? ChatText(false) : GetText("/metrics"));
    ASSERT_TRUE(client.Read().complete) << i;
  }
}

TEST_F(ConnectionTest, PipelinedRequestsAreAnsweredInOrder) {
  backend_.script = [](const Request& request) { return Say(request.stop.empty() ? "?" : request.stop[0]); };
  Start();
  HttpClient client(port_);
  std::string text;
  for (int i = 0; i < 20; ++i) {
    const Json body = {
        {"prompt", "x"}, {"stop", std::to_string(i)}, {"stream", i % 2 == 0}, {"max_tokens", 9}};
    text += PostText("/v1/completions", body.dump());
    text += "\r\n";  // some clients do
  }
  client.Send(text);
  for (int i = 0; i < 20; ++i) {
    const Answer answer = client.Read();
    ASSERT_EQ(answer.status, 200) << i;
    if (i % 2 == 1) {
      EXPECT_EQ(Json::parse(answer.body)["choices"][0]["text"], std::to_string(i));
    }
  }
}

TEST_F(ConnectionTest, ARequestMayComeByteByByte) {
  Start();
  HttpClient client(port_);
  for (const char byte : ChatText(false)) client.Send(std::string(1, byte));
  EXPECT_EQ(client.Read().status, 200);
}

TEST_F(ConnectionTest, ABodyMayBeChunked) {
  Start();
  HttpClient client(port_);
  client.Send(
      "POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
      "5\r\n{\"pro\r\nA;x=y\r\nmpt\":\"abc\"\r\n1\r\n}\r\n0\r\nTrailer: 1\r\n\r\n");
  EXPECT_EQ(client.Read().status, 200);
  EXPECT_EQ(backend_.last().prompt.size(), 3u);
}

TEST_F(ConnectionTest, Expect100IsAnsweredBeforeTheBody) {
  Start();
  HttpClient client(port_);
  const std::string body = R"({"prompt":"abc"})";
  client.Send(fmt::format(
      "POST /v1/completions HTTP/1.1\r\nHost: x\r\nExpect: 100-Continue\r\nContent-Length: {}\r\n\r\n",
      body.size()));
  EXPECT_EQ(client.Read().status, 100);
  client.Send(body);
  EXPECT_EQ(client.Read().status, 200);
}

TEST_F(ConnectionTest, ABodyAboveOneMegabyteIsTaken) {
  backend_.context_tokens = 4 << 20;
  Start();
  EXPECT_EQ(Post("/v1/completions", {{"prompt", std::string(3 << 20, 'x')}}).status, 200);
  EXPECT_EQ(backend_.last().prompt.size(), 3u << 20);
}

TEST_F(ConnectionTest, AStreamIsCancelledWhenTheClientGoes) {
  backend_.script = [](const Request&) { return Endless(); };
  Start();
  {
    HttpClient client(port_);
    client.Send(ChatText(true));
    client.ReadHead();
    client.ReadChunk();
  }
  EXPECT_TRUE(backend_.WaitCancelled(1));
}

TEST_F(ConnectionTest, AnUnstreamedRequestIsCancelledWhenTheClientGoes) {
  backend_.script = [](const Request&) { return Endless(); };
  Start();
  {
    HttpClient client(port_);
    client.Send(ChatText(false));
    ASSERT_TRUE(backend_.WaitSubmitted(1));
  }
  EXPECT_TRUE(backend_.WaitCancelled(1));
}

TEST_F(ConnectionTest, AllPromptsOfAGoneClientAreCancelled) {
  backend_.script = [](const Request&) { return Endless(); };
  Start();
  {
    HttpClient client(port_);
    client.Send(PostText("/v1/completions", R"({"prompt":["a","b","c"],"max_tokens":4000})"));
    ASSERT_TRUE(backend_.WaitSubmitted(3));
    client.CloseSending();  // half closed is gone too, for an answer that takes long
    EXPECT_TRUE(backend_.WaitCancelled(3));
  }
}

TEST_F(ConnectionTest, AQuickAnswerReachesAHalfClosedClient) {
  Start();
  HttpClient client(port_);
  client.Send(GetText("/v1/models"));
  client.CloseSending();
  EXPECT_EQ(client.Read().status, 200);
}

TEST_F(ConnectionTest, AClientThatDoesNotReadIsCutOff) {
  backend_.script = [](const Request&) {
    Script script = Say(std::string(2000, 'x'));
    script.endless = true;
    return script;
  };
  ServeOptions options;
  options.max_unsent_bytes = 64 << 10;
  Start(options);
  HttpClient client(port_);
  Json body = {{"messages", {{{"role", "user"}, {"content", "x"}}}}, {"stream", true}, {"n", 64}};
  client.Send(PostText("/v1/chat/completions", body.dump()));
  EXPECT_TRUE(backend_.WaitCancelled(1));  // nothing is read; the buffer's limit is reached
  EXPECT_EQ(Get("/health").status, 200);
}

TEST_F(ConnectionTest, TooBigABodyIsRefusedAndTheAnswerArrives) {
  ServeOptions options;
  options.max_body_bytes = 10000;
  Start(options);
  ExpectError(Post("/v1/completions", {{"prompt", std::string(3 << 20, 'x')}}), 413);
  HttpClient client(port_);
  client.Send("POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n");
  const std::string chunk = "1000\r\n" + std::string(4096, 'x') + "\r\n";
  for (int i = 0; i < 100; ++i) client.Send(chunk);
  ExpectError(client.Read(), 413);
}

TEST_F(ConnectionTest, TooBigAHeaderIsRefused) {
  Start();
  ExpectError(Get("/health", "X-Big: " + std::string(100'000, 'x') + "\r\n"), 431);
  std::string many;
  for (int i = 0; i < 20'000; ++i) many += fmt::format("X-{}: y\r\n", i);
  ExpectError(Get("/health", many), 431);
}

TEST_F(ConnectionTest, SlowHeadersAndBodiesGet408) {
  ServeOptions options;
  options.read_timeout_s = 1;
  Start(options);
  HttpClient slow_header(port_), slow_body(port_), resting(port_);
  slow_header.Send("POST /v1/completions HTTP/1.1\r\nHo");
  slow_body.Send("POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{\"prompt\":");
  ExpectError(slow_header.Read(), 408);
  ExpectError(slow_body.Read(), 408);
  resting.Send(GetText("/health"));  // no time limit before a request has begun
  EXPECT_EQ(resting.Read().status, 200);
}

TEST_F(ConnectionTest, RestingConnectionsEndAfterTheIdleTime) {
  ServeOptions options;
  options.idle_timeout_s = 1;
  Start(options);
  HttpClient client(port_);
  client.Send(GetText("/health"));
  EXPECT_EQ(client.Read().status, 200);
  EXPECT_TRUE(client.Closed());
}

TEST_F(ConnectionTest, AFullQueueIsA429WithAnIntegerRetryAfter) {
  backend_.refuse = [](const Request&) -> std::optional<Error> {
    return Error{ErrorKind::kUnavailable, "1024 requests wait already; retry later"};
  };
  Start();
  for (const bool stream : {false, true}) {
    const Answer answer = Exchange(ChatText(stream));
    ExpectError(answer, 429);
    const std::string seconds = answer.headers.at("retry-after");
    EXPECT_EQ(seconds.find_first_not_of("0123456789"), std::string::npos);
    EXPECT_GE(std::stoi(seconds), 1);
    EXPECT_LE(std::stoi(seconds), 120);
  }
}

TEST_F(ConnectionTest, TooManyConnectionsGetA503) {
  if (TestTls()) GTEST_SKIP() << "a full server spares itself the handshake: tls_test";
  ServeOptions options;
  options.max_connections = 2;
  Start(options);
  HttpClient first(port_), second(port_);
  for (HttpClient* client : {&first, &second}) {
    client->Send(GetText("/health"));
    EXPECT_EQ(client->Read().status, 200);
  }
  HttpClient third(port_);
  const Answer refused = third.Read();
  ExpectError(refused, 503, "", "overloaded");
  EXPECT_TRUE(refused.headers.contains("retry-after"));
}

TEST_F(ConnectionTest, DrainingFinishesWhatRunsAndRefusesTheRest) {
  backend_.script = [&](const Request&) { return Endless(); };
  Start();
  HttpClient running(port_), resting(port_);
  running.Send(ChatText(true, 3000));
  running.ReadHead();
  resting.Send(GetText("/health"));
  EXPECT_EQ(resting.Read().status, 200);
  std::atomic<bool> drained = false;
  std::thread drainer([&] { drained = server_->Drain(60'000); });
  Answer health;
  do {
    health = Get("/health");
  } while (health.status == 200);
  EXPECT_EQ(health.status, 503);
  ExpectError(Exchange(ChatText(false)), 503, "", "draining");
  std::string last;
  while (const auto chunk = running.ReadChunk()) {
    if (chunk->empty()) break;
    last = *chunk;
  }
  EXPECT_EQ(last, "data: [DONE]\n\n");
  drainer.join();
  EXPECT_TRUE(drained);
  runner_.join();  // Run has ended by itself
  EXPECT_FALSE(HttpClient(port_).connected());
}

TEST_F(ConnectionTest, DrainingGivesUpAfterItsTime) {
  backend_.script = [](const Request&) { return Endless(); };
  Start();
  HttpClient running(port_);
  running.Send(ChatText(true));
  running.ReadHead();
  EXPECT_FALSE(server_->Drain(1));
  runner_.join();
  EXPECT_TRUE(backend_.WaitCancelled(1));
}

TEST_F(ConnectionTest, StoppingCancelsEverything) {
  backend_.script = [](const Request&) { return Endless(); };
  Start();
  std::vector<HttpClient> clients;
  for (int i = 0; i < 20; ++i) {
    clients.emplace_back(port_);
    clients.back().Send(ChatText(i % 2 == 0));
  }
  ASSERT_TRUE(backend_.WaitSubmitted(20));
  server_->Stop();
  runner_.join();
  EXPECT_TRUE(backend_.WaitCancelled(20));
}

TEST_F(ConnectionTest, SixtyFourStreamsAtOnce) {
  Start();
  std::vector<std::thread> threads;
  std::atomic<int> complete = 0;
  for (int i = 0; i < 64; ++i) {
    threads.emplace_back([&] {
      HttpClient client(port_);
      client.Send(ChatText(true));
      if (client.Read().complete) ++complete;
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(complete, 64);
}

// Clients that leave at random moments of a stream: nothing may be left behind.
TEST_F(ConnectionTest, RandomDisconnectsLeaveNothingBehind) {
  Start();
  for (int i = 0; i < 200; ++i) {
    HttpClient client(port_);
    const std::string text = ChatText(i % 2 == 0);
    const bool whole = i % 5 != 0;
    client.Send(std::string_view(text).substr(0, whole ? text.size() : static_cast<size_t>(i) % text.size()));
    if (whole && i % 3 == 0) client.ReadHead();
  }
  std::string metrics;
  for (int i = 0; i < 1000 && metrics.find("larder_http_connections 1\n") == std::string::npos; ++i) {
    metrics = Get("/metrics").body;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  EXPECT_NE(metrics.find("larder_http_connections 1\n"), std::string::npos) << metrics;
}

}  // namespace
}  // namespace larder::testing
