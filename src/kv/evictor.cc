#include "kv/evictor.h"

#include <utility>

namespace larder {

Evictor::Evictor(const KvShape* shape, std::unique_ptr<EvictPolicy> policy, int64_t resume_stride)
    : shape_(shape), policy_(std::move(policy)), resume_stride_(resume_stride) {}

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

EvictScore Evictor::Score(const KvNode& node) const {
  uint64_t bytes = 0;
  for (const KvNode::Slot& slot : node.slots) bytes += slot.block.size();
  return policy_->Score({.last_use = node.last_use,
                         .uses = node.uses,
                         .birth = node.birth,
                         .depth = node.depth,
                         .rows = node.rows,
                         .bytes = bytes});
}

EvictSet* Evictor::SetOf(const KvNode& node, int kind) {
  if (node.parent == nullptr) return nullptr;  // a root, or not yet published
  const bool leaf = node.holders == 0 && node.children.empty();
  if (kind < 0) return leaf ? &leaves_ : nullptr;
  const KvNode::Slot& slot = node.slots[static_cast<size_t>(kind)];
  if (shape_->kinds()[static_cast<size_t>(kind)].window == 0 || slot.block.size() == 0 || slot.holders > 0) {
    return nullptr;
  }
  if (!Needed(node, kind)) return &spare_;
  return leaf ? nullptr : &kept_;  // a leaf goes whole, at its own turn
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
  handle.at = set->insert({Score(node), node.last_use, node.id, kind, &node}).first;
  handle.set = set;
}

void Evictor::Update(KvNode& node) {
  for (size_t kind = 0; kind < shape_->kinds().size(); ++kind) {
    Place(node, static_cast<int>(kind), node.slots[kind].evict);
  }
  Place(node, -1, node.evict);
}

void Evictor::Forget(KvNode& node) {
  for (KvNode::Slot& slot : node.slots) Remove(slot.evict);
  Remove(node.evict);
}

const EvictKey* Evictor::Next() const {
  for (const EvictSet* set : {&spare_, &leaves_, &kept_}) {
    if (!set->empty()) return &*set->begin();
  }
  return nullptr;
}

}  // namespace larder
