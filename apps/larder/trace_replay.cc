#include "larder/trace_replay.h"

#include <algorithm>
#include <iterator>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <tuple>
#include <utility>
#include <vector>

#include "store/admit/policy.h"
#include "store/evict/order.h"

namespace larder {
namespace {

// What computing a block's rows costs, in rows that see nothing before them.
double WorkOf(const TraceBlock& block) {
  const double before = static_cast<double>(block.start) + static_cast<double>(block.tokens) / 2;
  return static_cast<double>(block.tokens) * (1 + before / kReplayKnee);
}

ReplayFigures Asked(const Trace& trace) {
  ReplayFigures figures;
  for (const TraceRequest& request : trace.requests) {
    for (const uint32_t block : request.blocks) {
      ++figures.blocks;
      figures.tokens += trace.blocks[block].tokens;
      figures.work += WorkOf(trace.blocks[block]);
    }
  }
  return figures;
}

void CountHit(const TraceBlock& block, ReplayFigures& figures) {
  ++figures.hit_blocks;
  figures.hit_tokens += block.tokens;
  figures.work_saved += WorkOf(block);
}

// Memory, or the disk: blocks of the trace in the order of a policy.
class ReplayTier {
 public:
  ReplayTier(const Trace& trace, uint64_t capacity, std::unique_ptr<EvictPolicy> policy)
      : trace_(trace),
        capacity_(capacity),
        blocks_(trace.blocks.size()),
        order_(std::move(policy), Host{&trace, &blocks_}) {}
  ReplayTier(const ReplayTier&) = delete;

  bool has(uint32_t block) const { return blocks_[block].here; }
  uint64_t evicted() const { return evicted_; }
  BlockMeta Meta(uint32_t block) { return order_.host().Meta(block); }

  // False: whatever could go is held.
  bool Insert(uint32_t number, uint64_t now) {
    while (size_ >= capacity_) {
      const auto victim = order_.Next();
      if (!victim) return false;
      Erase(*victim);
      ++evicted_;
    }
    Block& block = blocks_[number];
    block.here = true;
    block.last_use = block.birth = now;
    block.uses = 1;
    ++size_;
    order_.Enter(number);
    if (Block* parent = ParentOf(number)) {
      ++parent->children;
      order_.Withdraw(trace_.blocks[number].parent);
    }
    OfferIfFree(number);
    return true;
  }
  void Use(uint32_t number, uint64_t now, bool again) {
    blocks_[number].last_use = now;
    blocks_[number].uses += again;
    order_.Use(number, again);
  }
  void Hold(uint32_t number) {
    blocks_[number].held = true;
    order_.Withdraw(number);
  }
  void Release(uint32_t number) {
    blocks_[number].held = false;
    OfferIfFree(number);
  }

 private:
  struct Block {
    uint64_t last_use = 0, uses = 0, birth = 0;
    EvictRank rank;
    uint32_t place = kNotOffered;
    uint32_t children = 0;
    bool here = false, held = false;
  };
  struct Host {
    using Handle = uint32_t;
    BlockMeta Meta(uint32_t number) const {
      const Block& block = (*blocks)[number];
      const TraceBlock& traced = trace->blocks[number];
      return {.key = number + uint64_t{1},
              .last_use = block.last_use,
              .uses = block.uses,
              .birth = block.birth,
              .start = traced.start,
              .rows = static_cast<int32_t>(traced.tokens),
              .bytes = static_cast<uint64_t>(trace->block_tokens)};
    }
    uint64_t LastUse(uint32_t number) const { return (*blocks)[number].last_use; }
    int32_t Class(uint32_t) const { return 0; }
    EvictRank Rank(uint32_t number) const { return (*blocks)[number].rank; }
    void SetRank(uint32_t number, const EvictRank& rank) { (*blocks)[number].rank = rank; }
    uint32_t Place(uint32_t number) const { return (*blocks)[number].place; }
    void SetPlace(uint32_t number, uint32_t place) { (*blocks)[number].place = place; }
    const Trace* trace;
    std::vector<Block>* blocks;
  };

  Block* ParentOf(uint32_t number) {
    const uint32_t parent = trace_.blocks[number].parent;
    return parent == kNoBlock || !blocks_[parent].here ? nullptr : &blocks_[parent];
  }
  void OfferIfFree(uint32_t number) {
    const Block& block = blocks_[number];
    if (block.here && !block.held && block.children == 0) order_.Offer(number);
  }
  void Erase(uint32_t number) {
    order_.Leave(number, true);
    blocks_[number].here = false;
    --size_;
    if (Block* parent = ParentOf(number)) {
      --parent->children;
      OfferIfFree(trace_.blocks[number].parent);
    }
  }

  const Trace& trace_;
  uint64_t capacity_, size_ = 0, evicted_ = 0;
  std::vector<Block> blocks_;
  EvictOrder<Host> order_;
};

class Replayer {
 public:
  Replayer(const Trace& trace, ReplayTier& memory, ReplayTier* disk, AdmitPolicy& admit)
      : trace_(trace), memory_(memory), disk_(disk), admit_(admit) {}

  ReplayFigures Run() {
    for (const TraceRequest& request : trace_.requests) Serve(request.blocks);
    figures_.evicted_blocks = static_cast<int64_t>(memory_.evicted());
    return figures_;
  }

 private:
  void Serve(std::span<const uint32_t> chain) {
    size_t in_memory = 0, found = 0;
    while (in_memory < chain.size() && memory_.has(chain[in_memory])) ++in_memory;
    found = in_memory;
    while (disk_ != nullptr && found < chain.size() && disk_->has(chain[found])) ++found;
    Count(chain, in_memory, found);

    const auto held = chain.first(in_memory);
    for (const uint32_t block : held) memory_.Hold(block);
    size_t kept = in_memory;
    while (kept < chain.size() && memory_.Insert(chain[kept], ++now_)) memory_.Hold(chain[kept++]);
    // What was restored is used once more after it came.
    for (size_t i = std::min(found, kept); i-- > 0;) memory_.Use(chain[i], ++now_, true);
    if (disk_ != nullptr) UseDisk(chain.first(kept), found);
    for (size_t i = kept; i-- > 0;) memory_.Use(chain[i], ++now_, false);
    for (size_t i = kept; i-- > 0;) memory_.Release(chain[i]);
  }

  void Count(std::span<const uint32_t> chain, size_t in_memory, size_t found) {
    for (size_t i = 0; i < chain.size(); ++i) {
      const TraceBlock& block = trace_.blocks[chain[i]];
      if (i < found) CountHit(block, figures_);
      if (i >= in_memory && i < found) figures_.disk_tokens += block.tokens;
    }
  }

  void UseDisk(std::span<const uint32_t> chain, size_t found) {
    for (size_t i = std::min(found, chain.size()); i-- > 0;) {
      if (disk_->has(chain[i])) disk_->Use(chain[i], ++now_, true);
    }
    for (const uint32_t block : chain) {
      const BlockMeta meta = memory_.Meta(block);
      admit_.Use(meta);
      if (disk_->has(block) || !admit_.Admit(meta)) continue;
      if (disk_->Insert(block, ++now_)) figures_.written_tokens += trace_.blocks[block].tokens;
    }
  }

  const Trace& trace_;
  ReplayTier& memory_;
  ReplayTier* disk_;
  AdmitPolicy& admit_;
  ReplayFigures figures_ = Asked(trace_);
  uint64_t now_ = 0;
};

}  // namespace

Result<ReplayFigures> Replay(const Trace& trace, const ReplaySetup& setup) {
  LARDER_ASSIGN(auto policy, CreateEvictPolicy(setup.policy));
  LARDER_ASSIGN(const auto admit, CreateAdmitPolicy(setup.admit));
  ReplayTier memory(trace, setup.memory_blocks, std::move(policy));
  std::optional<ReplayTier> disk;
  if (setup.disk_blocks > 0) {
    LARDER_ASSIGN(auto disk_policy, CreateEvictPolicy(setup.policy));
    disk.emplace(trace, setup.disk_blocks, std::move(disk_policy));
  }
  return Replayer(trace, memory, disk ? &*disk : nullptr, *admit).Run();
}

ReplayFigures ReplayBelady(const Trace& trace, uint64_t capacity_blocks) {
  // The request in which each use's block is used next.
  constexpr size_t kNever = SIZE_MAX;
  std::vector<std::vector<size_t>> next(trace.requests.size());
  std::vector<size_t> upcoming(trace.blocks.size(), kNever);
  for (size_t r = trace.requests.size(); r-- > 0;) {
    for (const uint32_t block : trace.requests[r].blocks) {
      next[r].push_back(std::exchange(upcoming[block], r));
    }
  }
  ReplayFigures figures = Asked(trace);
  // Ordered by next use, then by depth: of one chain the suffix is never used before the prefix.
  using Key = std::tuple<size_t, int64_t, uint32_t>;
  std::set<Key> here;
  std::vector<size_t> expected(trace.blocks.size(), kNever);
  const auto key = [&](uint32_t block) { return Key{expected[block], trace.blocks[block].start, block}; };
  for (size_t r = 0; r < trace.requests.size(); ++r) {
    bool prefix = true;
    for (size_t i = 0; i < trace.requests[r].blocks.size(); ++i) {
      const uint32_t block = trace.requests[r].blocks[i];
      const bool hit = here.erase(key(block)) > 0;
      prefix = prefix && hit;
      if (prefix) CountHit(trace.blocks[block], figures);
      expected[block] = next[r][i];
      if (next[r][i] != kNever) here.insert(key(block));
    }
    while (here.size() > capacity_blocks) {
      here.erase(std::prev(here.end()));
      ++figures.evicted_blocks;
    }
  }
  return figures;
}

}  // namespace larder
