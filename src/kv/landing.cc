// What was read joins the prefix tree: at once when all of it is here, or marked as arriving before that.
#include <algorithm>

#include "kv/cache_impl.h"
#include "kv/restore.h"
#include "kv/tiers.h"

namespace larder {
namespace {

int64_t RowsOf(std::span<const int32_t> tokens) { return static_cast<int64_t>(tokens.size()); }

}  // namespace

// Gives a node the blocks of kinds that it has not.
void KvTiers::LandKinds(KvRestore& restore, KvNode& node, size_t index) {
  KvRestore::Block& block = restore.blocks_[index];
  for (int kind = 0; kind < cache_.kinds(); ++kind) {
    AlignedBuffer memory = std::exchange(block.memory[static_cast<size_t>(kind)], {});
    if (memory.size() == 0) continue;
    if (cache_.KindBytes(node, kind) == 0) {
      cache_.PutBlock(node, kind, std::move(memory));
    } else {
      cache_.pool.Return(kind, std::move(memory));
    }
  }
  cache_.evictor.Update(node);
}

// The node of block `index` after `parent`: one that somebody made meanwhile, or a new one. Null: its bytes
// did not arrive.
KvNode* KvTiers::LandNode(KvRestore& restore, KvNode& parent, size_t index) {
  const auto tokens = TokensOf(restore, index);
  const KvTree::Agreement twin = cache_.tree.LongestChild(parent, tokens);
  if (twin.rows == RowsOf(tokens)) {
    if (twin.child->arriving != nullptr) return nullptr;
    if (twin.child->rows == RowsOf(tokens)) LandKinds(restore, *twin.child, index);
    return twin.child;
  }
  KvRestore::Block& block = restore.blocks_[index];
  const auto name_kind = static_cast<size_t>(cache_.name_kind);
  if (block.memory[name_kind].size() == 0) return nullptr;

  cache_.metadata_bytes -= cache_.node_cost;
  restore.charged_metadata_ -= cache_.node_cost;
  KvNode& node =
      cache_.NewNode(restore.tenant_, static_cast<int32_t>(index), std::exchange(block.memory, {}));
  cache_.tree.Append(node, tokens);
  if (!cache_.IsRoot(parent) && !parent.children.empty()) cache_.AddResume(parent, kPageTokens);
  cache_.tree.Attach(parent, node);
  // Tiers above the one that it came from do not have it.
  const int from = block.tier[name_kind];
  node.given = static_cast<uint8_t>((1u << options_.tiers.size()) - (1u << from));
  node.below = static_cast<uint8_t>(1u << from);
  if (node.sealed()) {
    node.name = block.name;
    node.content = ContentHash(parent.content, tokens);
    ++cache_.totals.sealed_blocks;
    if (cache_.tree.Insert(node) != nullptr) ++cache_.totals.collisions;
    cache_.TellStored(node, cache_.ResidentKinds(node));
    if (!restore.started_) cache_.Supersede(node);
  }
  if (restore.started_) {
    node.arriving = &restore;
    restore.landed_.push_back(&node);
  }
  cache_.evictor.Update(node);
  const bool tail = restore.tail_rows_ > 0 && index + 1 == restore.blocks_.size();
  restore.rows_[static_cast<size_t>(from)] += tail ? restore.tail_rows_ : kPageTokens;
  Keep(node);
  return &node;
}

void KvTiers::Land(KvRestore& restore) {
  const size_t known = std::min(restore.path_.size(), restore.blocks_.size());
  // Nodes that were there get their windows back.
  for (size_t b = 0; b < known; ++b) LandKinds(restore, *restore.path_[b], b);
  LandFrom(restore, known, restore.held_);
}

// Blocks from `first` on, up to one that did not arrive.
void KvTiers::LandFrom(KvRestore& restore, size_t first, KvNode* parent) {
  size_t b = first;
  for (; b < restore.blocks_.size(); ++b) {
    KvNode* node = LandNode(restore, parent != nullptr ? *parent : cache_.root(restore.tenant_), b);
    if (node == nullptr) break;
    cache_.Hold(*node);
    parent = restore.held_ = node;
    if (!node->sealed()) break;
  }
  if (parent != nullptr && parent->rows > 0) cache_.AddResume(*parent, parent->rows);
  restore.gap_end_ = 0;
  const auto name_kind = static_cast<size_t>(cache_.name_kind);
  const auto arrived = [&](const KvRestore::Block& block) { return block.memory[name_kind].size() > 0; };
  size_t gap = b + 1;  // behind the blocks that are missing in a row
  while (gap < restore.blocks_.size() && !arrived(restore.blocks_[gap])) ++gap;
  if (gap < restore.blocks_.size()) restore.gap_end_ = static_cast<int64_t>(gap) * kPageTokens;
  if (!restore.started_) Finish(restore);
}

// Until here the restore holds the chain above the gap; from here on the one below it, too.
void KvTiers::CloseGap(KvRestore& restore, KvNode& parent) {
  LARDER_CHECK(restore.gap_end_ == parent.start() + kPageTokens && parent.sealed());
  KvNode* before = restore.held_;
  HoldChain(parent);
  if (before != nullptr) ReleaseChain(*before);
  restore.held_ = &parent;
  LandFrom(restore, static_cast<size_t>(parent.depth) + 1, &parent);
}

void KvTiers::Finish(KvRestore& restore) {
  restore.phase_ = KvRestore::Phase::kDone;
  for (const Digest& name : restore.registered_) reading_.erase(name);
  restore.registered_.clear();
  if (restore.gap_end_ == 0) ReturnMemory(restore);
}

void KvTiers::ReturnMemory(KvRestore& restore) {
  cache_.metadata_bytes -= std::exchange(restore.charged_metadata_, 0);
  for (KvRestore::Block& block : restore.blocks_) {
    for (int kind = 0; kind < cache_.kinds(); ++kind) {
      AlignedBuffer& memory = block.memory[static_cast<size_t>(kind)];
      if (memory.size() > 0) cache_.pool.Return(kind, std::exchange(memory, {}));
    }
  }
}

void KvTiers::MoveHolds(KvNode& from, KvNode& to) {
  for (KvRestore* restore : restores_) {
    std::erase(restore->landed_, &from);
    if (restore->held_ != &from) continue;
    cache_.Hold(to);
    cache_.Release(from);
    restore->held_ = &to;
  }
}

void KvTiers::ReturnLate(KvRestore& restore) {
  for (auto& [kind, memory] : std::exchange(restore.late_, {})) cache_.pool.Return(kind, std::move(memory));
}

// Of blocks that were begun with and did not all arrive: those before the first bad one are good.
void KvTiers::DropFailed(KvRestore& restore) {
  size_t good = SIZE_MAX;  // blocks before this one
  bool ended = true;
  for (const auto& reading : restore.readings_) {
    ended &= reading->ended;
    for (size_t i = 0; i < reading->items.size(); ++i) {
      if (!reading->status[i]) good = std::min(good, reading->items[i].block);
    }
  }
  std::vector<KvNode*> landed = std::exchange(restore.landed_, {});
  while (!landed.empty()) {
    KvNode& node = *landed.back();
    landed.pop_back();
    node.arriving = nullptr;
    if (static_cast<size_t>(node.depth) < good) {
      Keep(node);
    } else {
      // Nobody else could hold it or go on from it.
      KvNode& parent = *node.parent;
      if (!ended) {
        cache_.TellRemoved(node, cache_.ResidentKinds(node));
        restore.late_.emplace_back(0, cache_.TakeBlock(node, 0));
      }
      cache_.FreeNode(node);
      if (!cache_.IsRoot(parent)) cache_.evictor.Update(parent);
    }
  }
}

// Gives back what is held for whoever goes on from it, but not what tiers may still write to. REQUIRES: none
// of its reads is on its way, and nobody goes on from it.
void KvTiers::LetGo(KvRestore& restore) {
  Finish(restore);
  ReturnMemory(restore);
  if (restore.held_ != nullptr) ReleaseChain(*std::exchange(restore.held_, nullptr));
  DropFailed(restore);
}

void KvTiers::DropAbandoned() {
  for (const Restore& restore : open_reads_) {
    if (restore.use_count() > 1) continue;
    bool over = true;
    for (const auto& reading : restore->readings_) {
      if (!reading->over) options_.tiers[reading->tier]->Cancel(reading->ticket);
      over &= reading->over;
    }
    if (over) LetGo(*restore);
  }
}

void KvTiers::Abandon(KvRestore& restore) {
  LetGo(restore);
  ReturnLate(restore);
  --cache_.tenants[static_cast<size_t>(restore.tenant_)]->sequences;
  cache_.DropTenantIfUnused(restore.tenant_);
  restores_.erase(&restore);
  restore.tiers_ = nullptr;
}

}  // namespace larder
