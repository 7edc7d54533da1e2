// Lists of free objects, by number, shared by all threads: what an ObjectPool (object_pool.h) stands on. One
// interface:
//
//   Create(capacity)  holds numbers 0..capacity-1, each at most once; it is made empty
//   Push(items)       at least one; they always fit
//   Pop(out)          takes up to out.size(); answers how many
//
// LockFreeList is the product's. LockedList and RingList are what it is compared with. Each takes a Pause:
// called where a preempted thread would do the most harm, so that a test can stop one there.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <memory>
#include <mutex>
#include <span>
#include <thread>

#include "base/memory.h"
#include "base/result.h"

namespace larder {

inline constexpr size_t kNoShareBytes = 128;  // two cache lines: processors fetch them in pairs

struct NoPause {
  void operator()() const {}
};

// Zeroed numbers. Large ones take physical memory only as they are written.
template <class T>
class FlatArray {
 public:
  static Result<FlatArray> Create(size_t size) {
    FlatArray out;
    LARDER_ASSIGN(out.memory_, AlignedBuffer::Allocate(size * sizeof(T), LargePages::kNo));
    return out;
  }
  T& operator[](size_t i) { return memory_.as<T>()[i]; }
  uint64_t bytes() const { return memory_.size(); }

 private:
  AlignedBuffer memory_;
};

// A stack of numbers, linked through an array of its own rather than through the objects: a popper reads the
// link of a number that somebody else may just have taken, which must not be a read of that one's object. The
// head carries a tag that every change raises, so that a number which left and came back is noticed (ABA); a
// tag returns after 4 billion changes, and only a thread asleep for exactly so many would be fooled.
class TaggedStack {
 public:
  using Links = FlatArray<std::atomic<uint32_t>>;

  // items: at least one; they are linked here.
  template <class Pause>
  void Push(Links& links, std::span<const uint32_t> items, const Pause& pause) {
    for (size_t i = 0; i + 1 < items.size(); ++i)
      links[items[i]].store(items[i + 1] + 1, std::memory_order_relaxed);
    uint64_t head = head_.load(std::memory_order_relaxed);
    do {
      links[items.back()].store(static_cast<uint32_t>(head), std::memory_order_relaxed);
      pause();
    } while (!head_.compare_exchange_weak(head, Changed(head, items.front() + 1), std::memory_order_release,
                                          std::memory_order_relaxed));
  }

  template <class Pause>
  size_t Pop(Links& links, std::span<uint32_t> out, const Pause& pause) {
    uint64_t head = head_.load(std::memory_order_acquire);
    while (true) {
      // Links read here may be stale; if so, the tag has changed and the exchange fails.
      uint32_t at = static_cast<uint32_t>(head);
      size_t n = 0;
      for (; n < out.size() && at != 0; ++n) {
        out[n] = at - 1;
        at = links[at - 1].load(std::memory_order_relaxed);
      }
      if (n == 0) return 0;
      pause();
      if (head_.compare_exchange_weak(head, Changed(head, at), std::memory_order_acquire,
                                      std::memory_order_acquire))
        return n;
    }
  }

 private:
  static uint64_t Changed(uint64_t head, uint32_t top) { return ((head >> 32) + 1) << 32 | top; }

  // Tag, then the top number plus one; 0: empty.
  alignas(kNoShareBytes) std::atomic<uint64_t> head_{0};
};

// Numbers that come many at once stay together: up to 64 are one chunk, which moves by one exchange. A long
// linked list would cost a dependent load for each. Few at once are linked singly. A chunk on its way between
// two lists is invisible to others for that moment: Pop may then find less than there is.
template <class Pause = NoPause>
class LockFreeList {
 public:
  static Result<std::unique_ptr<LockFreeList>> Create(uint32_t capacity, Pause pause = {}) {
    auto list = std::unique_ptr<LockFreeList>(new LockFreeList(pause));
    // Enough for chunks that are half full; when they run out, the rest is linked singly.
    list->chunks_ = capacity / (kChunk / 2) + 1;
    LARDER_ASSIGN(list->links_, TaggedStack::Links::Create(capacity));
    LARDER_ASSIGN(list->chunk_links_, TaggedStack::Links::Create(list->chunks_));
    LARDER_ASSIGN(list->chunk_, FlatArray<Chunk>::Create(list->chunks_));
    return list;
  }

  void Push(std::span<const uint32_t> items) {
    while (items.size() >= kFewest) {
      uint32_t id;
      if (!TakeChunk(id)) break;
      const size_t n = std::min(items.size(), kChunk);
      Chunk& chunk = chunk_[id];
      chunk.count = static_cast<uint32_t>(n);
      std::memcpy(chunk.items, items.data(), n * sizeof(uint32_t));
      full_.Push(chunk_links_, std::span(&id, 1), pause_);
      items = items.subspan(n);
    }
    if (!items.empty()) singles_.Push(links_, items, pause_);
  }

  size_t Pop(std::span<uint32_t> out) {
    size_t n = 0;
    if (out.size() < kFewest) n = singles_.Pop(links_, out, pause_);
    while (n < out.size()) {
      const size_t got = PopChunk(out.subspan(n));
      if (got == 0) break;
      n += got;
    }
    if (n < out.size()) n += singles_.Pop(links_, out.subspan(n), pause_);
    return n;
  }

  uint64_t bytes() const { return links_.bytes() + chunk_links_.bytes() + chunk_.bytes(); }

 private:
  static constexpr size_t kChunk = 64;
  static constexpr size_t kFewest = 8;  // of which a chunk is made

  struct Chunk {
    uint32_t count;
    uint32_t items[kChunk];
  };

  explicit LockFreeList(Pause pause) : pause_(pause) {}

  bool TakeChunk(uint32_t& id) {
    if (empty_.Pop(chunk_links_, std::span(&id, 1), pause_) == 1) return true;
    id = fresh_chunk_.load(std::memory_order_relaxed);
    while (id < chunks_) {
      if (fresh_chunk_.compare_exchange_weak(id, id + 1, std::memory_order_relaxed)) return true;
    }
    return false;
  }

  // From one chunk; what is left of it goes back.
  size_t PopChunk(std::span<uint32_t> out) {
    uint32_t id;
    if (full_.Pop(chunk_links_, std::span(&id, 1), pause_) == 0) return 0;
    Chunk& chunk = chunk_[id];
    const uint32_t n = static_cast<uint32_t>(std::min<size_t>(chunk.count, out.size()));
    chunk.count -= n;
    std::memcpy(out.data(), chunk.items + chunk.count, n * sizeof(uint32_t));
    TaggedStack& to = chunk.count > 0 ? full_ : empty_;
    to.Push(chunk_links_, std::span(&id, 1), pause_);
    return n;
  }

  TaggedStack singles_, full_, empty_;
  alignas(kNoShareBytes) std::atomic<uint32_t> fresh_chunk_{0};
  alignas(kNoShareBytes) uint32_t chunks_ = 0;
  TaggedStack::Links links_, chunk_links_;
  FlatArray<Chunk> chunk_;
  [[no_unique_address]] Pause pause_;
};

// A stack in an array behind a mutex.
template <class Pause = NoPause>
class LockedList {
 public:
  static Result<std::unique_ptr<LockedList>> Create(uint32_t capacity, Pause pause = {}) {
    auto list = std::unique_ptr<LockedList>(new LockedList(pause));
    LARDER_ASSIGN(list->items_, FlatArray<uint32_t>::Create(capacity));
    return list;
  }

  void Push(std::span<const uint32_t> items) {
    const std::lock_guard lock(mutex_);
    std::ranges::copy(items, &items_[count_]);
    pause_();
    count_ += items.size();
  }

  size_t Pop(std::span<uint32_t> out) {
    const std::lock_guard lock(mutex_);
    const size_t n = std::min(count_, out.size());
    count_ -= n;
    pause_();
    if (n > 0) std::memcpy(out.data(), &items_[count_], n * sizeof(uint32_t));
    return n;
  }

  uint64_t bytes() const { return items_.bytes(); }

 private:
  explicit LockedList(Pause pause) : pause_(pause) {}

  alignas(kNoShareBytes) std::mutex mutex_;
  size_t count_ = 0;           // guarded by mutex_
  FlatArray<uint32_t> items_;  // likewise
  [[no_unique_address]] Pause pause_;
};

// A ring as in DPDK's rte_ring with many producers and consumers: a place is claimed by an exchange on the
// head, filled, and published in order through the tail, so that who is preempted in between stalls those
// behind. Unlike there, a waiting thread gives its core away after a while.
template <class Pause = NoPause>
class RingList {
 public:
  static Result<std::unique_ptr<RingList>> Create(uint32_t capacity, Pause pause = {}) {
    auto list = std::unique_ptr<RingList>(new RingList(pause));
    uint32_t size = 1;
    while (size < capacity) size *= 2;
    list->mask_ = size - 1;
    LARDER_ASSIGN(list->items_, FlatArray<uint32_t>::Create(size));
    return list;
  }

  void Push(std::span<const uint32_t> items) {
    const auto n = static_cast<uint32_t>(items.size());
    uint32_t head = in_.head.load(std::memory_order_relaxed);
    do {
      // There is always a place, but a consumer may still be reading from it.
      while (head + n - out_.tail.load(std::memory_order_acquire) > mask_ + 1) {
        std::this_thread::yield();
        head = in_.head.load(std::memory_order_relaxed);
      }
    } while (!in_.head.compare_exchange_weak(head, head + n, std::memory_order_relaxed));
    for (uint32_t i = 0; i < n; ++i) items_[(head + i) & mask_] = items[i];
    Publish(in_, head, n);
  }

  size_t Pop(std::span<uint32_t> out) {
    uint32_t head = out_.head.load(std::memory_order_relaxed), n;
    do {
      const uint32_t filled = in_.tail.load(std::memory_order_acquire) - head;
      // A head read before others popped and pushed may lie behind the tail by more than the ring is long.
      if (filled > mask_ + 1) {
        head = out_.head.load(std::memory_order_relaxed);
        n = 0;
        continue;
      }
      n = std::min(filled, static_cast<uint32_t>(out.size()));
      if (n == 0) return 0;
    } while (n == 0 || !out_.head.compare_exchange_weak(head, head + n, std::memory_order_relaxed));
    for (uint32_t i = 0; i < n; ++i) out[i] = items_[(head + i) & mask_];
    Publish(out_, head, n);
    return n;
  }

  uint64_t bytes() const { return items_.bytes(); }

 private:
  struct alignas(kNoShareBytes) Side {
    std::atomic<uint32_t> head{0};
    alignas(kNoShareBytes) std::atomic<uint32_t> tail{0};
  };

  explicit RingList(Pause pause) : pause_(pause) {}

  void Publish(Side& side, uint32_t head, uint32_t n) {
    pause_();
    constexpr int kSpins = 1000;
    for (int i = 0; side.tail.load(std::memory_order_acquire) != head; ++i)
      if (i >= kSpins) std::this_thread::yield();
    side.tail.store(head + n, std::memory_order_release);
  }

  Side in_, out_;
  alignas(kNoShareBytes) uint32_t mask_ = 0;
  FlatArray<uint32_t> items_;
  [[no_unique_address]] Pause pause_;
};

}  // namespace larder
