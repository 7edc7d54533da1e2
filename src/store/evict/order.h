// The blocks of one keeper in the order in which they go: a policy, and a heap for each of its queues. All
// calls are O(log n); nothing is ever scanned. Used by the cache in memory, by the disk tier, and by the
// replay of traces, so that all three do the same.
#pragma once

#include <array>
#include <concepts>
#include <cstdint>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "base/result.h"
#include "store/evict/policy.h"

namespace larder {

inline constexpr uint32_t kNotOffered = UINT32_MAX;
inline constexpr uint64_t kEvictOrderBytes = kEvictPolicyBytes + 5 * 1024;

// A keeper of blocks lends the order some memory beside each of them. Handle is a small value. What decides
// the order (Class, LastUse, Rank) changes only together with the call here that tells of it.
template <class H>
concept EvictHost = requires(H host, typename H::Handle block, EvictRank rank, uint32_t place) {
  { host.Meta(block) } -> std::same_as<BlockMeta>;
  { host.LastUse(block) } -> std::same_as<uint64_t>;  // Meta's, alone
  { host.Class(block) } -> std::same_as<int32_t>;     // lower ones go first, whatever the policy says
  { host.Rank(block) } -> std::same_as<EvictRank>;
  host.SetRank(block, rank);
  { host.Place(block) } -> std::same_as<uint32_t>;  // kNotOffered at first
  host.SetPlace(block, place);
};

template <EvictHost Host>
class EvictOrder {
 public:
  using Handle = typename Host::Handle;

  EvictOrder(std::unique_ptr<EvictPolicy> policy, Host host)
      : policy_(std::move(policy)), host_(std::move(host)) {}

  // A block came; it may not go yet.
  void Enter(Handle block) {
    const EvictRank rank = policy_->Enter(host_.Meta(block));
    host_.SetRank(block, rank);
    ++blocks_[rank.queue];
  }
  // Its last use has changed in Meta; `again`: and its uses. REQUIRES: entered.
  void Use(Handle block, bool again) {
    EvictRank rank = host_.Rank(block);
    policy_->Use(host_.Meta(block), again, rank);
    // LastUse decides between equal values, so the place may change without the rank.
    SetRank(block, rank);
  }
  // REQUIRES: entered. `evicted`: it is what Next answered.
  void Leave(Handle block, bool evicted) {
    Withdraw(block);
    const EvictRank rank = host_.Rank(block);
    --blocks_[rank.queue];
    policy_->Leave(host_.Meta(block), evicted, rank);
  }

  // Its class has changed. REQUIRES: entered.
  void Resort(Handle block) { SetRank(block, host_.Rank(block)); }

  // From now on it may go. REQUIRES: entered.
  void Offer(Handle block) {
    if (offered(block)) return;
    Heap& heap = heaps_[host_.Rank(block).queue];
    heap.Push(block);
    SiftUp(heap, heap.size() - 1);
  }
  // It may not go any more.
  void Withdraw(Handle block) {
    if (!offered(block)) return;
    Heap& heap = heaps_[host_.Rank(block).queue];
    const uint32_t hole = host_.Place(block);
    host_.SetPlace(block, kNotOffered);
    const Handle last = heap.Pop();
    if (hole == heap.size()) return;
    Put(heap, hole, last);
    SiftDown(heap, SiftUp(heap, hole));
  }
  bool offered(Handle block) const { return host_.Place(block) != kNotOffered; }

  // Who is to go next, if anybody may. Blocks that the policy spares move on the way; asked again without a
  // change in between, it answers the same.
  std::optional<Handle> Next() {
    for (;;) {
      auto queue = static_cast<size_t>(policy_->Queue(blocks_));
      if (OtherFirst(queue)) queue = 1 - queue;
      if (heaps_[queue].size() == 0) return std::nullopt;
      const Handle block = heaps_[queue].at(0);
      EvictRank rank = host_.Rank(block);
      if (!policy_->Spare(host_.Meta(block), rank)) return block;
      SetRank(block, rank);
    }
  }

  // Whether everything is where it belongs; for tests, a scan.
  bool Sound() {
    for (Heap& heap : heaps_) {
      for (size_t i = 0; i < heap.size(); ++i) {
        if (host_.Place(heap.at(i)) != i || (i > 0 && Before(heap.at(i), heap.at((i - 1) / 2)))) return false;
      }
    }
    return true;
  }

  const EvictPolicy& policy() const { return *policy_; }
  Host& host() { return host_; }
  // Beside the memory in the blocks: at most kEvictOrderBytes, and for each block a handle and what policies
  // may take.
  uint64_t bytes() const {
    uint64_t bytes = policy_->bytes();
    for (const Heap& heap : heaps_) bytes += heap.bytes();
    return bytes;
  }

 private:
  static_assert(kEvictQueues == 2);

  // An array that grows and shrinks by pieces, so that growing never doubles it.
  class Heap {
   public:
    size_t size() const { return size_; }
    Handle& at(size_t i) { return pieces_[i / kPiece][i % kPiece]; }
    void Push(Handle block) {
      if (size_ == pieces_.size() * kPiece) pieces_.push_back(std::make_unique<Handle[]>(kPiece));
      at(size_++) = block;
    }
    Handle Pop() {
      const Handle last = at(--size_);
      // One empty piece is kept, lest it come and go with every block.
      if (pieces_.size() > size_ / kPiece + 2) pieces_.pop_back();
      return last;
    }
    uint64_t bytes() const {
      return pieces_.size() * kPiece * sizeof(Handle) + pieces_.capacity() * sizeof(void*);
    }

   private:
    static constexpr size_t kPiece = 1024 / sizeof(Handle);
    std::vector<std::unique_ptr<Handle[]>> pieces_;
    size_t size_ = 0;
  };

  // Whether the other queue has somebody to go and this one has not, or only of a higher class.
  bool OtherFirst(size_t queue) {
    Heap &own = heaps_[queue], &other = heaps_[1 - queue];
    if (other.size() == 0) return false;
    return own.size() == 0 || host_.Class(other.at(0)) < host_.Class(own.at(0));
  }
  bool Before(Handle a, Handle b) const {
    if (host_.Class(a) != host_.Class(b)) return host_.Class(a) < host_.Class(b);
    const double x = host_.Rank(a).value, y = host_.Rank(b).value;
    return x != y ? x < y : host_.LastUse(a) < host_.LastUse(b);
  }
  void Put(Heap& heap, size_t place, Handle block) {
    heap.at(place) = block;
    host_.SetPlace(block, static_cast<uint32_t>(place));
  }
  // Both put the block at `place` where it belongs and answer where that is.
  size_t SiftUp(Heap& heap, size_t place) {
    const Handle block = heap.at(place);
    while (place > 0 && Before(block, heap.at((place - 1) / 2))) {
      Put(heap, place, heap.at((place - 1) / 2));
      place = (place - 1) / 2;
    }
    Put(heap, place, block);
    return place;
  }
  size_t SiftDown(Heap& heap, size_t place) {
    const Handle block = heap.at(place);
    for (size_t child; (child = 2 * place + 1) < heap.size(); place = child) {
      if (child + 1 < heap.size() && Before(heap.at(child + 1), heap.at(child))) ++child;
      if (!Before(heap.at(child), block)) break;
      Put(heap, place, heap.at(child));
    }
    Put(heap, place, block);
    return place;
  }

  void SetRank(Handle block, const EvictRank& rank) {
    const EvictRank old = host_.Rank(block);
    const bool was_offered = offered(block);
    if (was_offered && old.queue == rank.queue) {
      host_.SetRank(block, rank);
      Heap& heap = heaps_[rank.queue];
      SiftDown(heap, SiftUp(heap, host_.Place(block)));
      return;
    }
    Withdraw(block);
    --blocks_[old.queue];
    host_.SetRank(block, rank);
    ++blocks_[rank.queue];
    if (was_offered) Offer(block);
  }

  std::unique_ptr<EvictPolicy> policy_;
  Host host_;
  std::array<uint64_t, kEvictQueues> blocks_{};  // entered, by queue
  std::array<Heap, kEvictQueues> heaps_;
};

}  // namespace larder
