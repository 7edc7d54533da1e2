// A server that lies, stalls or hangs up costs a miss: never a crash, a wrong byte or a caller that waits.
#include <chrono>
#include <map>
#include <mutex>
#include <thread>

#include "store/record.h"
#include "tests/store/redis/redis_server.h"
#include "tests/store/redis/scripted_server.h"
#include "tests/store/redis/tier_client.h"
#include "tests/testing/log_capture.h"

namespace larder {
namespace {

RedisOptions QuickOptions(const std::string& addresses) {
  return {.url = "redis://" + addresses,
          .connect_timeout_ms = 2000,
          .command_timeout_ms = 100,
          .put_timeout_ms = 3000};
}

// Answers the greeting and leaves the rest to `script`.
ScriptedServer::Script AfterGreeting(ScriptedServer::Script script) {
  return
      [script = std::move(script)](const ScriptedServer::Arguments& arguments) -> std::optional<std::string> {
        return arguments[0] == "PING" ? "+PONG\r\n" : script(arguments);
      };
}

std::string Bulk(const std::string& text) {
  return "$" + std::to_string(text.size()) + "\r\n" + text + "\r\n";
}

// Every call against a server that answers everything with `answer`.
void ExpectNothingButErrors(const std::optional<std::string>& answer) {
  ScriptedServer server(AfterGreeting([&](const auto&) { return answer; }));
  TestClock clock;
  const auto tier = OpenRedisTier(QuickOptions(server.address()), nullptr, &clock).value();
  TierClient client(*tier);
  const TestRecord record = MakeTestRecord(1, {1000, 2000}, {}, TestName(5));
  const GetOutcome outcome = client.Get(record);
  ASSERT_EQ(outcome.groups.size(), 2u);
  for (const auto& group : outcome.groups) EXPECT_FALSE(group[0]);
  EXPECT_TRUE(client.Children(TestName(5)).value_or(std::vector<RecordHeader>()).empty());
  EXPECT_FALSE(client.Put(record));
  EXPECT_FALSE(client.Find({record.header.name}).value_or(std::vector{false})[0]);
  uint64_t cursor = 0;
  EXPECT_TRUE(tier->List(cursor, 10, nullptr).empty());
  EXPECT_EQ(cursor, 0u);
  EXPECT_FALSE(tier->Wipe({}));
  tier->Flush();
  EXPECT_EQ(tier->stats().read_records, 0u);
}

TEST(LyingRedis, Garbage) { ExpectNothingButErrors("HTTP/1.1 400 Bad Request\r\n\r\n"); }
TEST(LyingRedis, ALengthOfManyGigabytes) { ExpectNothingButErrors("$99999999999\r\nabc"); }
TEST(LyingRedis, ALengthThatIsNone) { ExpectNothingButErrors("$99999999999999999999999\r\n"); }
TEST(LyingRedis, AnArrayOfBillions) { ExpectNothingButErrors("*2147483647\r\n"); }
TEST(LyingRedis, DeepArrays) {
  ExpectNothingButErrors("*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n");
}
TEST(LyingRedis, ALineWithoutEnd) { ExpectNothingButErrors("+" + std::string(100'000, 'x')); }
TEST(LyingRedis, MoreBytesThanAskedFor) { ExpectNothingButErrors(Bulk(std::string(8 << 20, 'x'))); }
TEST(LyingRedis, BytesThatAreNoRecord) { ExpectNothingButErrors(Bulk(std::string(5000, 'x'))); }
TEST(LyingRedis, AnotherType) { ExpectNothingButErrors(":5\r\n"); }
TEST(LyingRedis, Errors) { ExpectNothingButErrors("-ERR unknown command\r\n"); }
TEST(LyingRedis, AnswersThatNobodyAskedFor) { ExpectNothingButErrors("$-1\r\n+OK\r\n+OK\r\n+OK\r\n"); }
TEST(LyingRedis, HangsUp) { ExpectNothingButErrors(std::nullopt); }
TEST(LyingRedis, SaysNothing) { ExpectNothingButErrors(""); }
TEST(LyingRedis, SendsUsElsewhere) { ExpectNothingButErrors("-MOVED 1 10.255.255.1:6379\r\n"); }

// A head that is right for its name but announces other things than the server delivers.
TEST(LyingRedis, ARightHeadWithWrongParts) {
  const TestRecord record = MakeTestRecord(1, {10'000, 20'000});
  const RecordHead head = MakeRecordHead(record.header, record.payload(), 1, nullptr).value();
  std::vector<std::byte> bytes;
  ASSERT_TRUE(EncodeRecordHead(head, nullptr, bytes));
  const std::string text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  std::atomic<int> deleted = 0;
  for (const std::string& rest : {std::string(), std::string(10'000, 'x'), std::string(9'999, 'x')}) {
    ScriptedServer server(AfterGreeting([&](const ScriptedServer::Arguments& arguments) -> std::string {
      if (arguments[0] == "UNLINK") ++deleted;
      if (arguments[0] != "GETRANGE") return ":1\r\n";
      return arguments[2] == "0" ? Bulk(text) : Bulk(rest);
    }));
    TestClock clock;
    const auto tier = OpenRedisTier(QuickOptions(server.address()), nullptr, &clock).value();
    const GetOutcome outcome = TierClient(*tier).Get(record);
    ASSERT_EQ(outcome.groups.size(), 2u);
    EXPECT_EQ(outcome.groups[0][0].error().kind, rest.empty() ? ErrorKind::kNotFound : ErrorKind::kCorrupt);
    EXPECT_FALSE(outcome.groups[1][0]);
    const TierStats stats = tier->stats();
    EXPECT_EQ(stats.bad_records, rest.empty() ? 0u : 1u);
    EXPECT_EQ(stats.evicted_records, rest.empty() ? 1u : 0u);
    EXPECT_EQ(stats.read_bytes, 0u);
  }
  EXPECT_GT(deleted, 0);
}

TEST(LyingRedis, ACursorThatNeverEndsIsBounded) {
  ScriptedServer server(AfterGreeting([](const ScriptedServer::Arguments& arguments) -> std::string {
    return arguments[0] == "SCAN" ? "*2\r\n$1\r\n7\r\n*0\r\n" : "$0\r\n\r\n";
  }));
  TestClock clock;
  RedisOptions options = QuickOptions(server.address());
  options.wipe_timeout_ms = options.admin_timeout_ms = 50;
  const auto tier = OpenRedisTier(options, nullptr, &clock).value();
  EXPECT_EQ(tier->Wipe({}).error().kind, ErrorKind::kSlow);
  uint64_t cursor = 0;
  EXPECT_TRUE(tier->List(cursor, 10, nullptr).empty());
}

TEST(LyingRedis, TheCircuitOpensAndClosesAgain) {
  std::atomic<bool> well = false;
  ScriptedServer server([&](const ScriptedServer::Arguments& arguments) -> std::optional<std::string> {
    if (!well) return std::nullopt;
    return arguments[0] == "PING" ? "+PONG\r\n" : ":0\r\n";
  });
  TestClock clock;
  RedisOptions options = QuickOptions(server.address());
  options.backoff_ms = 1'000'000;  // only the test's clock gets there
  options.max_backoff_ms = 4'000'000;
  const auto tier = OpenRedisTier(options, nullptr, &clock).value();
  TierClient client(*tier);
  ASSERT_TRUE(Eventually([&] { return !tier->stats().healthy; }));
  const int connections = server.connections();
  for (int i = 0; i < 20; ++i) EXPECT_EQ(client.Find({TestName(1)}).error().kind, ErrorKind::kUnavailable);
  EXPECT_EQ(server.connections(), connections) << "while the circuit is open nobody is asked";

  clock.Advance(1'000'001);  // one attempt, which fails
  EXPECT_FALSE(client.Find({TestName(1)}));
  ASSERT_TRUE(Eventually([&] { return tier->stats().failures == 2; }));
  EXPECT_EQ(server.connections(), connections + 1);
  well = true;
  clock.Advance(1'000'001);  // the back-off has doubled
  EXPECT_FALSE(client.Find({TestName(1)}));
  EXPECT_EQ(server.connections(), connections + 1);
  clock.Advance(1'000'000);
  ASSERT_TRUE(Eventually([&] { return client.Find({TestName(1)}).has_value(); }));
  EXPECT_EQ(server.connections(), connections + 2);
  EXPECT_TRUE(tier->stats().healthy);
}

// A server that answers everything with the same well-formed answer is left alone like one that is down, and
// used again when what it answers verifies.
TEST(LyingRedis, WrongAnswersOpenTheCircuit) {
  for (const std::string& lie : {std::string("+OK\r\n"), std::string(":1\r\n"), Bulk(std::string(5000, 'x')),
                                 std::string("*0\r\n"), std::string("$-1\r\n")}) {
    SCOPED_TRACE(lie.substr(0, 8));
    std::map<std::string, std::string> values;  // the server's thread's
    std::atomic<bool> lies = false;
    std::atomic<int> asked = 0;
    ScriptedServer server(AfterGreeting([&](const ScriptedServer::Arguments& arguments) -> std::string {
      ++asked;
      if (lies) return lie;
      if (arguments[0] == "SET") values[arguments[1]] = arguments[2];
      if (arguments[0] == "SET") return "+OK\r\n";
      if (arguments[0] != "GETRANGE") return ":1\r\n";
      const size_t first = std::stoul(arguments[2]), last = std::stoul(arguments[3]);
      const std::string& value = values[arguments[1]];
      return Bulk(first < value.size() ? value.substr(first, last + 1 - first) : "");
    }));
    testing::LogCapture log;
    TestClock clock;
    RedisOptions options = QuickOptions(server.address());
    options.backoff_ms = 1'000'000;  // only the test's clock gets there
    options.max_backoff_ms = 4'000'000;
    const auto tier = OpenRedisTier(options, nullptr, &clock).value();
    TierClient client(*tier);
    const TestRecord record = MakeTestRecord(1, {1000, 2000});
    ASSERT_TRUE(client.Put(record));
    ASSERT_TRUE(client.Get(record).groups[0][0]);

    lies = true;
    for (int i = 0; i < 6; ++i) EXPECT_FALSE(client.Get(record).groups[0][0]);
    EXPECT_FALSE(tier->stats().healthy);
    EXPECT_GE(tier->stats().failures, 3u);
    EXPECT_TRUE(log.Has("answers wrongly"));
    const int before = asked;
    for (int i = 0; i < 6; ++i) EXPECT_EQ(client.Find({TestName(1)}).error().kind, ErrorKind::kUnavailable);
    EXPECT_EQ(asked, before) << "while the circuit is open nobody is asked";

    // It greets, and the first wrong answer is enough; the back-off doubles.
    clock.Advance(1'000'001);
    EXPECT_FALSE(client.Get(record).groups[0][0]);
    ASSERT_TRUE(Eventually([&] {
      (void)client.Get(record);
      return asked > before;
    }));
    EXPECT_FALSE(tier->stats().healthy);
    clock.Advance(1'000'001);
    EXPECT_EQ(client.Find({TestName(1)}).error().kind, ErrorKind::kUnavailable);

    lies = false;
    clock.Advance(1'000'000);
    ASSERT_TRUE(Eventually([&] { return client.Put(record).has_value(); }));
    EXPECT_TRUE(client.Get(record).groups[1][0]);
    EXPECT_TRUE(tier->stats().healthy);
    lies = true;
    (void)client.Get(record);
    EXPECT_TRUE(tier->stats().healthy) << "it has proved itself: one wrong answer is only one";
  }
}

TEST(LyingRedis, AFailureNowAndThenDoesNotOpenTheCircuit) {
  std::atomic<int> asked = 0;
  ScriptedServer server(AfterGreeting([&](const auto&) -> std::optional<std::string> {
    if (++asked % 2 == 0) return std::nullopt;
    return ":0\r\n";
  }));
  TestClock clock;
  const auto tier = OpenRedisTier(QuickOptions(server.address()), nullptr, &clock).value();
  TierClient client(*tier);
  for (int i = 0; i < 10; ++i) EXPECT_EQ(client.Find({TestName(1)}).has_value(), i % 2 == 0);
  EXPECT_TRUE(tier->stats().healthy);
}

// Keeps values and gives parts of them, until it falls silent about large ones; how much it was then asked
// for, or given, in vain.
class StallingRedis {
 public:
  void StallAfter(int answers) {
    const std::lock_guard lock(mutex_);
    answers_left_ = answers;
  }
  uint64_t owed() {
    const std::lock_guard lock(mutex_);
    return owed_;
  }
  std::string address() const { return server_.address(); }

 private:
  std::string Answer(const ScriptedServer::Arguments& arguments) {
    const std::lock_guard lock(mutex_);
    if (arguments[0] == "SET") {
      values_[arguments[1]] = arguments[2];
      return Owe(arguments[2].size(), "+OK\r\n");
    }
    if (arguments[0] != "GETRANGE") return ":1\r\n";
    const std::string& value = values_[arguments[1]];
    const size_t first = std::stoul(arguments[2]), last = std::stoul(arguments[3]);
    const std::string part = first < value.size() ? value.substr(first, last + 1 - first) : "";
    return first == 0 ? Bulk(part) : Owe(part.size(), Bulk(part));
  }
  std::string Owe(size_t bytes, std::string answer) {
    if (answers_left_-- > 0) return answer;
    owed_ += bytes;
    return "";
  }

  std::mutex mutex_;
  std::map<std::string, std::string> values_;
  int answers_left_ = 1 << 30;
  uint64_t owed_ = 0;
  ScriptedServer server_{AfterGreeting([this](const auto& arguments) { return Answer(arguments); })};
};

constexpr size_t kMiB = 1 << 20;
constexpr uint64_t kMostInFlight = 8 * kMiB;
constexpr auto kForMore = std::chrono::milliseconds(100);  // what must not come would be here by then

TEST(StallingRedis, IsAskedForNoMoreThanMayBeInFlight) {
  StallingRedis server;
  TestClock clock;
  const auto tier =
      OpenRedisTier({.url = "redis://" + server.address(), .command_timeout_ms = 60'000}, nullptr, &clock)
          .value();
  constexpr size_t kRecords = 32, kAnswered = 10;
  std::vector<TestRecord> records;
  std::vector<std::vector<std::byte>> bytes(kRecords, std::vector<std::byte>(kMiB));
  std::vector<RecordRead> reads;
  for (size_t i = 0; i < kRecords; ++i) {
    records.push_back(MakeTestRecord(i, {kMiB}));
    ASSERT_TRUE(TierClient(*tier).Put(records.back()));
    reads.push_back({.name = records.back().header.name, .end_group = 1, .destination = bytes[i]});
  }
  server.StallAfter(kAnswered);
  std::promise<void> done;
  size_t arrived = 0;
  const auto count = [&](uint32_t, std::span<const Status> items) {
    arrived = static_cast<size_t>(std::ranges::count_if(items, [](const Status& item) { return !!item; }));
  };
  const uint64_t ticket = tier->Get(reads, kNoDeadline, ReadPriority::kRequest,
                                    {.group_done = count, .done = [&] { done.set_value(); }});
  EXPECT_TRUE(Eventually([&] { return server.owed() >= 6 * kMiB; })) << server.owed();
  std::this_thread::sleep_for(kForMore);
  EXPECT_LE(server.owed(), kMostInFlight);
  tier->Cancel(ticket);
  done.get_future().get();
  EXPECT_EQ(arrived, kAnswered);
  for (size_t i = 0; i < kAnswered; ++i) EXPECT_EQ(bytes[i], records[i].groups[0]);
}

TEST(StallingRedis, IsGivenNoMoreThanMayBeInFlight) {
  StallingRedis server;
  server.StallAfter(2);
  TestClock clock;
  const auto tier =
      OpenRedisTier({.url = "redis://" + server.address(), .put_timeout_ms = 1000}, nullptr, &clock).value();
  std::promise<Status> done;
  const TestRecord record = MakeTestRecord(1, {12 * kMiB, 12 * kMiB});
  tier->Put(record.header, record.payload(), [&](Status status) { done.set_value(std::move(status)); });
  EXPECT_TRUE(Eventually([&] { return server.owed() > 0; }));
  std::this_thread::sleep_for(kForMore);
  EXPECT_LE(server.owed(), kMostInFlight);
  EXPECT_FALSE(done.get_future().get());
}

std::string MapOf(const std::vector<int>& ports) {
  std::string out = "*" + std::to_string(ports.size()) + "\r\n";
  for (size_t i = 0; i < ports.size(); ++i) {
    const size_t first = i * 16384 / ports.size(), last = (i + 1) * 16384 / ports.size() - 1;
    out += "*3\r\n:" + std::to_string(first) + "\r\n:" + std::to_string(last) +
           "\r\n*2\r\n$9\r\n127.0.0.1\r\n:" + std::to_string(ports[i]) + "\r\n";
  }
  return out;
}

TEST(LyingCluster, RedirectionsInACircleEnd) {
  std::atomic<int> ports[2] = {0, 0};
  const auto script = [&](int other) {
    return AfterGreeting([&, other](const ScriptedServer::Arguments& arguments) -> std::string {
      if (arguments[0] == "CLUSTER") return MapOf({ports[0], ports[1]});
      if (arguments[0] == "ASKING") return "+OK\r\n";
      return "-ASK 1 127.0.0.1:" + std::to_string(ports[other]) + "\r\n";
    });
  };
  ScriptedServer one(script(1)), two(script(0));
  ports[0] = one.port();
  ports[1] = two.port();
  TestClock clock;
  const auto tier = OpenRedisTier(QuickOptions(one.address() + "," + two.address()), nullptr, &clock).value();
  EXPECT_EQ(TierClient(*tier).Find({TestName(1)}).error().kind, ErrorKind::kUnavailable);
}

TEST(LyingCluster, AMapOfNonsenseAndNodesWithoutEnd) {
  std::atomic<int> next = 1;
  const auto script = AfterGreeting([&](const ScriptedServer::Arguments& arguments) -> std::string {
    if (arguments[0] == "CLUSTER") return "*1\r\n*3\r\n:9\r\n:1\r\n*2\r\n$1\r\nx\r\n:1\r\n";
    return "-MOVED 1 127.0.0.2:" + std::to_string(next++) + "\r\n";
  });
  ScriptedServer one(script), two(script);
  TestClock clock;
  const auto tier = OpenRedisTier(QuickOptions(one.address() + "," + two.address()), nullptr, &clock).value();
  for (int i = 0; i < 400; ++i) EXPECT_FALSE(TierClient(*tier).Find({TestName(i)}));
  EXPECT_FALSE(tier->Wipe({}));
}

}  // namespace
}  // namespace larder
