// A pool of equal objects for all threads: pages of the cache, buffers on their way to a tier, nodes of an
// index. Objects have numbers. Free ones stand on a lock-free list; a thread may put a PoolCache before it.
// Memory comes by the slab when the list is empty (arena.h) and goes back by Trim.
//
// Source: TurboMem (arXiv 2603.18690) over DPDK's mempool, read from lib/mempool: a common list, caches that
// spill their oldest half and refill by half. What differs: numbers move between list and cache in chunks of
// 64 by one exchange (free_list.h); caches are objects with an owner and not bound to a core; memory grows
// and shrinks under a count. No NUMA: there is one list.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "base/pool/arena.h"
#include "base/pool/free_list.h"

namespace larder {

inline constexpr uint32_t kNoObject = ~0u;

// Nothing is checked of objects.
struct UncheckedObjects {
  static constexpr size_t kTrailerBytes = 0;
  Status Init(uint32_t /*objects*/, size_t /*object_bytes*/) { return {}; }
};

// Ends the program at the Put of an object that is free already, or whose owner wrote past its end. An object
// in a thread's cache counts as free.
class CheckedObjects {
 public:
  static constexpr size_t kTrailerBytes = 16;
  Status Init(uint32_t objects, size_t object_bytes) {
    object_bytes_ = object_bytes;
    LARDER_ASSIGN(taken_, FlatArray<std::atomic<bool>>::Create(objects));
    return {};
  }
  void OnGet(uint32_t object, std::byte* at) {
    LARDER_CHECK(!taken_[object].exchange(true, std::memory_order_relaxed));
    std::memset(at + object_bytes_, kCookie, kTrailerBytes);
  }
  void OnPut(uint32_t object, std::byte* at) {
    LARDER_CHECK(taken_[object].exchange(false, std::memory_order_relaxed) && "an object was put back twice");
    const auto intact = [](std::byte b) { return b == std::byte{kCookie}; };
    LARDER_CHECK(std::all_of(at + object_bytes_, at + object_bytes_ + kTrailerBytes, intact) &&
                 "somebody wrote past the end of an object");
  }

 private:
  static constexpr uint8_t kCookie = 0xc5;
  size_t object_bytes_ = 0;
  FlatArray<std::atomic<bool>> taken_;
};

template <class FreeList = LockFreeList<>, class Checks = UncheckedObjects>
class ObjectPool {
 public:
  static Result<std::unique_ptr<ObjectPool>> Create(PoolOptions options) {
    auto pool = std::unique_ptr<ObjectPool>(new ObjectPool);
    const size_t object_bytes = options.object_bytes;
    options.object_bytes += Checks::kTrailerBytes;
    LARDER_TRY(pool->arena_.Init(options));
    const uint32_t objects = pool->arena_.slabs() << pool->arena_.slab_shift();
    LARDER_TRY(pool->checks_.Init(objects, object_bytes));
    LARDER_ASSIGN(pool->free_, FreeList::Create(objects));
    LARDER_ASSIGN(pool->cold_, FreeList::Create(pool->arena_.slabs()));
    return pool;
  }

  // REQUIRES: every object was put back, and no PoolCache is left.
  ~ObjectPool() {
    if (free_ == nullptr || cold_ == nullptr) return;  // never came into being
    LARDER_CHECK(caches_.load() == 0 && "a pool ends before a cache on it");
    uint64_t back = 0;
    std::array<uint32_t, 256> some;
    while (const size_t n = free_->Pop(some)) back += n;
    LARDER_CHECK(back * arena_.slab_bytes() == committed_bytes() << arena_.slab_shift() &&
                 "a pool ends before its objects");
  }
  ObjectPool(const ObjectPool&) = delete;
  ObjectPool& operator=(const ObjectPool&) = delete;

  // All or none. False: max_objects are in use or in caches, or the operating system gives no more memory.
  // Contents are arbitrary.
  bool Get(std::span<uint32_t> out) {
    size_t n = free_->Pop(out);
    while (n < out.size()) {
      const size_t more = Grow(out.subspan(n));
      if (more == 0) {
        if (n > 0) free_->Push(out.first(n));
        return false;
      }
      n += more;
    }
    CheckGet(out);
    return true;
  }
  uint32_t Get() {
    uint32_t object;
    return Get(std::span(&object, 1)) ? object : kNoObject;
  }
  // From any thread, whoever got them.
  void Put(std::span<const uint32_t> objects) {
    CheckPut(objects);
    if (!objects.empty()) free_->Push(objects);
  }
  void Put(uint32_t object) { Put(std::span(&object, 1)); }

  std::byte* At(uint32_t object) const { return arena_.At(object); }
  PoolArena::Place Find(const std::byte* address) const { return arena_.Find(address); }

  // Gives the memory of up to `at_most` slabs without a used object back to the operating system; answers of
  // how many. Objects in caches are used ones. Meanwhile others may find less than there is.
  uint32_t Trim(uint32_t at_most);

  uint64_t slab_bytes() const { return arena_.slab_bytes(); }
  uint64_t committed_bytes() const { return arena_.committed_bytes(); }  // free objects included
  uint64_t table_bytes() const { return arena_.table_bytes() + free_->bytes() + cold_->bytes(); }
  uint64_t LargePageBytes() const { return arena_.LargePageBytes(); }

 private:
  template <class Pool, uint32_t kCapacity>
  friend class PoolCache;

  ObjectPool() = default;

  void CheckGet(std::span<const uint32_t> objects) {
    if constexpr (Checks::kTrailerBytes > 0)
      for (const uint32_t object : objects) checks_.OnGet(object, At(object));
  }
  void CheckPut(std::span<const uint32_t> objects) {
    if constexpr (Checks::kTrailerBytes > 0)
      for (const uint32_t object : objects) checks_.OnPut(object, At(object));
  }

  // Gives one more slab memory. Some of its objects are the answer, the rest becomes free.
  size_t Grow(std::span<uint32_t> out) {
    uint32_t slab;
    if (cold_->Pop(std::span(&slab, 1)) == 0) {
      slab = fresh_.load(std::memory_order_relaxed);
      do {
        if (slab == arena_.slabs()) return free_->Pop(out);  // perhaps somebody put some back
      } while (!fresh_.compare_exchange_weak(slab, slab + 1, std::memory_order_relaxed));
    }
    if (!arena_.Commit(slab)) {
      cold_->Push(std::span(&slab, 1));
      return 0;
    }
    const uint32_t objects = 1u << arena_.slab_shift();
    const uint32_t first = slab << arena_.slab_shift();
    const auto used = static_cast<uint32_t>(std::min<size_t>(objects, out.size()));
    for (uint32_t i = 0; i < used; ++i) out[i] = first + i;
    std::array<uint32_t, 64> some;
    for (uint32_t i = used; i < objects;) {
      const uint32_t n = std::min<uint32_t>(some.size(), objects - i);
      for (uint32_t j = 0; j < n; ++j) some[n - 1 - j] = first + i + j;  // lowest address on top
      free_->Push(std::span(some).first(n));
      i += n;
    }
    return used;
  }

  PoolArena arena_;
  [[no_unique_address]] Checks checks_;
  std::unique_ptr<FreeList> free_;  // objects
  std::unique_ptr<FreeList> cold_;  // slabs that had memory once
  std::atomic<uint32_t> fresh_{0};  // slabs from here on never had
  std::atomic<uint32_t> caches_{0};
};

template <class FreeList, class Checks>
uint32_t ObjectPool<FreeList, Checks>::Trim(uint32_t at_most) {
  const uint32_t shift = arena_.slab_shift();
  std::vector<uint32_t> objects;
  std::array<uint32_t, 64> some;
  // Where a slab is one object, as many as are wanted; else whole slabs have to be found among all.
  const auto wanted = [&] {
    return shift > 0 ? some.size() : std::min(some.size(), at_most - objects.size());
  };
  while (const size_t n = wanted() == 0 ? 0 : free_->Pop(std::span(some).first(wanted())))
    objects.insert(objects.end(), some.begin(), some.begin() + static_cast<ptrdiff_t>(n));
  std::ranges::sort(objects, std::greater());
  uint32_t trimmed = 0;
  for (size_t i = 0; i < objects.size();) {
    const uint32_t slab = objects[i] >> shift;
    size_t end = i;
    while (end < objects.size() && objects[end] >> shift == slab) ++end;
    if (trimmed < at_most && end - i == size_t{1} << shift) {
      arena_.Decommit(slab);
      cold_->Push(std::span(&slab, 1));
      ++trimmed;
    } else {
      free_->Push(std::span(objects).subspan(i, end - i));
    }
    i = end;
  }
  return trimmed;
}

// One thread's stock of free objects of a pool: what it gets and puts costs nothing shared until half of the
// stock is moved at once. Belongs to one thread at a time, ends with it and gives everything back then.
// Objects in it are invisible to other threads: a pool can be exhausted while some are free here.
template <class Pool, uint32_t kCapacity = 256>
class alignas(kNoShareBytes) PoolCache {
 public:
  explicit PoolCache(Pool* pool) : pool_(*pool) { pool_.caches_.fetch_add(1); }
  ~PoolCache() {
    if (count_ > 0) pool_.free_->Push(std::span(items_).first(count_));
    pool_.caches_.fetch_sub(1);
  }
  PoolCache(const PoolCache&) = delete;
  PoolCache& operator=(const PoolCache&) = delete;

  // As Pool::Get. What is here goes first, then half a stock is fetched; failing leaves all as it was.
  bool Get(std::span<uint32_t> out) {
    if (out.size() > kCapacity) return pool_.Get(out);
    if (out.size() > count_ && !Refill(out.size())) return false;
    for (uint32_t& object : out) object = items_[--count_];
    pool_.CheckGet(out);
    return true;
  }
  uint32_t Get() {
    uint32_t object;
    return Get(std::span(&object, 1)) ? object : kNoObject;
  }

  void Put(std::span<const uint32_t> objects) {
    if (count_ + objects.size() > kCapacity) {
      if (objects.size() > kCapacity / 2) return pool_.Put(objects);
      Spill();
    }
    pool_.CheckPut(objects);
    std::ranges::copy(objects, items_.begin() + count_);
    count_ += static_cast<uint32_t>(objects.size());
  }
  void Put(uint32_t object) { Put(std::span(&object, 1)); }

  uint64_t shared_operations() const { return shared_operations_; }  // refills and spills so far

 private:
  // At least `wanted` objects, at best half a stock more than those.
  bool Refill(size_t wanted) {
    ++shared_operations_;
    const size_t most = std::min<size_t>(kCapacity, wanted + kCapacity / 2);
    count_ += static_cast<uint32_t>(pool_.free_->Pop(std::span(items_).subspan(count_, most - count_)));
    while (count_ < wanted) {
      const size_t more = pool_.Grow(std::span(items_).subspan(count_, wanted - count_));
      if (more == 0) return false;
      count_ += static_cast<uint32_t>(more);
    }
    return true;
  }
  // The oldest half goes: the newest are still in the processor's caches.
  void Spill() {
    ++shared_operations_;
    pool_.free_->Push(std::span(items_).first(kCapacity / 2));
    std::copy(items_.begin() + kCapacity / 2, items_.begin() + count_, items_.begin());
    count_ -= kCapacity / 2;
  }

  Pool& pool_;
  uint32_t count_ = 0;
  uint64_t shared_operations_ = 0;
  std::array<uint32_t, kCapacity> items_;
};

}  // namespace larder
