// A disk tier on a simulated disk, stepped by the test, and answers as plain values.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "store/disk/buffer.h"
#include "store/disk/disk_tier.h"
#include "tests/store/disk/sim_files.h"
#include "tests/store/store_fixture.h"

namespace larder {

inline constexpr int64_t kNoDeadline = INT64_MAX;

struct GotRecord {
  Status status;               // of the last group that is not ok, or ok
  std::vector<Status> groups;  // as they were reported
  std::vector<std::byte> bytes;
  int accepted = 0;
  bool done = false;
};

class SimDisk {
 public:
  explicit SimDisk(uint64_t limit = 4 << 20) {
    options.directory = "/store";
    options.limit_bytes = limit;
    options.stepped = true;
  }

  Status Open() {
    tier.reset();
    auto opened = OpenDiskTier(options, &files, sealer, &clock);
    if (!opened) return std::unexpected(opened.error());
    tier = *std::move(opened);
    return {};
  }

  void StepAll() {
    while (tier->Step()) {
    }
  }

  Status Put(const TestRecord& record) {
    Status outcome = Fail(ErrorKind::kIo, "never told");
    tier->Put(record.header, record.payload(), [&](Status status) { outcome = std::move(status); });
    tier->Flush();
    return outcome;
  }

  bool Has(const Digest& name) { return HasAll({name})[0]; }
  std::vector<bool> HasAll(const std::vector<Digest>& names) {
    std::vector<bool> here;
    tier->Find(names, kNoDeadline, [&](Result<std::vector<bool>> found) { here = std::move(found).value(); });
    StepAll();
    return here;
  }

  // Into a buffer that direct I/O takes, or one byte beside it.
  GotRecord Get(const TestRecord& record, bool aligned = true, uint32_t first = 0,
                uint32_t end = kMaxRecordGroups, int64_t deadline_ns = kNoDeadline) {
    GotRecord got;
    DirectBuffer buffer(record.header.payload_bytes() + kDirectAlign);
    const auto to = buffer.first(buffer.size()).subspan(aligned ? 0 : 1, record.header.payload_bytes());
    std::fill(to.begin(), to.end(), std::byte{0xee});
    GetCallbacks callbacks;
    callbacks.accept = [&](size_t, const RecordHeader& header) {
      ++got.accepted;
      EXPECT_EQ(header.metadata, record.header.metadata);
      return Status();
    };
    callbacks.group_done = [&](uint32_t, std::span<const Status> items) {
      got.groups.push_back(items[0]);
      if (!items[0]) got.status = items[0];
    };
    callbacks.done = [&] {
      got.done = true;
      got.bytes.assign(to.begin(), to.end());
    };
    tier->Get({{record.header.name, first, end, to}}, deadline_ns, ReadPriority::kRequest,
              std::move(callbacks));
    StepAll();
    return got;
  }

  // Whether it is there with the right bytes; a record with other bytes fails the test.
  bool Intact(const TestRecord& record) {
    const GotRecord got = Get(record);
    EXPECT_TRUE(got.done);
    if (!got.status || got.groups.empty()) return false;
    EXPECT_EQ(got.bytes, Flat(record));
    return got.bytes == Flat(record);
  }

  static std::vector<std::byte> Flat(const TestRecord& record) {
    std::vector<std::byte> all;
    for (const auto& group : record.groups) all.insert(all.end(), group.begin(), group.end());
    return all;
  }

  // What the tier says it uses is what is there.
  void ExpectUsedIsThere() {
    EXPECT_EQ(tier->stats().used_bytes,
              files.BytesOf("seg-") + files.BytesOf("catalog-") + files.BytesOf("removed-"));
    EXPECT_LE(tier->stats().used_bytes, options.limit_bytes);
  }

  SimFiles files;
  ManualClock clock;
  DiskOptions options;
  const Sealer* sealer = nullptr;
  std::unique_ptr<DiskTier> tier;
};

inline Digest ParentName(uint64_t number) { return TestName(1'000'000 + number); }

inline SpaceId Space(uint8_t number) {
  SpaceId space{};
  space[0] = number;
  return space;
}

}  // namespace larder
