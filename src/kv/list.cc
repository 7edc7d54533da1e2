// What is in the cache, for people.
#include <vector>

#include "kv/cache_impl.h"

namespace larder {

KvBlockInfo KvCache::Impl::Describe(const KvNode& node) const {
  KvBlockInfo info;
  info.name = names.Block(node.parent->name, node.published()).Hex();
  info.parent = node.parent->name.Hex();
  info.tenant = tenants[static_cast<size_t>(node.tenant)]->name;
  info.depth = node.depth;
  info.rows = node.rows;
  info.sealed = node.sealed();
  info.holders = node.holders;
  info.children = static_cast<int64_t>(node.children.size());
  info.bytes = 0;
  for (int kind = 0; kind < kinds(); ++kind) {
    if (KindBytes(node, kind) == 0) continue;
    info.bytes += KindBytes(node, kind);
    info.kinds.push_back(shape.kinds()[static_cast<size_t>(kind)].name);
  }
  info.uses = node.uses;
  info.last_use = node.last_use;
  info.tokens.assign(node.published().begin(), node.published().end());
  return info;
}

std::vector<KvBlockInfo> KvCache::Impl::List(const std::string& tenant, size_t limit) const {
  std::vector<KvBlockInfo> out;
  for (const auto& owner : tenants) {
    if (owner == nullptr || (!tenant.empty() && owner->name != tenant)) continue;
    // Depth first, so that a chain is listed from its first block to its last.
    std::vector<const KvNode*> open(owner->root.children.rbegin(), owner->root.children.rend());
    while (!open.empty() && out.size() < limit) {
      const KvNode* node = open.back();
      open.pop_back();
      out.push_back(Describe(*node));
      open.insert(open.end(), node->children.rbegin(), node->children.rend());
    }
  }
  return out;
}

HeldBlocks KvCache::Held(const KvSequence& sequence) const {
  HeldBlocks held;
  for (size_t i = 0; i < sequence.path_.size(); ++i) {
    const KvNode& node = *sequence.path_[i];
    for (int kind = 0; kind < impl_->kinds(); ++kind) {
      const auto k = static_cast<size_t>(kind);
      const bool coded = !sequence.codes_.empty() && sequence.codes_[k][i] != nullptr;
      if (sequence.blocks_[k][i] == nullptr && !coded) continue;
      const uint64_t bytes = impl_->KindBytes(node, kind);
      held.bytes += bytes;
      if (node.holders == 1) held.alone += bytes;
    }
  }
  return held;
}

}  // namespace larder
