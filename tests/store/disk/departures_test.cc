// Does who listens always know what is on the disk?
#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <set>

#include "tests/store/disk/disk_fixture.h"

namespace larder {
namespace {

// Knows what is here from puts and removals alone.
class Listener {
 public:
  void ListenTo(DiskTier& tier) {
    EXPECT_TRUE(tier.ListenForRemovals([this](std::vector<RemovedRecord> removed) {
      for (const RemovedRecord& record : removed) {
        ++told_;
        if (record.name) {
          here_.erase(*record.name);
        } else {
          unnamed_.push_back(record.space);
        }
      }
    }));
  }
  void Put(DiskTier& tier, const std::shared_ptr<TestRecord>& record) {
    tier.Put(record->header, {record->payload().groups, record},
             [this, name = record->header.name](const Status& status) {
               if (status) here_.insert(name);
             });
  }
  static std::set<Digest> Listed(DiskTier& tier, const SpaceId* space = nullptr) {
    std::set<Digest> names;
    uint64_t cursor = 0;
    do {
      for (const RecordHeader& header : tier.List(cursor, 10, space)) names.insert(header.name);
    } while (cursor != 0);
    return names;
  }
  const std::set<Digest>& here() const { return here_; }
  const std::vector<SpaceId>& unnamed() const { return unnamed_; }
  size_t told() const { return told_; }

 private:
  std::set<Digest> here_;
  std::vector<SpaceId> unnamed_;
  size_t told_ = 0;
};

std::shared_ptr<TestRecord> Record(uint64_t number, uint8_t space = 0) {
  return std::make_shared<TestRecord>(MakeTestRecord(number, {20'000, 3000}, Space(space)));
}

TEST(DiskDepartures, EvictedRemovedAndReturningNamesAreToldInTheirOrder) {
  for (uint32_t seed = 1; seed <= 5; ++seed) {
    std::mt19937 random(seed);
    Listener listener;  // hears of the last puts when the disk closes
    SimDisk disk;
    ASSERT_TRUE(disk.Open());
    listener.ListenTo(*disk.tier);
    for (int round = 0; round < 400; ++round) {
      for (uint32_t n = random() % 8; n > 0; --n) listener.Put(*disk.tier, Record(random() % 300));
      if (random() % 3 == 0) {
        ASSERT_TRUE(disk.tier->Remove(std::vector{TestName(random() % 300), TestName(random() % 300)}));
      }
      if (random() % 20 == 0) (void)disk.tier->Compact();  // there may be no room for it
      if (random() % 2 == 0) continue;
      disk.tier->Flush();
      disk.StepAll();
      ASSERT_EQ(listener.here(), Listener::Listed(*disk.tier)) << "seed " << seed << " round " << round;
    }
    EXPECT_GT(disk.tier->stats().evicted_records, 50u);
    EXPECT_GT(listener.told(), 100u);
    EXPECT_TRUE(listener.unnamed().empty());
  }
}

TEST(DiskDepartures, DamagedRecordsAreToldByNameOrAsUnknown) {
  Listener listener;
  SimDisk disk;
  ASSERT_TRUE(disk.Open());
  listener.ListenTo(*disk.tier);
  for (uint64_t n = 0; n < 3; ++n) listener.Put(*disk.tier, Record(n, 7));
  disk.tier->Flush();
  ASSERT_EQ(listener.here().size(), 3u);
  // The records lie one after another: a frame and head, then groups of five pages and one.
  const uint64_t record_bytes = 7 * kDirectAlign;
  auto& bytes = disk.files.Data(disk.files.Names("seg-").at(0));
  bytes[record_bytes + 2 * kDirectAlign] ^= std::byte{1};  // in the payload of the second
  bytes[2 * record_bytes + 40] ^= std::byte{1};            // in the frame of the third
  EXPECT_EQ(disk.tier->Verify().value().bad, 2u);
  disk.StepAll();
  EXPECT_EQ(listener.here(), (std::set{TestName(0), TestName(2)}));
  EXPECT_EQ(listener.unnamed(), (std::vector{Space(7)}));
}

TEST(DiskDepartures, AWipeIsNotToldAndASpaceIsListedAlone) {
  Listener listener;
  SimDisk disk;
  ASSERT_TRUE(disk.Open());
  listener.ListenTo(*disk.tier);
  for (uint64_t n = 0; n < 9; ++n) listener.Put(*disk.tier, Record(n, static_cast<uint8_t>(n % 3)));
  disk.tier->Flush();
  const SpaceId one = Space(1), two = Space(2);
  EXPECT_EQ(Listener::Listed(*disk.tier, &one), (std::set{TestName(1), TestName(4), TestName(7)}));
  ASSERT_TRUE(disk.tier->Wipe(one));
  disk.StepAll();
  EXPECT_EQ(listener.told(), 0u);
  EXPECT_TRUE(Listener::Listed(*disk.tier, &one).empty());
  EXPECT_EQ(Listener::Listed(*disk.tier, &two).size(), 3u);
  disk.tier->ListenForRemovals(nullptr);
  ASSERT_TRUE(disk.tier->Remove(std::vector{TestName(0)}));
  disk.StepAll();
  EXPECT_EQ(listener.told(), 0u) << "it listens no more";
}

}  // namespace
}  // namespace larder
