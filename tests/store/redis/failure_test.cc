// A real redis-server that is full, locked, killed, restarted, paused or was never there.
#include "store/redis/layout.h"
#include "tests/store/redis/redis_server.h"
#include "tests/store/redis/tier_client.h"

namespace larder {
namespace {

constexpr size_t kMiB = 1 << 20;

class RedisFailure : public testing::Test {
 protected:
  void SetUp() override {
    if (!HaveRedisServer()) GTEST_SKIP() << "no redis-server on this machine";
  }
  std::unique_ptr<Tier> Open(const std::string& url) {
    return OpenRedisTier({.url = url, .connect_timeout_ms = 2000, .command_timeout_ms = 1000}, nullptr,
                         &clock_)
        .value();
  }
  int64_t In(int64_t ms) { return clock_.NowNs() + ms * 1'000'000; }

  TestClock clock_;
};

TEST_F(RedisFailure, ABadUrlIsRefusedAndAnAbsentServerIsNot) {
  EXPECT_EQ(OpenRedisTier({.url = "localhost"}, nullptr, &clock_).error().kind, ErrorKind::kInvalid);
  EXPECT_EQ(OpenRedisTier({.url = "rediss://h:1", .ca_file = "/nowhere"}, nullptr, &clock_).error().kind,
            ErrorKind::kIo);
  const auto tier = Open("redis://127.0.0.1:" + std::to_string(FreePort()));
  TierClient client(*tier);
  EXPECT_TRUE(Eventually([&] { return !tier->stats().healthy; }));
  const TestRecord record = MakeTestRecord(1, {10});
  EXPECT_EQ(client.Put(record).error().kind, ErrorKind::kUnavailable);
  EXPECT_EQ(client.Get(record).status().error().kind, ErrorKind::kUnavailable);
  EXPECT_EQ(client.Children(TestName(1)).error().kind, ErrorKind::kUnavailable);
  EXPECT_EQ(tier->Remove(std::vector{TestName(1)}).error().kind, ErrorKind::kUnavailable);
  EXPECT_EQ(tier->Wipe({}).error().kind, ErrorKind::kUnavailable);
  tier->Touch(std::vector{TestName(1)});
  tier->Flush();
  EXPECT_EQ(tier->stats().dropped_writes, 1u);
  EXPECT_EQ(tier->stats().bad_records, 0u);
}

TEST_F(RedisFailure, AFullServerRefuses) {
  const RedisServer server({"--maxmemory", "16mb", "--maxmemory-policy", "noeviction"});
  const auto tier = Open(server.url());
  TierClient client(*tier);
  std::vector<TestRecord> stored;
  Status status;
  for (int i = 0; i < 20 && status; ++i) {
    const TestRecord record = MakeTestRecord(i, {5 * kMiB});
    status = client.Put(record);
    if (status) stored.push_back(record);
  }
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().kind, ErrorKind::kExhausted);
  EXPECT_EQ(tier->stats().dropped_writes, 1u);
  EXPECT_TRUE(tier->stats().healthy) << "full is not ill";
  EXPECT_FALSE(stored.empty());
  for (const TestRecord& record : stored) EXPECT_TRUE(client.Has(record));
  EXPECT_TRUE(Eventually([&] { return server.Number({"DBSIZE"}) == static_cast<long>(2 * stored.size()); }))
      << "no parts of what was refused";
  ASSERT_TRUE(tier->Remove(std::vector{stored[0].header.name}));
  EXPECT_TRUE(client.Put(MakeTestRecord(99, {kMiB})));
}

TEST_F(RedisFailure, PendingBytesAreBounded) {
  const RedisServer server;
  const auto tier =
      OpenRedisTier({.url = server.url(), .max_pending_bytes = 3 * kMiB}, nullptr, &clock_).value();
  const TestRecord record = MakeTestRecord(1, {4 * kMiB});
  EXPECT_EQ(TierClient(*tier).Put(record).error().kind, ErrorKind::kExhausted);
  EXPECT_EQ(tier->stats().dropped_writes, 1u);
  EXPECT_EQ(tier->stats().pending_bytes, 0u);
}

TEST_F(RedisFailure, APasswordIsGivenAndAWrongOneIsATrouble) {
  const RedisServer server({"--requirepass", "se:cret", "--user", "me", "on", ">p@ss", "~larder:*", "+@all"});
  const TestRecord record = MakeTestRecord(1, {10});
  EXPECT_TRUE(TierClient(*Open(server.url(":se%3acret@"))).Put(record));
  EXPECT_TRUE(TierClient(*Open(server.url("me:p%40ss@"))).Has(record));
  for (const std::string login : {"", ":wrong@", "you:p@"}) {
    const auto tier = Open(server.url(login));
    EXPECT_EQ(TierClient(*tier).Get(record).status().error().kind, ErrorKind::kUnavailable) << login;
    EXPECT_TRUE(Eventually([&] { return !tier->stats().healthy; }));
  }
}

TEST_F(RedisFailure, AKilledServerIsAMissAndARestartedOneIsUsedAgain) {
  RedisServer server;
  const auto tier = Open(server.url());
  TierClient client(*tier);
  const TestRecord record = MakeTestRecord(1, {10});
  ASSERT_TRUE(client.Put(record));
  server.Kill();
  EXPECT_EQ(client.Get(record).status().error().kind, ErrorKind::kUnavailable);
  EXPECT_TRUE(Eventually([&] { return !client.Find({TestName(1)}) && !tier->stats().healthy; }));
  server.Start();
  EXPECT_TRUE(Eventually([&] {
    clock_.Advance(60'000);
    return client.Put(record).has_value();
  }));
  EXPECT_TRUE(client.Has(record));
  EXPECT_TRUE(tier->stats().healthy);
}

TEST_F(RedisFailure, ARestartBetweenCallsIsNotNoticed) {
  RedisServer server;
  const auto tier = Open(server.url());
  TierClient client(*tier);
  ASSERT_TRUE(client.Put(MakeTestRecord(1, {10})));
  server.Kill();
  server.Start();
  // The closed connection may be seen just after the next command is written; then that one is lost.
  EXPECT_TRUE(Eventually([&] { return client.Put(MakeTestRecord(1, {10})).has_value(); }));
  EXPECT_TRUE(tier->stats().healthy);
}

TEST_F(RedisFailure, APausedServerCostsNoMoreThanTheDeadline) {
  RedisServer server;
  const auto tier =
      OpenRedisTier(
          {.url = server.url(), .command_timeout_ms = 60'000, .put_timeout_ms = 100, .admin_timeout_ms = 100},
          nullptr, &clock_)
          .value();
  TierClient client(*tier);
  const TestRecord record = MakeTestRecord(1, {1000, 1000});
  ASSERT_TRUE(client.Put(record));
  server.Pause();
  const GetOutcome late = client.Get(record, In(30));
  ASSERT_EQ(late.groups.size(), 2u);
  EXPECT_EQ(late.groups[1][0].error().kind, ErrorKind::kSlow);
  EXPECT_EQ(client.Find({record.header.name}, In(30)).error().kind, ErrorKind::kSlow);
  EXPECT_EQ(client.Children(TestName(5), 10, In(30)).error().kind, ErrorKind::kSlow);
  EXPECT_EQ(client.Get(record, In(-1)).status().error().kind, ErrorKind::kSlow);
  const GetOutcome cancelled =
      client.Get({{.name = record.header.name, .end_group = 2}}, {2000}, kNoDeadline, nullptr, true);
  EXPECT_EQ(cancelled.status().error().kind, ErrorKind::kCancelled);
  EXPECT_EQ(client.Put(MakeTestRecord(2, {10})).error().kind, ErrorKind::kIo);
  EXPECT_EQ(tier->Remove(std::vector{TestName(1)}).error().kind, ErrorKind::kSlow);
  uint64_t cursor = 0;
  EXPECT_TRUE(tier->List(cursor, 10, nullptr).empty());
  EXPECT_EQ(tier->stats().slow_reads, 4u);
  server.Resume();
  EXPECT_TRUE(Eventually([&] { return client.Put(record).has_value(); }));
}

TEST_F(RedisFailure, APausedServerOpensTheCircuit) {
  RedisServer server;
  const auto tier = OpenRedisTier({.url = server.url(), .connect_timeout_ms = 50, .command_timeout_ms = 50},
                                  nullptr, &clock_)
                        .value();
  TierClient client(*tier);
  ASSERT_TRUE(client.Put(MakeTestRecord(1, {10})));
  server.Pause();
  EXPECT_TRUE(Eventually([&] {
    EXPECT_EQ(client.Find({TestName(1)}).error().kind, ErrorKind::kUnavailable);
    return !tier->stats().healthy;
  }));
  server.Resume();
  EXPECT_TRUE(Eventually([&] {
    clock_.Advance(60'000);
    return client.Find({TestName(1)}).has_value();
  }));
}

// A tier that ends while calls are under way answers all of them.
TEST_F(RedisFailure, TheEndAnswersEverything) {
  RedisServer server;
  std::atomic<int> answers = 0;
  std::vector<std::byte> bytes(10);
  const TestRecord record = MakeTestRecord(1, {10});
  {
    const auto tier = OpenRedisTier({.url = server.url(), .put_timeout_ms = 50}, nullptr, &clock_).value();
    ASSERT_TRUE(TierClient(*tier).Put(record));
    server.Pause();
    tier->Get({{.name = record.header.name, .destination = bytes}}, kNoDeadline, ReadPriority::kPrefetch,
              {.done = [&] { ++answers; }});
    tier->Find({record.header.name}, kNoDeadline, [&](auto&&) { ++answers; });
    tier->Children(TestName(5), 10, kNoDeadline, [&](auto&&) { ++answers; });
    tier->Put(record.header, record.payload(), [&](auto&&) { ++answers; });
  }
  EXPECT_EQ(answers, 4);
  server.Resume();
}

}  // namespace
}  // namespace larder
