// Whether the cache is as cache.h promises: counts everything again from the sequences' tables and compares.
#include <bit>
#include <unordered_map>
#include <unordered_set>

#include "kv/cache_impl.h"

namespace larder {
namespace {

// Answers an error that names the condition and the block.
#define LARDER_HOLDS(node, condition)                                                                      \
  do {                                                                                                     \
    if (!(condition)) {                                                                                    \
      return Fail(ErrorKind::kCorrupt, "block {} (depth {}, {} rows) breaks: {}", (node).id, (node).depth, \
                  (node).rows, #condition);                                                                \
    }                                                                                                      \
  } while (false)

#define LARDER_EQUAL(what, counted, kept)                                                                   \
  do {                                                                                                      \
    if ((counted) != (kept)) return Fail(ErrorKind::kCorrupt, what ": {} counted, {} kept", counted, kept); \
  } while (false)

}  // namespace

struct KvCache::Impl::Checker {
  struct Count {
    int64_t holders = 0;
    std::array<int32_t, kMaxKvKinds> windows{}, window_holds{}, needed{};  // of sequences; of others
    int32_t leased = 0, lease_ends = 0, lease_class = 0;
    std::array<int32_t, kMaxKvKinds> window_leased{};
  };

  explicit Checker(Impl& checked) : impl(checked) {}

  Status Run() {
    LARDER_TRY(CollectTrees());
    for (const KvSequence* sequence : impl.sequences) LARDER_TRY(CountSequence(*sequence));
    if (impl.tiers != nullptr) {
      impl.tiers->VisitHolds([this](const KvNode& node, int kind) {
        if (kind < 0) {
          ++counts[&node].holders;
        } else {
          ++counts[&node].window_holds[static_cast<size_t>(kind)];
        }
      });
    }
    CountLeases();
    for (const KvNode* node : nodes) CountResume(*node);
    for (const KvNode* node : nodes) LARDER_TRY(CheckNode(*node));
    return CheckTotals();
  }

  Status CollectTrees() {
    uint64_t used_tenants = 0, retired = 0;
    for (const auto& tenant : impl.tenants) {
      if (tenant == nullptr) continue;
      ++used_tenants;
      retired += tenant->retired;
      std::vector<const KvNode*> open = {&tenant->root};
      while (!open.empty()) {
        const KvNode& parent = *open.back();
        open.pop_back();
        const KvNode* previous = nullptr;
        for (const KvNode* child : parent.children) {
          LARDER_TRY(CheckChild(parent, *child));
          LARDER_HOLDS(*child, previous == nullptr || ByTokens{}(previous, child));
          previous = child;
          nodes.push_back(child);
          open.push_back(child);
        }
      }
    }
    LARDER_EQUAL("tenants", used_tenants - retired, impl.tenant_index.size());
    return {};
  }

  Status CheckChild(const KvNode& parent, const KvNode& child) const {
    LARDER_HOLDS(child, child.parent == &parent && *child.sibling == &child);
    LARDER_HOLDS(child, child.tenant == parent.tenant && child.depth == parent.depth + 1);
    LARDER_HOLDS(child, parent.depth < 0 || parent.sealed());
    LARDER_HOLDS(child, child.rows > 0 && child.rows <= kPageTokens);
    LARDER_HOLDS(child, child.sealed() || !child.indexed);
    LARDER_HOLDS(child, !child.sealed() || child.writer == nullptr);
    if (child.sealed()) {
      LARDER_HOLDS(child, child.name == impl.names.Block(parent.name, child.published()));
      LARDER_HOLDS(child, child.content == ContentHash(parent.content, child.published()));
      LARDER_HOLDS(child, !child.indexed || impl.tree.Find(child.name) == &child);
    }
    return {};
  }

  Status CountSequence(const KvSequence& sequence) {
    const size_t live = BlocksFor(sequence.length_);
    LARDER_EQUAL("a sequence's tokens", static_cast<int64_t>(sequence.tokens_.size()), sequence.length_);
    LARDER_EQUAL("a sequence's blocks", std::max(BlocksFor(sequence.capacity_), live), sequence.path_.size());
    for (int kind = 0; kind < impl.kinds(); ++kind) {
      const size_t k = static_cast<size_t>(kind);
      const int64_t first =
          impl.window(kind) > 0 ? WindowStart(sequence.length_, impl.window(kind)) / kPageTokens : 0;
      LARDER_EQUAL("a sequence's window", first, sequence.window_start_[k]);
      LARDER_EQUAL("a sequence's table", sequence.path_.size(), sequence.blocks_[k].size());
      if (impl.shape.codec() != nullptr)
        LARDER_EQUAL("a sequence's codes", sequence.path_.size(), sequence.codes_[k].size());
    }
    for (size_t i = 0; i < sequence.path_.size(); ++i) {
      const KvNode& node = *sequence.path_[i];
      if (node.parent == nullptr && !counts.contains(&node)) nodes.push_back(&node);
      Count& count = counts[&node];
      ++count.holders;
      for (size_t k = 0; k < sequence.blocks_.size(); ++k) {
        count.windows[k] += static_cast<int64_t>(i) >= sequence.window_start_[k];
      }
      LARDER_TRY(CheckStep(sequence, i));
    }
    return {};
  }

  Status CheckStep(const KvSequence& sequence, size_t index) const {
    const KvNode& node = *sequence.path_[index];
    const int64_t rows = std::clamp<int64_t>(sequence.length_ - node.start(), 0, kPageTokens);
    LARDER_HOLDS(node, node.depth == static_cast<int32_t>(index) && node.tenant == sequence.root_);
    LARDER_HOLDS(node, node.rows >= rows);
    const auto text = std::span(sequence.tokens_)
                          .subspan(static_cast<size_t>(sequence.length_ > node.start() ? node.start() : 0));
    LARDER_HOLDS(node, std::ranges::equal(node.published().first(static_cast<size_t>(rows)),
                                          text.first(static_cast<size_t>(rows))));
    const KvNode& before = index > 0 ? *sequence.path_[index - 1] : impl.root(sequence.root_);
    LARDER_HOLDS(node, rows > 0 ? node.parent == &before : node.parent == nullptr && node.rows == 0);
    const bool writes = sequence.capacity_ > node.start() + rows && rows < kPageTokens;
    LARDER_HOLDS(node, !writes || (node.writer == &sequence && node.rows == rows));
    for (size_t k = 0; k < sequence.blocks_.size(); ++k) {
      const KvNode::Slot& slot = node.slots[k];
      const bool sees = static_cast<int64_t>(index) >= sequence.window_start_[k];
      const bool coded = impl.shape.codec() != nullptr && node.sealed();
      const std::byte* held = (coded ? slot.aside : slot.block).data();
      LARDER_HOLDS(node, sequence.blocks_[k][index] == (sees ? held : nullptr));
      LARDER_HOLDS(node, !sees || slot.block.size() > 0);
      LARDER_HOLDS(node, !sees || rows == kPageTokens || held != nullptr);
      if (impl.shape.codec() == nullptr) continue;
      const std::byte* codes = (coded ? slot.block : slot.aside).data();
      LARDER_HOLDS(node, sequence.codes_[k][index] == (sees ? codes : nullptr));
      LARDER_HOLDS(node, !sees || !writes ||
                             (slot.aside.size() > 0) == (sequence.capacity_ >= node.start() + kPageTokens));
    }
    return {};
  }

  void CountLeases() {
    impl.leases.VisitHolds([this](const KvNode& node, int kind) {
      Count& count = counts[&node];
      if (kind < 0) {
        ++count.holders;
        ++count.leased;
      } else {
        ++count.window_holds[static_cast<size_t>(kind)];
        ++count.window_leased[static_cast<size_t>(kind)];
      }
    });
    impl.leases.VisitEnds([this](const KvNode& node, int32_t lease_class) {
      Count& count = counts[&node];
      ++count.lease_ends;
      count.lease_class = std::max(count.lease_class, lease_class);
    });
  }

  // What hard leases hold of a node, each block once.
  Status CountLeased(const KvNode& node, const Count& count) {
    LARDER_HOLDS(node, node.leased == count.leased && node.lease_ends == count.lease_ends);
    LARDER_HOLDS(node, node.lease_class == count.lease_class);
    leased_bytes += node.leased > 0 ? impl.node_cost : 0;
    for (int kind = 0; kind < impl.kinds(); ++kind) {
      const auto k = static_cast<size_t>(kind);
      const bool window = impl.window(kind) > 0;
      LARDER_HOLDS(node, node.slots[k].leased == count.window_leased[k]);
      if ((window ? node.slots[k].leased : node.leased) > 0) leased_bytes += impl.KindBytes(node, kind);
    }
    return {};
  }

  void CountResume(const KvNode& node) {
    for (uint64_t rest = node.resume; rest != 0; rest &= rest - 1) {
      const int64_t end = node.start() + std::countr_zero(rest) + 1;
      for (int kind = 0; kind < impl.kinds(); ++kind) {
        if (impl.window(kind) == 0) continue;
        const int64_t first = WindowStart(end, impl.window(kind)) / kPageTokens;
        for (const KvNode* at = &node; at->depth >= first; at = at->parent) {
          ++counts[at].needed[static_cast<size_t>(kind)];
        }
      }
    }
  }

  static int32_t WindowHolders(const Count& count, int kind) {
    return count.windows[static_cast<size_t>(kind)] + count.window_holds[static_cast<size_t>(kind)];
  }

  Status CheckNode(const KvNode& node) {
    const Count& count = counts[&node];
    LARDER_HOLDS(node, node.holders == count.holders);
    LARDER_TRY(CountLeased(node, count));
    LARDER_HOLDS(node, node.writer == nullptr || impl.sequences.contains(node.writer));
    LARDER_HOLDS(node, node.rows == kPageTokens || (node.resume >> node.rows) == 0);
    for (int kind = 0; kind < impl.kinds(); ++kind) {
      const KvNode::Slot& slot = node.slots[static_cast<size_t>(kind)];
      const bool resident = slot.block.size() > 0;
      LARDER_HOLDS(node, resident || impl.window(kind) > 0);
      LARDER_HOLDS(node, slot.needed == count.needed[static_cast<size_t>(kind)]);
      if (impl.window(kind) > 0) LARDER_HOLDS(node, slot.holders == WindowHolders(count, kind));
      LARDER_TRY(CheckCandidate(node, kind, slot.evict));
      if (!resident) continue;
      LARDER_HOLDS(node, memory.insert(slot.block.data()).second);
      LARDER_TRY(CheckForms(node, kind));
      ++blocks;
      block_bytes += impl.KindBytes(node, kind) + impl.pool.CostOf(kind, slot.aside);
      if (impl.evictor.Held(node, kind)) {
        ++held_blocks;
      } else {
        unheld_bytes += impl.KindBytes(node, kind);
      }
    }
    LARDER_HOLDS(node, (node.leaf_place != kNotOffered) == Evictor::IsLeaf(node));
    if (node.holders == 0) unheld_bytes += impl.node_cost;
    sealed += node.sealed();
    return {};
  }

  // A block lies in the form that it should, and nothing lies beside it that nobody needs.
  Status CheckForms(const KvNode& node, int kind) const {
    const KvNode::Slot& slot = node.slots[static_cast<size_t>(kind)];
    const KvForm full = impl.shape.FullForm(node.depth);
    const KvForm form = node.sealed() ? full : KvForm::kRows;
    LARDER_HOLDS(node, slot.block.size() == impl.shape.BlockBytes(kind, form));
    if (slot.aside.size() == 0) return {};
    LARDER_HOLDS(node, full != KvForm::kRows);
    const KvForm other = node.sealed() ? KvForm::kRows : full;
    LARDER_HOLDS(node, slot.aside.size() == impl.shape.BlockBytes(kind, other));
    LARDER_HOLDS(node, node.sealed() ? impl.EndsInside(node) : node.writer != nullptr);
    return {};
  }

  Status CheckCandidate(const KvNode& node, int kind, const EvictHandle& handle) const {
    LARDER_HOLDS(node, handle.set == impl.evictor.SetOf(node, kind));
    if (handle.set == nullptr) return {};
    LARDER_HOLDS(node,
                 handle.at->node == &node && handle.at->kind == kind && handle.at->last_use == node.last_use);
    LARDER_HOLDS(node, handle.at->lease_class == node.lease_class);
    return {};
  }

  Status CheckTotals() const {
    if (!impl.evictor.Sound()) return Fail(ErrorKind::kCorrupt, "the order of eviction is not in order");
    LARDER_EQUAL("nodes", nodes.size(), impl.totals.nodes);
    LARDER_EQUAL("blocks", blocks, impl.totals.blocks);
    LARDER_EQUAL("held blocks", held_blocks, impl.totals.held_blocks);
    LARDER_EQUAL("sealed blocks", sealed, impl.totals.sealed_blocks);
    LARDER_EQUAL("bytes nobody holds", unheld_bytes, impl.unheld_bytes);
    LARDER_EQUAL("bytes of hard leases", leased_bytes, impl.leases.hard_bytes());
    if (leased_bytes > impl.leases.stats().hard_limit_bytes) {
      return Fail(ErrorKind::kCorrupt, "{} bytes held for leases, {} allowed", leased_bytes,
                  impl.leases.stats().hard_limit_bytes);
    }
    const uint64_t landing = impl.tiers == nullptr ? 0 : impl.tiers->landing_bytes();
    LARDER_EQUAL("bytes of blocks", block_bytes + impl.pool.free_bytes() + landing, impl.pool.bytes());
    uint64_t metadata = sizeof(Impl) + impl.tree.bytes() + impl.ghosts.bytes() + kEvictOrderBytes +
                        nodes.size() * impl.node_cost;
    metadata += impl.events.bytes() + impl.leases.bytes();
    if (impl.tiers != nullptr) metadata += impl.tiers->landing_metadata();
    for (const auto& tenant : impl.tenants) metadata += tenant == nullptr ? 0 : impl.TenantCost(tenant->name);
    for (const KvSequence* sequence : impl.sequences) metadata += impl.SequenceCost(sequence->table_rows_);
    LARDER_EQUAL("bytes of metadata", metadata + impl.page_run_bytes, impl.metadata_bytes);
    if (impl.used_bytes() > impl.options.limit_bytes) {
      return Fail(ErrorKind::kCorrupt, "{} bytes in use, {} allowed", impl.used_bytes(),
                  impl.options.limit_bytes);
    }
    return {};
  }

  Impl& impl;
  std::vector<const KvNode*> nodes;  // in trees, then not yet published
  std::unordered_map<const KvNode*, Count> counts;
  std::unordered_set<const std::byte*> memory;
  uint64_t blocks = 0, held_blocks = 0, sealed = 0, block_bytes = 0, unheld_bytes = 0, leased_bytes = 0;
};

Status KvCache::Impl::CheckInvariants() { return Checker(*this).Run(); }

}  // namespace larder
