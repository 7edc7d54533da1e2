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
#include "tiers_server.h"

namespace larder {
namespace {

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

// A tier tells only so many children; the longest tail may be an older one than these, in one tier or
// another.
TEST(Tiers, TheLongestTailOfManyIsTaken) {
  MemoryRecords disk, redis;
  const auto text = Text(1, 120);
  const auto children_of_the_block = [&](uint32_t seed) {
    Server old({&disk, &redis});
    for (uint32_t i = 0; i < 80; ++i) {
      const auto other = Join(First(text, 64 + i % 3), Text(seed + i, 9));
      old.Run("a", other);
    }
  };
  {
    Server old({&redis});
    old.Run("a", First(text, 100));
  }
  {
    Server old({&disk});
    old.Run("a", First(text, 90));
  }
  children_of_the_block(100);
  ASSERT_GT(disk.by_name.size(), 80u);
  {
    Server server({&disk, &redis});
    const auto seen = server.Run("a", text);
    EXPECT_EQ(seen.length, 100);
    EXPECT_EQ(seen.from_second, 36) << "the tail of the other tier is longer";
  }
  // The end of a text is one of its tails, too.
  Server server({&disk});
  EXPECT_EQ(server.Run("a", First(text, 90)).length, 90);
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

TEST(Tiers, ASpaceThatWasReplacedDoesNotComeBack) {
  MemoryRecords records;
  Server server({&records});
  const auto text = Text(1, 200);
  server.Run("a", text);
  server.Settle();
  EXPECT_TRUE(server.cache().SetSpace("a", SpaceId{7}));
  EXPECT_EQ(server.Run("a", text).length, 0);
  EXPECT_FALSE(server.cache().SetSpace("a", kSpaceA)) << "of a request from before";
  server.Settle();
  server.cache().Clear("");
  EXPECT_EQ(server.Run("a", text).length, 200) << "it is kept under the new one";
  EXPECT_TRUE(server.world().Sound());
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

// What a call to demote a text does: rows, waits, and how much of it is in memory then.
struct Demoting {
  Server& server;
  const std::vector<int32_t> text;
  const std::string tenant = "a";

  void Expect(int64_t rows, bool waits, int64_t left, const char* why) const {
    const auto demoted = server.cache().leases().Demote(tenant, {.tokens = text});
    EXPECT_EQ(demoted.rows, rows) << why;
    EXPECT_EQ(demoted.waits, waits) << why;
    EXPECT_EQ(server.cache().Probe(tenant, text), left) << why;
    EXPECT_TRUE(server.world().Sound());
  }
};

TEST(Tiers, OnlyWhatATierHasIsDemoted) {
  MemoryRecords disk;
  Server server({&disk});
  KvCache& cache = server.cache();
  const auto text = Text(1, 200);
  server.Run("homeless", text);
  cache.leases().Take("homeless", {.tokens = text}, {.holder = "h", .ttl_ms = 60'000});
  server.Settle();
  Demoting{server, text, "homeless"}.Expect(0, false, 200, "it has no space, and nothing below");
  EXPECT_EQ(cache.leases().List("homeless", 10).size(), 1u) << "nor does its lease end";

  server.Run("a", text);
  Demoting{server, text}.Expect(0, true, 200, "it is being written");
  server.Settle();
  Demoting{server, text}.Expect(200, false, 0, "it is below");
  EXPECT_EQ(server.Run("a", text).from_first, 200);
}

TEST(Tiers, WhatATierRefusedStaysInMemory) {
  const auto text = Text(1, 200);
  for (const int64_t taken : {0, 128, 192}) {  // all is refused; the end of it; the tail alone
    MemoryRecords disk;
    Server server({&disk});
    const Demoting demote{server, text};
    server.Run("a", First(text, taken));
    server.Settle();
    server.tier().full = true;
    server.Run("a", text);
    demote.Expect(0, true, 200, "it is being written");
    server.Settle();
    demote.Expect(0, false, 200, "it was refused, and is offered again");
    server.Settle();
    demote.Expect(0, false, 200, "refused again");
    server.tier().full = false;
    server.Settle();
    demote.Expect(200, false, 0, "taken this time");
    EXPECT_EQ(server.Run("a", text).from_first, 200);
  }
}

TEST(Tiers, ATailThatWentOnIsBelowOnlyWithItsNewRows) {
  const auto text = Text(1, 90);
  MemoryRecords disk;
  Server server({&disk});
  const Demoting demote{server, text};
  server.world().Run("a", First(text, 70));
  server.world().Run("a", text);
  server.tier().DeliverOne(0);  // the full block
  server.tier().DeliverOne(0);  // the first tail
  server.tier().full = true;
  server.Settle();
  EXPECT_EQ(disk.by_name.size(), 2u);
  demote.Expect(0, false, 90, "rows 70 to 89 were refused");
  server.tier().full = false;
  server.Settle();
  demote.Expect(90, false, 0, "offered again");
  server.world().Run("a", First(text, 70));
  server.cache().Clear("a");  // who is told of a tail that is gone does no harm
  server.Settle();
}

TEST(Tiers, OneTierThatHasItIsEnoughToDemote) {
  MemoryRecords disk, redis;
  Server server({&disk, &redis});
  server.tier(1).full = true;
  const auto text = Text(1, 200);
  server.Run("a", text);
  server.Settle();
  Demoting{server, text}.Expect(200, false, 0, "the other refused it");
}

TEST(Tiers, WhatTheTierLostOrContradictsIsNotDemoted) {
  const auto text = Text(1, 200);
  MemoryRecords disk;
  {
    Server server({&disk});
    server.Run("a", text);
    server.Settle();
    const auto block = server.cache().List("a", 10).front();
    for (auto& [name, record] : disk.by_name) {
      if (name == block.name) server.tier().Evict(Digest(record.header.name));
    }
    server.Settle();
    const Demoting demote{server, text};
    demote.Expect(0, true, 200, "it was evicted there, and is written again");
    server.Settle();
    demote.Expect(200, false, 0, "it is there again");
  }
  disk.by_name.begin()->second.payload[0] ^= std::byte{1};
  Server server({&disk});
  server.Run("a", text, [](int64_t, int64_t) { return 1e-9; });  // computed, not read
  server.Settle();
  EXPECT_GE(server.tier().conflicts, 1u);
  Demoting{server, text}.Expect(0, false, 200, "under a name of it there is something else");
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
