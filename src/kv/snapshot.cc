// What is in memory, as events: told while it changes, and as a whole for who has missed something.
#include <algorithm>
#include <vector>

#include "kv/cache_impl.h"

namespace larder {

uint32_t KvCache::Impl::ResidentKinds(const KvNode& node) const {
  uint32_t kinds_here = 0;
  for (int kind = 0; kind < kinds(); ++kind) {
    if (KindBytes(node, kind) > 0) kinds_here |= 1u << kind;
  }
  return kinds_here;
}

// Only what is found by its name is told: full blocks.
void KvCache::Impl::TellStored(const KvNode& node, uint32_t stored) {
  if (!node.indexed || quiet_events || stored == 0) return;
  events.Stored(EventTier::kMemory, tenants[static_cast<size_t>(node.tenant)]->name, node.name,
                node.parent->name, node.published(), stored);
}

void KvCache::Impl::TellRemoved(const KvNode& node, uint32_t removed) {
  if (!node.indexed || quiet_events || removed == 0) return;
  events.Removed(EventTier::kMemory, tenants[static_cast<size_t>(node.tenant)]->name, node.name, removed);
}

void KvCache::Impl::TellCleared(const Tenant& tenant) {
  events.Cleared(EventTier::kMemory, tenant.name);
  std::vector<const KvNode*> open(tenant.root.children.begin(), tenant.root.children.end());
  while (!open.empty()) {
    const KvNode* node = open.back();
    open.pop_back();
    TellStored(*node, ResidentKinds(*node));
    open.insert(open.end(), node->children.begin(), node->children.end());
  }
}

std::vector<KvEvent> KvCache::Impl::Snapshot(const std::string& tenant, uint64_t& cursor,
                                             size_t limit) const {
  std::vector<const KvNode*> found, open;
  for (const auto& owner : tenants) {
    if (owner == nullptr || (!tenant.empty() && owner->name != tenant)) continue;
    open.insert(open.end(), owner->root.children.begin(), owner->root.children.end());
  }
  while (!open.empty()) {
    const KvNode* node = open.back();
    open.pop_back();
    if (node->indexed && node->id > cursor) found.push_back(node);
    open.insert(open.end(), node->children.begin(), node->children.end());
  }
  // By age, so that what comes while pages are asked for stands behind them.
  const size_t count = std::min(limit, found.size());
  std::ranges::partial_sort(found, found.begin() + static_cast<ptrdiff_t>(count), {}, &KvNode::id);
  std::vector<KvEvent> page;
  for (size_t i = 0; i < count; ++i) {
    const KvNode& node = *found[i];
    page.push_back({.tenant = tenants[static_cast<size_t>(node.tenant)]->name,
                    .name = node.name,
                    .parent = node.parent->name,
                    .kinds = ResidentKinds(node),
                    .rows = node.rows,
                    .tokens = {node.published().begin(), node.published().end()}});
  }
  cursor = count < found.size() ? found[count - 1]->id : 0;
  return page;
}

int64_t KvCache::Impl::CachedRows(const std::string& tenant) const {
  int64_t rows = 0;
  std::vector<const KvNode*> open;
  for (const auto& owner : tenants) {
    if (owner != nullptr && owner->name == tenant) open.push_back(&owner->root);
  }
  while (!open.empty()) {
    const KvNode* node = open.back();
    open.pop_back();
    rows += node->rows;
    open.insert(open.end(), node->children.begin(), node->children.end());
  }
  return rows;
}

}  // namespace larder
