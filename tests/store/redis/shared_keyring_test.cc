// Servers with one Redis have one id and one key for a tenant, and never a wrong one.
#include "store/redis/shared_keyring.h"

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <set>
#include <thread>

#include "base/file.h"
#include "store/keyring_file.h"
#include "store/redis/layout.h"
#include "tests/store/redis/redis_server.h"
#include "tests/store/redis/scripted_server.h"

namespace larder {
namespace {

constexpr int64_t kNever = 3'600'000;

struct Sealed {
  std::vector<std::byte> bytes = std::vector<std::byte>(100, std::byte{5});
  std::array<uint8_t, 12> nonce{};
  std::array<uint8_t, 16> tag{};
};

Status SealUnder(const Keyring& ring, const SpaceId& space, Sealed& out) {
  return ring.sealer()->Seal(space, {}, out.bytes, out.bytes, out.nonce, out.tag);
}
Status OpenUnder(const Keyring& ring, const SpaceId& space, Sealed sealed) {
  const Status status = ring.sealer()->Open(space, {}, sealed.nonce, sealed.tag, sealed.bytes);
  if (status) {
    EXPECT_EQ(sealed.bytes, Sealed().bytes);
  }
  return status;
}

class SharedKeyringTest : public testing::Test {
 protected:
  SharedKeyringTest() : folder_("rings"), key_(folder_.Write("key", std::string(32, 'k'))) {}
  void SetUp() override {
    if (!HaveRedisServer()) GTEST_SKIP() << "no redis-server on this machine";
    server_ = std::make_unique<RedisServer>();
  }
  // Patient where an answer is expected: the machine may be busy.
  KeyringOptions Options(const std::string& file = "") const {
    KeyringOptions options{.ring_file = file.empty() ? "" : folder_ / file, .store_key_file = key_};
    options.redis.url = server_ ? server_->url() : "";
    options.redis.connect_timeout_ms = 5000;
    options.redis.backoff_ms = 10;
    options.redis.max_backoff_ms = 20;
    options.lookup_timeout_ms = 20'000;
    options.refresh_ms = kNever;
    return options;
  }
  static std::unique_ptr<Keyring> Open(const KeyringOptions& options) {
    auto ring = OpenKeyring(options);
    EXPECT_TRUE(ring) << ring.error().message;
    return std::move(ring).value();
  }
  std::unique_ptr<Keyring> Open(const std::string& file = "") const { return Open(Options(file)); }
  std::unique_ptr<Keyring> OpenRestless(const std::string& file = "") const {
    KeyringOptions options = Options(file);
    options.refresh_ms = 20;
    return Open(options);
  }
  std::string Value(const std::string& tenant) const {
    return server_->Command({"GET", RedisTenantKey(tenant)});
  }
  void SetValue(const std::string& tenant, const std::string& value) const {
    server_->Command({"SET", RedisTenantKey(tenant), value});
  }

  const TemporaryFolder folder_;
  const std::string key_;
  std::unique_ptr<RedisServer> server_;
};

TEST_F(SharedKeyringTest, TwoServersHaveOneIdAndOneKey) {
  const auto a = Open(), b = Open("b");
  const SpaceId id = a->SpaceOf("t").value();
  EXPECT_EQ(b->SpaceOf("t").value(), id);
  EXPECT_NE(b->SpaceOf("").value(), id);
  EXPECT_EQ(a->SpaceOf("").value(), b->SpaceOf("").value());
  Sealed sealed;
  ASSERT_TRUE(SealUnder(*a, id, sealed));
  EXPECT_TRUE(OpenUnder(*b, id, sealed));
  EXPECT_EQ(a->stats().tenants, 2u);
  EXPECT_EQ(Value("t").size(), 216u) << "docs/formats/redis.md";
  EXPECT_EQ(a->stats().local_entries + b->stats().local_entries, 0u);
  EXPECT_EQ(a->stats().refused_entries + b->stats().refused_entries, 0u);
}

TEST_F(SharedKeyringTest, WithoutAStoreKeyIdsAreShared) {
  KeyringOptions options = Options();
  options.store_key_file.clear();
  const auto a = Open(options), b = Open(options);
  EXPECT_EQ(a->sealer(), nullptr);
  const SpaceId id = a->SpaceOf("t").value();
  EXPECT_EQ(b->SpaceOf("t").value(), id);
  EXPECT_EQ(a->Forget("t").value(), id);
  EXPECT_NE(a->SpaceOf("t").value(), id);
  EXPECT_EQ(Open(options)->SpaceOf("t").value(), a->SpaceOf("t").value());
}

TEST_F(SharedKeyringTest, WhoComesAtTheSameTimeGetsTheSame) {
  std::vector<std::unique_ptr<Keyring>> rings;
  for (int i = 0; i < 6; ++i) rings.push_back(Open(i % 2 == 0 ? "" : "file" + std::to_string(i)));
  std::mutex mutex;
  std::map<std::string, std::set<SpaceId>> seen;
  std::vector<std::thread> threads;
  for (const auto& ring : rings) {
    for (int thread = 0; thread < 2; ++thread) {
      threads.emplace_back([&] {
        for (int i = 0; i < 20; ++i) {
          const std::string tenant = "t" + std::to_string(i);
          const SpaceId id = ring->SpaceOf(tenant).value();
          const std::lock_guard guard(mutex);
          seen[tenant].insert(id);
        }
      });
    }
  }
  for (auto& thread : threads) thread.join();
  for (const auto& [tenant, ids] : seen) EXPECT_EQ(ids.size(), 1u) << tenant;
  for (const auto& ring : rings) EXPECT_EQ(ring->stats().local_entries, 0u);
}

TEST_F(SharedKeyringTest, AnIdOutlivesTheServersThroughRedisOrTheFile) {
  const SpaceId id = Open("a")->SpaceOf("t").value();
  EXPECT_EQ(Open()->SpaceOf("t").value(), id);
  server_->Kill();
  const auto a = Open("a");
  EXPECT_EQ(a->SpaceOf("t").value(), id) << "the file has it";
  EXPECT_EQ(a->stats().local_entries, 0u);
  KeyringOptions alone = Options("a");
  alone.redis.url.clear();
  EXPECT_EQ(Open(alone)->SpaceOf("t").value(), id);
}

TEST_F(SharedKeyringTest, ARingFromBeforeRedisIsBroughtAlong) {
  KeyringOptions alone = Options("a");
  alone.redis.url.clear();
  const SpaceId id = Open(alone)->SpaceOf("t").value();
  const auto a = Open("a");
  EXPECT_TRUE(Eventually([&] { return !Value("t").empty(); })) << "also before anybody asks for the tenant";
  EXPECT_EQ(Open()->SpaceOf("t").value(), id);
}

TEST_F(SharedKeyringTest, AnEvictedEntryIsWrittenAgain) {
  const auto a = OpenRestless();
  const SpaceId id = a->SpaceOf("t").value();
  server_->Command({"FLUSHALL"});
  EXPECT_TRUE(Eventually([&] { return !Value("t").empty(); }));
  EXPECT_EQ(Open()->SpaceOf("t").value(), id);
}

TEST_F(SharedKeyringTest, AWipeOnOneServerIsSeenByTheOthers) {
  const auto a = Open("a");
  KeyringOptions options = Options("b");
  options.refresh_ms = 20;
  std::mutex mutex;
  std::vector<std::pair<std::string, SpaceId>> replaced;
  options.replaced = [&](const std::string& tenant, const SpaceId& old) {
    const std::lock_guard guard(mutex);
    replaced.emplace_back(tenant, old);
  };
  const auto b = Open(options);
  const SpaceId old = a->SpaceOf("t").value();
  ASSERT_EQ(b->SpaceOf("t").value(), old);
  const std::string old_value = Value("t");
  Sealed sealed;
  ASSERT_TRUE(SealUnder(*a, old, sealed));

  EXPECT_EQ(a->Forget("t").value(), old);
  const SpaceId fresh = a->SpaceOf("t").value();
  EXPECT_NE(fresh, old);
  EXPECT_NE(Value("t"), old_value);
  EXPECT_EQ(OpenUnder(*a, old, sealed).error().kind, ErrorKind::kNotFound);
  EXPECT_EQ(SealUnder(*a, old, sealed).error().kind, ErrorKind::kNotFound);
  EXPECT_TRUE(Eventually([&] { return b->SpaceOf("t").value() == fresh; }));
  EXPECT_EQ(OpenUnder(*b, old, sealed).error().kind, ErrorKind::kNotFound);
  Sealed another;
  EXPECT_EQ(SealUnder(*b, old, another).error().kind, ErrorKind::kNotFound) << "a late put is fenced";
  EXPECT_TRUE(Eventually([&] {
    const std::lock_guard guard(mutex);
    return !replaced.empty();
  }));
  EXPECT_EQ(replaced, (std::vector<std::pair<std::string, SpaceId>>{{"t", old}}));

  // Nowhere is the old key left.
  const CipherKey master = ReadKeyFile(key_).value();
  for (const char* file : {"a", "b"}) {
    const SpaceKeys keys = ParseKeyring(ReadFile(folder_ / file).value(), &master, Cipher()).value();
    EXPECT_EQ(keys.at("t").id, fresh) << file;
  }
}

TEST_F(SharedKeyringTest, ARecordThatDoesNotOpenHasTheEntriesReadAtOnce) {
  const auto a = Open(), b = Open();  // neither looks by itself
  const SpaceId old = a->SpaceOf("t").value();
  ASSERT_EQ(b->SpaceOf("t").value(), old);
  ASSERT_TRUE(a->Forget("t"));
  const SpaceId fresh = a->SpaceOf("t").value();
  Sealed sealed;
  ASSERT_TRUE(SealUnder(*a, fresh, sealed));
  EXPECT_EQ(b->SpaceOf("t").value(), old);
  EXPECT_EQ(OpenUnder(*b, fresh, sealed).error().kind, ErrorKind::kNotFound);
  EXPECT_TRUE(Eventually([&] { return b->SpaceOf("t").value() == fresh; }));
  EXPECT_TRUE(OpenUnder(*b, fresh, sealed));
}

TEST_F(SharedKeyringTest, ForgettingWhatNobodyKnows) {
  const auto a = Open();
  EXPECT_EQ(a->Forget("t").error().kind, ErrorKind::kNotFound);
  EXPECT_EQ(Value("t"), "") << "nothing is made for it";
  const SpaceId id = Open()->SpaceOf("t").value();
  EXPECT_EQ(a->Forget("t").value(), id) << "what another server made is found";
  EXPECT_NE(Open()->SpaceOf("t").value(), id);
  EXPECT_EQ(a->SpaceOf(std::string(1025, 'a')).error().kind, ErrorKind::kInvalid);
  EXPECT_EQ(a->Forget(std::string(1025, 'a')).error().kind, ErrorKind::kInvalid);
}

TEST_F(SharedKeyringTest, BothForgetAndBothEndWithOneNewId) {
  const auto a = OpenRestless("a"), b = OpenRestless("b");
  for (int round = 0; round < 20; ++round) {
    const SpaceId old = a->SpaceOf("t").value();
    ASSERT_TRUE(Eventually([&] { return b->SpaceOf("t").value() == old; }));
    std::thread other([&] { EXPECT_TRUE(b->Forget("t")); });
    EXPECT_TRUE(a->Forget("t"));
    other.join();
    EXPECT_TRUE(Eventually([&] { return a->SpaceOf("t").value() == b->SpaceOf("t").value(); }));
    EXPECT_NE(a->SpaceOf("t").value(), old);
  }
}

TEST_F(SharedKeyringTest, ADeadRedisCostsNothingButSharing) {
  server_->Kill();
  const auto a = OpenRestless(), b = OpenRestless("b");
  const SpaceId id_a = a->SpaceOf("t").value(), id_b = b->SpaceOf("t").value();
  EXPECT_NE(id_a, id_b);
  EXPECT_EQ(a->SpaceOf("t").value(), id_a);
  EXPECT_EQ(a->stats().local_entries, 1u);
  Sealed sealed;
  EXPECT_TRUE(SealUnder(*a, id_a, sealed));
  EXPECT_TRUE(OpenUnder(*a, id_a, sealed));
  server_->Start();
  EXPECT_TRUE(Eventually([&] { return a->SpaceOf("t").value() == b->SpaceOf("t").value(); }));
  const SpaceId id = a->SpaceOf("t").value();
  EXPECT_TRUE(id == id_a || id == id_b);
  EXPECT_EQ(Open()->SpaceOf("t").value(), id);
}

TEST_F(SharedKeyringTest, APausedRedisIsNotWaitedFor) {
  KeyringOptions options = Options();
  options.lookup_timeout_ms = 50;
  options.redis.command_timeout_ms = 60'000;
  const auto other = Open();
  const SpaceId theirs = other->SpaceOf("new").value();
  const auto a = Open(options);
  const SpaceId known = a->SpaceOf("known").value();
  server_->Pause();
  EXPECT_EQ(a->SpaceOf("known").value(), known);
  const SpaceId ours = a->SpaceOf("new").value();
  EXPECT_NE(ours, theirs);
  EXPECT_EQ(a->stats().local_entries, 1u);
  server_->Resume();
  EXPECT_TRUE(Eventually([&] { return a->SpaceOf("new").value() == theirs; })) << "the late answer counts";
}

TEST_F(SharedKeyringTest, ForgettingWithoutRedisIsDurableInTheFileAndToldLater) {
  const auto b = OpenRestless();
  SpaceId old, fresh;
  {
    const auto a = OpenRestless("a");
    old = a->SpaceOf("t").value();
    ASSERT_EQ(b->SpaceOf("t").value(), old);
    server_->Command({"SAVE"});
    server_->Kill();
    EXPECT_EQ(a->Forget("t").value(), old);
    fresh = a->SpaceOf("t").value();
    EXPECT_NE(fresh, old);
  }
  const auto a = OpenRestless("a");
  EXPECT_EQ(a->SpaceOf("t").value(), fresh);
  server_->Start();  // with the old entry, from its snapshot
  EXPECT_TRUE(Eventually([&] { return b->SpaceOf("t").value() == fresh; }));
  EXPECT_EQ(a->SpaceOf("t").value(), fresh);
}

TEST_F(SharedKeyringTest, ForgettingInMemoryAloneIsRefusedWithoutRedis) {
  const auto a = OpenRestless();
  const SpaceId old = a->SpaceOf("t").value();
  server_->Kill();
  EXPECT_EQ(a->Forget("t").error().kind, ErrorKind::kUnavailable);
  EXPECT_NE(a->SpaceOf("t").value(), old) << "here it is forgotten all the same";
  EXPECT_EQ(a->Forget("unknown").error().kind, ErrorKind::kUnavailable);
}

// What another server stored for the tenant after a wipe that this one has not seen has to go too.
TEST_F(SharedKeyringTest, ForgettingGoesAboveWhatOthersMadeMeanwhile) {
  const auto a = Open("a");  // does not look by itself
  const auto b = OpenRestless();
  const SpaceId first = a->SpaceOf("t").value();
  ASSERT_EQ(b->SpaceOf("t").value(), first);
  ASSERT_TRUE(b->Forget("t"));
  ASSERT_TRUE(b->Forget("t"));
  const SpaceId theirs = b->SpaceOf("t").value();
  EXPECT_EQ(a->Forget("t").value(), first);
  const SpaceId ours = a->SpaceOf("t").value();
  EXPECT_NE(ours, theirs);
  EXPECT_TRUE(Eventually([&] { return b->SpaceOf("t").value() == ours; }));
}

TEST_F(SharedKeyringTest, AnOldEntryThatComesBackIsReplaced) {
  const auto a = OpenRestless("a");
  ASSERT_TRUE(a->SpaceOf("t"));
  const std::string old_value = Value("t");
  ASSERT_TRUE(a->Forget("t"));
  const SpaceId fresh = a->SpaceOf("t").value();
  SetValue("t", old_value);
  EXPECT_TRUE(Eventually([&] { return Value("t") != old_value; }));
  EXPECT_EQ(a->SpaceOf("t").value(), fresh);
  EXPECT_EQ(Open()->SpaceOf("t").value(), fresh);
}

TEST_F(SharedKeyringTest, WhatIsNotAnEntryIsRefusedCountedAndLeftAlone) {
  ASSERT_TRUE(Open()->SpaceOf("t"));
  ASSERT_TRUE(Open()->SpaceOf("u"));
  const std::string good = Value("t");
  std::vector<std::string> bad{"x", std::string(10 << 20, 'x'), good + "x", good + std::string(1000, 'x'),
                               Value("u")};
  for (size_t bytes = 1; bytes < good.size(); bytes += 7) bad.push_back(good.substr(0, bytes));
  for (size_t bit = 0; bit < good.size() * 8; bit += 13) {
    bad.push_back(good);
    bad.back()[bit / 8] = static_cast<char>(bad.back()[bit / 8] ^ 1 << bit % 8);
  }
  std::set<SpaceId> ids;
  for (const std::string& value : bad) {
    SetValue("t", value);
    const auto ring = Open();
    EXPECT_TRUE(ids.insert(ring->SpaceOf("t").value()).second);
    EXPECT_EQ(ring->stats().refused_entries, 1u);
    EXPECT_EQ(ring->stats().local_entries, 1u);
    EXPECT_EQ(Value("t"), value);
  }
  SetValue("t", good);
  EXPECT_TRUE(ids.insert(Open()->SpaceOf("t").value()).second) << "the true one was not among them";
}

TEST_F(SharedKeyringTest, AnotherTypeUnderTheKeyIsNoEntry) {
  server_->Command({"SADD", RedisTenantKey("t"), "x"});
  const auto ring = Open();
  EXPECT_TRUE(ring->SpaceOf("t"));
  EXPECT_EQ(ring->stats().local_entries, 1u);
}

TEST_F(SharedKeyringTest, AnotherStoreKeyIsAnotherWorld) {
  KeyringOptions other_options = Options(), plain_options = Options();
  other_options.store_key_file = folder_.Write("other", std::string(32, 'o'));
  plain_options.store_key_file.clear();
  const auto ring = OpenRestless(), other = Open(other_options), plain = Open(plain_options);
  const SpaceId id = ring->SpaceOf("t").value();
  const std::string value = Value("t");
  for (const auto* stranger : {&other, &plain}) {
    EXPECT_NE((*stranger)->SpaceOf("t").value(), id);
    EXPECT_EQ((*stranger)->stats().refused_entries, 1u);
    EXPECT_TRUE((*stranger)->Forget("t")) << "its own";
  }
  Sealed sealed;
  ASSERT_TRUE(SealUnder(*ring, id, sealed));
  EXPECT_FALSE(OpenUnder(*other, id, sealed));
  EXPECT_FALSE(OpenUnder(*other, other->SpaceOf("t").value(), sealed));
  EXPECT_EQ(Value("t"), value) << "not theirs to change";
  EXPECT_EQ(ring->SpaceOf("t").value(), id);
}

TEST_F(SharedKeyringTest, AServerThatLiesIsBounded) {
  const std::vector<ScriptedServer::Script> scripts{
      [](const auto&) { return "HTTP/1.1 400 Bad Request\r\n\r\n"; },
      [](const auto&) { return std::nullopt; },
      [](const auto& command) { return command[0] == "PING" ? "+PONG\r\n" : "$-1\r\n"; },
      [](const auto& command) { return command[0] == "PING" ? "+PONG\r\n" : ":7\r\n"; },
      [](const auto& command) { return command[0] == "PING" ? "+PONG\r\n" : "$9999999999\r\nx"; },
      [](const auto& command) {  // never there, and never ours to make
        return command[0] == "PING" ? "+PONG\r\n" : command[0] == "SET" ? "$-1\r\n" : "$0\r\n\r\n";
      },
      [](const auto& command) {
        return command[0] == "PING" ? "+PONG\r\n" : command[0] == "SET" ? ":1\r\n" : "$0\r\n\r\n";
      },
      [](const auto& command) { return command[0] == "PING" ? "+PONG\r\n" : "-OOM full\r\n"; }};
  for (const auto& script : scripts) {
    const ScriptedServer liar(script);
    KeyringOptions options = Options();
    options.redis.url = "redis://" + liar.address();
    const auto ring = Open(options);
    const SpaceId id = ring->SpaceOf("t").value();
    EXPECT_EQ(ring->SpaceOf("t").value(), id);
    EXPECT_EQ(ring->stats().local_entries, 1u);
    EXPECT_EQ(ring->Forget("t").error().kind, ErrorKind::kUnavailable);
  }
}

// The limit of tries, by the writes it allows.
TEST_F(SharedKeyringTest, WhoIsNeverFirstGivesUpAfterThreeTries) {
  std::atomic<int> sets = 0;
  const ScriptedServer liar([&](const auto& command) -> std::optional<std::string> {
    if (command[0] == "PING") return "+PONG\r\n";
    if (command[0] != "SET") return "$0\r\n\r\n";  // never there,
    ++sets;
    return "$-1\r\n";  // and somebody else was always faster
  });
  KeyringOptions options = Options();
  options.redis.url = "redis://" + liar.address();
  const auto ring = Open(options);
  EXPECT_TRUE(ring->SpaceOf("t"));
  EXPECT_EQ(sets, 3);
  EXPECT_EQ(ring->stats().local_entries, 1u);
}

// An answer to what was sent before the tenant was forgotten must not bring its entry in.
TEST_F(SharedKeyringTest, ALateAnswerDoesNotUndoAForgetting) {
  std::mutex mutex;
  std::condition_variable changed;
  bool released = false;
  const ScriptedServer slow([&](const auto& command) -> std::optional<std::string> {
    if (command[0] == "PING") return "+PONG\r\n";
    std::unique_lock lock(mutex);
    if (released) return "-ERR down\r\n";
    if (command[0] != "SET") return "$0\r\n\r\n";
    changed.wait(lock, [&] { return released; });
    return "+OK\r\n";  // to the first entry's SET
  });
  KeyringOptions options = Options();
  options.redis.url = "redis://" + slow.address();
  options.redis.command_timeout_ms = 60'000;
  options.redis.admin_timeout_ms = 60'000;
  options.lookup_timeout_ms = 50;
  std::vector<SpaceId> replaced;  // by the ring's thread, read when it has ended
  options.replaced = [&](const std::string&, const SpaceId& old) { replaced.push_back(old); };
  auto ring = Open(options);
  const SpaceId first = ring->SpaceOf("t").value();
  std::thread forgetting([&] { EXPECT_FALSE(ring->Forget("t")) << "Redis was not told"; });
  EXPECT_TRUE(Eventually([&] { return ring->SpaceOf("t").value() != first; }));
  const SpaceId fresh = ring->SpaceOf("t").value();
  {
    const std::lock_guard lock(mutex);
    released = true;
  }
  changed.notify_all();
  forgetting.join();  // its own question was answered behind the late one
  EXPECT_EQ(ring->SpaceOf("t").value(), fresh);
  ring.reset();
  EXPECT_TRUE(replaced.empty());
}

// Both forgot it, so the entries are of one generation, and what the other stored before this one forgot is
// still there. A restart does not make this one forget that.
TEST_F(SharedKeyringTest, ForgettingWithoutRedisGoesAboveOthersAlsoAfterARestart) {
  const auto b = OpenRestless("b");
  SpaceId theirs, ours;
  {
    const auto a = Open("a");  // does not look by itself
    const SpaceId first = a->SpaceOf("t").value();
    ASSERT_EQ(b->SpaceOf("t").value(), first);
    ASSERT_TRUE(b->Forget("t"));
    theirs = b->SpaceOf("t").value();
    server_->Command({"SAVE"});
    server_->Kill();
    EXPECT_EQ(a->Forget("t").value(), first);
    ours = a->SpaceOf("t").value();
  }
  const CipherKey master = ReadKeyFile(key_).value();
  const auto file = [&] { return ParseKeyring(ReadFile(folder_ / "a").value(), &master, Cipher()).value(); };
  EXPECT_TRUE(file().at("t").untold);
  const auto a = OpenRestless("a");
  EXPECT_EQ(a->SpaceOf("t").value(), ours);
  server_->Start();
  EXPECT_TRUE(Eventually([&] { return b->SpaceOf("t").value() == ours; }));
  EXPECT_EQ(a->SpaceOf("t").value(), ours) << "and not " << int{theirs[0]};
  EXPECT_TRUE(Eventually([&] { return !file().at("t").untold; })) << "it is told once";
  EXPECT_EQ(Open()->SpaceOf("t").value(), ours);
}

// The old entry lies in Redis all along, also one of another server that forgot the tenant as often.
TEST_F(SharedKeyringTest, WhatWasForgottenWithoutRedisDoesNotComeBackWithIt) {
  for (const int times_elsewhere : {0, 1, 3}) {
    const std::string tenant = "t" + std::to_string(times_elsewhere);
    SpaceId old, fresh;
    Sealed sealed;
    {
      const auto a = Open("a");
      old = a->SpaceOf(tenant).value();
      ASSERT_TRUE(SealUnder(*a, old, sealed));
    }
    {
      KeyringOptions alone = Options("a");
      alone.redis.url.clear();
      const auto a = Open(alone);
      EXPECT_EQ(a->Forget(tenant).value(), old);
      fresh = a->SpaceOf(tenant).value();
    }
    const auto b = OpenRestless();
    ASSERT_EQ(b->SpaceOf(tenant).value(), old) << "nobody has told it";
    for (int i = 0; i < times_elsewhere; ++i) ASSERT_TRUE(b->Forget(tenant));
    const auto a = Open("a");
    EXPECT_EQ(a->SpaceOf(tenant).value(), fresh) << times_elsewhere;
    EXPECT_EQ(OpenUnder(*a, old, sealed).error().kind, ErrorKind::kNotFound);
    EXPECT_TRUE(Eventually([&] { return b->SpaceOf(tenant).value() == fresh; })) << times_elsewhere;
    EXPECT_EQ(OpenUnder(*b, old, sealed).error().kind, ErrorKind::kNotFound);
    EXPECT_EQ(Open()->SpaceOf(tenant).value(), fresh) << "of a third server";
  }
}

TEST_F(SharedKeyringTest, TwoServersMayShareTheFileToo) {
  server_->Kill();
  const auto a = Open("ring"), b = Open("ring");
  EXPECT_EQ(a->SpaceOf("t").value(), b->SpaceOf("t").value()) << "the file decides while Redis is away";
  server_->Start();
  const auto c = Open("ring"), d = Open();
  EXPECT_EQ(c->SpaceOf("t").value(), a->SpaceOf("t").value());
  EXPECT_EQ(d->SpaceOf("t").value(), a->SpaceOf("t").value());
}

TEST_F(SharedKeyringTest, AFileThatCannotBeWrittenIsCaughtUpLater) {
  std::filesystem::create_directory(folder_ / "away");
  const std::string file = folder_ / "away" + "/ring";
  KeyringOptions options = Options("away/ring");
  options.refresh_ms = 20;
  const auto ring = Open(options);
  std::filesystem::rename(folder_ / "away", folder_ / "gone");
  const SpaceId id = ring->SpaceOf("t").value();
  EXPECT_FALSE(ring->Forget("t")) << "not durable";
  EXPECT_EQ(ring->SpaceOf("t").value(), id);
  std::filesystem::rename(folder_ / "gone", folder_ / "away");
  const CipherKey master = ReadKeyFile(key_).value();
  EXPECT_TRUE(Eventually([&] {
    const auto keys = ParseKeyring(ReadFile(file).value(), &master, Cipher());
    return keys && keys->contains("t") && keys->at("t").id == id;
  }));
}

TEST_F(SharedKeyringTest, TheFactoryGivesTheRightKind) {
  KeyringOptions options = Options("ring");
  options.redis.url = "http://localhost";
  EXPECT_EQ(OpenKeyring(options).error().kind, ErrorKind::kInvalid);
  options.redis.url.clear();
  EXPECT_TRUE(Open(options)->SpaceOf("t"));
  options.redis.url = server_->url();
  options.store_key_file.clear();
  EXPECT_EQ(OpenKeyring(options).error().kind, ErrorKind::kInvalid) << "the ring has keys";
  options.store_key_file = folder_ / "absent";
  EXPECT_EQ(OpenKeyring(options).error().kind, ErrorKind::kNotFound);
  EXPECT_EQ(OpenKeyring({}).error().kind, ErrorKind::kInvalid);
}

TEST(SharedKeyringCluster, EntriesAreSpreadAndShared) {
  if (!HaveRedisServer()) GTEST_SKIP() << "no redis-server on this machine";
  std::vector<std::unique_ptr<RedisServer>> nodes;
  std::vector<std::string> create{"redis-cli", "--cluster", "create"};
  for (int i = 0; i < 3; ++i) {
    nodes.push_back(std::make_unique<RedisServer>(
        std::vector<std::string>{"--cluster-enabled", "yes", "--cluster-port", std::to_string(FreePort()),
                                 "--cluster-node-timeout", "1000"}));
    create.push_back(nodes.back()->address());
  }
  create.push_back("--cluster-yes");
  ASSERT_EQ(RunProgram(create), 0);
  ASSERT_TRUE(Eventually([&] {
    return std::ranges::all_of(nodes, [](const auto& node) {
      return node->Command({"CLUSTER", "INFO"}).find("cluster_state:ok") != std::string::npos;
    });
  }));
  KeyringOptions options{.lookup_timeout_ms = 20'000, .refresh_ms = 50};
  options.redis.url = "redis://" + nodes[0]->address() + "," + nodes[1]->address();
  const auto a = OpenKeyring(options).value(), b = OpenKeyring(options).value();
  for (int i = 0; i < 100; ++i) {
    const std::string tenant = std::to_string(i);
    EXPECT_EQ(a->SpaceOf(tenant).value(), b->SpaceOf(tenant).value());
  }
  EXPECT_EQ(a->stats().local_entries + b->stats().local_entries, 0u);
  for (const auto& node : nodes) EXPECT_GT(node->Number({"DBSIZE"}), 5);
  for (int i = 0; i < 100; ++i) EXPECT_TRUE(a->Forget(std::to_string(i)));
  EXPECT_TRUE(Eventually([&] {
    for (int i = 0; i < 100; ++i) {
      if (a->SpaceOf(std::to_string(i)).value() != b->SpaceOf(std::to_string(i)).value()) return false;
    }
    return true;
  }));
}

}  // namespace
}  // namespace larder
