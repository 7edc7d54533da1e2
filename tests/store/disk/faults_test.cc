// Disks that lie, fill up, break or belong to somebody else: never a wrong answer, never above the limit.
#include <gtest/gtest.h>

#include "tests/store/disk/disk_fixture.h"

namespace larder {
namespace {

TestRecord RecordOf(uint64_t n) { return MakeTestRecord(n, {9000, 4096, 15'000}, {}, ParentName(n % 3)); }

// A disk with a few records, closed.
std::unique_ptr<SimDisk> Filled(uint64_t records, uint64_t limit = 4 << 20) {
  auto disk = std::make_unique<SimDisk>(limit);
  EXPECT_TRUE(disk->Open());
  for (uint64_t n = 0; n < records; ++n) EXPECT_TRUE(disk->Put(RecordOf(n)));
  disk->tier.reset();
  return disk;
}

uint64_t CountIntact(SimDisk& disk, uint64_t records) {
  uint64_t intact = 0;
  for (uint64_t n = 0; n < records; ++n) intact += disk.Intact(RecordOf(n));
  return intact;
}

TEST(DiskFaults, AFlippedBitAnywhereInASegmentCostsOneRecordAtMost) {
  constexpr uint64_t kRecords = 3;
  const auto whole = Filled(kRecords);
  const std::string path = whole->files.Names("seg-").at(0);
  const size_t size = whole->files.Data(path).size();
  for (size_t at = 11; at < size; at += 2039) {
    auto disk = Filled(kRecords);
    disk->files.Data(path)[at] ^= std::byte{0x10};
    ASSERT_TRUE(disk->Open());
    EXPECT_GE(CountIntact(*disk, kRecords), kRecords - 1) << "bit at " << at;
    // What is damaged is gone, and can be written again.
    for (uint64_t n = 0; n < kRecords; ++n) EXPECT_TRUE(disk->Put(RecordOf(n)));
    EXPECT_EQ(CountIntact(*disk, kRecords), kRecords);
  }
}

TEST(DiskFaults, VerifyFindsEveryDamagedRecord) {
  auto disk = Filled(20);
  const std::string path = disk->files.Names("seg-").at(0);
  // One page in each of three records: of a head, and of payloads.
  for (const size_t record : {1, 4, 7})
    disk->files.Data(path)[record * 9 * 4096 + (record % 3) * 4096 + 100] ^= std::byte{1};
  ASSERT_TRUE(disk->Open());
  const auto report = disk->tier->Verify();
  ASSERT_TRUE(report);
  EXPECT_EQ(report->records, 20u);
  EXPECT_EQ(report->bad, 3u);
  EXPECT_EQ(disk->tier->stats().bad_records, 3u);
  EXPECT_EQ(disk->tier->Verify()->bad, 0u);
  EXPECT_EQ(CountIntact(*disk, 20), 17u);
}

TEST(DiskFaults, AFlippedBitInTheCatalogIsNoticed) {
  constexpr uint64_t kRecords = 6;
  const size_t size = [] {
    const auto whole = Filled(kRecords);
    return whole->files.Data(whole->files.Names("catalog-").at(0)).size();
  }();
  for (size_t at = 0; at < size; at += 13) {
    auto disk = Filled(kRecords);
    ASSERT_TRUE(disk->Open());
    ASSERT_TRUE(disk->tier->Remove(std::vector<Digest>{TestName(2)}));
    disk->tier.reset();
    disk->files.Data(disk->files.Names("catalog-").at(0))[at] ^= std::byte{0x40};
    ASSERT_TRUE(disk->Open()) << at;
    EXPECT_FALSE(disk->Has(TestName(2)));
    EXPECT_GE(CountIntact(*disk, kRecords), kRecords - 1) << at;
    disk->ExpectUsedIsThere();
  }
}

TEST(DiskFaults, WithoutACatalogTheSegmentsTell) {
  auto disk = Filled(30);
  ASSERT_TRUE(disk->Open());
  ASSERT_TRUE(disk->tier->Remove(std::vector<Digest>{TestName(7)}));
  disk->tier.reset();
  for (const std::string& path : disk->files.Names("catalog-")) ASSERT_TRUE(disk->files.Remove(path));
  ASSERT_TRUE(disk->Open());
  EXPECT_EQ(disk->tier->counters().rebuilt_records, 30u);
  EXPECT_EQ(CountIntact(*disk, 30), 29u);
  EXPECT_FALSE(disk->Has(TestName(7)));
}

TEST(DiskFaults, WithoutEitherLogNothingIsBelieved) {
  auto disk = Filled(5);
  for (const char* stem : {"catalog-", "removed-"}) {
    for (const std::string& path : disk->files.Names(stem)) disk->files.Data(path)[20] ^= std::byte{1};
  }
  ASSERT_TRUE(disk->Open());
  EXPECT_EQ(disk->tier->stats().records, 0u);
  EXPECT_TRUE(disk->files.Names("seg-").empty());
  EXPECT_TRUE(disk->Put(RecordOf(1)));
}

// Losing the log of removals, and then the catalog, does not bring back what was removed before.
TEST(DiskFaults, LosingOneLogAfterTheOtherBringsNothingBack) {
  auto disk = Filled(10);
  ASSERT_TRUE(disk->Open());
  ASSERT_TRUE(disk->tier->Remove(std::vector<Digest>{TestName(3)}));
  disk->tier.reset();
  for (const std::string& path : disk->files.Names("removed-")) ASSERT_TRUE(disk->files.Remove(path));
  ASSERT_TRUE(disk->Open());
  EXPECT_EQ(CountIntact(*disk, 10), 9u);
  ASSERT_TRUE(disk->Put(RecordOf(20)));
  disk->tier.reset();
  for (const std::string& path : disk->files.Names("catalog-")) ASSERT_TRUE(disk->files.Remove(path));
  ASSERT_TRUE(disk->Open());
  EXPECT_FALSE(disk->Has(TestName(3)));
  EXPECT_TRUE(disk->Intact(RecordOf(20)));
}

TEST(DiskFaults, ATruncatedSegmentLosesItsEndOnly) {
  auto disk = Filled(10);
  auto& data = disk->files.Data(disk->files.Names("seg-").at(0));
  data.resize(data.size() - 3 * 4096);
  ASSERT_TRUE(disk->Open());
  EXPECT_EQ(CountIntact(*disk, 10), 9u);
  disk->ExpectUsedIsThere();
  // Also while it is open.
  auto& shorter = disk->files.Data(disk->files.Names("seg-").at(0));
  shorter.resize(shorter.size() - 9 * 4096);
  EXPECT_EQ(CountIntact(*disk, 10), 8u);
}

TEST(DiskFaults, AFullDiskDropsWritesAndServesOn) {
  auto disk = Filled(10);
  disk->files.SetCapacity(disk->files.BytesOf("") + 20'000);
  ASSERT_TRUE(disk->Open());
  uint64_t dropped = 0;
  for (uint64_t n = 10; n < 40; ++n) dropped += !disk->Put(RecordOf(n));
  EXPECT_GT(dropped, 0u);
  EXPECT_EQ(disk->tier->stats().dropped_writes, dropped);
  (void)CountIntact(*disk, 40);  // nothing wrong is served
  disk->files.SetCapacity(UINT64_MAX);
  EXPECT_TRUE(disk->Put(RecordOf(50)));
  EXPECT_TRUE(disk->Intact(RecordOf(50)));
  disk->ExpectUsedIsThere();
}

TEST(DiskFaults, AReadOnlyDiskIsServedFrom) {
  auto disk = Filled(10);
  const auto read_only = [](SimOp op, const std::string&) {
    return op == SimOp::kRead ? Status() : Fail(ErrorKind::kIo, "the simulated disk is read only");
  };
  disk->files.SetHook(read_only);
  ASSERT_TRUE(disk->Open());
  EXPECT_EQ(CountIntact(*disk, 10), 10u);
  EXPECT_FALSE(disk->Put(RecordOf(11)));
  EXPECT_FALSE(disk->tier->Remove(std::vector<Digest>{TestName(1)}));
  EXPECT_FALSE(disk->tier->stats().healthy);
  // Once it can be written again, the tier recovers by itself.
  disk->files.SetHook(nullptr);
  EXPECT_TRUE(disk->Put(RecordOf(11)));
  EXPECT_TRUE(disk->tier->Remove(std::vector<Digest>{TestName(1)}));
  EXPECT_TRUE(disk->tier->stats().healthy);
  ASSERT_TRUE(disk->Open());
  EXPECT_TRUE(disk->Intact(RecordOf(11)));
  EXPECT_FALSE(disk->Has(TestName(1)));
}

TEST(DiskFaults, AFileThatCannotBeRemovedStopsNothing) {
  SimDisk disk(2 << 20);
  ASSERT_TRUE(disk.Open());
  disk.files.SetHook([](SimOp op, const std::string& path) {
    if (op == SimOp::kRemove && path == "/store/seg-1") return Status(Fail(ErrorKind::kIo, "seg-1 stays"));
    return Status();
  });
  for (uint64_t n = 0; n < 200; ++n) {
    ASSERT_TRUE(disk.Put(RecordOf(n))) << n;
    disk.ExpectUsedIsThere();
  }
  EXPECT_EQ(disk.tier->counters().stuck_segments, 1u);
  EXPECT_TRUE(disk.Intact(RecordOf(199)));
  disk.files.SetHook(nullptr);
  for (uint64_t n = 200; n < 260; ++n) ASSERT_TRUE(disk.Put(RecordOf(n)));
  EXPECT_EQ(disk.tier->counters().stuck_segments, 0u);
}

// After a failed sync nothing of that batch is believed, and its pages are not tried again.
TEST(DiskFaults, AFailedSyncRetiresTheSegment) {
  for (const char* victim : {"seg-", "catalog-", "removed-"}) {
    SCOPED_TRACE(victim);
    SimDisk disk;
    ASSERT_TRUE(disk.Open());
    for (uint64_t n = 0; n < 5; ++n) ASSERT_TRUE(disk.Put(RecordOf(n)));
    int failures = 1;
    disk.files.SetHook([&](SimOp op, const std::string& path) {
      const bool hit = op == SimOp::kSync && path.find(victim) != std::string::npos && failures-- > 0;
      return hit ? Status(Fail(ErrorKind::kIo, "the sync failed")) : Status();
    });
    const Status put = disk.Put(RecordOf(5));
    if (std::string(victim) != "removed-") {
      EXPECT_FALSE(put);
      EXPECT_FALSE(disk.Has(TestName(5)));
      EXPECT_EQ(disk.tier->stats().dropped_writes, 1u);
    }
    EXPECT_TRUE(disk.tier->Remove(std::vector<Digest>{TestName(0)}));
    EXPECT_TRUE(disk.Put(RecordOf(6)));
    // What was acknowledged survives the machine.
    disk.files.CrashAfter(0);
    disk.tier.reset();
    disk.files.Restart(1);
    ASSERT_TRUE(disk.Open());
    for (uint64_t n = 1; n < 5; ++n) EXPECT_TRUE(disk.Intact(RecordOf(n)));
    EXPECT_TRUE(disk.Intact(RecordOf(6)));
    EXPECT_FALSE(disk.Has(TestName(0)));
    (void)disk.Intact(RecordOf(5));  // there or not, but not wrong
  }
}

TEST(DiskFaults, ReadErrorsAreMissesOfThisTime) {
  auto disk = Filled(3);
  ASSERT_TRUE(disk->Open());
  disk->files.SetHook([](SimOp op, const std::string& path) {
    const bool hit = op == SimOp::kRead && path.find("seg-") != std::string::npos;
    return hit ? Status(Fail(ErrorKind::kIo, "a bad sector")) : Status();
  });
  EXPECT_EQ(disk->Get(RecordOf(0)).status.error().kind, ErrorKind::kIo);
  EXPECT_EQ(disk->tier->stats().failures, 1u);
  disk->files.SetHook(nullptr);
  EXPECT_EQ(CountIntact(*disk, 3), 3u);
}

TEST(DiskFaults, OneProcessAtATime) {
  SimDisk disk;
  ASSERT_TRUE(disk.Open());
  auto second = OpenDiskTier(disk.options, &disk.files, nullptr, &disk.clock);
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().kind, ErrorKind::kConflict);
  EXPECT_NE(second.error().message.find("process 7"), std::string::npos);
}

TEST(DiskFaults, AnotherVersionIsRefusedUntouched) {
  auto disk = Filled(3);
  auto& text = disk->files.Data("/store/LARDER");
  const std::string_view view(reinterpret_cast<const char*>(text.data()), text.size());
  text[view.find("version 1") + 8] = std::byte{'2'};
  const uint64_t changes = disk->files.changes();
  const Status opened = disk->Open();
  EXPECT_EQ(opened.error().kind, ErrorKind::kUnsupported);
  EXPECT_EQ(disk->files.changes(), changes);
  text[view.find("version")] = std::byte{'x'};
  EXPECT_EQ(disk->Open().error().kind, ErrorKind::kCorrupt);
}

TEST(DiskFaults, SegmentsOfNobodyAreNotTakenOver) {
  auto disk = Filled(3);
  ASSERT_TRUE(disk->files.Remove("/store/LARDER"));
  EXPECT_EQ(disk->Open().error().kind, ErrorKind::kCorrupt);
  EXPECT_FALSE(disk->files.Names("seg-").empty());
}

TEST(DiskFaults, ASmallerLimitIsReachedByItself) {
  auto disk = Filled(60, 4 << 20);
  disk->options.limit_bytes = 1 << 20;
  ASSERT_TRUE(disk->Open());
  disk->StepAll();
  disk->ExpectUsedIsThere();
  EXPECT_TRUE(disk->Intact(RecordOf(59)));
}

// The segment that is cheapest to clean holds what must not go, and there is no room to move it: others make
// it.
TEST(DiskFaults, APinnedRecordDoesNotKeepItFull) {
  auto disk = Filled(60, 4 << 20);
  disk->options.limit_bytes = 1 << 20;
  ASSERT_TRUE(disk->Open());
  ASSERT_TRUE(disk->tier->Pin(RecordOf(3).header.name, 1'000'000));
  disk->StepAll();
  disk->ExpectUsedIsThere();
  for (uint64_t n = 60; n < 90; ++n) ASSERT_TRUE(disk->Put(RecordOf(n))) << n;
  disk->ExpectUsedIsThere();
  EXPECT_TRUE(disk->Intact(RecordOf(3)));
}

}  // namespace
}  // namespace larder
