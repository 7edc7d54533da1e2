// Tiers that are slow, silent, dead, full or wrong, now or always: never a wrong row, never much more time
// than computing takes, and no memory is lost to them.
#include <algorithm>
#include <random>

#include "kv/block_record.h"
#include "tiers_server.h"

namespace larder {
namespace {

constexpr int64_t kMs = 1'000'000;

KvSetup AlikeLayers() {
  KvSetup setup;
  setup.windows = {0, 0, 0};
  return setup;
}

// A server over records that have this text, and tiers whose reads take as long as a test says.
class TimedServer {
 public:
  explicit TimedServer(const std::vector<int32_t>& longest) {
    Server(std::vector{&records_}).Run("a", longest);
    server_ = std::make_unique<Server>(std::vector{&records_});
  }

  MemoryTier& tier() { return server_->tier(); }
  // Asks for a text that memory has not; computing it would take `recompute_ms`, reading it takes `read_ms`.
  // Whether it was read.
  bool Ask(std::span<const int32_t> text, double recompute_ms, double read_ms) {
    const uint64_t gets = tier().gets;
    bool read = false;
    {
      const auto restore =
          server_->cache().Restore("a", text, [=](int64_t, int64_t) { return recompute_ms; });
      while (!restore->done()) {
        if (tier().gets > gets && !std::exchange(read, true))
          server_->world().clock().AdvanceNs(static_cast<int64_t>(read_ms * kMs));
        EXPECT_TRUE(server_->Deliver());
      }
      EXPECT_NE(restore->slow(), read);
    }
    server_->Settle();
    server_->cache().Clear("");
    return read;
  }
  int64_t Now() { return server_->world().clock().NowNs(); }

 private:
  MemoryRecords records_;
  std::unique_ptr<Server> server_;
};

TEST(TierFaults, ATierThatWasSlowIsUsedAgain) {
  const auto text = Text(1, 192);
  TimedServer server(text);
  ASSERT_TRUE(server.Ask(text, 20, 1));
  int read = 0;
  while (read < 20 && server.Ask(text, 20, 200)) ++read;
  EXPECT_LT(read, 10) << "small reads teach, too";
  // Hopeless, it is tried now and then, for no longer than computing takes.
  int tried = 0;
  for (int i = 0; i < 64; ++i) {
    const int64_t before = server.Now();
    if (!server.Ask(text, 20, 200)) continue;
    ++tried;
    EXPECT_LE(server.tier().last_deadline_ns, before + 20 * kMs);
  }
  EXPECT_GE(tried, 2);
  EXPECT_LE(tried, 6);
  int asked = 0;
  while (asked < 400 && !(server.Ask(text, 20, 1) && server.Ask(text, 20, 1))) ++asked;
  EXPECT_LT(asked, 300);
  for (int i = 0; i < 10; ++i) EXPECT_TRUE(server.Ask(text, 20, 1)) << "and it stays in use";
}

// A tier that takes 40 ms to begin and then is quick is worth it for long texts only; one that is quick to
// begin and slow then for short ones only.
TEST(TierFaults, LatencyAndRateAreLearntApart) {
  const auto text = Text(1, 64 * 40);
  const auto one = First(text, 64);
  {
    TimedServer far(text);
    for (int i = 0; i < 40; ++i) {
      far.Ask(one, 1000, 40);
      far.Ask(text, 1000, 44);
    }
    EXPECT_FALSE(far.Ask(one, 20, 40));
    EXPECT_TRUE(far.Ask(text, 60, 44));
  }
  TimedServer narrow(text);
  for (int i = 0; i < 40; ++i) {
    narrow.Ask(one, 1000, 2);
    narrow.Ask(text, 1000, 80);
  }
  EXPECT_TRUE(narrow.Ask(one, 4, 2));
  EXPECT_FALSE(narrow.Ask(text, 40, 80));
}

// Milliseconds that pass until a restore is over, with all that is answered.
int64_t Wait(Server& server, const KvRestore& restore) {
  int64_t waited = 0;
  while (!restore.done() && waited < 1'000'000) {
    if (server.Deliver()) continue;
    server.world().clock().AdvanceNs(kMs);
    ++waited;
  }
  return waited;
}

TEST(TierFaults, ASilentTierCostsNoMoreThanComputing) {
  MemoryRecords records;
  const auto text = Text(1, 200);
  {
    Server(std::vector{&records}).Run("a", text);
  }
  struct Case {
    double recompute_ms;
    int64_t least, most;  // that is waited before the prompt is computed
  };
  // One question is waited for as long as computing takes, the one that could follow a little.
  for (const Case& c : {Case{1, 10, 20}, Case{40, 40, 50}, Case{90, 90, 100}, Case{1e6, 250, 260}}) {
    Server server({&records});
    server.tier().silent = &server.world().clock();
    const auto restore = server.cache().Restore("a", text, [&](int64_t, int64_t) { return c.recompute_ms; });
    const int64_t waited = Wait(server, *restore);
    EXPECT_GE(waited, c.least) << c.recompute_ms;
    EXPECT_LE(waited, c.most) << c.recompute_ms;
    EXPECT_TRUE(restore->slow());
    EXPECT_EQ(server.world().Run("a", text), 0);
  }
  // Whoever reads in any case waits for each answer.
  Server server({&records});
  server.tier().silent = &server.world().clock();
  EXPECT_EQ(Wait(server, *server.cache().Restore("a", text, nullptr)), 500);
}

TEST(TierFaults, AReadHasWhatIsLeftOfTheTimeThatComputingTakes) {
  MemoryRecords records;
  const auto text = Text(1, 192);
  {
    Server(std::vector{&records}).Run("a", text);
  }
  for (const bool silent_first : {false, true}) {
    Server server({&records});
    const auto restore = server.cache().Restore("a", text, [](int64_t, int64_t) { return 60.0; });
    if (silent_first) server.world().clock().AdvanceNs(25 * kMs);  // the answer takes so long
    server.tier().silent = &server.world().clock();
    ASSERT_TRUE(server.Deliver()) << "the answer to the first question";
    ASSERT_EQ(server.tier().gets, 1u);
    EXPECT_EQ(Wait(server, *restore), silent_first ? 35 : 60);
    EXPECT_EQ(server.world().Run("a", text), 0);
  }
}

// What is still being written to when it is given up holds up nobody, and is not given to anybody else.
TEST(TierFaults, AReadThatHangsHoldsUpNobody) {
  const auto text = Text(1, 320), longer = Join(text, Text(2, 100));
  for (const bool whole : {true, false}) {
    SCOPED_TRACE(whole ? "whole" : "begun early");
    MemoryRecords records;
    std::vector<std::string> names;
    {
      Server first({&records}, AlikeLayers());
      first.Run("a", text);
      for (const auto& block : first.cache().List("a", 10)) names.push_back(block.name);
    }
    Server server({&records}, AlikeLayers());
    const uint64_t before = server.cache().used_bytes();
    server.tier().corrupt.insert(names[2]);
    server.tier().hanging = true;
    auto restore = server.cache().Restore("a", longer, nullptr, ReadPriority::kRequest, whole);
    while (!restore->done()) ASSERT_TRUE(server.Deliver());
    EXPECT_EQ(restore->started(), !whole);
    EXPECT_EQ(restore->broken(), !whole);
    EXPECT_TRUE(server.world().Sound());
    restore.reset();
    // Rows before the bad block are there; it and the others are computed.
    EXPECT_EQ(server.world().Run("a", longer), 128);
    EXPECT_TRUE(server.world().Sound());
    server.cache().Clear("");
    EXPECT_GT(server.cache().used_bytes(), before) << "the bad block's destination";
    server.tier().hanging = false;
    server.Settle();
    server.cache().Clear("");
    EXPECT_EQ(server.cache().used_bytes(), before);
    EXPECT_TRUE(server.world().Sound());
  }
}

// Once more with all the layers: what did come is not read again.
TEST(TierFaults, ABrokenBeginIsReadAgainFromTheBadBlockOn) {
  MemoryRecords records;
  const auto text = Text(1, 320);
  std::vector<std::string> names;
  {
    Server first({&records}, AlikeLayers());
    first.Run("a", text);
    for (const auto& block : first.cache().List("a", 10)) names.push_back(block.name);
  }
  const auto longer = Join(text, Text(2, 100));
  Server server({&records}, AlikeLayers());
  server.tier().corrupt.insert(names[2]);
  auto restore = server.cache().Restore("a", longer, nullptr);
  while (!restore->done()) ASSERT_TRUE(server.Deliver());
  ASSERT_TRUE(restore->broken());
  restore = nullptr;
  restore = server.cache().Restore("a", longer, nullptr, ReadPriority::kRequest, true);
  while (!restore->done()) ASSERT_TRUE(server.Deliver());
  EXPECT_FALSE(restore->started());
  EXPECT_EQ(restore->gap_end(), 192);
  auto sequence = server.world().Open("a", longer);
  ASSERT_EQ(sequence->length(), 128);
  ASSERT_TRUE(server.world().Write(*sequence, std::span(longer).subspan(128, 64)));
  EXPECT_EQ(server.cache().Extend(*sequence, *restore), 128);
  EXPECT_TRUE(server.world().Reads(*sequence));
  EXPECT_TRUE(server.world().Sound());
  server.cache().Close(std::move(sequence));
}

// Tiers that are dead, slow, silent, full, corrupt or hanging at random, under texts that share prefixes.
class FaultyTiers {
 public:
  explicit FaultyTiers(uint32_t seed) : random_(seed) {
    KvSetup setup;
    if (seed % 3 == 0) setup.windows = {0, 70, 0};
    if (seed % 3 == 1) setup = AlikeLayers();
    server_ = std::make_unique<Server>(std::vector{&disk_, &redis_}, setup);
    before_ = server_->cache().used_bytes();
  }

  void Round() {
    for (const size_t tier : {0, 1}) Spoil(server_->tier(tier), tier == 0 ? disk_ : redis_);
    const std::vector<int32_t> text = NextText();
    const bool whole = random_() % 4 == 0;
    RecomputeMs recompute_ms;
    if (random_() % 2 == 0) {
      const auto ms = static_cast<double>(uint64_t{1} << random_() % 10);
      recompute_ms = [ms](int64_t, int64_t) { return ms; };
    }
    auto restore = server_->cache().Restore("a", text, recompute_ms, ReadPriority::kRequest, whole);
    const bool waits = random_() % 5 != 0;
    while (restore != nullptr && waits && !restore->done()) Advance();
    if (!waits) restore = nullptr;  // cancelled
    Finish(text, restore.get());
    restore = nullptr;
    ASSERT_TRUE(server_->world().Sound());
    if (random_() % 3 == 0) Advance();
    if (random_() % 3 == 0) server_->cache().Clear("");
  }

  // All is well again: every read and write ends, and nothing is left of them.
  void End() {
    for (const size_t tier : {0, 1}) Mend(server_->tier(tier));
    server_->world().clock().AdvanceNs(int64_t{1000} * 1000 * kMs);
    server_->Settle();
    server_->cache().Clear("");
    const KvStats stats = server_->cache().stats();
    EXPECT_EQ(stats.held_blocks, 0u);
    EXPECT_EQ(stats.nodes, 0u);
    EXPECT_EQ(server_->cache().used_bytes(), before_);
    const auto text = Text(9, 200);
    server_->Run("a", text);
    server_->Settle();
    server_->cache().Clear("");
    EXPECT_EQ(server_->Run("a", text).length, 200) << "and they are used";
  }

 private:
  static void Mend(MemoryTier& tier) {
    tier.dead = tier.slow = tier.full = tier.hanging = false;
    tier.silent = nullptr;
    tier.corrupt.clear();
  }
  void Spoil(MemoryTier& tier, const MemoryRecords& records) {
    Mend(tier);
    const auto one_of = [this](uint32_t n) { return random_() % n == 0; };
    tier.dead = one_of(6);
    tier.slow = one_of(6);
    tier.full = one_of(5);
    tier.hanging = one_of(5);
    if (one_of(6)) tier.silent = &server_->world().clock();
    tier.corrupt_group = one_of(2) ? static_cast<uint32_t>(random_() % 3) : UINT32_MAX;
    for (const auto& [name, record] : records.by_name) {
      if (one_of(5)) tier.corrupt.insert(name);
    }
  }
  std::vector<int32_t> NextText() {
    std::vector<int32_t> text;
    if (!texts_.empty() && random_() % 4 != 0) {
      const auto& old = texts_[random_() % texts_.size()];
      text.assign(old.begin(), old.begin() + static_cast<ptrdiff_t>(random_() % (old.size() + 1)));
    }
    for (auto n = 1 + random_() % 200; n > 0; --n) text.push_back(static_cast<int32_t>(random_() % 3));
    texts_.push_back(text);
    return text;
  }
  void Advance() {
    if (!server_->Deliver(&random_)) server_->world().clock().AdvanceNs(20 * kMs);
  }
  // As the engine does it: opens, computes up to a gap, takes what is behind it, computes the rest.
  void Finish(const std::vector<int32_t>& text, KvRestore* restore) {
    if (restore != nullptr && restore->broken()) restore = nullptr;
    KvWorld& world = server_->world();
    auto opened = server_->cache().Open("a", text, restore);
    ASSERT_TRUE(opened);
    const std::unique_ptr<KvSequence> sequence = std::move(opened->sequence);
    EXPECT_TRUE(world.Reads(*sequence));
    while (restore != nullptr && restore->gap_end() > sequence->length()) {
      const auto at = static_cast<size_t>(sequence->length());
      const auto gap = static_cast<size_t>(restore->gap_end()) - at;
      ASSERT_TRUE(world.Write(*sequence, std::span(text).subspan(at, gap)));
      server_->cache().Extend(*sequence, *restore);
      EXPECT_TRUE(world.Reads(*sequence));
    }
    ASSERT_TRUE(world.Write(*sequence, std::span(text).subspan(static_cast<size_t>(sequence->length()))));
    EXPECT_TRUE(world.Reads(*sequence));
  }

  std::mt19937 random_;
  MemoryRecords disk_, redis_;
  std::unique_ptr<Server> server_;
  std::vector<std::vector<int32_t>> texts_;
  uint64_t before_ = 0;
};

TEST(TierFaults, RandomFaultsNeverCostARow) {
  for (uint32_t seed = 1; seed <= 9; ++seed) {
    SCOPED_TRACE(seed);
    FaultyTiers tiers(seed);
    for (int round = 0; round < 60 && !::testing::Test::HasFatalFailure(); ++round) tiers.Round();
    tiers.End();
    if (::testing::Test::HasFailure()) return;
  }
}

}  // namespace
}  // namespace larder
