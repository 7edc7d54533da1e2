// The index in memory against a plain map, and its size.
#include "store/disk/index.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <optional>
#include <set>

#include "store/disk/order.h"
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

std::unique_ptr<EvictPolicy> Policy(std::string_view spec) {
  return std::move(CreateEvictPolicy(spec)).value();
}

// Besides a piece of each that is not full yet. With a parent for every record, under every policy, also when
// half of what came has been evicted again and is remembered.
TEST(DiskIndex, TakesAtMost128BytesARecord) {
  for (const EvictPolicyEntry& entry : EvictPolicies()) {
    DiskIndex index;
    DiskOrder order(&index, Policy(entry.name));
    double most = 0;
    for (uint64_t n = 0; n < 240'000; ++n) {
      LogEntry record = EntryFor(n, n + 1);
      record.key.words = {n * 0x9e3779b97f4a7c15u, n};
      order.Add(index.Insert(record));
      if (n % 2 == 1 && n < 60'000) order.Erase(*order.Next(), true);
      const uint64_t bytes = index.bytes() + order.bytes();
      ASSERT_LE(bytes, 128 * index.size() + (128 << 10)) << entry.name << " " << index.size();
      if (index.size() > 95'000)
        most = std::max(most, static_cast<double>(bytes) / static_cast<double>(index.size()));
    }
    EXPECT_LE(most, 128) << entry.name;
    EXPECT_GE(most, 110) << entry.name;  // a slot, its place, the tables; less: something is not counted
    RecordProperty("bytes_a_record_" + std::string(entry.name), static_cast<int>(most));
  }
}

LogEntry ChainEntry(uint64_t n, std::optional<uint64_t> parent, uint64_t born) {
  LogEntry entry = EntryFor(n, parent ? ParentKeyOf(TestName(*parent)) : 0);
  entry.born = entry.used = born;
  return entry;
}

std::vector<uint64_t> Drain(DiskIndex& index, DiskOrder& order) {
  std::vector<uint64_t> gone;
  while (const auto slot = order.Next()) {
    gone.push_back(index.at(*slot).digest);  // the number, from EntryFor
    order.Erase(*slot, true);
  }
  return gone;
}

TEST(DiskOrder, TheColdestGoesFirst) {
  DiskIndex index;
  DiskOrder order(&index, Policy("lru"));
  std::vector<uint32_t> slots;
  for (uint64_t n = 1; n <= 4; ++n) order.Add(slots.emplace_back(index.Insert(ChainEntry(n, {}, n))));
  index.Use(slots[0], 10);
  order.Use(slots[0]);
  order.Erase(slots[2], false);
  EXPECT_EQ(Drain(index, order), (std::vector<uint64_t>{2, 4, 1}));
}

TEST(DiskOrder, SuffixesGoBeforePrefixesUnderEveryPolicy) {
  for (const EvictPolicyEntry& entry : EvictPolicies()) {
    DiskIndex index;
    DiskOrder order(&index, Policy(entry.name));
    // 1 - 2 - 3 and 1 - 4, written from the first on; then the end is used most.
    uint64_t now = 10;
    std::map<uint64_t, uint32_t> slots;
    for (const auto& [n, parent] :
         std::map<uint64_t, std::optional<uint64_t>>{{1, {}}, {2, 1}, {3, 2}, {4, 1}}) {
      order.Add(slots[n] = index.Insert(ChainEntry(n, parent, n)));
    }
    EXPECT_EQ(index.at(slots[3]).depth, 2);
    for (int i = 0; i < 5; ++i) {
      index.Use(slots[3], ++now);
      order.Use(slots[3]);
    }
    EXPECT_TRUE(order.Sound());
    const auto gone = Drain(index, order);
    ASSERT_EQ(gone.size(), 4u) << entry.name;
    EXPECT_EQ(gone.back(), 1u) << entry.name;
    EXPECT_LT(std::find(gone.begin(), gone.end(), 3u), std::find(gone.begin(), gone.end(), 2u)) << entry.name;
  }
}

// The order in which records come back from a catalog says nothing about who follows whom.
TEST(DiskOrder, ChainsAreFoundInAnyOrderOfComing) {
  DiskIndex index;
  DiskOrder order(&index, Policy("fifo"));
  std::vector<uint32_t> slots;
  for (const uint64_t n : {3, 1, 2}) {
    slots.push_back(index.Insert(ChainEntry(n, n == 1 ? std::optional<uint64_t>() : n - 1, n)));
  }
  index.SetDepths();
  EXPECT_EQ(index.at(slots[0]).depth, 2);
  for (const uint32_t slot : slots) order.Add(slot);
  EXPECT_EQ(Drain(index, order), (std::vector<uint64_t>{3, 2, 1}));
}

// Names are what somebody says they are: a circle must not keep its records for ever.
TEST(DiskOrder, ACircleOfNamesCanGo) {
  DiskIndex index;
  DiskOrder order(&index, Policy("lru"));
  order.Add(index.Insert(ChainEntry(1, 2, 1)));
  order.Add(index.Insert(ChainEntry(2, 1, 2)));
  order.Add(index.Insert(ChainEntry(3, 3, 3)));
  EXPECT_EQ(Drain(index, order).size(), 3u);
}

TEST(DiskOrder, WhatIsSetAsideIsPassedOver) {
  DiskIndex index;
  DiskOrder order(&index, Policy("lru"));
  for (uint64_t n = 1; n <= 3; ++n) order.Add(index.Insert(ChainEntry(n, {}, n)));
  const uint32_t first = *order.Next();
  order.SetAside(first);
  EXPECT_EQ(index.at(*order.Next()).digest, 2u);
  order.PutBack(first);
  EXPECT_EQ(Drain(index, order), (std::vector<uint64_t>{1, 2, 3}));
}

}  // namespace
}  // namespace larder
