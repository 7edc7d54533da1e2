// Who goes first under each policy: on short scripts, and on long random ones against plain references that
// scan everything. And that the order itself is one.
#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "store/evict/order.h"
#include "store/evict/policy.h"
#include "store/evict/use_history.h"

namespace larder {
namespace {

struct TestBlock {
  BlockMeta meta;
  EvictRank rank;
  uint32_t place = kNotOffered;
  int32_t lease_class = 0;
};

struct TestHost {
  using Handle = TestBlock*;
  static BlockMeta Meta(const TestBlock* block) { return block->meta; }
  static uint64_t LastUse(const TestBlock* block) { return block->meta.last_use; }
  static int32_t Class(const TestBlock* block) { return block->lease_class; }
  static EvictRank Rank(const TestBlock* block) { return block->rank; }
  static void SetRank(TestBlock* block, const EvictRank& rank) { block->rank = rank; }
  static uint32_t Place(const TestBlock* block) { return block->place; }
  static void SetPlace(TestBlock* block, uint32_t place) { block->place = place; }
};

std::unique_ptr<EvictPolicy> Policy(const std::string& spec) {
  auto policy = CreateEvictPolicy(spec);
  EXPECT_TRUE(policy) << spec;
  return policy ? *std::move(policy) : nullptr;
}

// A cache of so many blocks, all of which may go. Block n has the bytes and the place in its text that the
// test says.
class SmallCache {
 public:
  SmallCache(const std::string& policy, size_t capacity, uint64_t (*bytes)(uint64_t) = nullptr)
      : capacity_(capacity), bytes_(bytes), order_(Policy(policy), {}) {}

  // Whether it was there. Who goes to make room is added to `gone`.
  bool Access(uint64_t n) {
    if (const auto at = blocks_.find(n); at != blocks_.end()) {
      at->second->meta.last_use = ++now_;
      ++at->second->meta.uses;
      order_.Use(at->second.get(), true);
      return true;
    }
    while (blocks_.size() >= capacity_) Evict();
    ++now_;
    auto block = std::make_unique<TestBlock>();
    block->meta = {.key = n + 1,
                   .last_use = now_,
                   .birth = now_,
                   .start = static_cast<int64_t>(n % 10 * 4096),
                   .rows = 64,
                   .bytes = bytes_ == nullptr ? 1 : bytes_(n)};
    order_.Enter(block.get());
    order_.Offer(block.get());
    blocks_[n] = std::move(block);
    return false;
  }
  void Evict() {
    const auto victim = order_.Next();
    ASSERT_TRUE(victim);
    ASSERT_EQ(order_.Next(), victim);  // asking changes nothing
    gone.push_back((*victim)->meta.key - 1);
    order_.Leave(*victim, true);
    blocks_.erase(gone.back());
  }
  std::vector<uint64_t> DrainAll() {
    gone.clear();
    while (!blocks_.empty()) Evict();
    return gone;
  }
  EvictOrder<TestHost>& order() { return order_; }

  std::vector<uint64_t> gone;

 private:
  size_t capacity_;
  uint64_t (*bytes_)(uint64_t);
  std::map<uint64_t, std::unique_ptr<TestBlock>> blocks_;
  EvictOrder<TestHost> order_;
  uint64_t now_ = 0;
};

std::vector<uint64_t> OrderAfter(const std::string& policy, const std::vector<uint64_t>& accesses) {
  SmallCache cache(policy, 100);
  for (const uint64_t n : accesses) cache.Access(n);
  return cache.DrainAll();
}
using Order = std::vector<uint64_t>;

TEST(EvictScripts, LruGoesByLastUse) { EXPECT_EQ(OrderAfter("lru", {1, 2, 3, 1, 4}), (Order{2, 3, 1, 4})); }

TEST(EvictScripts, FifoGoesByBirth) {
  EXPECT_EQ(OrderAfter("fifo", {1, 2, 3, 1, 1, 4}), (Order{1, 2, 3, 4}));
}

TEST(EvictScripts, LfuGoesByUsesThenByLastUse) {
  EXPECT_EQ(OrderAfter("lfu", {1, 1, 1, 2, 3, 4, 3, 4}), (Order{2, 3, 4, 1}));
  EXPECT_EQ(OrderAfter("lfu:cap=2", {1, 1, 1, 2, 3, 4, 3, 4}), (Order{2, 1, 3, 4}));
}

TEST(EvictScripts, SlruProtectsWhatWasUsedTwice) {
  EXPECT_EQ(OrderAfter("slru:protected=1", {1, 2, 1, 3, 4}), (Order{2, 3, 4, 1}));
  // Half may be protected. Of three of four the coldest is put back on probation, where it is the oldest;
  // then two of three are too many.
  EXPECT_EQ(OrderAfter("slru:protected=0.5", {1, 2, 3, 1, 2, 3, 4}), (Order{1, 2, 4, 3}));
}

TEST(EvictScripts, S3FifoLetsOneTimersThroughTheSmallQueue) {
  // 1 has two further uses and moves to the main queue when its turn comes; 2 has one, which is too few.
  EXPECT_EQ(OrderAfter("s3-fifo", {1, 2, 3, 1, 1, 2}), (Order{2, 3, 1}));
}

TEST(EvictScripts, S3FifoRemembersWhoLeftTheSmallQueue) {
  SmallCache cache("s3-fifo", 3);
  for (const uint64_t n : {1, 2, 3, 4}) cache.Access(n);
  EXPECT_EQ(cache.gone, (Order{1}));
  cache.Access(1);  // 2 goes; 1 is in the main queue now
  EXPECT_EQ(cache.gone, (Order{1, 2}));
  for (const uint64_t n : {5, 6, 7}) cache.Access(n);
  EXPECT_EQ(cache.gone, (Order{1, 2, 3, 4, 5}));
  EXPECT_TRUE(cache.Access(1));
}

TEST(EvictScripts, CostWeighsBytesDepthAndUses) {
  // Block n begins at row n % 10 * 4096.
  EXPECT_EQ(OrderAfter("cost", {3, 1, 2}), (Order{1, 2, 3}));
  EXPECT_EQ(OrderAfter("cost:knee=1", {11, 3, 1, 2, 1, 1, 1}), (Order{11, 2, 3, 1}));
  SmallCache sized("cost", 100, [](uint64_t n) { return n; });
  for (const uint64_t n : {10, 20, 30}) sized.Access(n);  // all at the beginning of a text
  EXPECT_EQ(sized.DrainAll(), (Order{30, 20, 10}));
}

TEST(EvictScripts, CostForgetsOldFavourites) {
  SmallCache cache("cost:knee=1000000000", 4);
  for (int i = 0; i < 5; ++i) cache.Access(0);
  for (uint64_t n = 10; n < 100; n += 10) cache.Access(n);
  EXPECT_TRUE(cache.Access(0));
  for (uint64_t n = 100; n < 1000; n += 10) cache.Access(n);
  EXPECT_FALSE(cache.Access(0));
}

TEST(EvictScripts, UsesBeforeAnEvictionCount) {
  for (const std::string policy : {"lfu", "slru"}) {
    SmallCache cache(policy, 2);
    for (const uint64_t n : {10, 20, 30}) cache.Access(n);
    ASSERT_EQ(cache.gone, (Order{10})) << policy;
    cache.Access(10);  // for the second time: it goes after 40, which is younger
    ASSERT_EQ(cache.gone, (Order{10, 20})) << policy;
    cache.Access(40);
    cache.Access(50);
    EXPECT_EQ(cache.gone, (Order{10, 20, 30, 40})) << policy;
  }
}

// --- against references

// A workload in which some blocks are hot for a while and most come once.
class Accesses {
 public:
  explicit Accesses(uint32_t seed) : random_(seed) {}
  uint64_t Next() {
    if (++count_ % 500 == 0) base_ += 7;
    if (random_() % 3 == 0) return 1'000'000 + count_;
    return base_ + static_cast<uint64_t>(std::min({random_() % 40, random_() % 40, random_() % 40}));
  }

 private:
  std::mt19937 random_;
  uint64_t count_ = 0, base_ = 0;
};

// The algorithm as it is published, on two lists.
class PlainS3Fifo {
 public:
  PlainS3Fifo(size_t capacity, double small) : capacity_(capacity), small_share_(small) {}
  bool Access(uint64_t n) {
    if (const auto at = uses_.find(n); at != uses_.end()) {
      at->second = std::min(at->second + 1, 3);
      return true;
    }
    while (uses_.size() >= capacity_) Evict();
    uses_[n] = 0;
    left_.Grow(uses_.size());
    if (left_.Uses(n + 1) > 0) {
      left_.Set(n + 1, 0);
      main_.push_back(n);
    } else {
      small_.push_back(n);
    }
    return false;
  }
  std::vector<uint64_t> gone;

 private:
  void Evict() {
    for (;;) {
      const bool from_small =
          static_cast<double>(small_.size()) >= small_share_ * static_cast<double>(uses_.size());
      auto& queue = (from_small && !small_.empty()) || main_.empty() ? small_ : main_;
      const uint64_t n = queue.front();
      queue.pop_front();
      int& uses = uses_[n];
      if (&queue == &small_ && uses > 1) {
        main_.push_back(n);
        uses = 0;
      } else if (&queue == &main_ && uses > 0) {
        main_.push_back(n);
        --uses;
      } else {
        if (&queue == &small_) left_.Set(n + 1, 1);
        gone.push_back(n);
        uses_.erase(n);
        return;
      }
    }
  }
  size_t capacity_;
  double small_share_;
  std::deque<uint64_t> small_, main_;
  std::map<uint64_t, int> uses_;
  UseHistory left_;
};

TEST(EvictReferences, S3FifoIsTheTwoListsOfItsPaper) {
  for (const auto& [spec, share] : {std::pair{"s3-fifo", 0.1}, {"s3-fifo:small=0.5", 0.5}}) {
    for (uint32_t seed = 1; seed <= 5; ++seed) {
      SmallCache cache(spec, 5 + seed * 7);
      PlainS3Fifo plain(5 + seed * 7, share);
      Accesses accesses(seed);
      int hits = 0;
      for (int i = 0; i < 20'000; ++i) {
        const uint64_t n = accesses.Next();
        const bool hit = cache.Access(n);
        ASSERT_EQ(hit, plain.Access(n));
        hits += hit;
      }
      EXPECT_EQ(cache.gone, plain.gone);
      EXPECT_GT(hits, 1000);
      EXPECT_TRUE(cache.order().Sound());
    }
  }
}

uint64_t MixedBytes(uint64_t n) { return 100 + n * 37 % 400; }

// value = age + uses * cost / bytes, and a scan for the lowest.
class PlainCost {
 public:
  PlainCost(size_t capacity, double knee) : capacity_(capacity), knee_(knee) {}
  bool Access(uint64_t n) {
    ++now_;
    const bool hit = blocks_.contains(n);
    if (!hit) {
      while (blocks_.size() >= capacity_) Evict();
      past_.Grow(blocks_.size() + 1);
      blocks_[n].uses = past_.Uses(n + 1);
    }
    Block& block = blocks_[n];
    ++block.uses;
    const double start = static_cast<double>(n % 10 * 4096);
    const double cost = 64 * (1 + (start + 32) / knee_);
    block.value = age_ + static_cast<double>(block.uses) * cost / static_cast<double>(MixedBytes(n));
    block.last = now_;
    return hit;
  }
  std::vector<uint64_t> gone;

 private:
  struct Block {
    uint64_t uses = 0, last = 0;
    double value = 0;
  };
  void Evict() {
    const auto lowest = std::min_element(blocks_.begin(), blocks_.end(), [](const auto& a, const auto& b) {
      return std::pair(a.second.value, a.second.last) < std::pair(b.second.value, b.second.last);
    });
    age_ = std::max(age_, lowest->second.value);
    past_.Set(lowest->first + 1, lowest->second.uses);
    gone.push_back(lowest->first);
    blocks_.erase(lowest);
  }
  size_t capacity_;
  double knee_;
  double age_ = 0;
  uint64_t now_ = 0;
  std::map<uint64_t, Block> blocks_;
  UseHistory past_;
};

TEST(EvictReferences, CostIsItsFormula) {
  for (uint32_t seed = 1; seed <= 5; ++seed) {
    SmallCache cache("cost:knee=5000", 5 + seed * 7, MixedBytes);
    PlainCost plain(5 + seed * 7, 5000);
    Accesses accesses(seed);
    for (int i = 0; i < 10'000; ++i) {
      const uint64_t n = accesses.Next();
      ASSERT_EQ(cache.Access(n), plain.Access(n));
    }
    EXPECT_EQ(cache.gone, plain.gone);
  }
}

// --- the order

TEST(EvictOrder, AgreesWithAScanWhateverMayGo) {
  EvictOrder<TestHost> order(Policy("lru"), {});
  std::vector<std::unique_ptr<TestBlock>> blocks;
  std::set<TestBlock*> offered;
  std::mt19937 random(3);
  uint64_t now = 0;
  for (int round = 0; round < 30'000; ++round) {
    if (blocks.size() < 20 || random() % 8 == 0) {
      blocks.push_back(std::make_unique<TestBlock>());
      blocks.back()->meta.last_use = ++now;
      order.Enter(blocks.back().get());
    }
    const size_t at = random() % blocks.size();
    TestBlock* block = blocks[at].get();
    switch (random() % 6) {
      case 0:
        order.Offer(block);
        offered.insert(block);
        break;
      case 1:
        order.Withdraw(block);
        offered.erase(block);
        break;
      case 2:
        block->meta.last_use = ++now;
        order.Use(block, true);
        break;
      case 3:
        block->lease_class = static_cast<int32_t>(random() % 3);
        order.Resort(block);
        break;
      case 4:
        order.Leave(block, false);
        offered.erase(block);
        blocks.erase(blocks.begin() + static_cast<ptrdiff_t>(at));
        break;
      default:
        break;
    }
    const auto lowest = std::min_element(offered.begin(), offered.end(), [](const auto* a, const auto* b) {
      return std::pair(a->lease_class, a->meta.last_use) < std::pair(b->lease_class, b->meta.last_use);
    });
    const auto next = order.Next();
    ASSERT_EQ(next.has_value(), !offered.empty());
    if (next) {
      ASSERT_EQ(*next, *lowest);
    }
    ASSERT_TRUE(round % 1000 != 0 || order.Sound());
  }
}

TEST(EvictOrder, AHigherClassGoesLastInEveryQueue) {
  EvictOrder<TestHost> order(Policy("slru"), {});
  TestBlock leased, protected_one;
  leased.lease_class = 1;
  protected_one.meta.uses = 2;
  for (TestBlock* block : {&leased, &protected_one}) {
    order.Enter(block);
    order.Offer(block);
  }
  EXPECT_EQ(*order.Next(), &protected_one);  // though the other one is on probation
}

TEST(EvictOrder, TakesNoMoreMemoryThanItSays) {
  for (const EvictPolicyEntry& entry : EvictPolicies()) {
    EvictOrder<TestHost> order(Policy(std::string(entry.name)), {});
    std::vector<std::unique_ptr<TestBlock>> blocks;
    for (uint64_t n = 0; n < 5000; ++n) {
      blocks.push_back(std::make_unique<TestBlock>());
      blocks.back()->meta = {.key = n + 1, .last_use = n, .birth = n, .bytes = 1};
      order.Enter(blocks.back().get());
      order.Offer(blocks.back().get());
      ASSERT_LE(order.bytes(), kEvictOrderBytes + (n + 1) * (sizeof(void*) + 4)) << entry.name << " " << n;
    }
  }
}

// --- names

TEST(UseHistory, KnowsTheLastNamesAndFewOthers) {
  UseHistory history;
  int known = 0, mistaken = 0;
  std::mt19937_64 random(5);
  std::vector<uint64_t> names;
  for (uint64_t i = 0; i < 20'000; ++i) {
    history.Grow(i + 1);
    names.push_back(random());
    history.Set(names.back(), i % 9 + 1);
  }
  for (uint64_t i = 0; i < 20'000; ++i) {
    const bool right = history.Uses(names[i]) == std::min<uint64_t>(i % 9 + 1, UseHistory::kMostUses);
    known += i >= 10'000 && right;
    mistaken += history.Uses(random()) > 0;
  }
  EXPECT_GT(known, 9'000);
  EXPECT_LT(mistaken, 40);
  EXPECT_LE(history.bytes(), 4u * 20'000);
}

TEST(UseHistory, ANameThatIsSetAgainIsTheYoungest) {
  UseHistory history(1);  // one bucket of eight
  for (uint64_t name = 1; name <= 8; ++name) history.Set(name, 1);
  history.Set(1, 5);
  history.Set(9, 1);
  EXPECT_EQ(history.Uses(1), 5u);
  EXPECT_EQ(history.Uses(2), 0u);
  history.Set(1, 0);
  EXPECT_EQ(history.Uses(1), 0u);
}

TEST(EvictPolicies, UnknownNamesListTheKnown) {
  const auto policy = CreateEvictPolicy("best");
  ASSERT_FALSE(policy);
  EXPECT_NE(policy.error().message.find(EvictPolicyNames()), std::string::npos);
  for (const char* spec : {"lru:speed=3", "slru:protected=2", "s3-fifo:small=-1", "cost:knee=0", "lfu:cap"}) {
    EXPECT_FALSE(CreateEvictPolicy(spec)) << spec;
  }
  for (const EvictPolicyEntry& entry : EvictPolicies()) {
    EXPECT_EQ(Policy(std::string(entry.name))->name(), entry.name);
    EXPECT_FALSE(entry.help.empty());
  }
}

}  // namespace
}  // namespace larder
