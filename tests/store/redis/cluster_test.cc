// Three real servers as a cluster.
#include <set>

#include "store/redis/layout.h"
#include "store/redis/slots.h"
#include "tests/store/redis/redis_server.h"
#include "tests/store/redis/tier_client.h"

namespace larder {
namespace {

constexpr size_t kMiB = 1 << 20;

// One cluster for all tests of this file: making it takes two seconds.
class RedisCluster : public testing::Test {
 protected:
  using Nodes = std::vector<std::unique_ptr<RedisServer>>;

  static void SetUpTestSuite() {
    if (!HaveRedisServer()) return;
    std::vector<std::string> create{"redis-cli", "--cluster", "create"};
    for (int i = 0; i < 3; ++i) {
      nodes_.push_back(std::make_unique<RedisServer>(std::vector<std::string>{
          "--cluster-enabled", "yes", "--cluster-port", std::to_string(FreePort()), "--cluster-node-timeout",
          "1000", "--cluster-require-full-coverage", "no"}));
      create.push_back(nodes_.back()->address());
    }
    create.push_back("--cluster-yes");
    ASSERT_EQ(RunProgram(create), 0);
  }
  static void TearDownTestSuite() { nodes_.clear(); }

  void SetUp() override {
    if (nodes_.empty()) GTEST_SKIP() << "no redis-server on this machine";
    ASSERT_TRUE(Eventually(Whole));
    for (const auto& node : nodes_) node->Command({"FLUSHALL"});
    options_.url = "redis://" + nodes_[0]->address() + "," + nodes_[1]->address();
    tier_ = OpenRedisTier(options_, nullptr, &clock_).value();
    for (int i = 0; i < 60; ++i)
      records_.push_back(MakeTestRecord(i, {100, i % 20 == 0 ? 5 * kMiB : 1000},
                                        {static_cast<uint8_t>(i % 2)}, TestName(1000)));
  }
  static bool Whole() {
    return std::ranges::all_of(nodes_, [](const auto& node) {
      const std::string info = node->Command({"CLUSTER", "INFO"});
      return info.find("cluster_state:ok") != std::string::npos &&
             info.find("cluster_slots_ok:16384") != std::string::npos;
    });
  }
  void PutAll() {
    for (const TestRecord& record : records_) ASSERT_TRUE(TierClient(*tier_).Put(record));
  }
  std::string IdOf(size_t node) const { return nodes_[node]->Command({"CLUSTER", "MYID"}); }
  // The node that has a record's slot, by asking for it.
  size_t OwnerOf(const TestRecord& record) const {
    const std::string key = RedisHeadKey(record.header.name);
    for (size_t i = 0; i < nodes_.size(); ++i) {
      if (!nodes_[i]->Command({"EXISTS", key}).starts_with("ERROR MOVED")) return i;
    }
    return nodes_.size();
  }

  TestClock clock_;
  RedisOptions options_;
  static inline Nodes nodes_;
  std::unique_ptr<Tier> tier_;
  std::vector<TestRecord> records_;
};

TEST_F(RedisCluster, RecordsAreSpreadFoundListedAndWiped) {
  PutAll();
  long keys = 0;
  for (const auto& node : nodes_) {
    EXPECT_GT(node->Number({"DBSIZE"}), 5);
    keys += node->Number({"DBSIZE"});
  }
  EXPECT_EQ(keys, 60 + 3 + 1);
  TierClient client(*tier_);
  std::vector<Digest> names;
  for (const TestRecord& record : records_) {
    EXPECT_TRUE(client.Has(record));
    names.push_back(record.header.name);
  }
  EXPECT_EQ(client.Find(names).value(), std::vector<bool>(60, true));
  EXPECT_EQ(client.Children(TestName(1000))->size(), 60u);
  EXPECT_TRUE(tier_->stats().healthy);

  std::set<Digest> listed;
  uint64_t cursor = 0;
  do {
    for (const RecordHeader& header : tier_->List(cursor, 7, nullptr)) listed.insert(header.name);
  } while (cursor != 0);
  EXPECT_EQ(listed, std::set(names.begin(), names.end()));

  ASSERT_TRUE(tier_->Wipe({1}));
  for (const TestRecord& record : records_) EXPECT_EQ(client.Has(record), record.header.space == SpaceId{0});
  EXPECT_EQ(client.Children(TestName(1000))->size(), 30u);
}

TEST_F(RedisCluster, OneOfAClusterAloneSaysWhatToDo) {
  const auto alone = OpenRedisTier({.url = nodes_[0]->url()}, nullptr, &clock_).value();
  int refused = 0;
  for (const TestRecord& record : records_) {
    const Status status = TierClient(*alone).Put(record);
    if (status) continue;
    ++refused;
    EXPECT_NE(status.error().message.find("name several of its nodes"), std::string::npos)
        << status.error().message;
  }
  EXPECT_GT(refused, 10);
}

TEST_F(RedisCluster, SlotsThatMoveAreFollowed) {
  PutAll();
  const auto before =
      std::ranges::count_if(records_, [&](const auto& record) { return OwnerOf(record) == 2; });
  ASSERT_EQ(RunProgram({"redis-cli", "--cluster", "reshard", nodes_[0]->address(), "--cluster-from", IdOf(0),
                        "--cluster-to", IdOf(2), "--cluster-slots", "800", "--cluster-yes"}),
            0);
  EXPECT_GT(std::ranges::count_if(records_, [&](const auto& record) { return OwnerOf(record) == 2; }),
            before);
  for (const TestRecord& record : records_) EXPECT_TRUE(TierClient(*tier_).Has(record));
}

// In the middle of a move: some keys of a slot are here, some there already.
TEST_F(RedisCluster, ASlotOnTheMoveIsAskedFor) {
  const TestRecord& record = records_[1];
  ASSERT_TRUE(TierClient(*tier_).Put(record));
  const std::string key = RedisHeadKey(record.header.name), slot = std::to_string(RedisSlot(key));
  const size_t from = OwnerOf(record), to = (from + 1) % 3;
  ASSERT_LT(from, 3u);
  ASSERT_EQ(nodes_[to]->Command({"CLUSTER", "SETSLOT", slot, "IMPORTING", IdOf(from)}), "OK");
  ASSERT_EQ(nodes_[from]->Command({"CLUSTER", "SETSLOT", slot, "MIGRATING", IdOf(to)}), "OK");
  ASSERT_EQ(
      nodes_[from]->Command({"MIGRATE", "127.0.0.1", std::to_string(nodes_[to]->port()), key, "0", "5000"}),
      "OK");
  ASSERT_TRUE(nodes_[from]->Command({"GET", key}).starts_with("ERROR ASK"));
  EXPECT_TRUE(TierClient(*tier_).Has(record));
  ASSERT_TRUE(tier_->Remove(std::vector{record.header.name}));
  EXPECT_FALSE(TierClient(*tier_).Has(record));
}

TEST_F(RedisCluster, ADeadNodeCostsItsRecordsOnly) {
  PutAll();
  nodes_[2]->Kill();
  TierClient client(*tier_);
  EXPECT_TRUE(Eventually([&] {
    for (const TestRecord& record : records_) client.Get(record);
    return !tier_->stats().healthy;
  }));
  size_t here = 0, away = 0;
  std::vector<Digest> names;
  for (const TestRecord& record : records_) {
    const Status status = client.Get(record).status();
    if (status) ++here;
    if (!status && status.error().kind == ErrorKind::kUnavailable) ++away;
    names.push_back(record.header.name);
  }
  EXPECT_GT(here, 10u);
  EXPECT_GT(away, 5u);
  const auto found = client.Find(names);
  ASSERT_TRUE(found);
  EXPECT_GE(static_cast<size_t>(std::ranges::count(*found, true)), here);
  EXPECT_FALSE(tier_->Wipe({1})) << "not everything could be looked at";
  nodes_[2]->Start();
}

}  // namespace
}  // namespace larder
