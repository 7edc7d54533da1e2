// Where a sequence can go on: windows that are complete, points worth keeping complete, and tails that others
// extend.
#include <bit>

#include "kv/cache_impl.h"

namespace larder {

// The largest r <= rows such that every window layer has the blocks it needs to go on after r rows.
int64_t KvCache::Impl::UsableRows(std::span<KvNode* const> path, int64_t rows) const {
  const auto cut = [&](int kind) {  // whether `rows` had to be lowered for this kind
    if (window(kind) == 0) return false;
    const int64_t first = WindowStart(rows, window(kind)) / kPageTokens;
    for (int64_t block = (rows - 1) / kPageTokens; block >= first; --block) {
      if (KindBytes(*path[static_cast<size_t>(block)], kind) > 0) continue;
      rows = block * kPageTokens;
      return true;
    }
    return false;
  };
  for (bool changed = true; changed && rows > 0;) {
    changed = false;
    for (int kind = 0; kind < kinds() && rows > 0; ++kind) changed |= cut(kind);
  }
  return rows;
}

bool KvCache::Impl::WindowsComplete(const KvNode& node, int rows) const {
  for (int kind = 0; kind < kinds(); ++kind) {
    if (window(kind) == 0) continue;
    const int64_t start = WindowStart(node.start() + rows, window(kind));
    for (const KvNode* at = &node; !IsRoot(*at) && at->start() + kPageTokens > start; at = at->parent) {
      if (KindBytes(*at, kind) == 0) return false;
    }
  }
  return true;
}

void KvCache::Impl::CountWindow(KvNode& node, int rows, int by) {
  for (int kind = 0; kind < kinds(); ++kind) {
    if (window(kind) == 0) continue;
    const int64_t start = WindowStart(node.start() + rows, window(kind));
    for (KvNode* at = &node; !IsRoot(*at) && at->start() + kPageTokens > start; at = at->parent) {
      at->slots[static_cast<size_t>(kind)].needed += by;
      evictor.Update(*at);
    }
  }
}

// Remembers that somebody may want to go on after `rows` rows of the node. A point whose windows are gone
// already is not worth remembering: it could keep blocks, but nobody could resume there.
void KvCache::Impl::AddResume(KvNode& node, int rows) {
  const uint64_t bit = uint64_t{1} << (rows - 1);
  if ((node.resume & bit) != 0 || !WindowsComplete(node, rows)) return;
  node.resume |= bit;
  CountWindow(node, rows, 1);
}

void KvCache::Impl::RemoveResume(KvNode& node) {
  for (; node.resume != 0; node.resume &= node.resume - 1) {
    CountWindow(node, std::countr_zero(node.resume) + 1, -1);
  }
}

// `to` replaces `from`: who wanted to go on there, or leased it.
void KvCache::Impl::InheritResume(KvNode& from, KvNode& to) {
  leases.Move(from, to);
  for (uint64_t rest = from.resume; rest != 0; rest &= rest - 1) AddResume(to, std::countr_zero(rest) + 1);
}

// The first block becomes the most recent, so that of one chain the suffix is always older than the prefix.
void KvCache::Impl::Touch(std::span<KvNode* const> path, bool use) {
  for (size_t i = path.size(); i-- > 0;) {
    path[i]->last_use = ++counter;
    path[i]->uses += use;
    evictor.Use(*path[i], use);
  }
}

// Drops idle tails that `node` says again and continues. REQUIRES: nobody waits for a pointer to them.
void KvCache::Impl::Supersede(KvNode& node) {
  for (KvNode* sibling : tree.PrefixSiblings(node)) {
    if (!sibling->idle() || sibling->sealed() || !sibling->children.empty()) continue;
    if (!WindowsComplete(node, sibling->rows) && WindowsComplete(*sibling, sibling->rows)) continue;
    InheritResume(*sibling, node);
    FreeNode(*sibling);
  }
}

// After a sequence let go of its last block: of tails that say the same, the longest stays.
void KvCache::Impl::SettleTail(KvNode& node) {
  if (node.sealed()) return;
  Supersede(node);
  if (!node.idle()) return;
  KvNode* longer = tree.ExtendingSibling(node);
  if (longer == nullptr || longer->arriving != nullptr) return;
  if (!WindowsComplete(*longer, node.rows) && WindowsComplete(node, node.rows)) return;
  InheritResume(node, *longer);
  FreeNode(node);
}

}  // namespace larder
