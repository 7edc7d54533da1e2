// Readers of events who wait for the next one: told at once, at the end of their time at the latest, and in
// nobody's way.
#include <atomic>
#include <chrono>
#include <thread>

#include "serve/serve_fixture.h"

namespace larder::testing {
namespace {

constexpr const char* kWait = "/v1/cache/events?after=1:5&wait_ms=30000";

class EventWaitsTest : public ServeTest {
 protected:
  void SetUp() override {
    backend_.events = [this](const std::string&, bool, const EventCursor& cursor, size_t) {
      ++asked_;
      return EventPage{.next = cursor};
    };
    backend_.events_now = [this](const EventCursor& cursor, EventPage& page) {
      ++swept_;
      page.next = cursor;
      if (happened_) page.events.emplace_back();
      return !lost_;
    };
    Start();
  }
  // They have been asked for, and found nothing.
  void AwaitWaiting(int readers) {
    while (asked_ < readers || swept_ < readers) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  static size_t EventsOf(HttpClient& client) {
    const Answer answer = client.Read();
    EXPECT_EQ(answer.status, 200) << answer.body;
    const Json body = Json::parse(answer.body);
    EXPECT_EQ(body["next"], "0000000000000001:5");
    EXPECT_EQ(body["reset"], false);
    return body["events"].size();
  }

  std::atomic<int> asked_ = 0, swept_ = 0;
  std::atomic<bool> happened_ = false, lost_ = false;
};

TEST_F(EventWaitsTest, ManyAreToldAtOnceAndHoldNoThread) {
  constexpr int kReaders = 20;  // more than there are threads for handlers
  std::vector<HttpClient> readers;
  for (int i = 0; i < kReaders; ++i) {
    readers.emplace_back(port_);
    readers.back().Send(GetText(kWait));
  }
  AwaitWaiting(kReaders);
  EXPECT_EQ(Post("/v1/tokenize", {{"prompt", "x"}}).status, 200);
  backend_.TellOfEvents();  // of others
  EXPECT_EQ(Post("/v1/tokenize", {{"prompt", "x"}}).status, 200);
  happened_ = true;
  backend_.TellOfEvents();
  for (HttpClient& reader : readers) EXPECT_EQ(EventsOf(reader), 1u);
  readers[0].Send(GetText("/health"));
  EXPECT_EQ(readers[0].Read().status, 200) << "the connection goes on";
}

TEST_F(EventWaitsTest, WhatHappensWhileOneBeginsToWaitIsNotMissed) {
  happened_ = true;  // behind the first look
  HttpClient reader(port_);
  reader.Send(GetText(kWait));
  EXPECT_EQ(EventsOf(reader), 1u);
}

TEST_F(EventWaitsTest, AnswersEmptyWhenItsTimeIsOverOrItFellBehind) {
  HttpClient patient(port_), reader(port_);
  patient.Send(GetText(kWait));
  AwaitWaiting(1);
  reader.Send(GetText("/v1/cache/events?after=1:5&wait_ms=30"));
  EXPECT_EQ(EventsOf(reader), 0u);
  lost_ = true;
  backend_.TellOfEvents();
  EXPECT_EQ(EventsOf(patient), 0u) << "asks again, and is told to begin anew";
}

TEST_F(EventWaitsTest, WhoHasLeftIsForgotten) {
  {
    HttpClient reader(port_);
    reader.Send(GetText(kWait));
    AwaitWaiting(1);
  }
  while (Get("/metrics").body.find("larder_http_clients_gone_total 1\n") == std::string::npos) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  const int before = swept_;
  backend_.TellOfEvents();
  EXPECT_EQ(Get("/health").status, 200);
  EXPECT_EQ(swept_, before);
}

TEST_F(EventWaitsTest, DrainingEndsThem) {
  HttpClient reader(port_);
  reader.Send(GetText(kWait));
  AwaitWaiting(1);
  EXPECT_TRUE(server_->Drain(60'000));
  EXPECT_EQ(EventsOf(reader), 0u);
  runner_.join();  // Run has ended by itself, long before the reader's time
}

TEST_F(EventWaitsTest, StoppingDropsThem) {
  HttpClient reader(port_);
  reader.Send(GetText(kWait));
  AwaitWaiting(1);
  server_->Stop();
  runner_.join();
  EXPECT_EQ(reader.Read().status, 0);
}

}  // namespace
}  // namespace larder::testing
