// What goes down to the tiers and comes up again: always the text's own rows, whatever the tiers do.
#include "kv/tiers.h"

#include <algorithm>
#include <map>
#include <random>
#include <set>

#include "kv/block_record.h"
#include "kv/events.h"
#include "kv/leases.h"
#include "kv_fixture.h"
#include "memory_tier.h"

namespace larder {
namespace {

constexpr SpaceId kSpaceA = {1}, kSpaceB = {2};

// A cache with tiers below it; "restarting" gives a new one over the same records.
class Server {
 public:
  explicit Server(std::vector<MemoryRecords*> records, KvSetup setup = {}, SpaceId space = kSpaceA,
                  std::vector<AdmitPolicy*> admit = {})
      : world_(std::make_unique<KvWorld>(std::move(setup))) {
    KvTiersOptions options;
    options.admit = std::move(admit);
    options.group_bytes = 1;  // each layer a group
    for (size_t i = 0; i < records.size(); ++i) {
      tiers_.push_back(std::make_unique<MemoryTier>(records[i], i == 0 ? "disk" : "redis"));
      tiers_.back()->tells = i == 0;
      options.tiers.push_back(tiers_.back().get());
    }
    world_->cache().SetSpace("a", space);
    world_->cache().SetSpace("b", kSpaceB);
    world_->cache().SetTiers(std::move(options));
  }
  ~Server() {
    world_.reset();  // before its tiers
  }

  KvWorld& world() { return *world_; }
  KvCache& cache() { return world_->cache(); }
  MemoryTier& tier(size_t i = 0) { return *tiers_[i]; }

  bool Deliver(std::mt19937* random = nullptr) {
    bool any = false;
    for (const auto& tier : tiers_) any |= tier->DeliverAll(random);
    return cache().PollTiers() || any;
  }

  struct Seen {
    int64_t length = 0, from_first = 0, from_second = 0;
    bool slow = false;
  };
  // Restores, opens, computes what is missing, closes; what was found.
  Seen Run(const std::string& tenant, std::span<const int32_t> tokens,
           std::function<double(int64_t, int64_t)> recompute_ms = nullptr) {
    Seen seen;
    const auto restore = cache().Restore(tenant, tokens, std::move(recompute_ms));
    while (restore != nullptr && !restore->done()) EXPECT_TRUE(Deliver());
    EXPECT_TRUE(world_->Sound());
    if (restore != nullptr) {
      seen = {0, restore->rows(0), restore->rows(1), restore->slow()};
    }
    seen.length = world_->Run(tenant, tokens);
    EXPECT_TRUE(world_->Sound());
    return seen;
  }

  void Settle() {
    while (Deliver()) {
    }
    EXPECT_TRUE(world_->Sound());
  }

 private:
  std::vector<std::unique_ptr<MemoryTier>> tiers_;
  std::unique_ptr<KvWorld> world_;
};

TEST(Tiers, WhatMemoryForgotComesBackToTheRow) {
  MemoryRecords records;
  Server server({&records});
  const auto text = Text(1, 200);
  EXPECT_EQ(server.Run("a", text).length, 0);
  server.Settle();
  EXPECT_EQ(records.by_name.size(), 4u) << "three full blocks and the tail";
  server.cache().Clear("");
  EXPECT_EQ(server.cache().stats().blocks, 0u);
  const auto seen = server.Run("a", text);
  EXPECT_EQ(seen.length, 200);
  EXPECT_EQ(seen.from_first, 200);
  EXPECT_FALSE(seen.slow);
}

TEST(Tiers, AnotherProcessFindsIt) {
  MemoryRecords records;
  const auto text = Text(1, 200);
  {
    Server(std::vector{&records}).Run("a", text);
  }  // its end writes what was still pending
  Server second({&records});
  EXPECT_EQ(second.Run("a", Join(text, Text(2, 30))).length, 200);
}

TEST(Tiers, OnlyWhatMemoryLacksIsRead) {
  MemoryRecords records;
  Server server({&records});
  server.Run("a", Text(1, 300));
  server.Settle();
  EXPECT_EQ(server.cache().Restore("a", Text(1, 300), nullptr), nullptr);
  EXPECT_EQ(server.tier().gets, 0u);
}

TEST(Tiers, DivergenceInsideABlockCostsRows) {
  MemoryRecords records;
  {
    Server(std::vector{&records}).Run("a", Text(1, 192));
  }
  auto other = Text(1, 160);
  const auto more = Text(3, 100);
  other.insert(other.end(), more.begin(), more.end());
  Server second({&records});
  const auto seen = second.Run("a", other);
  EXPECT_EQ(seen.length, 160);
  EXPECT_EQ(seen.from_first, 160);
}

TEST(Tiers, TheLongestTailIsTaken) {
  MemoryRecords records;
  {
    Server server({&records});
    server.Run("a", Text(1, 70));
    server.Run("a", Text(1, 100));
    auto other = Join(Text(1, 80), Text(5, 20));
    server.Run("a", other);
  }
  Server second({&records});
  EXPECT_EQ(second.Run("a", Text(1, 120)).length, 100);
}

TEST(Tiers, TenantsAndSpacesDoNotMeet) {
  MemoryRecords records;
  const auto text = Text(1, 200);
  {
    Server(std::vector{&records}).Run("a", text);
  }
  Server second({&records});
  EXPECT_EQ(second.Run("b", text).length, 0);
  EXPECT_EQ(second.Run("c", text).length, 0) << "a tenant without a space";
  Server wiped({&records}, {}, SpaceId{9});
  EXPECT_EQ(wiped.Run("a", text).length, 0);
}

TEST(Tiers, ForgettingATenantLeavesNothingToFind) {
  MemoryRecords records;
  Server server({&records});
  const auto text = Text(1, 200);
  server.Run("a", text);
  server.Settle();
  auto running = server.world().Open("a", text);
  server.cache().Forget("a");
  EXPECT_TRUE(server.world().Sound());
  EXPECT_TRUE(server.world().Reads(*running)) << "who runs goes on";
  server.cache().SetSpace("a", SpaceId{7});
  EXPECT_EQ(server.Run("a", text).length, 0);
  server.cache().Close(std::move(running));
  EXPECT_TRUE(server.world().Sound());
  server.Settle();
  server.cache().Clear("");
  EXPECT_EQ(server.cache().stats().nodes, 0u);
  EXPECT_EQ(server.Run("a", text).length, 200) << "under the new space it is kept again";
}

TEST(Tiers, AFailedReadCostsItsBlock) {
  MemoryRecords records;
  const auto text = Text(1, 320);
  {
    Server(std::vector{&records}).Run("a", text);
  }
  Server second({&records});
  std::vector<std::string> names;
  {
    Server look({&records});
    look.Run("a", text);
    for (const auto& block : look.cache().List("a", 10)) names.push_back(block.name);
  }
  second.tier().corrupt.insert(names[2]);
  const auto restore = second.cache().Restore("a", text, nullptr);
  while (!restore->done()) ASSERT_TRUE(second.Deliver());
  EXPECT_TRUE(restore->slow());
  EXPECT_EQ(restore->rows(0), 128);
  EXPECT_EQ(restore->gap_end(), 192);
  auto sequence = second.world().Open("a", text);
  ASSERT_EQ(sequence->length(), 128);
  ASSERT_TRUE(second.world().Write(*sequence, std::span(text).subspan(128, 64)));
  EXPECT_EQ(second.cache().Extend(*sequence, *restore), 128) << "what arrived behind it is not computed";
  EXPECT_TRUE(second.world().Reads(*sequence));
  EXPECT_TRUE(second.world().Sound());
  EXPECT_EQ(restore->rows(0), 256);
  EXPECT_EQ(restore->gap_end(), 0);
  second.cache().Close(std::move(sequence));
}

TEST(Tiers, DeadSlowOrFullTiersCostNoAnswer) {
  MemoryRecords records;
  const auto text = Text(1, 200);
  {
    Server(std::vector{&records}).Run("a", text);
  }
  Server dead({&records});
  dead.tier().dead = true;
  EXPECT_EQ(dead.Run("a", text).length, 0);
  Server slow({&records});
  slow.tier().slow = true;
  EXPECT_EQ(slow.Run("a", text).length, 0);
  EXPECT_TRUE(slow.Run("a", Join(text, Text(4, 100))).length == 200) << "from memory now";
  MemoryRecords none;
  Server full({&none});
  full.tier().full = true;
  EXPECT_EQ(full.Run("a", text).length, 0);
  full.Settle();
  EXPECT_EQ(none.by_name.size(), 0u);
  full.tier().full = false;
  full.Run("a", text);
  full.Settle();
  EXPECT_GE(none.by_name.size(), 3u) << "what was refused is tried again when it is used";
}

TEST(Tiers, ComputingIsChosenWhereItIsFaster) {
  MemoryRecords records;
  const auto text = Text(1, 200);
  {
    Server(std::vector{&records}).Run("a", text);
  }
  Server second({&records});
  EXPECT_TRUE(second.Run("a", text, [](int64_t, int64_t) { return 1e-9; }).slow);
  EXPECT_EQ(second.tier().gets, 0u);
}

TEST(Tiers, TheFasterTierGivesAndTheFasterGetsACopy) {
  MemoryRecords disk, redis;
  const auto text = Text(1, 256);
  {
    Server({&disk, &redis}).Run("a", text);
  }
  EXPECT_EQ(disk.by_name.size(), redis.by_name.size());
  disk.by_name.erase(std::next(disk.by_name.begin(), 1));
  const size_t left = disk.by_name.size();
  Server second({&disk, &redis});
  const auto seen = second.Run("a", text);
  EXPECT_EQ(seen.length, 256);
  EXPECT_EQ(seen.from_second, 64);
  EXPECT_EQ(seen.from_first, 192);
  second.Settle();
  EXPECT_EQ(disk.by_name.size(), left + 1);
}

TEST(Tiers, LaterAskersJoinARead) {
  MemoryRecords records;
  const auto text = Text(1, 320);
  {
    Server(std::vector{&records}).Run("a", text);
  }
  Server second({&records});
  auto first = second.cache().Restore("a", text, nullptr);
  auto joiner = second.cache().Restore("a", First(text, 300), nullptr);
  ASSERT_NE(joiner, nullptr);
  EXPECT_TRUE(joiner->joined());
  while (!joiner->done()) ASSERT_TRUE(second.Deliver());
  EXPECT_EQ(second.tier().gets, 1u);
  EXPECT_EQ(second.cache().Restore("a", First(text, 300), nullptr), nullptr);
}

TEST(Tiers, AnAbandonedReadLeavesNothing) {
  MemoryRecords records;
  const auto text = Text(1, 320);
  {
    Server(std::vector{&records}).Run("a", text);
  }
  Server second({&records});
  const uint64_t before = second.cache().used_bytes();
  for (int steps = 0; steps < 6; ++steps) {
    auto restore = second.cache().Restore("a", text, nullptr);
    for (int i = 0; i < steps; ++i) second.Deliver();
    restore.reset();
    EXPECT_TRUE(second.world().Sound());
    second.Settle();
    second.cache().Clear("");
    EXPECT_EQ(second.cache().used_bytes(), before);
  }
}

// With rows to compute besides, a prompt begins when the first layers of its blocks are here.
TEST(Tiers, APromptBeginsBeforeAllLayersAreHere) {
  MemoryRecords records;
  KvSetup setup;
  setup.windows = {0, 0, 0};
  const auto text = Text(1, 192);
  {
    Server({&records}, setup).Run("a", text);
  }
  const auto longer = Join(text, Text(2, 100));
  Server second({&records}, setup);
  const auto restore = second.cache().Restore("a", longer, nullptr);
  while (!restore->started()) ASSERT_TRUE(second.Deliver());
  ASSERT_FALSE(restore->done());
  EXPECT_TRUE(second.world().Sound());
  EXPECT_TRUE(restore->WaitForLayer(0, 0));
  EXPECT_EQ(restore->rows(0), 192);
  // Nobody else is given blocks that are not whole; who asks for them joins the read.
  EXPECT_EQ(second.world().Open("a", text)->length(), 0);
  const auto other = second.cache().Restore("a", text, nullptr);
  EXPECT_TRUE(other->joined());
  auto opened = second.cache().Open("a", longer, restore.get());
  ASSERT_TRUE(opened);
  EXPECT_EQ(opened->sequence->length(), 192);
  EXPECT_TRUE(second.world().Sound());
  while (!restore->done()) ASSERT_TRUE(second.Deliver());
  EXPECT_TRUE(restore->WaitForLayer(0, 2));
  EXPECT_TRUE(second.world().Reads(*opened->sequence));
  EXPECT_EQ(second.world().Open("a", text)->length(), 192);
  second.cache().Close(std::move(opened->sequence));
  EXPECT_TRUE(second.world().Sound());
}

TEST(Tiers, WhatWasBegunWithAndDidNotComeGoesAgain) {
  MemoryRecords records;
  KvSetup setup;
  setup.windows = {0, 0, 0};
  const auto text = Text(1, 320);
  std::vector<std::string> names;
  {
    Server first({&records}, setup);
    first.Run("a", text);
    for (const auto& block : first.cache().List("a", 10)) names.push_back(block.name);
  }
  const auto longer = Join(text, Text(2, 100));
  for (const bool opens : {false, true}) {
    Server second({&records}, setup);
    second.tier().corrupt.insert(names[2]);
    auto restore = second.cache().Restore("a", longer, nullptr);
    while (!restore->started()) ASSERT_TRUE(second.Deliver());
    std::unique_ptr<KvSequence> sequence;
    if (opens) sequence = std::move(second.cache().Open("a", longer, restore.get())->sequence);
    while (!restore->done()) ASSERT_TRUE(second.Deliver());
    EXPECT_FALSE(restore->WaitForLayer(0, 2));
    EXPECT_TRUE(restore->slow());
    EXPECT_TRUE(second.world().Sound());
    second.cache().Close(std::move(sequence));
    restore.reset();
    EXPECT_TRUE(second.world().Sound());
    EXPECT_EQ(second.world().Open("a", longer)->length(), 128) << "the blocks before the bad one";
    EXPECT_TRUE(second.world().Reads(*second.world().Open("a", longer)));
    second.Settle();
  }
}

TEST(Tiers, WindowsComeBackForTheResumePoint) {
  MemoryRecords records;
  KvSetup setup;
  setup.windows = {0, 100, 0, 100};
  const auto text = Text(1, 900);
  {
    Server({&records}, setup).Run("a", text);
  }
  Server second({&records}, setup);
  const auto seen = second.Run("a", Join(text, Text(2, 50)));
  EXPECT_EQ(seen.length, 900);
  // 14 full blocks and the tail of the layers that see everything; of the window only what it needs.
  EXPECT_EQ(second.tier().read_records, 15u + 3u);
  second.Settle();
  // Its windows evicted, a node gets them back alone.
  second.cache().Clear("");
  EXPECT_EQ(second.Run("a", First(text, 500)).length, 500);
}

TEST(Tiers, UseInMemoryRefreshesTheAncestorsBelow) {
  MemoryRecords records;
  Server server({&records});
  const auto text = Text(1, 200);
  server.Run("a", text);
  server.Settle();
  server.tier().touched.clear();
  server.world().clock().AdvanceNs(5'000'000'000);
  server.Run("a", text);
  server.world().clock().AdvanceNs(5'000'000'000);
  server.Deliver();
  std::vector<std::string> blocks, touched;
  for (const auto& block : server.cache().List("a", 3)) blocks.push_back(block.name);
  for (const Digest& name : server.tier().touched) touched.push_back(name.Hex());
  ASSERT_GE(touched.size(), 3u);
  EXPECT_EQ(touched.back(), blocks.front()) << "the first block of a text ends as the most recent";
  for (const auto& name : blocks) EXPECT_NE(std::ranges::find(touched, name), touched.end());
}

// The disk takes what came back, Redis takes all.
TEST(Tiers, EachTierIsWrittenWhatItsAdmissionTakes) {
  MemoryRecords disk, redis;
  const auto hits = std::move(CreateAdmitPolicy("hits")).value();
  Server server({&disk, &redis}, {}, kSpaceA, {hits.get()});
  const auto text = Text(1, 200);
  server.Run("a", text);
  server.Settle();
  EXPECT_EQ(disk.by_name.size(), 0u) << "the end of a request is no further use";
  EXPECT_EQ(redis.by_name.size(), 4u);
  server.Run("a", Join(First(text, 128), Text(2, 10)));
  server.Settle();
  EXPECT_EQ(disk.by_name.size(), 2u) << "the two blocks that both have";
  // Computed again after memory forgot them: that is a further use, too.
  server.cache().Clear("");
  redis.by_name.clear();
  server.Run("a", text);
  server.Settle();
  EXPECT_EQ(disk.by_name.size(), 4u) << "and the third block and the tail";
}

TEST(Tiers, TwoServersWriteTheSameBytes) {
  MemoryRecords records;
  Server first({&records}), second({&records});
  const auto text = Text(1, 230);
  // The second computes in other pieces, over memory with other remains.
  second.Run("a", Text(8, 230));
  second.cache().Clear("");
  second.Run("a", First(text, 90));
  first.Run("a", text);
  second.Run("a", text);
  first.Settle();
  second.Settle();
  EXPECT_EQ(first.tier().conflicts + second.tier().conflicts, 0u);
}

TEST(Tiers, OnlyWhatATierHasIsDemoted) {
  using enum KvLeases::DropWhat;
  MemoryRecords disk;
  Server server({&disk});
  KvCache& cache = server.cache();
  const auto text = Text(1, 200);
  const auto demote = [&](const std::string& tenant) {
    return cache.leases().Drop(tenant, {.tokens = text}, kBelow);
  };
  server.Run("homeless", text);
  cache.leases().Take("homeless", {.tokens = text}, {.holder = "h", .ttl_ms = 60'000});
  server.Settle();
  EXPECT_EQ(demote("homeless"), 0) << "it has no space, and nothing below";
  EXPECT_EQ(cache.Probe("homeless", text), 200);
  EXPECT_EQ(cache.leases().List("homeless", 10).size(), 1u) << "nor does its lease end";

  server.Run("a", text);
  EXPECT_EQ(demote("a"), 0) << "it is being written";
  server.Settle();
  EXPECT_EQ(demote("a"), 200);
  EXPECT_EQ(cache.Probe("a", text), 0);
  EXPECT_EQ(server.Run("a", text).from_first, 200);

  server.tier().full = true;
  server.Run("b", text);
  server.Settle();
  EXPECT_EQ(demote("b"), 0) << "it was refused, and is offered again";
  server.Settle();
  EXPECT_EQ(cache.Probe("b", text), 200);
  server.tier().full = false;
  EXPECT_EQ(demote("b"), 0) << "offered, and being written";
  server.Settle();
  EXPECT_EQ(demote("b"), 200);
  EXPECT_TRUE(server.world().Sound());
}

// What a reader of one tenant's events knows of a tier, from events and listings.
class TierReader {
 public:
  TierReader(std::string tenant, EventTier tier) : tenant_(std::move(tenant)), tier_(tier) {}

  void CatchUp(KvCache& cache, MemoryTier& tier, const SpaceId& space) {
    auto page = cache.events().Read(tenant_, false, after_, 1 << 20);
    if (page.gap || after_ == 0) {
      ++snapshots_;
      blocks_.clear();
      after_ = cache.events().last(tenant_, false);
      uint64_t cursor = 0;
      do {
        for (const RecordHeader& header : tier.List(cursor, 3, &space)) {
          const auto event = cache.StoredEvent(header, tier_, tenant_);
          if (event) Apply(*event);
        }
      } while (cursor != 0);
      page = cache.events().Read(tenant_, false, after_, 1 << 20);
    }
    for (const KvEvent& event : page.events) Apply(event);
    after_ = page.last;
  }
  // The full blocks among the records; of the kind that names are of.
  static std::set<Digest> There(const MemoryRecords& records, const SpaceId& space) {
    std::set<Digest> names;
    for (const auto& [name, record] : records.by_name) {
      const auto tokens = DecodeBlockMetadata(record.header.metadata);
      const bool named = record.header.parent != Digest{};
      if (record.header.space == space && named && tokens->size() == kPageTokens)
        names.insert(record.header.name);
    }
    return names;
  }
  const std::set<Digest>& blocks() const { return blocks_; }
  int snapshots() const { return snapshots_; }

 private:
  void Apply(const KvEvent& event) {
    if (event.tier != tier_) return;
    if (event.type == EventType::kCleared) blocks_.clear();
    if (event.type == EventType::kRemoved) blocks_.erase(event.name);
    if (event.type != EventType::kStored) return;
    EXPECT_EQ(event.tokens.size(), 64u);
    EXPECT_EQ(event.tenant, tenant_);
    EXPECT_EQ(event.kinds, 1u);
    blocks_.insert(event.name);
  }

  const std::string tenant_;
  const EventTier tier_;
  std::set<Digest> blocks_;
  uint64_t after_ = 0;
  int snapshots_ = 0;
};

TEST(Tiers, AReaderOfEventsKnowsWhatTheyHave) {
  for (uint32_t seed = 1; seed <= 6; ++seed) {
    std::mt19937 random(seed);
    KvSetup setup;
    setup.windows = seed % 2 == 0 ? std::vector{0, 70} : std::vector{0, 0};
    setup.events = 60;
    MemoryRecords disk;
    Server server({&disk}, setup);
    TierReader a("a", EventTier::kDisk), b("b", EventTier::kDisk);
    for (int round = 0; round < 300; ++round) {
      const std::string tenant = random() % 2 == 0 ? "a" : "b";
      server.Run(tenant, Join(Text(static_cast<int>(random() % 4), 64 * static_cast<int>(random() % 4)),
                              Text(static_cast<int>(random() % 9), static_cast<int>(random() % 150))));
      for (uint32_t n = random() % 4; n > 0 && !disk.by_name.empty(); --n) {
        auto victim = disk.by_name.begin();
        std::advance(victim, random() % disk.by_name.size());
        server.tier().Evict(victim->second.header.name, random() % 8 != 0);
      }
      if (random() % 5 == 0) server.cache().Clear(tenant);
      if (random() % 2 == 0) continue;
      server.Settle();
      a.CatchUp(server.cache(), server.tier(), kSpaceA);
      if (random() % 4 == 0) b.CatchUp(server.cache(), server.tier(), kSpaceB);
      ASSERT_EQ(a.blocks(), TierReader::There(disk, kSpaceA)) << "seed " << seed << " round " << round;
    }
    server.Settle();
    b.CatchUp(server.cache(), server.tier(), kSpaceB);
    EXPECT_EQ(b.blocks(), TierReader::There(disk, kSpaceB));
    EXPECT_GT(a.snapshots(), 1);
    // A tenant that is forgotten, or has another space, has nothing below.
    if (seed % 2 == 0) {
      server.cache().Forget("a");
    } else {
      server.cache().SetSpace("a", {9});
    }
    a.CatchUp(server.cache(), server.tier(), seed % 2 == 0 ? SpaceId{8} : SpaceId{9});
    EXPECT_TRUE(a.blocks().empty());
  }
}

TEST(Tiers, ATierThatDoesNotSeeWhatGoesIsToldOfAllTheSame) {
  MemoryRecords disk, redis;
  Server server({&disk, &redis});
  server.Run("a", Text(1, 130));
  server.Settle();
  std::map<EventTier, int> stored;
  for (const KvEvent& event : server.cache().events().Read("a", false, 0, 100).events) ++stored[event.tier];
  EXPECT_EQ(stored, (std::map<EventTier, int>{
                        {EventTier::kMemory, 2}, {EventTier::kDisk, 2}, {EventTier::kRedis, 2}}));
  EXPECT_EQ(server.cache().NextTellingTier(0), 0u);
  EXPECT_EQ(server.cache().NextTellingTier(1), 2u) << "only the disk can be listed";
}

// Everything that was ever published is found again, by whichever way, while memory holds a few blocks only.
TEST(Tiers, RandomTextsAreAlwaysFoundInFull) {
  for (uint32_t seed = 1; seed <= 12; ++seed) {
    std::mt19937 random(seed);
    KvSetup setup;
    setup.windows = seed % 3 == 0 ? std::vector{0, 70, 0} : std::vector{0, 0};
    MemoryRecords disk, redis;
    auto server = std::make_unique<Server>(std::vector{&disk, &redis}, setup);
    std::vector<std::vector<int32_t>> texts;
    for (int round = 0; round < 60; ++round) {
      std::vector<int32_t> text;
      if (!texts.empty() && random() % 4 != 0) {
        const auto& old = texts[random() % texts.size()];
        text.assign(old.begin(), old.begin() + static_cast<ptrdiff_t>(random() % (old.size() + 1)));
      }
      for (int n = static_cast<int>(random() % 150); n > 0; --n)
        text.push_back(static_cast<int32_t>(random() % 3));
      if (text.empty()) continue;
      int64_t known = 0;
      for (const auto& old : texts) {
        const auto [x, y] = std::ranges::mismatch(old, text);
        known = std::max<int64_t>(known, x - old.begin());
      }
      const auto restore = server->cache().Restore("a", text, nullptr);
      while (restore != nullptr && !restore->done()) ASSERT_TRUE(server->Deliver(&random));
      ASSERT_TRUE(server->world().Sound());
      const int64_t found = server->world().Run("a", text);
      if (seed % 3 != 0) {
        EXPECT_EQ(found, known) << "seed " << seed << " round " << round;
      } else {
        EXPECT_LE(found, known);
      }
      ASSERT_TRUE(server->world().Sound());
      texts.push_back(text);
      if (random() % 3 == 0) server->Settle();
      if (random() % 4 == 0) server->cache().Clear("");
      if (random() % 10 == 0) {
        server.reset();
        server = std::make_unique<Server>(std::vector{&disk, &redis}, setup);
      }
    }
  }
}

}  // namespace
}  // namespace larder
