// What the tier promises, on a disk that does as it is told.
#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "store/evict/policy.h"
#include "tests/store/disk/disk_fixture.h"

namespace larder {
namespace {

TestRecord Plain(uint64_t number) { return MakeTestRecord(number, {5000, 8192, 4096, 4096, 12345}); }

TEST(DiskTier, GivesBackWhatWasPut) {
  SimDisk disk;
  ASSERT_TRUE(disk.Open());
  for (uint64_t n = 0; n < 8; ++n) ASSERT_TRUE(disk.Put(Plain(n)));
  for (const bool aligned : {true, false}) {
    for (uint64_t n = 0; n < 8; ++n) {
      const GotRecord got = disk.Get(Plain(n), aligned);
      EXPECT_TRUE(got.done);
      EXPECT_EQ(got.accepted, 1);
      EXPECT_EQ(got.groups.size(), 5u);
      EXPECT_TRUE(got.status);
      EXPECT_EQ(got.bytes, SimDisk::Flat(Plain(n)));
    }
  }
  EXPECT_EQ(disk.files.unaligned(), 0u);
  EXPECT_EQ(disk.tier->stats().read_records, 16u);
  disk.ExpectUsedIsThere();
}

TEST(DiskTier, GivesOnlyTheGroupsThatAreAskedFor) {
  SimDisk disk;
  ASSERT_TRUE(disk.Open());
  const TestRecord record = Plain(1);
  ASSERT_TRUE(disk.Put(record));
  const GotRecord got = disk.Get(record, true, 1, 3);
  EXPECT_EQ(got.groups.size(), 2u);
  const auto whole = SimDisk::Flat(record);
  EXPECT_TRUE(std::equal(whole.begin() + 5000, whole.begin() + 5000 + 8192 + 4096, got.bytes.begin() + 5000));
  EXPECT_EQ(got.bytes[4999], std::byte{0xee});
  EXPECT_EQ(got.bytes[5000 + 8192 + 4096], std::byte{0xee});
}

TEST(DiskTier, LargeGroupsComeInPieces) {
  SimDisk disk(32 << 20);
  ASSERT_TRUE(disk.Open());
  const TestRecord record = MakeTestRecord(3, {(2 << 20) + 777, 100, 1 << 20});
  ASSERT_TRUE(disk.Put(record));
  EXPECT_TRUE(disk.Intact(record));
  EXPECT_EQ(disk.Get(record, false).bytes, SimDisk::Flat(record));
}

// What reading costs follows from records and bytes, not from how many layers they have: a batch of requests
// for as many heads, then for as many runs of groups, as may be on their way at once.
TEST(DiskTier, RequestsDoNotGrowWithGroups) {
  constexpr uint64_t kRecords = 40, kBytes = 30 * 8192, kAtOnce = 32;
  for (const size_t groups : {size_t{1}, size_t{10}, size_t{30}}) {
    SimDisk disk(64 << 20);
    ASSERT_TRUE(disk.Open());
    std::vector<DirectBuffer> buffers;
    std::vector<RecordRead> reads;
    for (uint64_t n = 0; n < kRecords; ++n) {
      const TestRecord record = MakeTestRecord(n, std::vector<size_t>(groups, kBytes / groups));
      ASSERT_TRUE(disk.Put(record));
      buffers.emplace_back(kBytes);
      reads.push_back({.name = record.header.name, .destination = buffers.back().first(kBytes)});
    }
    size_t reported = 0;
    bool done = false;
    GetCallbacks callbacks;
    callbacks.group_done = [&](uint32_t, std::span<const Status> items) {
      ++reported;
      for (const Status& item : items) EXPECT_TRUE(item);
    };
    callbacks.done = [&] { done = true; };
    disk.tier->Get(std::move(reads), kNoDeadline, ReadPriority::kRequest, std::move(callbacks));
    disk.StepAll();
    EXPECT_TRUE(done);
    EXPECT_EQ(reported, groups);
    const DiskCounters counters = disk.tier->counters();
    EXPECT_EQ(counters.reads, 2 * kRecords);
    EXPECT_EQ(counters.read_batches, 2 * ((kRecords + kAtOnce - 1) / kAtOnce));
  }
}

TEST(DiskTier, WhatIsNotThereIsSaid) {
  SimDisk disk;
  ASSERT_TRUE(disk.Open());
  const GotRecord got = disk.Get(Plain(1));
  EXPECT_TRUE(got.done);
  EXPECT_EQ(got.accepted, 0);
  ASSERT_EQ(got.groups.size(), 1u);
  EXPECT_EQ(got.status.error().kind, ErrorKind::kNotFound);
}

TEST(DiskTier, ARefusedItemDoesNotHurtTheOthers) {
  SimDisk disk;
  ASSERT_TRUE(disk.Open());
  const TestRecord a = Plain(1), b = Plain(2), absent = Plain(3);
  ASSERT_TRUE(disk.Put(a));
  ASSERT_TRUE(disk.Put(b));
  std::vector<std::byte> to_a(a.header.payload_bytes()), to_b(to_a.size()), to_c(to_a.size());
  std::vector<std::vector<ErrorKind>> kinds;
  bool done = false;
  GetCallbacks callbacks;
  callbacks.accept = [](size_t item, const RecordHeader&) {
    return item == 0 ? Fail(ErrorKind::kConflict, "other tokens") : Status();
  };
  callbacks.group_done = [&](uint32_t group, std::span<const Status> items) {
    EXPECT_EQ(group, kinds.size());
    ASSERT_EQ(items.size(), 3u);
    EXPECT_EQ(items[0].error().kind, ErrorKind::kConflict);
    EXPECT_TRUE(items[1]);
    EXPECT_EQ(items[2].error().kind, ErrorKind::kNotFound);
    kinds.emplace_back();
  };
  callbacks.done = [&] { done = true; };
  disk.tier->Get({{a.header.name, 0, kMaxRecordGroups, to_a},
                  {b.header.name, 0, kMaxRecordGroups, to_b},
                  {absent.header.name, 0, kMaxRecordGroups, to_c}},
                 kNoDeadline, ReadPriority::kPrefetch, std::move(callbacks));
  disk.StepAll();
  EXPECT_TRUE(done);
  EXPECT_EQ(kinds.size(), 5u);
  EXPECT_EQ(to_b, SimDisk::Flat(b));
  EXPECT_EQ(to_a, std::vector<std::byte>(to_a.size()));
}

TEST(DiskTier, AnotherPayloadUnderANameIsAnAlarm) {
  SimDisk disk;
  ASSERT_TRUE(disk.Open());
  const TestRecord record = Plain(1);
  TestRecord other = record;
  other.groups[0][17] ^= std::byte{1};
  ASSERT_TRUE(disk.Put(record));
  EXPECT_TRUE(disk.Put(record));  // the same again is no news
  EXPECT_EQ(disk.Put(other).error().kind, ErrorKind::kConflict);
  EXPECT_EQ(disk.tier->counters().conflicts, 1u);
  EXPECT_EQ(disk.tier->stats().write_records, 1u);
  EXPECT_TRUE(disk.Intact(record));
  // Also while the first is still on its way.
  const TestRecord next = Plain(2);
  TestRecord twin = next;
  twin.groups[4][0] ^= std::byte{1};
  std::vector<Status> outcomes;
  const auto keep = [&](Status status) { outcomes.push_back(std::move(status)); };
  disk.tier->Put(next.header, next.payload(), keep);
  disk.tier->Put(twin.header, twin.payload(), keep);
  disk.tier->Put(next.header, next.payload(), keep);
  disk.tier->Flush();
  ASSERT_EQ(outcomes.size(), 3u);
  EXPECT_TRUE(outcomes[0]);
  EXPECT_EQ(outcomes[1].error().kind, ErrorKind::kConflict);
  EXPECT_TRUE(outcomes[2]);
}

TEST(DiskTier, ChildrenComeNewestFirstAlsoAfterReopening) {
  SimDisk disk;
  ASSERT_TRUE(disk.Open());
  const Digest parent = ParentName(1);
  for (uint64_t n = 0; n < 5; ++n) ASSERT_TRUE(disk.Put(MakeTestRecord(n, {100}, {}, parent)));
  ASSERT_TRUE(disk.Put(MakeTestRecord(9, {100}, {}, ParentName(2))));
  for (int time = 0; time < 2; ++time) {
    std::vector<Digest> names;
    const auto keep = [&](Result<std::vector<RecordHeader>> found) {
      ASSERT_TRUE(found);
      for (const RecordHeader& header : *found) names.push_back(header.name);
    };
    disk.tier->Children(parent, 3, kNoDeadline, keep);
    disk.StepAll();
    EXPECT_EQ(names, (std::vector<Digest>{TestName(4), TestName(3), TestName(2)}));
    ASSERT_TRUE(disk.Open());
  }
}

TEST(DiskTier, ListsEverythingInPortions) {
  SimDisk disk;
  ASSERT_TRUE(disk.Open());
  for (uint64_t n = 0; n < 10; ++n) ASSERT_TRUE(disk.Put(Plain(n)));
  std::set<Digest> names;
  uint64_t cursor = 0;
  do {
    for (const RecordHeader& header : disk.tier->List(cursor, 3, nullptr))
      EXPECT_TRUE(names.insert(header.name).second);
  } while (cursor != 0);
  EXPECT_EQ(names.size(), 10u);
}

// Many in one batch, and each of them twice, and some a third time with other bytes.
TEST(DiskTier, ABatchOfManySmallRecordsKnowsItsTwins) {
  constexpr uint64_t kRecords = 20'000;
  SimDisk disk(1 << 30);
  ASSERT_TRUE(disk.Open());
  uint64_t stored = 0, conflicts = 0;
  const auto count = [&](const Status& status) {
    if (status) ++stored;
    if (!status && status.error().kind == ErrorKind::kConflict) ++conflicts;
  };
  for (int time = 0; time < 2; ++time) {
    for (uint64_t n = 0; n < kRecords; ++n) {
      const auto record = std::make_shared<TestRecord>(MakeTestRecord(n, {1}));
      disk.tier->Put(record->header, {record->payload().groups, record}, count);
    }
  }
  for (uint64_t n = 0; n < kRecords; n += 1000) {
    const auto record = std::make_shared<TestRecord>(MakeTestRecord(n, {1}));
    record->groups[0][0] ^= std::byte{1};
    disk.tier->Put(record->header, {record->payload().groups, record}, count);
  }
  disk.tier->Flush();
  EXPECT_EQ(stored, 2 * kRecords);
  EXPECT_EQ(conflicts, kRecords / 1000);
  EXPECT_EQ(disk.tier->stats().records, kRecords);
  EXPECT_LT(disk.tier->counters().syncs, 10u) << "it was one batch";
  EXPECT_TRUE(disk.Intact(MakeTestRecord(kRecords / 2, {1})));
}

TEST(DiskTier, SurvivesReopeningReadingOnlyTheCatalog) {
  SimDisk disk(256 << 20);
  disk.options.segment_bytes = 8 << 20;
  ASSERT_TRUE(disk.Open());
  for (uint64_t n = 0; n < 300; ++n) {
    const auto record = std::make_shared<TestRecord>(MakeTestRecord(n, {500}));
    disk.tier->Put(record->header, {record->payload().groups, record}, nullptr);
  }
  disk.tier->Flush();
  // Group commit: not a sync for each record.
  EXPECT_LT(disk.tier->counters().syncs, 10u);
  disk.tier.reset();
  uint64_t segment_reads = 0;
  disk.files.SetHook([&](SimOp op, const std::string& path) {
    segment_reads += op == SimOp::kRead && path.find("seg-") != std::string::npos;
    return Status();
  });
  ASSERT_TRUE(disk.Open());
  EXPECT_EQ(segment_reads, 0u);
  EXPECT_EQ(disk.tier->counters().catalog_entries, 300u);
  EXPECT_EQ(disk.tier->stats().records, 300u);
  EXPECT_TRUE(disk.Intact(MakeTestRecord(299, {500})));
}

TEST(DiskTier, RemovedAndWipedStayAway) {
  SimDisk disk;
  ASSERT_TRUE(disk.Open());
  for (uint64_t n = 0; n < 9; ++n) {
    ASSERT_TRUE(disk.Put(MakeTestRecord(n, {6000}, Space(static_cast<uint8_t>(n % 3)))));
  }
  ASSERT_TRUE(disk.tier->Remove(std::vector<Digest>{TestName(0), TestName(4)}));
  ASSERT_TRUE(disk.tier->Wipe(Space(2)));
  disk.StepAll();
  const std::vector<bool> expected{false, true, false, true, false, false, true, true, false};
  std::vector<Digest> names;
  for (uint64_t n = 0; n < 9; ++n) names.push_back(TestName(n));
  EXPECT_EQ(disk.HasAll(names), expected);
  ASSERT_TRUE(disk.Open());
  EXPECT_EQ(disk.HasAll(names), expected);
  // They may come again.
  ASSERT_TRUE(disk.Put(MakeTestRecord(0, {6000}, Space(0))));
  ASSERT_TRUE(disk.Put(MakeTestRecord(2, {6000}, Space(2))));
  ASSERT_TRUE(disk.Open());
  EXPECT_TRUE(disk.Has(TestName(0)));
  EXPECT_TRUE(disk.Has(TestName(2)));
}

TEST(DiskTier, WipedBytesLeaveTheDisk) {
  SimDisk disk;
  ASSERT_TRUE(disk.Open());
  const TestRecord secret = MakeTestRecord(1, {6000}, Space(1)), other = MakeTestRecord(2, {6000}, Space(2));
  ASSERT_TRUE(disk.Put(secret));
  ASSERT_TRUE(disk.Put(other));
  ASSERT_TRUE(disk.tier->Wipe(Space(1)));
  disk.StepAll();
  for (const std::string& path : disk.files.Names("seg-")) {
    const auto& data = disk.files.Data(path);
    const auto& bytes = secret.groups[0];
    EXPECT_EQ(std::search(data.begin(), data.end(), bytes.begin(), bytes.begin() + 64), data.end());
  }
  EXPECT_TRUE(disk.Intact(other));
}

TEST(DiskTier, APutThatWaitsIsRemovedToo) {
  SimDisk disk;
  ASSERT_TRUE(disk.Open());
  const TestRecord record = Plain(1), other = MakeTestRecord(2, {100}, Space(1));
  std::vector<ErrorKind> kinds;
  const auto keep = [&](Status status) { kinds.push_back(status.error().kind); };
  disk.tier->Put(record.header, record.payload(), keep);
  disk.tier->Put(other.header, other.payload(), keep);
  ASSERT_TRUE(disk.tier->Remove(std::vector<Digest>{record.header.name}));
  ASSERT_TRUE(disk.tier->Wipe(Space(1)));
  disk.tier->Flush();
  EXPECT_EQ(kinds, (std::vector<ErrorKind>{ErrorKind::kCancelled, ErrorKind::kCancelled}));
  EXPECT_FALSE(disk.Has(record.header.name));
}

TEST(DiskTier, WritesStartAfterTheDelayAndNotBefore) {
  SimDisk disk;
  ASSERT_TRUE(disk.Open());
  const TestRecord record = Plain(1);
  bool committed = false;
  disk.tier->Put(record.header, record.payload(), [&](Status status) { committed = status.has_value(); });
  disk.StepAll();
  EXPECT_FALSE(committed);
  disk.clock.AdvanceNs(299'000'000);
  disk.StepAll();
  EXPECT_FALSE(committed);
  disk.clock.AdvanceNs(1'000'000);
  disk.StepAll();
  EXPECT_TRUE(committed);
  // A clock that jumps back keeps nothing waiting.
  const TestRecord next = Plain(2);
  committed = false;
  disk.tier->Put(next.header, next.payload(), [&](Status status) { committed = status.has_value(); });
  disk.clock.AdvanceNs(-200'000'000);
  disk.StepAll();
  EXPECT_TRUE(committed);
}

TEST(DiskTier, WhoWaitsForTheMemoryOfWritesHurriesThemOrGivesThemUp) {
  SimDisk disk;
  ASSERT_TRUE(disk.Open());
  const TestRecord records[] = {Plain(1), Plain(2), Plain(3)};
  std::vector<std::string> told;
  const auto put = [&](size_t i) {
    disk.tier->Put(records[i].header, records[i].payload(), [&told, i](const Status& status) {
      const bool dropped = !status && status.error().kind == ErrorKind::kExhausted;
      told.push_back(std::to_string(i) + (status ? " is there" : dropped ? " is dropped" : " failed"));
    });
  };
  disk.tier->Hurry();  // with nothing to hurry it changes nothing
  put(0);
  disk.StepAll();
  EXPECT_TRUE(told.empty());
  disk.tier->Hurry();
  disk.StepAll();
  EXPECT_EQ(told, (std::vector<std::string>{"0 is there"}));
  put(1);
  disk.tier->DropPending();
  EXPECT_EQ(told.size(), 1u) << "never from inside the call";
  EXPECT_EQ(disk.tier->stats().pending_bytes, 0u);
  put(2);
  disk.StepAll();
  EXPECT_EQ(told, (std::vector<std::string>{"0 is there", "1 is dropped"})) << "the next one waits as ever";
  disk.tier->Flush();
  EXPECT_EQ(told.back(), "2 is there");
  EXPECT_EQ(disk.tier->stats().dropped_writes, 1u);
  EXPECT_EQ(disk.HasAll({records[0].header.name, records[1].header.name}), (std::vector{true, false}));
}

TEST(DiskTier, PendingBytesAreBounded) {
  SimDisk disk;
  disk.options.pending_bytes = 100'000;
  ASSERT_TRUE(disk.Open());
  std::vector<std::shared_ptr<TestRecord>> records;
  int committed = 0, dropped = 0;
  for (uint64_t n = 0; n < 10; ++n) {
    records.push_back(std::make_shared<TestRecord>(MakeTestRecord(n, {30'000})));
    disk.tier->Put(records[n]->header, records[n]->payload(), [&](Status status) {
      committed += status.has_value();
      dropped += !status && status.error().kind == ErrorKind::kExhausted;
    });
    EXPECT_LE(disk.tier->stats().pending_bytes, 100'000u);
  }
  EXPECT_EQ(committed + dropped, 0);  // never from inside the call
  disk.tier->Flush();
  EXPECT_EQ(committed, 3);
  EXPECT_EQ(dropped, 7);
  EXPECT_EQ(disk.tier->stats().dropped_writes, 7u);
  EXPECT_EQ(disk.tier->stats().pending_bytes, 0u);
}

TEST(DiskTier, StaysUnderItsLimitAndEvictsTheLeastRecentlyUsed) {
  SimDisk disk(2 << 20);
  ASSERT_TRUE(disk.Open());
  const auto record = [](uint64_t n) { return MakeTestRecord(n, {20'000 + n % 7 * 1000}); };
  for (uint64_t n = 0; n < 300; ++n) {
    ASSERT_TRUE(disk.Put(record(n)));
    if (n >= 10) disk.tier->Touch(std::vector<Digest>{TestName(3), TestName(4)});
    if (n == 150) {
      ASSERT_TRUE(disk.Open());
    }
    disk.ExpectUsedIsThere();
  }
  for (const uint64_t n : {3, 4, 299, 298, 290}) EXPECT_TRUE(disk.Intact(record(n))) << n;
  EXPECT_FALSE(disk.Has(TestName(5)));
  EXPECT_GT(disk.tier->stats().evicted_records, 100u);
  // Much of the limit is used, not only a segment or two.
  EXPECT_GT(disk.tier->stats().records * 24'000, disk.options.limit_bytes / 3);
}

// Chains of three under each policy: what is there is always a beginning, and what was used keeps coming
// back.
TEST(DiskTier, EveryPolicyKeepsBeginningsAndTheLimit) {
  for (const EvictPolicyEntry& entry : EvictPolicies()) {
    SimDisk disk(2 << 20);
    disk.options.evict_policy = entry.name;
    ASSERT_TRUE(disk.Open());
    const auto record = [](uint64_t n) {
      return MakeTestRecord(n, {20'000}, {}, n % 3 == 0 ? Digest{} : TestName(n - 1));
    };
    for (uint64_t n = 0; n < 300; ++n) {
      ASSERT_TRUE(disk.Put(record(n)));
      disk.tier->Touch(std::vector<Digest>{TestName(2), TestName(1), TestName(0)});
      ASSERT_TRUE(n != 150 || disk.Open());
      disk.ExpectUsedIsThere();
    }
    for (uint64_t n = 1; n < 300; ++n) {
      const bool begins = n % 3 == 0 || disk.Has(TestName(n - 1));
      EXPECT_TRUE(begins || !disk.Has(TestName(n))) << entry.name << " " << n;
    }
    EXPECT_EQ(disk.Has(TestName(2)), entry.name != "fifo") << entry.name;
    EXPECT_GT(disk.tier->stats().evicted_records, 50u);
  }
}

TEST(DiskTier, PinsHoldUntilTheyEndAndHaveABudget) {
  SimDisk disk(2 << 20);
  ASSERT_TRUE(disk.Open());
  const auto record = [](uint64_t n) { return MakeTestRecord(n, {20'000}); };
  ASSERT_TRUE(disk.Put(record(0)));
  ASSERT_TRUE(disk.Put(record(1)));
  ASSERT_TRUE(disk.tier->Pin(TestName(0), 5000));
  ASSERT_TRUE(disk.tier->Pin(TestName(1), 5000));
  ASSERT_TRUE(disk.tier->Pin(TestName(1), 0));
  EXPECT_EQ(disk.tier->Pin(TestName(77), 10).error().kind, ErrorKind::kNotFound);
  for (uint64_t n = 2; n < 200; ++n) ASSERT_TRUE(disk.Put(record(n)));
  EXPECT_TRUE(disk.Intact(record(0)));
  EXPECT_FALSE(disk.Has(TestName(1)));
  ASSERT_TRUE(disk.tier->Pin(TestName(0), 5000));
  disk.clock.AdvanceNs(-1'000'000'000);  // a jump back
  disk.clock.AdvanceNs(7'000'000'000);
  for (uint64_t n = 200; n < 400; ++n) ASSERT_TRUE(disk.Put(record(n)));
  EXPECT_FALSE(disk.Has(TestName(0)));
  // At most half of the limit, and then the tier still takes what is new.
  uint64_t pinned = 0;
  for (uint64_t n = 0; n < 400; ++n) pinned += disk.tier->Pin(TestName(n), 1'000'000).has_value();
  EXPECT_LE(pinned * 20'000, disk.options.limit_bytes / 2);
  EXPECT_GT(pinned, 20u);
  for (uint64_t n = 400; n < 500; ++n) EXPECT_TRUE(disk.Put(record(n)));
}

TEST(DiskTier, LastUsesAreRememberedOverARestart) {
  SimDisk disk(2 << 20);
  ASSERT_TRUE(disk.Open());
  const auto record = [](uint64_t n) { return MakeTestRecord(n, {20'000}); };
  for (uint64_t n = 0; n < 40; ++n) ASSERT_TRUE(disk.Put(record(n)));
  disk.tier->Touch(std::vector<Digest>{TestName(2), TestName(1), TestName(0)});
  ASSERT_TRUE(disk.Open());
  for (uint64_t n = 40; n < 90; ++n) ASSERT_TRUE(disk.Put(record(n)));
  EXPECT_TRUE(disk.Has(TestName(0)));
  EXPECT_FALSE(disk.Has(TestName(5)));
}

TEST(DiskTier, CompactingClosesGaps) {
  SimDisk disk;
  ASSERT_TRUE(disk.Open());
  std::vector<Digest> odd;
  for (uint64_t n = 0; n < 40; ++n) {
    ASSERT_TRUE(disk.Put(MakeTestRecord(n, {30'000})));
    if (n % 2 == 1) odd.push_back(TestName(n));
  }
  ASSERT_TRUE(disk.tier->Remove(odd));
  ASSERT_TRUE(disk.tier->Compact());
  EXPECT_EQ(disk.files.BytesOf("seg-"), 20u * 9 * 4096);  // a head and eight pages each
  EXPECT_GT(disk.tier->counters().moved_records, 0u);
  for (uint64_t n = 0; n < 40; n += 2) EXPECT_TRUE(disk.Intact(MakeTestRecord(n, {30'000})));
  disk.ExpectUsedIsThere();
  ASSERT_TRUE(disk.Open());
  for (uint64_t n = 0; n < 40; n += 2) EXPECT_TRUE(disk.Intact(MakeTestRecord(n, {30'000})));
}

TEST(DiskTier, ALateDiskIsSlowAndTouchesNothingAfterDone) {
  SimDisk disk;
  ASSERT_TRUE(disk.Open());
  const TestRecord record = MakeTestRecord(1, std::vector<size_t>(40, 300 << 8));
  SimDisk large(32 << 20);
  ASSERT_TRUE(large.Open());
  ASSERT_TRUE(large.Put(record));
  int reads = 0;
  large.files.SetHook([&](SimOp op, const std::string&) {
    // The head and the first pieces come in time.
    if (op == SimOp::kRead && ++reads == 12) large.clock.AdvanceNs(1'000'000'000);
    return Status();
  });
  const GotRecord got = large.Get(record, true, 0, kMaxRecordGroups, large.clock.NowNs() + 1'000'000);
  EXPECT_TRUE(got.done);
  ASSERT_EQ(got.groups.size(), 40u);
  EXPECT_EQ(got.groups.back().error().kind, ErrorKind::kSlow);
  EXPECT_GT(large.tier->stats().slow_reads, 0u);
  EXPECT_TRUE(large.Intact(record));
  // A deadline that is over already.
  const GotRecord late = large.Get(record, true, 0, 3, large.clock.NowNs() - 1);
  EXPECT_TRUE(late.done);
  EXPECT_EQ(late.status.error().kind, ErrorKind::kSlow);
  Status found;
  large.tier->Find({record.header.name}, large.clock.NowNs() - 1, [&](Result<std::vector<bool>> here) {
    if (!here) found = std::unexpected(here.error());
  });
  large.StepAll();
  EXPECT_EQ(found.error().kind, ErrorKind::kSlow);
}

TEST(DiskTier, ACancelledReadEnds) {
  SimDisk disk;
  ASSERT_TRUE(disk.Open());
  const TestRecord record = Plain(1);
  ASSERT_TRUE(disk.Put(record));
  std::vector<std::byte> to(record.header.payload_bytes());
  ErrorKind kind = ErrorKind::kIo;
  bool done = false;
  GetCallbacks callbacks;
  callbacks.group_done = [&](uint32_t, std::span<const Status> items) { kind = items[0].error().kind; };
  callbacks.done = [&] { done = true; };
  const uint64_t ticket = disk.tier->Get({{record.header.name, 0, 2, to}}, kNoDeadline,
                                         ReadPriority::kRequest, std::move(callbacks));
  disk.tier->Cancel(ticket);
  disk.StepAll();
  EXPECT_TRUE(done);
  EXPECT_EQ(kind, ErrorKind::kCancelled);
}

TEST(DiskTier, SealedRecordsAreOnlySeenWithTheirKey) {
  TemporaryFolder folder("disk-seal");
  auto ring = Keyring::Open(folder / "ring", folder.Write("key", std::string(32, 'k')));
  ASSERT_TRUE(ring);
  const auto space = (*ring)->SpaceOf("alice");
  ASSERT_TRUE(space);
  SimDisk disk;
  disk.sealer = (*ring)->sealer();
  ASSERT_TRUE(disk.Open());
  const TestRecord record = MakeTestRecord(1, {5000, 0, 8192}, *space);
  ASSERT_TRUE(disk.Put(record));
  EXPECT_TRUE(disk.Intact(record));
  for (const std::string& path : disk.files.Names("seg-")) {
    const auto& data = disk.files.Data(path);
    EXPECT_EQ(std::search(data.begin(), data.end(), record.groups[0].begin(), record.groups[0].begin() + 16),
              data.end());
  }
  ASSERT_TRUE(disk.Open());
  EXPECT_TRUE(disk.Intact(record));
  ASSERT_TRUE((*ring)->Forget("alice"));
  EXPECT_FALSE(disk.Intact(record));
  EXPECT_EQ(disk.tier->stats().bad_records, 0u);
  disk.sealer = nullptr;
  ASSERT_TRUE(disk.Open());
  EXPECT_FALSE(disk.Has(record.header.name));
}

TEST(DiskTier, OptionsAreChecked) {
  SimDisk disk(1000);
  EXPECT_EQ(disk.Open().error().kind, ErrorKind::kInvalid);
  disk.options.limit_bytes = 4 << 20;
  disk.options.evict_policy = "best";
  EXPECT_EQ(disk.Open().error().kind, ErrorKind::kInvalid);
  EXPECT_TRUE(disk.files.BytesOf("") == 0);  // before it touches anything
  disk.options.evict_policy = "lru";
  disk.options.directory = "";
  EXPECT_EQ(disk.Open().error().kind, ErrorKind::kInvalid);
}

TEST(DiskTier, ARecordThatFitsNoSegmentIsDropped) {
  SimDisk disk(1 << 20);
  ASSERT_TRUE(disk.Open());
  EXPECT_EQ(disk.Put(MakeTestRecord(1, {200'000})).error().kind, ErrorKind::kExhausted);
  EXPECT_TRUE(disk.Put(MakeTestRecord(2, {20'000})));
}

}  // namespace
}  // namespace larder
