// The object pool and its free lists: nothing is handed out twice, nothing is lost, whatever threads do;
// memory is counted and goes back.
#include "base/pool/object_pool.h"

#include <gtest/gtest.h>

#include <condition_variable>
#include <deque>
#include <map>
#include <random>
#include <set>
#include <thread>

namespace larder {
namespace {

// The race detector makes everything slow, and memory of its own resident.
#ifdef __SANITIZE_THREAD__
constexpr int kEffort = 1;
constexpr bool kResidentIsOurs = false;
#else
constexpr int kEffort = 20;
constexpr bool kResidentIsOurs = true;
#endif

template <class List>
class FreeLists : public testing::Test {};
using Lists = testing::Types<LockFreeList<>, LockedList<>, RingList<>>;
TYPED_TEST_SUITE(FreeLists, Lists);

// Pops and pushes at random; a number belongs to who popped it until it is pushed.
template <class List>
void TakeTurns(List& list, std::vector<std::atomic<int>>& owner, int self, int steps) {
  std::mt19937 random(static_cast<uint32_t>(self));
  std::vector<uint32_t> mine, some;
  for (int i = 0; i < steps; ++i) {
    if (random() % 2 == 0 || mine.empty()) {
      some.resize(1 + random() % (random() % 8 == 0 ? 150 : 4));
      const size_t n = list.Pop(some);
      for (size_t j = 0; j < n; ++j) {
        int nobody = 0;
        ASSERT_TRUE(owner[some[j]].compare_exchange_strong(nobody, self, std::memory_order_relaxed));
        mine.push_back(some[j]);
      }
    } else {
      const size_t n = std::min<size_t>(mine.size(), 1 + random() % (random() % 8 == 0 ? 150 : 4));
      for (size_t j = mine.size() - n; j < mine.size(); ++j) {
        ASSERT_EQ(owner[mine[j]].exchange(0, std::memory_order_relaxed), self);
      }
      list.Push(std::span(mine).last(n));
      mine.resize(mine.size() - n);
    }
  }
  for (const uint32_t item : mine) owner[item].store(0, std::memory_order_relaxed);
  if (!mine.empty()) list.Push(mine);
}

// More threads than cores, so that some are preempted in the middle.
TYPED_TEST(FreeLists, EveryNumberHasOneOwner) {
  for (const uint32_t capacity : {1u, 7u, 64u, 1000u}) {
    auto list = *TypeParam::Create(capacity);
    std::vector<uint32_t> all(capacity);
    for (uint32_t i = 0; i < capacity; ++i) all[i] = i;
    list->Push(all);
    std::vector<std::atomic<int>> owner(capacity);
    {
      std::vector<std::jthread> threads;
      for (int t = 1; t <= 6; ++t)
        threads.emplace_back([&, t] { TakeTurns(*list, owner, t, 5000 * kEffort); });
    }
    std::vector<uint32_t> back(capacity + 1);
    size_t n = 0;
    while (const size_t more = list->Pop(std::span(back).subspan(n))) n += more;
    back.resize(n);
    EXPECT_EQ(std::set<uint32_t>(back.begin(), back.end()), std::set<uint32_t>(all.begin(), all.end()));
    EXPECT_EQ(n, capacity);
  }
}

TYPED_TEST(FreeLists, TakeWhatFitsAndAnswerHowMany) {
  auto list = *TypeParam::Create(200);
  std::vector<uint32_t> items(200), out(300);
  for (uint32_t i = 0; i < 200; ++i) items[i] = i;
  EXPECT_EQ(list->Pop(out), 0u);
  list->Push(std::span(items).first(3));
  list->Push(std::span(items).subspan(3));
  EXPECT_EQ(list->Pop(std::span(out).first(5)), 5u);
  size_t n = 5;
  while (const size_t more = list->Pop(std::span(out).subspan(n))) n += more;
  EXPECT_EQ(n, 200u);
  EXPECT_EQ(std::set<uint32_t>(out.begin(), out.begin() + 200).size(), 200u);
}

// Stops one chosen thread inside an operation until told to go on.
class Stopper {
 public:
  struct Pause {
    Stopper* stopper = nullptr;
    void operator()() const {
      if (stopper != nullptr && std::this_thread::get_id() == stopper->victim_.load()) stopper->Wait();
    }
  };
  void Arm() { victim_ = std::this_thread::get_id(); }
  void AwaitStopped() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return stopped_; });
  }
  void Release() {
    const std::lock_guard lock(mutex_);
    released_ = true;
    changed_.notify_all();
  }

 private:
  void Wait() {
    std::unique_lock lock(mutex_);
    victim_ = std::thread::id();  // stops once
    stopped_ = true;
    changed_.notify_all();
    changed_.wait(lock, [&] { return released_; });
  }
  std::atomic<std::thread::id> victim_{};
  std::mutex mutex_;
  std::condition_variable changed_;
  bool stopped_ = false, released_ = false;
};

// Whether another thread finishes its work on the list while the victim sleeps in the middle of a Pop.
template <template <class> class List>
bool OthersGoOn() {
  Stopper stopper;
  auto list = *List<Stopper::Pause>::Create(100, {&stopper});
  std::vector<uint32_t> all(100);
  for (uint32_t i = 0; i < 100; ++i) all[i] = i;
  list->Push(all);
  std::atomic<bool> finished = false;
  std::jthread victim([&] {
    stopper.Arm();
    uint32_t one = kNoObject;
    EXPECT_EQ(list->Pop(std::span(&one, 1)), 1u);
    list->Push(std::span(&one, 1));
  });
  stopper.AwaitStopped();
  std::jthread other([&] {
    for (int i = 0; i < 1000; ++i) {
      std::array<uint32_t, 3> some;
      const size_t n = list->Pop(some);
      list->Push(std::span(some).first(n));
    }
    finished = true;
  });
  // A list that goes on is done in a millisecond; one that does not would wait for ever.
  for (int i = 0; i < 200 && !finished; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(10));
  const bool went_on = finished;
  stopper.Release();
  other.join();
  EXPECT_TRUE(finished);
  return went_on;
}

TEST(FreeListProgress, ASleepingThreadStopsNobodyButInRingAndLock) {
  EXPECT_TRUE(OthersGoOn<LockFreeList>());
  EXPECT_FALSE(OthersGoOn<LockedList>());
  EXPECT_FALSE(OthersGoOn<RingList>());
}

// The victim has read the top and its link; meanwhile the top leaves, the next leaves, and the top comes
// back. Without a tag the victim's exchange would succeed and make the next one, which somebody owns, the
// top.
TEST(FreeListProgress, ANumberThatLeftAndCameBackIsNoticed) {
  Stopper stopper;
  auto list = *LockFreeList<Stopper::Pause>::Create(4, {&stopper});
  list->Push(std::vector<uint32_t>{2, 1, 0});  // 2 on top
  uint32_t got = kNoObject;
  std::jthread victim([&] {
    stopper.Arm();
    list->Pop(std::span(&got, 1));
  });
  stopper.AwaitStopped();
  std::array<uint32_t, 2> two;
  ASSERT_EQ(list->Pop(two), 2u);
  const uint32_t top = two[0], next = two[1];
  list->Push(std::span(&top, 1));
  stopper.Release();
  victim.join();
  EXPECT_EQ(got, top);
  std::array<uint32_t, 4> rest;
  ASSERT_EQ(list->Pop(rest), 1u);
  EXPECT_NE(rest[0], next);
}

template <class List>
class ObjectPools : public testing::Test {};
TYPED_TEST_SUITE(ObjectPools, Lists);

constexpr PoolOptions kSmall = {.object_bytes = 4096 - 16, .max_objects = 1024};

// Objects go from thread to thread and are freed by whoever has them last, through caches; each carries the
// stamp of its owner.
template <class Pool>
void PassAround(Pool& pool, int threads, int steps) {
  std::mutex mutex;
  std::deque<uint32_t> passed;  // guarded by mutex
  {
    std::vector<std::jthread> workers;
    for (int self = 1; self <= threads; ++self) {
      workers.emplace_back([&, self] {
        PoolCache<Pool, 32> cache(&pool);
        std::mt19937 random(static_cast<uint32_t>(self));
        std::vector<uint32_t> mine;
        const auto stamp = [&](uint32_t object) { return reinterpret_cast<uint64_t*>(pool.At(object)); };
        for (int i = 0; i < steps; ++i) {
          const uint32_t choice = random() % 8;
          if (choice < 4) {
            std::vector<uint32_t> some(1 + random() % (choice == 0 ? 50 : 3));
            if (!cache.Get(some)) continue;
            for (const uint32_t object : some) *stamp(object) = static_cast<uint64_t>(self);
            mine.insert(mine.end(), some.begin(), some.end());
          } else if (choice < 7 && !mine.empty()) {
            const size_t n = std::min<size_t>(mine.size(), 1 + random() % (choice == 4 ? 50 : 3));
            for (const uint32_t object : std::span(mine).last(n))
              ASSERT_EQ(*stamp(object), static_cast<uint64_t>(self));
            cache.Put(std::span(mine).last(n));
            mine.resize(mine.size() - n);
          } else if (!mine.empty()) {
            const std::lock_guard lock(mutex);
            passed.push_back(mine.back());
            mine.pop_back();
            mine.push_back(passed.front());  // perhaps the same
            passed.pop_front();
            *stamp(mine.back()) = static_cast<uint64_t>(self);
          }
        }
        cache.Put(mine);
      });
    }
  }
  for (const uint32_t object : passed) pool.Put(object);
}

TYPED_TEST(ObjectPools, NoObjectHasTwoOwners) {
  using Pool = ObjectPool<TypeParam, CheckedObjects>;
  auto pool = *Pool::Create(kSmall);
  PassAround(*pool, 6, 2000 * kEffort);
  EXPECT_LE(pool->committed_bytes(), 1024 * 4096u);
}  // its destructor checks that nothing was lost

TYPED_TEST(ObjectPools, ExhaustionIsAnAnswerAndChangesNothing) {
  auto pool = *ObjectPool<TypeParam>::Create({.object_bytes = 100, .max_objects = 1024});
  PoolCache cache(pool.get());
  std::vector<uint32_t> all(1000), more(100), rest(24);
  ASSERT_TRUE(pool->Get(all));
  EXPECT_FALSE(pool->Get(more));
  EXPECT_FALSE(cache.Get(more));
  EXPECT_TRUE(cache.Get(rest));  // all that there was is still there
  EXPECT_EQ(cache.Get(), kNoObject);
  EXPECT_EQ(pool->Get(), kNoObject);
  std::set<uint32_t> different(all.begin(), all.end());
  different.insert(rest.begin(), rest.end());
  EXPECT_EQ(different.size(), 1024u);
  pool->Put(all);
  const uint32_t again = pool->Get();
  EXPECT_NE(again, kNoObject);
  pool->Put(again);
  pool->Put(rest);
}

TEST(ObjectPool, ImpossibleSizesAreErrors) {
  EXPECT_FALSE(ObjectPool<>::Create({.object_bytes = 0, .max_objects = 1}));
  EXPECT_FALSE(ObjectPool<>::Create({.object_bytes = 1, .max_objects = 0}));
  EXPECT_FALSE(ObjectPool<>::Create({.object_bytes = ~size_t{0}, .max_objects = 1}));
  EXPECT_FALSE(ObjectPool<>::Create({.object_bytes = 64, .max_objects = 64, .slab_objects = 3}));
}

TEST(ObjectPool, ObjectsOfAnySizeLieApartAndAligned) {
  for (const size_t bytes : {1, 64, 65, 4096, 12288, 368640, 1520640, 5 << 20}) {
    auto pool = *ObjectPool<>::Create({.object_bytes = bytes, .max_objects = 50});
    std::map<std::byte*, uint32_t> places;
    for (uint32_t i = 0; i < 50; ++i) {
      const uint32_t object = pool->Get();
      ASSERT_NE(object, kNoObject);
      std::byte* at = pool->At(object);
      EXPECT_EQ(reinterpret_cast<uintptr_t>(at) % kVectorAlign, 0u);
      ASSERT_TRUE(places.emplace(at, object).second);
      at[0] = at[bytes - 1] = static_cast<std::byte>(object);
      EXPECT_EQ(pool->Find(at).object, object);
      EXPECT_EQ(pool->Find(at + bytes - 1).object, object);
      EXPECT_EQ(pool->Find(at + bytes - 1).offset, bytes - 1);
    }
    const std::byte* end = nullptr;
    for (const auto& [at, object] : places) {
      EXPECT_GE(at, end);
      end = at + bytes;
      EXPECT_EQ(at[0], static_cast<std::byte>(object));
      EXPECT_EQ(at[bytes - 1], static_cast<std::byte>(object));
      pool->Put(object);
    }
  }
}

TEST(ObjectPool, AThreadsCacheEndsWithIt) {
  auto pool = *ObjectPool<>::Create({.object_bytes = 64, .max_objects = 1024});
  std::vector<uint32_t> from_thread(10);
  std::jthread([&] {
    PoolCache cache(pool.get());
    std::vector<uint32_t> some(200);
    ASSERT_TRUE(cache.Get(some));
    std::ranges::copy(std::span(some).first(10), from_thread.begin());
    cache.Put(std::span(some).subspan(10));
  }).join();
  std::vector<uint32_t> rest(1014);
  EXPECT_TRUE(pool->Get(rest));  // nothing stayed with the thread but what it handed over
  pool->Put(from_thread);
  pool->Put(rest);
}

TEST(ObjectPool, MemoryGoesBackBySlab) {
  constexpr size_t kBytes = 1 << 20;
  auto pool = *ObjectPool<>::Create({.object_bytes = kBytes, .max_objects = 64, .slab_objects = 1});
  std::vector<uint32_t> all(48);
  ASSERT_TRUE(pool->Get(all));
  const uint64_t before = ResidentBytes();
  for (const uint32_t object : all) std::memset(pool->At(object), 1, kBytes);
  EXPECT_EQ(pool->committed_bytes(), 48 * kBytes);
  EXPECT_GE(ResidentBytes(), before + 40 * kBytes);
  pool->Put(std::span(all).subspan(8));
  EXPECT_EQ(pool->committed_bytes(), 48 * kBytes);  // kept, and counted
  EXPECT_EQ(pool->Trim(30), 30u);
  EXPECT_EQ(pool->committed_bytes(), 18 * kBytes);
  EXPECT_EQ(pool->Trim(30), 10u);
  if (kResidentIsOurs) {
    EXPECT_LT(ResidentBytes(), before + 16 * kBytes);
  }
  for (const uint32_t object : std::span(all).first(8)) EXPECT_EQ(pool->At(object)[kBytes - 1], std::byte{1});
  ASSERT_TRUE(pool->Get(std::span(all).subspan(8)));  // and comes again
  for (const uint32_t object : all) std::memset(pool->At(object), 2, kBytes);
  EXPECT_EQ(pool->committed_bytes(), 48 * kBytes);
  pool->Put(all);
}

TEST(ObjectPool, SmallObjectsGoBackWhenTheirSlabIsEmpty) {
  auto pool = *ObjectPool<>::Create({.object_bytes = 64, .max_objects = 4096, .slab_objects = 64});
  std::vector<uint32_t> all(4096);
  ASSERT_TRUE(pool->Get(all));
  const uint64_t slab = pool->slab_bytes();
  EXPECT_EQ(pool->committed_bytes(), 64 * slab);
  std::vector<uint32_t> kept;
  for (const uint32_t object : all) object % 128 == 5 ? kept.push_back(object) : pool->Put(object);
  EXPECT_EQ(pool->Trim(1000), 32u);  // every other slab has one object in use
  EXPECT_EQ(pool->committed_bytes(), 32 * slab);
  pool->Put(kept);
  EXPECT_EQ(pool->Trim(1000), 32u);
  EXPECT_EQ(pool->committed_bytes(), 0u);
  ASSERT_TRUE(pool->Get(all));
  pool->Put(all);
}

TEST(ObjectPool, LargePagesNeverTakeMoreThanIsCounted) {
  constexpr size_t kBytes = 1520640;  // a block of SmolLM2
  for (const LargePages pages : {LargePages::kNo, LargePages::kYes}) {
    auto pool =
        *ObjectPool<>::Create({.object_bytes = kBytes, .max_objects = 64, .slab_objects = 1, .pages = pages});
    const uint64_t before = ResidentBytes();
    std::vector<uint32_t> taken;
    for (int i = 0; i < 40; ++i) {
      taken.push_back(pool->Get());
      std::memset(pool->At(taken.back()), i + 1, kBytes);
      if (kResidentIsOurs) {
        ASSERT_LE(ResidentBytes(), before + pool->committed_bytes() + (1 << 20)) << i;
      }
    }
    for (int i = 0; i < 40; ++i)  // merging kept what was written
      EXPECT_EQ(pool->At(taken[static_cast<size_t>(i)])[kBytes / 2], static_cast<std::byte>(i + 1));
    EXPECT_LE(pool->LargePageBytes(), pool->committed_bytes());
    if (pages == LargePages::kNo) {
      EXPECT_EQ(pool->LargePageBytes(), 0u);
    }
    pool->Put(taken);
  }
}

using PoolDeathTest = testing::Test;

TEST(PoolDeathTest, MisuseEndsTheProgram) {
  using Pool = ObjectPool<LockFreeList<>, CheckedObjects>;
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_DEATH({ (*Pool::Create(kSmall))->Get(); }, "before its objects");
  EXPECT_DEATH(
      {
        auto pool = *Pool::Create(kSmall);
        const uint32_t object = pool->Get();
        pool->Put(object);
        pool->Put(object);
      },
      "put back twice");
  EXPECT_DEATH(
      {
        auto pool = *Pool::Create(kSmall);
        const uint32_t object = pool->Get();
        pool->At(object)[kSmall.object_bytes] = std::byte{0};
        pool->Put(object);
      },
      "past the end");
  EXPECT_DEATH(
      {
        auto pool = *Pool::Create(kSmall);
        auto* cache = new PoolCache(pool.get());
        (void)cache;
        pool.reset();
      },
      "before a cache");
}

}  // namespace
}  // namespace larder
