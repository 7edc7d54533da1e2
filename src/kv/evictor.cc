#include "kv/evictor.h"

#include <cstring>
#include <utility>

namespace larder {

Evictor::Evictor(const KvShape* shape, std::unique_ptr<EvictPolicy> policy, int64_t resume_stride)
    : shape_(shape), resume_stride_(resume_stride), leaves_(std::move(policy), {}) {}

bool Evictor::Held(const KvNode& node, int kind) const {
  const bool window = shape_->kinds()[static_cast<size_t>(kind)].window > 0;
  return window ? node.slots[static_cast<size_t>(kind)].holders > 0 : node.holders > 0;
}

bool Evictor::Needed(const KvNode& node, int kind) const {
  if (node.slots[static_cast<size_t>(kind)].needed > 0) return true;
  if (resume_stride_ <= 0) return false;
  // The first multiple of the stride after the block's first row: does its window reach back into the block?
  const int64_t point = (node.start() / resume_stride_ + 1) * resume_stride_;
  return WindowStart(point, shape_->kinds()[static_cast<size_t>(kind)].window) < node.start() + kPageTokens;
}

BlockMeta Evictor::Meta(const KvNode& node) {
  BlockMeta meta{.last_use = node.last_use,
                 .uses = node.uses,
                 .birth = node.birth,
                 .start = node.start(),
                 .rows = node.rows};
  if (node.sealed()) std::memcpy(&meta.key, node.name.bytes.data(), sizeof meta.key);
  for (const KvNode::Slot& slot : node.slots) meta.bytes += slot.block.size();
  return meta;
}

bool Evictor::IsLeaf(const KvNode& node) {
  // Without a parent it is a root, or not yet published.
  return node.parent != nullptr && node.holders == 0 && node.children.empty();
}

EvictSet* Evictor::SetOf(const KvNode& node, int kind) {
  if (node.parent == nullptr) return nullptr;
  const KvNode::Slot& slot = node.slots[static_cast<size_t>(kind)];
  if (shape_->kinds()[static_cast<size_t>(kind)].window == 0 || slot.block.size() == 0 || slot.holders > 0) {
    return nullptr;
  }
  if (!Needed(node, kind)) return &spare_;
  return IsLeaf(node) ? nullptr : &kept_;  // a leaf goes whole, at its own turn
}

void Evictor::Remove(EvictHandle& handle) {
  if (handle.set == nullptr) return;
  handle.set->erase(handle.at);
  handle.set = nullptr;
}

void Evictor::Place(KvNode& node, int kind, EvictHandle& handle) {
  Remove(handle);
  EvictSet* set = SetOf(node, kind);
  if (set == nullptr) return;
  handle.at = set->insert({node.lease_class, node.last_use, node.id, kind, &node}).first;
  handle.set = set;
}

void Evictor::Update(KvNode& node) {
  for (size_t kind = 0; kind < shape_->kinds().size(); ++kind) {
    Place(node, static_cast<int>(kind), node.slots[kind].evict);
  }
  const bool leaf = IsLeaf(node);
  // The policy hears of a block once it has a name, which it may remember, or none but its turn.
  if (!node.ranked && (leaf || (node.parent != nullptr && node.sealed()))) {
    leaves_.Enter(&node);
    node.ranked = true;
  }
  if (!node.ranked) return;
  if (leaf) {
    leaves_.Resort(&node);
    leaves_.Offer(&node);
  } else {
    leaves_.Withdraw(&node);
  }
}

void Evictor::Use(KvNode& node, bool again) {
  if (node.ranked) leaves_.Use(&node, again);
  Update(node);
}

void Evictor::Forget(KvNode& node, bool evicted) {
  for (KvNode::Slot& slot : node.slots) Remove(slot.evict);
  if (node.ranked) leaves_.Leave(&node, evicted);
  node.ranked = false;
}

std::optional<Evictor::Victim> Evictor::Next() {
  if (!spare_.empty()) return Victim{spare_.begin()->node, spare_.begin()->kind};
  if (const auto leaf = leaves_.Next()) return Victim{*leaf, -1};
  if (!kept_.empty()) return Victim{kept_.begin()->node, kept_.begin()->kind};
  return std::nullopt;
}

}  // namespace larder
