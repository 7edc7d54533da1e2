// The index in memory against a plain map, and its size.
#include "store/disk/index.h"

#include <gtest/gtest.h>

#include <map>
#include <set>

#include "store/disk/policy.h"
#include "tests/store/disk/disk_fixture.h"

namespace larder {
namespace {

LogEntry EntryFor(uint64_t n, uint64_t parent) {
  return {.type = LogEntryType::kPut,
          .key = KeyOf(TestName(n)),
          .place = {.segment = 1, .page = static_cast<uint32_t>(n), .pages = 2, .head_pages = 1},
          .parent = parent,
          .digest = n,
          .born = n,
          .used = n,
          .space = Space(static_cast<uint8_t>(n % 5))};
}

TEST(DiskIndex, AgreesWithAMap) {
  DiskIndex index;
  std::map<uint64_t, uint32_t> slots;  // by number
  std::map<uint64_t, std::set<uint64_t>> children;
  uint64_t state = 1;
  for (int round = 0; round < 20'000; ++round) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    const uint64_t n = (state >> 33) % 700, parent = n % 13;
    if (const auto found = slots.find(n); found != slots.end()) {
      ASSERT_EQ(index.Find(KeyOf(TestName(n))), found->second);
      ASSERT_EQ(index.at(found->second).page, n);
      ASSERT_EQ(index.SpaceOf(found->second), Space(static_cast<uint8_t>(n % 5)));
      index.Erase(found->second);
      slots.erase(found);
      children[parent].erase(n);
    } else {
      ASSERT_EQ(index.Find(KeyOf(TestName(n))), kNoSlot);
      slots[n] = index.Insert(EntryFor(n, parent));
      children[parent].insert(n);
    }
    ASSERT_EQ(index.size(), slots.size());
    if (round % 100 != 0) continue;
    for (uint64_t p = 1; p < 13; ++p) {
      std::vector<uint64_t> expected(children[p].rbegin(), children[p].rend()), found;
      for (const uint32_t slot : index.ChildrenOf(p, 1000)) found.push_back(index.at(slot).born);
      ASSERT_EQ(found, expected);
    }
    ASSERT_TRUE(index.ChildrenOf(0, 10).empty());
  }
}

// At the worst fill of its tables, and with a parent for every record.
TEST(DiskIndex, TakesAtMost128BytesARecord) {
  DiskIndex index;
  const auto policy = MakeLruPolicy();
  double worst = 0;
  for (uint64_t n = 0; n < 120'000; ++n) {
    LogEntry entry = EntryFor(n, n + 1);
    entry.key.words = {n * 0x9e3779b97f4a7c15u, n};
    policy->Add(index.Insert(entry));
    const double bytes =
        static_cast<double>(index.bytes() + policy->bytes()) / static_cast<double>(index.size());
    if (n > 20'000) worst = std::max(worst, bytes);
  }
  EXPECT_LE(worst, 128);
  EXPECT_GE(worst, 88);  // a slot and its links; less would mean that something is not counted
  RecordProperty("bytes_a_record", static_cast<int>(worst));
}

TEST(DiskLru, TheColdestGoesFirst) {
  const auto policy = MakeLruPolicy();
  for (uint32_t slot = 0; slot < 4; ++slot) policy->Add(slot);
  policy->Use(0);
  policy->Remove(2);
  std::vector<uint32_t> order;
  for (uint32_t slot = policy->First(); slot != kNoSlot; slot = policy->After(slot)) order.push_back(slot);
  EXPECT_EQ(order, (std::vector<uint32_t>{1, 3, 0}));
}

}  // namespace
}  // namespace larder
