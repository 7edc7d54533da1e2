// From one disk store to an archive and into another one.
#include "store/transfer.h"

#include <gtest/gtest.h>

#include <set>

#include "tests/store/disk/disk_fixture.h"

namespace larder {
namespace {

constexpr char kPath[] = "/archive";

TestRecord Record(uint64_t number) { return MakeTestRecord(number, {5000, 300, 12345}, Space(1)); }

// With the threads of its own, on a simulated disk.
struct ThreadedStore {
  explicit ThreadedStore(SimFiles* files, const std::string& directory, uint64_t limit = 16 << 20) {
    DiskOptions options;
    options.directory = directory;
    options.limit_bytes = limit;
    tier = OpenDiskTier(options, files, nullptr, &clock).value();
  }
  void Put(const TestRecord& record) {
    tier->Put(record.header, record.payload(), [](Status status) { EXPECT_TRUE(status); });
    tier->Flush();
  }
  std::set<Digest> Names() {
    std::set<Digest> names;
    uint64_t cursor = 0;
    do {
      for (const RecordHeader& header : tier->List(cursor, 7, nullptr)) names.insert(header.name);
    } while (cursor != 0);
    return names;
  }

  SystemClock clock;
  std::unique_ptr<DiskTier> tier;
};

TransferReport ExportTo(SimFiles& files, Tier& tier) {
  auto writer = ArchiveWriter::Create(&files, kPath, nullptr).value();
  TransferReport report = ExportRecords(tier, *writer);
  EXPECT_TRUE(writer->Finish());
  return report;
}

TransferReport ImportFrom(SimFiles& files, Tier& tier, std::vector<ArchiveItem>* unsound = nullptr) {
  auto reader = ArchiveReader::Open(files.Open(kPath, {}).value(), nullptr).value();
  return ImportRecords(*reader, tier, [&](const ArchiveItem& item) {
    if (unsound != nullptr) unsound->push_back(item);
  });
}

TEST(Transfer, EverythingComesOver) {
  SimFiles files;
  std::set<Digest> names;
  {
    ThreadedStore from(&files, "/from");
    for (uint64_t n = 0; n < 40; ++n) {
      from.Put(Record(n));
      names.insert(Record(n).header.name);
    }
    const TransferReport report = ExportTo(files, *from.tier);
    EXPECT_TRUE(report.status);
    EXPECT_EQ(report.records, 40u);
    EXPECT_EQ(report.bytes, 40u * (5000 + 300 + 12345));
    EXPECT_EQ(report.damaged, 0u);
  }
  ThreadedStore to(&files, "/to");
  for (int again = 0; again < 2; ++again) {
    const TransferReport report = ImportFrom(files, *to.tier);
    EXPECT_TRUE(report.status);
    EXPECT_EQ(report.records, 40u);
    EXPECT_EQ(report.bytes, 40u * (5000 + 300 + 12345));
  }
  EXPECT_EQ(to.Names(), names);
  EXPECT_EQ(to.tier->stats().write_records, 40u) << "what is there is not written again";
  EXPECT_EQ(to.tier->Verify().value().bad, 0u);
}

TEST(Transfer, DamageIsLeftOutOnBothWays) {
  SimFiles files;
  {
    ThreadedStore from(&files, "/from");
    for (uint64_t n = 0; n < 5; ++n) from.Put(Record(n));
  }
  std::vector<std::byte>& segment = files.Data(files.Names("seg-").at(0));
  segment[segment.size() - 5000] ^= std::byte{1};  // in the last record's last group
  {
    ThreadedStore from(&files, "/from");
    const TransferReport report = ExportTo(files, *from.tier);
    EXPECT_TRUE(report.status);
    EXPECT_EQ(report.records, 4u);
    EXPECT_EQ(report.damaged, 1u);
  }
  std::vector<std::byte>& archive = files.Data(kPath);
  archive[archive.size() - 100] ^= std::byte{1};
  ThreadedStore to(&files, "/to");
  std::vector<ArchiveItem> unsound;
  const TransferReport report = ImportFrom(files, *to.tier, &unsound);
  EXPECT_TRUE(report.status);
  EXPECT_EQ(report.records, 3u);
  EXPECT_EQ(report.damaged, 1u);
  ASSERT_EQ(unsound.size(), 1u);
  EXPECT_EQ(unsound[0].first, 3u);
  EXPECT_EQ(to.Names().size(), 3u);
}

TEST(Transfer, WhatWasSoundStaysWhenTheArchiveIsCutOff) {
  SimFiles files;
  {
    ThreadedStore from(&files, "/from");
    for (uint64_t n = 0; n < 5; ++n) from.Put(Record(n));
    ExportTo(files, *from.tier);
  }
  files.Data(kPath).resize(files.Data(kPath).size() - 1000);
  ThreadedStore to(&files, "/to");
  const TransferReport report = ImportFrom(files, *to.tier);
  EXPECT_EQ(report.status.error().kind, ErrorKind::kCorrupt);
  EXPECT_EQ(report.records, 4u);
  EXPECT_EQ(to.Names().size(), 4u);
}

TEST(Transfer, AnotherPayloadUnderANameDoesNotReplaceIt) {
  SimFiles files;
  {
    ThreadedStore from(&files, "/from");
    for (uint64_t n = 0; n < 3; ++n) from.Put(Record(n));
    ExportTo(files, *from.tier);
  }
  ThreadedStore to(&files, "/to");
  TestRecord other = Record(1);
  other.groups[0][7] ^= std::byte{1};
  to.Put(other);
  const TransferReport report = ImportFrom(files, *to.tier);
  EXPECT_TRUE(report.status);
  EXPECT_EQ(report.records, 2u);
  EXPECT_EQ(report.conflicts, 1u);
}

TEST(Transfer, WhatDoesNotFitIsToldWithItsReason) {
  SimFiles files;
  {
    ThreadedStore from(&files, "/from", 32 << 20);
    from.Put(MakeTestRecord(1, {2 << 20}));
    from.Put(Record(2));
    ExportTo(files, *from.tier);
  }
  ThreadedStore to(&files, "/to", 4 << 20);  // segments of 512 KiB
  const TransferReport report = ImportFrom(files, *to.tier);
  EXPECT_EQ(report.records, 1u);
  EXPECT_EQ(report.refused, 1u);
  EXPECT_EQ(report.status.error().kind, ErrorKind::kExhausted);
}

}  // namespace
}  // namespace larder
