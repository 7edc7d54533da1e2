// The tier against a real redis-server, plain and sealed.
#include <set>

#include "store/record.h"
#include "store/redis/layout.h"
#include "tests/store/redis/redis_server.h"
#include "tests/store/redis/tier_client.h"

namespace larder {
namespace {

constexpr size_t kMiB = 1 << 20;

class RedisTierTest : public testing::TestWithParam<bool> {
 protected:
  void SetUp() override {
    if (!HaveRedisServer()) GTEST_SKIP() << "no redis-server on this machine";
    server_ = std::make_unique<RedisServer>();
    const std::string key = GetParam() ? folder_.Write("key", std::string(32, 'k')) : "";
    ring_ = Keyring::Open(folder_ / "ring", key).value();
    space_ = ring_->SpaceOf("t").value();
    options_.url = server_->url();
    Reopen();
  }
  void Reopen() {
    tier_.reset();
    tier_ = OpenRedisTier(options_, ring_->sealer(), &clock_).value();
    client_ = std::make_unique<TierClient>(*tier_);
  }
  TestRecord Record(uint64_t number, const std::vector<size_t>& sizes, const Digest& parent = {}) const {
    return MakeTestRecord(number, sizes, space_, parent);
  }
  std::string Key(const TestRecord& record) const { return RedisHeadKey(record.header.name); }

  TemporaryFolder folder_{"redis-tier"};
  TestClock clock_;
  RedisOptions options_;
  std::unique_ptr<RedisServer> server_;
  std::unique_ptr<Keyring> ring_;
  SpaceId space_{};
  std::unique_ptr<Tier> tier_;
  std::unique_ptr<TierClient> client_;
};

INSTANTIATE_TEST_SUITE_P(PlainAndSealed, RedisTierTest, testing::Bool(),
                         [](const auto& info) { return info.param ? "Sealed" : "Plain"; });

TEST_P(RedisTierTest, WhatIsPutComesBackAlsoElsewhere) {
  const TestRecord small = Record(1, {100}), large = Record(2, {1000, 5 * kMiB, 0, 3 * kMiB + 7}), fat = [&] {
    TestRecord record = Record(3, {10, 20});
    record.header.metadata.assign(kMaxRecordMetadata, std::byte{7});  // more than the first read
    return record;
  }();
  for (const TestRecord& record : {small, large, fat}) ASSERT_TRUE(client_->Put(record));
  EXPECT_EQ(server_->Number({"DBSIZE"}), 5) << "the large one is in three parts";
  EXPECT_EQ(tier_->stats().write_records, 3u);
  EXPECT_GT(tier_->stats().write_bytes, 8 * kMiB);
  Reopen();
  const GetOutcome outcome = client_->Get(
      {{.name = small.header.name}, {.name = large.header.name, .end_group = 4}, {.name = fat.header.name}},
      {100, large.header.payload_bytes(), 30}, kNoDeadline,
      [&](size_t item, const RecordHeader& header) -> Status {
        EXPECT_EQ(header.metadata.size(), item == 2 ? kMaxRecordMetadata : 40 + item + 1);
        EXPECT_EQ(header.space, space_);
        return {};
      });
  EXPECT_EQ(outcome.order, (std::vector<uint32_t>{0, 1, 2, 3}));
  for (size_t item = 0; item < 3; ++item) EXPECT_TRUE(outcome.status(item));
  EXPECT_EQ(outcome.bytes[0], small.groups[0]);
  EXPECT_TRUE(std::equal(large.groups[1].begin(), large.groups[1].end(), outcome.bytes[1].begin() + 1000));
  EXPECT_TRUE(client_->Has(large));
  EXPECT_EQ(tier_->stats().read_records, 4u);
  EXPECT_EQ(client_->Find({TestName(9), large.header.name, small.header.name}).value(),
            (std::vector{false, true, true}));
  EXPECT_EQ(tier_->stats().hits, 2u);
  EXPECT_EQ(tier_->stats().misses, 1u);
}

TEST_P(RedisTierTest, OnlyTheGroupsAskedForAreRead) {
  const TestRecord record = Record(1, {1000, 2000, 3000, 4000});
  ASSERT_TRUE(client_->Put(record));
  const GetOutcome outcome =
      client_->Get({{.name = record.header.name, .first_group = 1, .end_group = 3}}, {10'000});
  EXPECT_EQ(outcome.order, (std::vector<uint32_t>{1, 2}));
  EXPECT_TRUE(outcome.status());
  EXPECT_TRUE(std::equal(record.groups[1].begin(), record.groups[1].end(), outcome.bytes[0].begin() + 1000));
  EXPECT_TRUE(std::all_of(outcome.bytes[0].begin(), outcome.bytes[0].begin() + 1000,
                          [](std::byte b) { return b == std::byte{0}; }));
  EXPECT_EQ(tier_->stats().read_bytes, 5000u);
}

TEST_P(RedisTierTest, MissesAndRefusalsAreReportedForEachGroup) {
  const TestRecord record = Record(1, {10, 20});
  ASSERT_TRUE(client_->Put(record));
  const GetOutcome outcome = client_->Get(
      {{.name = TestName(99), .end_group = 3}, {.name = record.header.name}, {.name = record.header.name}},
      {30, 30, 29}, kNoDeadline, [](size_t item, const RecordHeader&) -> Status {
        if (item == 1) return Fail(ErrorKind::kConflict, "other tokens");
        return {};
      });
  ASSERT_EQ(outcome.groups.size(), kMaxRecordGroups) << "a refused item is reported as it was asked for";
  EXPECT_EQ(outcome.groups[2][0].error().kind, ErrorKind::kNotFound);
  EXPECT_TRUE(outcome.groups[3][0]);
  EXPECT_EQ(outcome.groups[0][1].error().kind, ErrorKind::kConflict);
  EXPECT_EQ(outcome.groups[1][2].error().kind, ErrorKind::kInvalid) << "no room";
  EXPECT_TRUE(client_->Get({}, {}).groups.empty());
}

TEST_P(RedisTierTest, ANameIsWrittenOnce) {
  TestRecord record = Record(1, {1000, 5 * kMiB});
  ASSERT_TRUE(client_->Put(record));
  ASSERT_TRUE(client_->Put(record));
  EXPECT_EQ(tier_->stats().write_records, 1u);
  record.groups[1][5] ^= std::byte{1};
  EXPECT_EQ(client_->Put(record).error().kind, ErrorKind::kConflict);
  record.groups[1][5] ^= std::byte{1};
  EXPECT_TRUE(client_->Has(record));
}

TEST_P(RedisTierTest, TwoWritersAtOnceLeaveOneWholeRecord) {
  const auto other = OpenRedisTier(options_, ring_->sealer(), &clock_).value();
  std::vector<TestRecord> records;
  for (int i = 0; i < 8; ++i) records.push_back(Record(i, {100, 5 * kMiB}));
  std::atomic<int> stored = 0;
  for (const TestRecord& record : records) {
    for (Tier* tier : {tier_.get(), other.get()})
      tier->Put(record.header, record.payload(), [&](const Status& status) { stored += status.has_value(); });
  }
  tier_->Flush();
  other->Flush();
  EXPECT_EQ(stored, 16);
  EXPECT_EQ(tier_->stats().pending_bytes, 0u);
  for (const TestRecord& record : records) EXPECT_TRUE(client_->Has(record));
  EXPECT_TRUE(Eventually([&] { return server_->Number({"DBSIZE"}) == 16; })) << "the losers' parts are gone";
}

TEST_P(RedisTierTest, ChildrenComeNewestFirst) {
  const Digest parent = TestName(1000);
  for (int i = 0; i < 70; ++i) {
    ASSERT_TRUE(client_->Put(Record(i, {10}, parent)));
    clock_.Advance(10);
  }
  const auto children = client_->Children(parent).value();
  ASSERT_EQ(children.size(), kRedisMaxChildren) << "the list is bounded";
  for (size_t i = 0; i < children.size(); ++i) EXPECT_EQ(children[i].name, TestName(69 - i));
  EXPECT_EQ(children[0].metadata, Record(69, {10}).header.metadata);
  EXPECT_EQ(client_->Children(parent, 2).value().size(), 2u);
  EXPECT_TRUE(client_->Children(TestName(1)).value().empty());
  server_->Command({"DEL", RedisHeadKey(TestName(69))});
  EXPECT_EQ(client_->Children(parent, 2).value().at(0).name, TestName(68));
  EXPECT_TRUE(Eventually([&] { return server_->Number({"ZCARD", RedisChildrenKey(parent)}) == 63; }));
  EXPECT_GT(server_->Number({"PTTL", RedisChildrenKey(parent)}), 0);
}

TEST_P(RedisTierTest, FlippedBytesAreFoundAndDeleted) {
  const TestRecord sound = Record(1'000'000, {500});
  for (const size_t at : {0, 10, 20, 100, 200, 1000, 4'500'000}) {
    // Nothing right between damaged records would open the circuit.
    ASSERT_TRUE(client_->Put(sound) && client_->Get(sound).status());
    const TestRecord record = Record(at, {500, 5 * kMiB});
    ASSERT_TRUE(client_->Put(record));
    std::string key = Key(record);
    size_t offset = at;
    if (at > kRedisPartBytes) {
      key = server_->Command({"KEYS", "larder:v1:p:*:1"});
      key.pop_back();
      offset -= kRedisPartBytes;
    }
    const std::string old =
        server_->Command({"GETRANGE", key, std::to_string(offset), std::to_string(offset)});
    server_->Command(
        {"SETRANGE", key, std::to_string(offset), std::string(1, static_cast<char>(old[0] ^ 4))});
    const GetOutcome outcome = client_->Get(record);
    EXPECT_FALSE(outcome.status()) << at;
    // A flipped version is another version's record: not ours to delete.
    if (at == 10) {
      EXPECT_EQ(outcome.status().error().kind, ErrorKind::kUnsupported);
      ASSERT_TRUE(tier_->Remove(std::vector{record.header.name}));
    }
    EXPECT_TRUE(Eventually([&] { return server_->Number({"EXISTS", Key(record)}) == 0; })) << at;
    server_->Command({"FLUSHALL"});
  }
  EXPECT_EQ(tier_->stats().bad_records, 6u);
}

TEST_P(RedisTierTest, AnotherRecordUnderANameIsFound) {
  const TestRecord right = Record(1, {500}), wrong = Record(2, {500});
  ASSERT_TRUE(client_->Put(right));
  server_->Command({"COPY", Key(right), Key(wrong)});
  EXPECT_EQ(client_->Get(wrong).status().error().kind, ErrorKind::kCorrupt);
  EXPECT_TRUE(Eventually([&] { return server_->Number({"EXISTS", Key(wrong)}) == 0; }));
  EXPECT_TRUE(client_->Has(right)) << "the record whose bytes they are stays";
}

TEST_P(RedisTierTest, AMissingPartIsAMiss) {
  const TestRecord record = Record(1, {100, 9 * kMiB});
  ASSERT_TRUE(client_->Put(record));
  std::string part = server_->Command({"KEYS", "larder:v1:p:*:2"});
  part.pop_back();
  server_->Command({"DEL", part});
  const GetOutcome outcome = client_->Get(record);
  EXPECT_TRUE(outcome.groups[0][0]);
  EXPECT_EQ(outcome.groups[1][0].error().kind, ErrorKind::kNotFound);
  EXPECT_TRUE(Eventually([&] { return server_->Number({"DBSIZE"}) == 0; })) << "the rest is of no use";
  EXPECT_EQ(tier_->stats().evicted_records, 1u);
  EXPECT_EQ(tier_->stats().bad_records, 0u);
  EXPECT_TRUE(client_->Put(record));
  EXPECT_TRUE(client_->Has(record));
}

TEST_P(RedisTierTest, RemoveLeavesNothing) {
  const TestRecord one = Record(1, {9 * kMiB}, TestName(7)), two = Record(2, {10}, TestName(7));
  ASSERT_TRUE(client_->Put(one));
  ASSERT_TRUE(client_->Put(two));
  ASSERT_TRUE(tier_->Remove(std::vector{one.header.name, TestName(99)}));
  EXPECT_FALSE(client_->Has(one));
  EXPECT_TRUE(client_->Has(two));
  EXPECT_EQ(server_->Number({"DBSIZE"}), 2);
  EXPECT_EQ(server_->Number({"ZCARD", RedisChildrenKey(TestName(7))}), 1);
  ASSERT_TRUE(tier_->Remove(std::vector{two.header.name}));
  EXPECT_EQ(server_->Number({"DBSIZE"}), 0);
}

TEST_P(RedisTierTest, WipeTakesASpaceAndNothingElse) {
  const SpaceId other = ring_->SpaceOf("u").value();
  const TestRecord stays = MakeTestRecord(100, {5 * kMiB}, other, TestName(7));
  ASSERT_TRUE(client_->Put(stays));
  for (int i = 0; i < 20; ++i) ASSERT_TRUE(client_->Put(Record(i, {i == 3 ? 5 * kMiB : 10}, TestName(7))));
  // A write that was cut off: a part without a head.
  server_->Command({"SET", RedisPartPrefix(space_) + TestName(5).Hex() + ":0000000000000001:1", "x"});
  server_->Command({"SET", "larder:v1:c:x", "neither"});
  server_->Command({"SET", "others", "neither"});
  ASSERT_TRUE(tier_->Wipe(space_));
  EXPECT_EQ(server_->Number({"DBSIZE"}), 5);
  EXPECT_TRUE(client_->Has(stays));
  EXPECT_EQ(server_->Number({"ZCARD", RedisChildrenKey(TestName(7))}), 1);
}

TEST_P(RedisTierTest, RemovalsAndWipesHoldAgainstQueuedWrites) {
  std::vector<TestRecord> records;
  for (int i = 0; i < 10; ++i) records.push_back(Record(i, {3 * kMiB}));
  for (const TestRecord& record : records) tier_->Put(record.header, record.payload(), nullptr);
  ASSERT_TRUE(tier_->Remove(std::vector{records[9].header.name}));
  ASSERT_TRUE(tier_->Wipe(space_));
  tier_->Flush();
  EXPECT_EQ(server_->Number({"DBSIZE"}), 0);
}

TEST_P(RedisTierTest, LivesEndAndAreProlonged) {
  const TestRecord record = Record(1, {5 * kMiB});
  ASSERT_TRUE(client_->Put(record));
  std::string part = server_->Command({"KEYS", "larder:v1:p:*"});
  part.pop_back();
  for (const std::string& key : {Key(record), part}) {
    EXPECT_GT(server_->Number({"PTTL", key}), options_.ttl_ms - 3'600'000);
    EXPECT_LE(server_->Number({"PTTL", key}), options_.ttl_ms);
  }
  const auto shorten_and_touch = [&] {
    for (const std::string& key : {Key(record), part}) server_->Command({"PEXPIRE", key, "100000"});
    tier_->Touch(std::vector{record.header.name, TestName(9)});
  };
  shorten_and_touch();
  for (const std::string& key : {Key(record), part})
    EXPECT_TRUE(Eventually([&] { return server_->Number({"PTTL", key}) > 100'000; }));
  shorten_and_touch();  // again at once: not worth a command
  tier_->Flush();
  EXPECT_TRUE(client_->Has(record));
  EXPECT_LE(server_->Number({"PTTL", part}), 100'000);
  clock_.Advance(options_.ttl_ms / 10);
  shorten_and_touch();
  EXPECT_TRUE(Eventually([&] { return server_->Number({"PTTL", part}) > 100'000; }));

  options_.ttl_ms = 0;
  Reopen();
  ASSERT_TRUE(client_->Put(Record(2, {10})));
  EXPECT_EQ(server_->Number({"PTTL", Key(Record(2, {10}))}), -1);
}

TEST_P(RedisTierTest, ListShowsEverythingPageByPage) {
  std::set<Digest> wanted, seen;
  for (int i = 0; i < 100; ++i) {
    ASSERT_TRUE(client_->Put(Record(i, {10}, TestName(1000 + i))));
    wanted.insert(TestName(i));
  }
  uint64_t cursor = 0;
  int pages = 0;
  do {
    const auto page = tier_->List(cursor, 10, nullptr);
    EXPECT_LE(page.size(), 30u);
    for (const RecordHeader& header : page) seen.insert(header.name);
    ASSERT_LT(++pages, 100);
  } while (cursor != 0);
  EXPECT_EQ(seen, wanted);
  EXPECT_GT(pages, 3);
}

TEST_P(RedisTierTest, PinsAreNotSupportedAndMemoryIsTold) {
  EXPECT_EQ(tier_->Pin(TestName(1), 1000).error().kind, ErrorKind::kUnsupported);
  EXPECT_EQ(tier_->name(), "redis");
  server_->Command({"CONFIG", "SET", "maxmemory", "123456789"});
  EXPECT_TRUE(Eventually([&] {
    clock_.Advance(2000);
    const TierStats stats = tier_->stats();
    return stats.limit_bytes == 123'456'789 && stats.used_bytes > 0;
  }));
}

TEST_P(RedisTierTest, AnInvalidRecordIsRefused) {
  TestRecord record = Record(1, {10});
  record.header.group_bytes[0] = 11;
  EXPECT_EQ(client_->Put(record).error().kind, ErrorKind::kInvalid);
  EXPECT_EQ(tier_->stats().pending_bytes, 0u);
}

TEST_P(RedisTierTest, WhatAnotherKeyOrNoneMadeIsLeftAlone) {
  const TestRecord record = Record(1, {10});
  ASSERT_TRUE(client_->Put(record));
  const auto foreign_ring =
      Keyring::Open(folder_ / "foreign", folder_.Write("other", std::string(32, 'o'))).value();
  const auto foreign = OpenRedisTier(options_, foreign_ring->sealer(), &clock_).value();
  EXPECT_EQ(TierClient(*foreign).Get(record).status().error().kind, ErrorKind::kUnsupported);
  TestRecord same = record;
  same.header.space = foreign_ring->SpaceOf("t").value();
  EXPECT_EQ(TierClient(*foreign).Put(same).error().kind, ErrorKind::kUnsupported);
  EXPECT_EQ(foreign->stats().bad_records, 0u);
  EXPECT_TRUE(client_->Has(record));
}

}  // namespace
}  // namespace larder
