// Two tiers as one store through the C interface, with a real redis-server: is everything found wherever it
// lies, and does a server that is away, slow or dead never cost more than a miss?
#include <gtest/gtest.h>

#include <future>
#include <string>
#include <vector>

#include "larder/store.h"
#include "tests/store/redis/redis_server.h"

namespace larder {
namespace {

constexpr size_t kGroups = 3, kGroupBytes = 5000;

larder_store_name NameOf(uint64_t number) {
  larder_store_name name;
  std::ranges::copy(TestName(number).bytes, name.bytes);
  return name;
}

// A store and its calls, as values.
class Client {
 public:
  // "": without that tier.
  Client(const std::string& directory, const std::string& url, const std::string& key = "",
         const std::string& ring = "") {
    larder_store_options options{};
    options.size = sizeof options;
    options.disk_directory = directory.c_str();
    options.disk_limit_bytes = 64 << 20;
    options.redis_url = url.c_str();
    options.store_key_file = key.c_str();
    options.keyring_file = ring.c_str();
    larder_store_error error{};
    EXPECT_EQ(larder_store_open(&options, &store_, &error), LARDER_STORE_OK) << error.message;
  }
  ~Client() { larder_store_close(store_); }
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  larder_store* get() { return store_; }

  static std::vector<std::byte> PayloadOf(uint64_t number) {
    const TestRecord record = MakeTestRecord(number, std::vector(kGroups, kGroupBytes));
    std::vector<std::byte> payload;
    for (const auto& group : record.groups) payload.insert(payload.end(), group.begin(), group.end());
    return payload;
  }

  larder_store_status Put(uint64_t number, const char* tenant = nullptr, uint64_t parent = 0) {
    const std::vector<std::byte> payload = PayloadOf(number);
    larder_store_group groups[kGroups];
    for (size_t g = 0; g < kGroups; ++g) groups[g] = {payload.data() + g * kGroupBytes, kGroupBytes};
    larder_store_record record{};
    record.size = sizeof record;
    record.name = NameOf(number);
    if (parent != 0) record.parent = NameOf(parent);
    record.groups = groups;
    record.group_count = kGroups;
    std::promise<larder_store_status> outcome;
    larder_store_put_options options{};
    options.size = sizeof options;
    options.tenant = tenant;
    options.done = [](void* user, larder_store_status status, const char*) {
      static_cast<std::promise<larder_store_status>*>(user)->set_value(status);
    };
    options.user = &outcome;
    EXPECT_EQ(larder_store_put(store_, &record, &options, nullptr), LARDER_STORE_OK);
    return outcome.get_future().get();
  }

  struct Got {
    std::vector<larder_store_status> statuses;
    std::vector<uint32_t> groups;  // in the order they were told
  };
  // What arrived has been compared.
  Got Get(const std::vector<uint64_t>& numbers, const char* tenant = nullptr, int64_t timeout_ms = 0) {
    std::vector<std::vector<std::byte>> buffers(numbers.size(),
                                                std::vector<std::byte>(kGroups * kGroupBytes));
    std::vector<larder_store_read> reads(numbers.size());
    for (size_t i = 0; i < numbers.size(); ++i)
      reads[i] = {NameOf(numbers[i]), buffers[i].data(), buffers[i].size(), 0, 0};
    Got got{.statuses = std::vector(numbers.size(), LARDER_STORE_INTERNAL)};
    larder_store_get_options options{};
    options.size = sizeof options;
    options.tenant = tenant;
    options.timeout_ms = timeout_ms;
    options.group_done = [](void* user, uint32_t group, const larder_store_status*, size_t) {
      static_cast<Got*>(user)->groups.push_back(group);
    };
    options.user = &got;
    EXPECT_EQ(larder_store_get(store_, reads.data(), reads.size(), &options, got.statuses.data(), nullptr),
              LARDER_STORE_OK);
    for (size_t i = 0; i < numbers.size(); ++i) {
      const bool here = got.statuses[i] == LARDER_STORE_OK;
      EXPECT_TRUE(!here || buffers[i] == PayloadOf(numbers[i])) << numbers[i];
    }
    return got;
  }
  larder_store_status Get(uint64_t number, const char* tenant = nullptr) {
    return Get(std::vector{number}, tenant).statuses[0];
  }

  std::vector<uint8_t> Match(const std::vector<uint64_t>& numbers) {
    std::vector<larder_store_name> chain;
    for (const uint64_t number : numbers) chain.push_back(NameOf(number));
    std::vector<uint8_t> tiers(numbers.size(), 99);
    size_t leading = 99;
    EXPECT_EQ(larder_store_match(store_, chain.data(), chain.size(), 0, &leading, tiers.data(), nullptr),
              LARDER_STORE_OK);
    EXPECT_EQ(leading, static_cast<size_t>(std::ranges::find(tiers, LARDER_STORE_NOWHERE) - tiers.begin()));
    return tiers;
  }

  size_t CountChildren(uint64_t parent, const char* tenant = nullptr) {
    const larder_store_name name = NameOf(parent);
    size_t count = 0;
    const auto visit = [](void* user, size_t, const larder_store_record*) { ++*static_cast<size_t*>(user); };
    EXPECT_EQ(larder_store_children(store_, tenant, &name, 10, 0, visit, &count, nullptr), LARDER_STORE_OK);
    return count;
  }

  larder_store_tier_stats Stats(larder_store_tier tier) {
    larder_store_tier_stats stats{};
    stats.size = sizeof stats;
    EXPECT_EQ(larder_store_stats(store_, tier, &stats, nullptr), LARDER_STORE_OK);
    return stats;
  }

 private:
  larder_store* store_ = nullptr;
};

const uint8_t kHere = LARDER_STORE_DISK, kThere = LARDER_STORE_REDIS, kNowhere = LARDER_STORE_NOWHERE;

class CapiRedis : public testing::Test {
 protected:
  void SetUp() override {
    if (!HaveRedisServer()) GTEST_SKIP() << "no redis-server";
    server_.emplace();
  }
  std::string url() const { return server_->url(); }

  std::optional<RedisServer> server_;
  TemporaryFolder folder_{"capi"};
};

TEST_F(CapiRedis, WhatOneStorePutsAnotherFinds) {
  Client first(folder_ / "first", url()), second(folder_ / "second", url()), third("", url());
  for (uint64_t i = 1; i <= 3; ++i) EXPECT_EQ(first.Put(i, "anna", i - 1), LARDER_STORE_OK);
  EXPECT_EQ(first.Match({1, 2, 3, 4}), (std::vector{kHere, kHere, kHere, kNowhere}));
  EXPECT_EQ(second.Match({1, 2, 3, 4}), (std::vector{kThere, kThere, kThere, kNowhere}));
  for (Client* client : {&first, &second, &third}) {
    EXPECT_EQ(client->Get(2, "anna"), LARDER_STORE_OK);
    EXPECT_EQ(client->Get(2), LARDER_STORE_NOT_FOUND);
    EXPECT_EQ(client->Get(4, "anna"), LARDER_STORE_NOT_FOUND);
    EXPECT_EQ(client->CountChildren(1, "anna"), 1u);  // also where it lies in both tiers
  }
  EXPECT_EQ(first.Stats(LARDER_STORE_REDIS).read_records, 0u);
  EXPECT_EQ(second.Stats(LARDER_STORE_REDIS).read_records, 1u);
}

// A batch over both tiers is one get: groups in order, each when it is final in all items.
TEST_F(CapiRedis, OneGetReadsFromBothTiers) {
  Client other("", url());
  for (const uint64_t i : {2, 4}) EXPECT_EQ(other.Put(i), LARDER_STORE_OK);
  Client client(folder_ / "disk", url());
  for (const uint64_t i : {1, 3}) EXPECT_EQ(client.Put(i), LARDER_STORE_OK);
  EXPECT_EQ(client.Match({1, 2, 3, 4, 5}), (std::vector{kHere, kThere, kHere, kThere, kNowhere}));
  const Client::Got got = client.Get({1, 2, 3, 4, 5});
  EXPECT_EQ(got.statuses, (std::vector{LARDER_STORE_OK, LARDER_STORE_OK, LARDER_STORE_OK, LARDER_STORE_OK,
                                       LARDER_STORE_NOT_FOUND}));
  EXPECT_EQ(got.groups, (std::vector<uint32_t>{0, 1, 2}));
  EXPECT_EQ(client.Stats(LARDER_STORE_DISK).read_records, 2u);
  EXPECT_EQ(client.Stats(LARDER_STORE_REDIS).read_records, 2u);
}

TEST_F(CapiRedis, WhatTheDiskLosesRedisHas) {
  {
    Client client(folder_ / "disk", url());
    EXPECT_EQ(client.Put(1), LARDER_STORE_OK);
  }
  std::filesystem::remove_all(folder_ / "disk");
  Client client(folder_ / "disk", url());
  EXPECT_EQ(client.Get(1), LARDER_STORE_OK);
  EXPECT_EQ(client.Put(1), LARDER_STORE_OK);  // new on the disk, known in Redis
  EXPECT_EQ(client.Match({1}), (std::vector{kHere}));
}

TEST_F(CapiRedis, RemovalsAndWipesReachBothTiers) {
  Client client(folder_ / "disk", url()), other("", url());
  for (uint64_t i = 1; i <= 2; ++i) EXPECT_EQ(client.Put(i, "anna"), LARDER_STORE_OK);
  EXPECT_EQ(client.Put(3, "bert"), LARDER_STORE_OK);
  const larder_store_name name = NameOf(1);
  EXPECT_EQ(larder_store_remove(client.get(), &name, 1, nullptr), LARDER_STORE_OK);
  EXPECT_EQ(client.Match({1, 2}), (std::vector{kNowhere, kHere}));
  EXPECT_EQ(other.Match({1, 2}), (std::vector{kNowhere, kThere}));
  EXPECT_EQ(larder_store_wipe(client.get(), "anna", nullptr), LARDER_STORE_OK);
  EXPECT_EQ(client.Match({2, 3}), (std::vector{kNowhere, kHere}));
  EXPECT_EQ(other.Match({2, 3}), (std::vector{kNowhere, kThere}));
  EXPECT_EQ(larder_store_pin(other.get(), &name, 1000, nullptr), LARDER_STORE_UNSUPPORTED);
}

TEST_F(CapiRedis, ADeadServerIsAMiss) {
  Client client(folder_ / "disk", url()), remote("", url());
  EXPECT_EQ(client.Put(1), LARDER_STORE_OK);
  EXPECT_EQ(remote.Get(1), LARDER_STORE_OK);
  server_->Kill();
  EXPECT_EQ(client.Get(1), LARDER_STORE_OK);
  EXPECT_EQ(client.Put(2), LARDER_STORE_OK);  // on the disk at least
  EXPECT_EQ(client.Get({2, 7}).statuses[0], LARDER_STORE_OK);
  EXPECT_NE(client.Get(7), LARDER_STORE_OK);
  EXPECT_EQ(client.Match({1, 2, 7}), (std::vector{kHere, kHere, kNowhere}));
  EXPECT_NE(remote.Put(3), LARDER_STORE_OK);
  EXPECT_NE(remote.Get(1), LARDER_STORE_OK);
  EXPECT_EQ(remote.Match({1}), (std::vector{kNowhere}));
  EXPECT_EQ(remote.CountChildren(1), 0u);
  EXPECT_TRUE(Eventually([&] { return remote.Stats(LARDER_STORE_REDIS).healthy == 0; }));
  // Opened without it, and found again when it is back.
  Client late("", url());
  server_->Start();
  EXPECT_TRUE(Eventually([&] { return late.Put(5) == LARDER_STORE_OK; }));
  EXPECT_EQ(late.Get(5), LARDER_STORE_OK);
  EXPECT_TRUE(Eventually([&] { return remote.Put(6) == LARDER_STORE_OK; }));
  EXPECT_EQ(remote.Get(6), LARDER_STORE_OK);
}

TEST_F(CapiRedis, ASilentServerIsLate) {
  Client client(folder_ / "disk", url());
  EXPECT_EQ(client.Put(1), LARDER_STORE_OK);
  server_->Pause();
  const Client::Got got = client.Get({1, 2}, nullptr, 200);
  EXPECT_EQ(got.statuses, (std::vector{LARDER_STORE_OK, LARDER_STORE_SLOW}));

  // Cancelled while the tier below works on it.
  std::promise<void> done;
  std::vector<std::byte> buffer(kGroups * kGroupBytes);
  const larder_store_read read{NameOf(2), buffer.data(), buffer.size(), 0, 0};
  larder_store_get_options options{};
  options.size = sizeof options;
  options.done = [](void* user) { static_cast<std::promise<void>*>(user)->set_value(); };
  options.user = &done;
  uint64_t ticket = 0;
  EXPECT_EQ(larder_store_get_start(client.get(), &read, 1, &options, &ticket, nullptr), LARDER_STORE_OK);
  EXPECT_EQ(larder_store_cancel(client.get(), ticket, nullptr), LARDER_STORE_OK);
  done.get_future().get();
  server_->Resume();
}

TEST_F(CapiRedis, SealedRecordsNeedTheKey) {
  const std::string key = folder_.Write("key", std::string(64, 'a'));
  const std::string other_key = folder_.Write("other", std::string(64, 'b'));
  Client first(folder_ / "first", url(), key), second("", url(), key);
  EXPECT_EQ(first.Put(1, "anna"), LARDER_STORE_OK);
  EXPECT_EQ(second.Get(1, "anna"), LARDER_STORE_OK);
  Client plain("", url()), wrong("", url(), other_key);
  EXPECT_NE(plain.Get(1, "anna"), LARDER_STORE_OK);
  EXPECT_NE(wrong.Get(1, "anna"), LARDER_STORE_OK);
  EXPECT_EQ(second.Get(1, "anna"), LARDER_STORE_OK);  // nobody has deleted it
  EXPECT_EQ(larder_store_wipe(first.get(), "anna", nullptr), LARDER_STORE_OK);
  EXPECT_NE(first.Get(1, "anna"), LARDER_STORE_OK);
  EXPECT_NE(second.Get(1, "anna"), LARDER_STORE_OK);
}

}  // namespace
}  // namespace larder
