// Is an answer the same to the bit, whichever tier its prompt's rows came from, whole or with gaps, in this
// process or the next?
#include "tests/engine/tiers_fixture.h"

#include <map>

#include "store/redis/redis_tier.h"
#include "tests/store/redis/redis_server.h"

namespace larder {
namespace {

using testing::Answer;
using testing::kSpace;
using testing::RowsFrom;
using testing::TierCase;

class EngineTiers : public testing::EngineTiersBase, public ::testing::WithParamInterface<TierCase> {
 protected:
  void SetUp() override { Load(GetParam().model, KvType::kI16, GetParam().codec); }
  // Rows of a text that are found again: all but the last, but not from the middle of codes.
  int64_t Found(int64_t length) const {
    const bool codec = *GetParam().codec != 0;
    return codec && length % kPageTokens == 0 ? length - kPageTokens : length - 1;
  }
};

TEST_P(EngineTiers, MemoryDiskAndRestartGiveTheSameBits) {
  for (const int64_t length : {40, 64, 200, 323}) {
    const auto prompt = Prompt(static_cast<uint32_t>(length), length);
    const auto cold = Ask(*Start({}), prompt);
    auto disk = OpenDisk();
    auto core = Start({disk.get()});
    ExpectSame(*Ask(*core, prompt), *cold);
    const auto warm = Ask(*core, prompt);
    ExpectSame(*warm, *cold);
    EXPECT_EQ(RowsFrom("memory", *warm), Found(length));
    core->cache().FlushTiers();
    core->cache().Clear("");
    const auto restored = Ask(*core, prompt);
    ExpectSame(*restored, *cold);
    EXPECT_EQ(RowsFrom("disk", *restored), Found(length));
    EXPECT_EQ(restored->usage.cached_tokens, Found(length));
    core.reset();
    disk.reset();
    disk = OpenDisk();
    core = Start({disk.get()});
    const auto after = Ask(*core, prompt);
    ExpectSame(*after, *cold);
    EXPECT_EQ(RowsFrom("disk", *after), Found(length));
    // A longer text goes on from there, another one parts in the middle of a block.
    auto longer = prompt;
    for (const int32_t token : Prompt(99, 150)) longer.push_back(token);
    ExpectSame(*Ask(*core, longer), *Ask(*Start({}), longer));
    auto other = std::vector(prompt.begin(), prompt.begin() + length / 2);
    for (const int32_t token : Prompt(98, 90)) other.push_back(token);
    core->cache().FlushTiers();
    core->cache().Clear("");
    const auto parted = Ask(*core, other);
    ExpectSame(*parted, *Ask(*Start({}), other));
    core.reset();
  }
}

// Below memory the newest children of a block are looked at. With more of them an old text may lose its tail,
// which is computed; a shorter one that is newer serves it as far as it goes.
TEST_P(EngineTiers, MoreTailsThanAreLookedAtCostRowsAndNoBits) {
  constexpr int64_t kTails = 80, kSureTails = 60;
  const auto start = Prompt(5, 2 * kPageTokens);
  const auto text = [&](int64_t n) {
    auto whole = start;
    for (const int32_t token : Prompt(static_cast<uint32_t>(100 + n), 20 + n % 30)) whole.push_back(token);
    return whole;
  };
  auto oldest = text(0);
  auto disk = OpenDisk();
  auto core = Start({disk.get()});
  for (int64_t n = 0; n < kTails; ++n) Ask(*core, text(n));
  const auto found = [&](const std::vector<int32_t>& prompt) {
    core->cache().FlushTiers();
    core = Start({disk.get()});
    const auto answer = Ask(*core, prompt);
    ExpectSame(*answer, *Ask(*Start({}), prompt));
    EXPECT_LT(RowsFrom("disk", *answer), std::ssize(prompt));
    return RowsFrom("disk", *answer);
  };
  EXPECT_EQ(found(text(kTails - 1)), std::ssize(text(kTails - 1)) - 1);
  EXPECT_EQ(found(text(kTails - kSureTails)), std::ssize(text(kTails - kSureTails)) - 1);
  const int64_t old = found(oldest);
  EXPECT_GE(old, std::ssize(start));
  EXPECT_LT(old, std::ssize(oldest) - 1) << "as many as there are were looked at: nothing is tested here";
  core->cache().Clear("");
  for (int64_t n = 1; n < kTails; ++n) Ask(*core, text(100 + n));
  const std::vector<int32_t> shorter(oldest.begin(), oldest.end() - 8);
  Ask(*core, shorter);
  EXPECT_GE(found(oldest), std::ssize(shorter));
}

TEST_P(EngineTiers, GapsAreComputedAndNothingElse) {
  const auto prompt = Prompt(5, 460);
  const auto cold = Ask(*Start({}), prompt);
  MemoryRecords records;
  std::vector<std::string> names;
  {
    MemoryTier tier(&records);
    auto core = Start({&tier});
    Ask(*core, prompt, &tier);
    for (const auto& block : core->cache().List("t", 100)) names.push_back(block.name);
    core->cache().FlushTiers();
  }
  for (const std::vector<size_t>& broken : {std::vector<size_t>{2}, {0}, {1, 4}, {2, 3}, {6}}) {
    MemoryTier tier(&records);
    for (const size_t block : broken) tier.corrupt.insert(names[block]);
    auto core = Start({&tier});
    const auto answer = Ask(*core, prompt, &tier);
    ExpectSame(*answer, *cold);
    const bool windows = model_->kv_shape().kinds().size() > 1;
    if (!windows) {
      EXPECT_EQ(answer->report.recomputed, static_cast<int64_t>(broken.size()) * kPageTokens + 1);
      EXPECT_EQ(RowsFrom("disk", *answer), 459 - static_cast<int64_t>(broken.size()) * kPageTokens);
    }
    EXPECT_EQ(answer->report.outcome.reason, MissReason::kSlow);
  }
}

// Layer by layer: the new rows of a prompt are computed while the later layers of the old ones are being
// read.
TEST_P(EngineTiers, ComputingBesideTheReadingGivesTheSameBits) {
  for (const int64_t length : {64, 250, 400}) {
    const auto prompt = Prompt(31, length);
    auto longer = prompt;
    for (const int32_t token : Prompt(32, 130)) longer.push_back(token);
    const auto cold = Ask(*Start({}), longer);
    auto disk = OpenDisk();
    {
      auto core = Start({disk.get()}, {.tier_group_bytes = 1});
      Ask(*core, prompt);
      core->cache().FlushTiers();
    }
    auto core = Start({disk.get()}, {.tier_group_bytes = 1});
    const auto answer = Ask(*core, longer);
    ExpectSame(*answer, *cold);
    EXPECT_EQ(RowsFrom("disk", *answer), length);
    ExpectSame(*Ask(*core, longer), *cold);
  }
}

TEST_P(EngineTiers, RedisGivesTheSameBits) {
  if (!HaveRedisServer()) GTEST_SKIP() << "no redis-server on this machine";
  const RedisServer redis;
  RedisOptions redis_options;
  redis_options.url = redis.url();
  const auto tier = OpenRedisTier(redis_options, nullptr, &clock_).value();
  const auto prompt = Prompt(61, 250);
  auto longer = prompt;
  for (const int32_t token : Prompt(62, 130)) longer.push_back(token);
  {
    auto core = Start({tier.get()}, {.tier_group_bytes = 1});
    Ask(*core, prompt);
    core->cache().FlushTiers();
  }
  for (const auto& text : {prompt, longer}) {  // whole, and layer by layer
    auto core = Start({tier.get()}, {.tier_group_bytes = 1});
    const auto answer = Ask(*core, text);
    ExpectSame(*answer, *Ask(*Start({}), text));
    EXPECT_GE(RowsFrom("redis", *answer), text == prompt ? 249 : 250);
  }
}

TEST_P(EngineTiers, OthersGoOnWhileOneWaitsForItsRows) {
  const auto stored = Prompt(6, 300), fresh = Prompt(7, 40);
  MemoryRecords records;
  {
    MemoryTier tier(&records);
    auto core = Start({&tier});
    Ask(*core, stored, &tier);
    core->cache().FlushTiers();
  }
  MemoryTier tier(&records);
  auto core = Start({&tier});
  const auto waits = Add(*core, stored);
  const auto goes = Add(*core, fresh);
  // The question for `fresh` is answered, the one for `stored` is not: a tier answers one by one.
  while (!goes->finished && goes->error.empty()) {
    if (!core->Step()) tier.DeliverOne(1);
    ASSERT_TRUE(waits->tokens.empty());
  }
  Finish(*core, &tier);
  ExpectSame(*waits, *Ask(*Start({}), stored));
  ExpectSame(*goes, *Ask(*Start({}), fresh));
  EXPECT_EQ(RowsFrom("disk", *waits), 299);
}

TEST_P(EngineTiers, CancelledWhileLoadingLeavesNothing) {
  const auto prompt = Prompt(8, 300);
  MemoryRecords records;
  {
    MemoryTier tier(&records);
    auto core = Start({&tier});
    Ask(*core, prompt, &tier);
    core->cache().FlushTiers();
  }
  for (int steps = 0; steps < 5; ++steps) {
    MemoryTier tier(&records);
    auto core = Start({&tier});
    const uint64_t id = next_;
    const auto answer = Add(*core, prompt);
    for (int i = 0; i < steps; ++i) {
      core->Step();
      tier.DeliverAll();
    }
    core->Cancel(id);
    EXPECT_TRUE(answer->finished);
    Finish(*core, &tier);
    core->cache().FlushTiers();
    EXPECT_EQ(core->Stats().kv.held_blocks, 0u);
  }
}

// A hint brings a text up before anybody asks for it, and a lease guards it then.
TEST_P(EngineTiers, PrefetchedTextsAreInMemoryWhenTheyAreAskedFor) {
  const auto prompt = Prompt(41, 300);
  auto disk = OpenDisk();
  {
    auto core = Start({disk.get()});
    Ask(*core, prompt);
    core->cache().FlushTiers();
  }
  auto core = Start({disk.get()});
  Hint hint;
  hint.action = HintAction::kPrefetch;
  hint.tenant = "t";
  hint.target.tokens = prompt;
  hint.holder = "h";
  hint.space = kSpace;
  const HintAnswer begun = core->Apply(hint);
  EXPECT_EQ(begun.status, HintStatus::kDeferred);
  EXPECT_TRUE(core->Fetching(begun.ticket));
  EXPECT_FALSE(core->Fetching(begun.ticket + 1));
  for (int i = 0; i < 10000 && core->cache().leases().stats().leases == 0; ++i) {
    core->Step();
    std::this_thread::sleep_for(std::chrono::microseconds(200));
  }
  EXPECT_EQ(core->cache().leases().stats().leases, 1u);
  EXPECT_FALSE(core->Fetching(begun.ticket)) << "it is over";
  EXPECT_EQ(core->cache().Probe("t", prompt), 300);
  EXPECT_EQ(core->Apply(hint).status, HintStatus::kAccepted) << "it is there";
  const auto answer = Ask(*core, prompt);
  EXPECT_EQ(RowsFrom("memory", *answer), 299);
  EXPECT_EQ(RowsFrom("disk", *answer), 0);
  hint.action = HintAction::kDemote;
  core->cache().FlushTiers();
  hint.target.tokens.insert(hint.target.tokens.end(), answer->tokens.begin(), answer->tokens.end());
  core->cache().leases().End("t", {.holder = "h"});
  const HintAnswer demoted = core->Apply(hint);
  EXPECT_EQ(demoted.tokens, 305) << demoted.reason;
  EXPECT_EQ(core->cache().Probe("t", prompt), 0);
  hint.action = HintAction::kPrefetch;
  EXPECT_EQ(Start({})->Apply(hint).status, HintStatus::kRejected) << "no tier";
}

// A demotion never drops what no tier took, and says so.
TEST_P(EngineTiers, DemotingSaysWhatIsNotBelow) {
  MemoryRecords records;
  MemoryTier scripted(&records);
  auto core = Start({&scripted});
  const auto prompt = Prompt(45, 150);
  Hint hint;
  hint.action = HintAction::kDemote;
  hint.tenant = "t";
  scripted.full = true;
  const auto answer = Ask(*core, prompt, &scripted);
  hint.target.tokens = prompt;
  hint.target.tokens.insert(hint.target.tokens.end(), answer->tokens.begin(), answer->tokens.end() - 1);
  const auto settle = [&] {
    while (scripted.DeliverAll()) core->Step();
  };
  settle();
  EXPECT_EQ(core->Apply(hint).status, HintStatus::kRejected) << "no tier took it";
  settle();
  scripted.full = false;
  EXPECT_EQ(core->Apply(hint).status, HintStatus::kRejected) << "it is tried again";
  settle();
  EXPECT_EQ(core->Apply(hint).status, HintStatus::kAccepted);
  const auto other = Prompt(46, 150);
  const auto last = Ask(*core, other, &scripted);
  hint.target.tokens = other;
  hint.target.tokens.insert(hint.target.tokens.end(), last->tokens.begin(), last->tokens.end() - 1);
  const HintAnswer writing = core->Apply(hint);
  EXPECT_EQ(writing.status, HintStatus::kDeferred) << writing.reason;
  EXPECT_EQ(core->cache().Probe("t", other), 150);
}

// After a restart a reader of events is told what the disk has, page by page, and then what changes.
TEST_P(EngineTiers, ASnapshotOfEventsHasWhatTheDiskHas) {
  auto disk = OpenDisk();
  {
    auto core = Start({disk.get()});
    Ask(*core, Prompt(51, 400));
    core->cache().FlushTiers();
  }
  auto core = Start({disk.get()});
  Ask(*core, Prompt(52, 70));
  core->cache().FlushTiers();
  KvCache& cache = core->cache();
  const std::vector<Tier*> tiers = {disk.get()};
  const auto owners = cache.Spaces();
  EXPECT_EQ(owners, (std::map<SpaceId, std::string>{{kSpace, "t"}}));
  EventPage page = ReadSnapshot(cache, tiers, "t", false, {}, 100);
  EXPECT_TRUE(page.reset);
  std::map<EventTier, size_t> blocks{{EventTier::kMemory, page.events.size()}};
  EXPECT_EQ(page.next.tier, 1u);
  EventPage none;
  EXPECT_FALSE(ReadEvents(cache.events(), "t", false, page.next, 100, none))
      << "there is more of the snapshot";
  while (InListing(cache.events(), tiers, page.next)) {
    page = ReadListed(cache, tiers, owners, page.next, 2);
    EXPECT_FALSE(page.reset);
    EXPECT_LE(page.events.size(), 2u);
    for (const KvEvent& event : page.events) {
      ++blocks[event.tier];
      EXPECT_EQ(event.sequence, 0u);
      EXPECT_EQ(event.tenant, "t");
      EXPECT_EQ(event.tokens.size(), 64u);
    }
  }
  EXPECT_EQ(blocks, (std::map<EventTier, size_t>{{EventTier::kMemory, 1}, {EventTier::kDisk, 7}}));
  ASSERT_TRUE(disk->Remove(cache.Names("t", Prompt(51, 400))));
  disk->Flush();
  for (int i = 0; i < 10000; ++i) {
    core->Step();
    ASSERT_TRUE(ReadEvents(cache.events(), "t", false, page.next, 100, page));
    if (!page.events.empty()) break;
    std::this_thread::sleep_for(std::chrono::microseconds(200));
  }
  ASSERT_EQ(page.events.size(), 6u);
  for (const KvEvent& event : page.events) EXPECT_EQ(event.type, EventType::kRemoved);
  EXPECT_TRUE(ReadListed(cache, tiers, {}, {.fresh = false, .tier = 1}, 2).events.empty()) << "of nobody";
}

TEST_P(EngineTiers, ATightMemoryStillAnswers) {
  const uint64_t block = [&] {
    uint64_t sum = 0;
    for (size_t k = 0; k < model_->kv_shape().kinds().size(); ++k) {
      sum += model_->kv_shape().BlockBytes(static_cast<int>(k));
    }
    return sum;
  }();
  const uint64_t metadata = Start({}, {.cache = {.limit_bytes = 64 * block}})->Stats().kv.metadata_bytes;
  auto disk = OpenDisk();
  auto core = Start({disk.get()}, {.cache = {.limit_bytes = metadata + 12 * block}});
  std::vector<std::vector<int32_t>> prompts;
  for (uint32_t i = 0; i < 4; ++i) prompts.push_back(Prompt(20 + i, 250));
  for (int round = 0; round < 2; ++round) {
    std::vector<std::shared_ptr<Answer>> answers;
    for (const auto& prompt : prompts) answers.push_back(Add(*core, prompt));
    Finish(*core);
    for (size_t i = 0; i < prompts.size(); ++i) ExpectSame(*answers[i], *Ask(*Start({}), prompts[i]));
  }
}

// Its rows from the disk have room, its new ones not before another's have been written: it is admitted twice
// and reports its rows once.
TEST_P(EngineTiers, RowsAreReportedOnceThoughRoomComesLater) {
  uint64_t block = 0;
  for (size_t k = 0; k < model_->kv_shape().kinds().size(); ++k)
    block += model_->kv_shape().BlockBytes(static_cast<int>(k));
  const auto stored = Prompt(41, 256);
  auto longer = stored;
  for (const int32_t token : Prompt(42, 70)) longer.push_back(token);
  const auto cold = Ask(*Start({}), longer);
  auto disk = OpenDisk();
  Ask(*Start({disk.get()}), stored);
  disk->Flush();
  const uint64_t metadata = Start({}, {.cache = {.limit_bytes = 64 * block}})->Stats().kv.metadata_bytes;
  auto core = Start({disk.get()}, {.cache = {.limit_bytes = metadata + 9 * block + block / 2}});
  Ask(*core, Prompt(43, 256));  // held until it is written
  const auto answer = Ask(*core, longer);
  ExpectSame(*answer, *cold);
  EXPECT_EQ(answer->report.read_tiers.size(), 1u);
  EXPECT_EQ(RowsFrom("disk", *answer), 256);
  EXPECT_EQ(RowsFrom("memory", *answer) + RowsFrom("disk", *answer) + answer->report.recomputed,
            std::ssize(longer));
  EXPECT_EQ(answer->usage.cached_tokens, 256);
}

INSTANTIATE_TEST_SUITE_P(Models, EngineTiers,
                         ::testing::Values(TierCase{"llama", "tiny-llama-q8_0.gguf"},
                                           TierCase{"gemma3", "tiny-gemma3.gguf"},
                                           TierCase{"llama_t4", "tiny-llama-q8_0.gguf", "t4:center=0"},
                                           TierCase{"gemma3_q8_0", "tiny-gemma3.gguf", "q8_0"}),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace larder
