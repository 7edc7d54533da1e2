// Memory of the cache: who pays for what, who holds what, and how room is made.
#include <utility>

#include "kv/cache_impl.h"
#include "kv/page_source.h"

namespace larder {

uint64_t KvCache::Impl::KindBytes(const KvNode& node, int kind) const {
  return pool.CostOf(kind, node.slots[static_cast<size_t>(kind)].block);
}

uint64_t KvCache::Impl::SequenceCost(int64_t table_rows) const {
  constexpr uint64_t kEntries = 128;  // in the set of sequences; allocator headers of the tables
  const uint64_t rows = static_cast<uint64_t>(table_rows);
  const uint64_t tables = static_cast<uint64_t>(kinds()) * (shape.codec() == nullptr ? 1 : 2);
  const uint64_t views = shape.codec() == nullptr ? 0 : sizeof(KvSequence::View);
  const uint64_t per_block = sizeof(KvNode*) + sizeof(std::byte*) * tables + views;
  return sizeof(KvSequence) + kEntries + rows * sizeof(int32_t) + rows / kPageTokens * per_block +
         tables * sizeof(std::vector<std::byte*>) + static_cast<uint64_t>(kinds()) * sizeof(int64_t);
}

uint64_t KvCache::Impl::TenantCost(const std::string& name) const {
  constexpr uint64_t kEntries = 192;  // in the index; in the list; allocator headers
  return sizeof(Tenant) + kEntries + 2 * name.size();
}

Status KvCache::Impl::MakeRoom(const BlockCounts& counts, uint64_t metadata) {
  Status room = MakeRoomFor(counts, metadata);
  // While others run there will be room again; alone, a request could wait for a pin for ever.
  while (!room && sequences.size() <= 1 && leases.BreakOne()) room = MakeRoomFor(counts, metadata);
  return room;
}

Status KvCache::Impl::MakeRoomFor(const BlockCounts& blocks, uint64_t metadata) {
  leases.Expire();
  uint64_t bytes = metadata;
  const auto for_each_size = [this](auto&& body) {
    for (int kind = 0; kind < kinds(); ++kind) {
      for (int form = 0; form < kMaxKvForms; ++form) body(kind, static_cast<KvForm>(form));
    }
  };
  const auto wanted = [&](int kind, KvForm form) {
    return blocks[static_cast<size_t>(kind)][static_cast<size_t>(form)];
  };
  for_each_size([&](int kind, KvForm form) { bytes += wanted(kind, form) * pool.Cost(kind, form); });
  const uint64_t held = used_bytes() - pool.free_bytes() - unheld_bytes;
  if (bytes > options.limit_bytes || held > options.limit_bytes - bytes) {
    return Fail(ErrorKind::kExhausted,
                "{} of KV memory are needed, but {} of the {} allowed are in use by running sequences; wait "
                "for one to "
                "end, or raise --kv-limit",
                FormatSize(bytes), FormatSize(held), FormatSize(options.limit_bytes));
  }
  while (true) {
    BlockCounts keep{};
    uint64_t from_free = 0;
    for_each_size([&](int kind, KvForm form) {
      const uint64_t reused = std::min<uint64_t>(pool.free_blocks(kind, form), wanted(kind, form));
      keep[static_cast<size_t>(kind)][static_cast<size_t>(form)] = reused;
      from_free += reused * pool.Cost(kind, form);
    });
    if (used_bytes() + bytes - from_free <= options.limit_bytes) return {};
    pool.Trim(keep);
    if (used_bytes() + bytes - from_free <= options.limit_bytes) return {};
    // Everything that is not held can be evicted, and that was enough.
    LARDER_CHECK(EvictOne());
  }
}

bool KvCache::Impl::EvictOne() {
  const auto victim = evictor.Next();
  if (!victim) return false;
  KvNode& node = *victim->node;
  if (victim->kind >= 0) {
    const int kind = victim->kind;
    TellRemoved(node, 1u << kind);
    pool.Return(kind, TakeBlock(node, kind));
    ++totals.evicted_blocks;
    evictor.Update(node);
    return true;
  }
  KvNode& parent = *node.parent;
  ghosts.Add(parent.name, node.published(), clock->WallMs());
  for (int kind = 0; kind < kinds(); ++kind) totals.evicted_blocks += KindBytes(node, kind) > 0;
  leases.Shrink(node);
  FreeNode(node, true);
  evictor.Update(parent);
  return true;
}

Result<KvCache::Impl::BlockSet> KvCache::Impl::TakeBlocks(KvForm form) {
  BlockSet blocks;
  for (int kind = 0; kind < kinds(); ++kind) {
    auto block = pool.Take(kind, form);
    if (!block) {
      ReturnBlocks(std::move(blocks));
      return std::unexpected(std::move(block).error());
    }
    blocks[static_cast<size_t>(kind)] = *std::move(block);
  }
  return blocks;
}

void KvCache::Impl::ReturnBlocks(BlockSet blocks) {
  for (int kind = 0; kind < kinds(); ++kind) {
    AlignedBuffer& block = blocks[static_cast<size_t>(kind)];
    if (block.size() > 0) pool.Return(kind, std::move(block));
  }
}

KvNode& KvCache::Impl::NewNode(int32_t tenant, int32_t depth, BlockSet blocks) {
  auto* node = new KvNode;
  node->id = ++next_id;
  node->tenant = tenant;
  node->depth = depth;
  node->birth = node->last_use = ++counter;
  node->uses = 1;
  ++totals.nodes;
  metadata_bytes += node_cost;
  unheld_bytes += node_cost;
  for (int kind = 0; kind < kinds(); ++kind) {
    AlignedBuffer& block = blocks[static_cast<size_t>(kind)];
    if (block.size() > 0) PutBlock(*node, kind, std::move(block));
  }
  return *node;
}

void KvCache::Impl::FreeNode(KvNode& node, bool evicted) {
  LARDER_CHECK(node.holders == 0 && node.children.empty() && node.lease_ends == 0);
  if (node.writes > 0) tiers->RowsChanged(node);
  RemoveResume(node);
  TellRemoved(node, ResidentKinds(node));
  evictor.Forget(node, evicted);
  for (int kind = 0; kind < kinds(); ++kind) {
    if (KindBytes(node, kind) > 0) pool.Return(kind, TakeBlock(node, kind));
  }
  tree.Erase(node);
  if (node.parent != nullptr) tree.Detach(node);
  if (node.sealed()) --totals.sealed_blocks;
  --totals.nodes;
  metadata_bytes -= node_cost;
  unheld_bytes -= node_cost;
  delete &node;
}

void KvCache::Impl::PutBlock(KvNode& node, int kind, AlignedBuffer block) {
  LARDER_CHECK(!evictor.Held(node, kind));
  node.slots[static_cast<size_t>(kind)].block = std::move(block);
  unheld_bytes += KindBytes(node, kind);
  ++totals.blocks;
  TellStored(node, 1u << kind);
}

AlignedBuffer KvCache::Impl::TakeBlock(KvNode& node, int kind) {
  LARDER_CHECK(!evictor.Held(node, kind) && KindBytes(node, kind) > 0);
  LARDER_CHECK(node.slots[static_cast<size_t>(kind)].aside.size() == 0);  // whom it serves holds the node
  unheld_bytes -= KindBytes(node, kind);
  --totals.blocks;
  return std::exchange(node.slots[static_cast<size_t>(kind)].block, {});
}

void KvCache::Impl::Hold(KvNode& node) {
  if (node.holders++ > 0) return;
  unheld_bytes -= node_cost;
  for (int kind = 0; kind < kinds(); ++kind) {
    if (window(kind) > 0) continue;
    unheld_bytes -= KindBytes(node, kind);
    ++totals.held_blocks;
  }
  evictor.Update(node);
}

void KvCache::Impl::Release(KvNode& node) {
  LARDER_CHECK(node.holders > 0);
  if (--node.holders > 0) return;
  unheld_bytes += node_cost;
  for (int kind = 0; kind < kinds(); ++kind) {
    if (window(kind) > 0) continue;
    unheld_bytes += KindBytes(node, kind);
    --totals.held_blocks;
  }
  evictor.Update(node);
}

void KvCache::Impl::HoldWindow(KvNode& node, int kind) {
  KvNode::Slot& slot = node.slots[static_cast<size_t>(kind)];
  LARDER_CHECK(slot.block.size() > 0);
  if (slot.holders++ > 0) return;
  unheld_bytes -= KindBytes(node, kind);
  ++totals.held_blocks;
  evictor.Update(node);
}

void KvCache::Impl::ReleaseWindow(KvNode& node, int kind) {
  KvNode::Slot& slot = node.slots[static_cast<size_t>(kind)];
  LARDER_CHECK(slot.holders > 0);
  if (--slot.holders > 0) return;
  unheld_bytes += KindBytes(node, kind);
  --totals.held_blocks;
  evictor.Update(node);
}

struct KvCache::Impl::PageRuns final : RunBudget {
  explicit PageRuns(Impl* owner) : impl(owner) {}
  Status Charge(uint64_t bytes) override {
    LARDER_TRY(impl->MakeRoom({}, bytes));
    impl->metadata_bytes += bytes;
    impl->page_run_bytes += bytes;
    return {};
  }
  void Refund(uint64_t bytes) override {
    impl->metadata_bytes -= bytes;
    impl->page_run_bytes -= bytes;
  }
  Impl* impl;
};

std::unique_ptr<PageSource> KvCache::MakePageSource() {
  return std::make_unique<RunPageSource>(impl_->shape.page_bytes(), MakeBudget());
}

std::unique_ptr<RunBudget> KvCache::MakeBudget() { return std::make_unique<Impl::PageRuns>(impl_.get()); }

}  // namespace larder
