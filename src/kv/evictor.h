// Who may be evicted, in order, at all times: finding the next victim is O(log n), never a scan.
//   spare  window blocks nobody holds and no resume point needs: they go first, the least recently used first
//   leaves nodes nobody holds and nothing follows, in the policy's order (store/evict); what a soft lease
//          covers goes after all that none does
//   kept   window blocks that a resume point needs, inside nodes that cannot go yet: the last resort
#pragma once

#include <cstdint>
#include <memory>
#include <optional>

#include "kv/node.h"
#include "store/evict/order.h"

namespace larder {

// First row that a window layer must still see to go on after `length` rows, or to run row length-1 once more
// (a full hit that needs logits), hence not length - window + 1.
inline int64_t WindowStart(int64_t length, int window) { return length > window ? length - window : 0; }

class Evictor {
 public:
  Evictor(const KvShape* shape, std::unique_ptr<EvictPolicy> policy, int64_t resume_stride);

  // Sorts a node in again; to be called at once after anything that matters about it changed.
  void Update(KvNode& node);
  // The same where last_use changed; `again`: because of another request.
  void Use(KvNode& node, bool again);
  // Takes it out of everything. `evicted`: because it was the next to go.
  void Forget(KvNode& node, bool evicted);

  struct Victim {
    KvNode* node;
    int kind;  // whose window block; -1: the node with all its blocks
  };
  std::optional<Victim> Next();

  static BlockMeta Meta(const KvNode& node);  // what policies see
  const EvictPolicy& policy() const { return leaves_.policy(); }
  // Whether a resume point, or the stride, wants this window block.
  bool Needed(const KvNode& node, int kind) const;
  bool Held(const KvNode& node, int kind) const;
  // Where a window block belongs, null: nowhere, and whether a node is among the leaves; for Update and for
  // checking.
  EvictSet* SetOf(const KvNode& node, int kind);
  static bool IsLeaf(const KvNode& node);
  bool Sound() { return leaves_.Sound(); }

 private:
  struct Host {
    using Handle = KvNode*;
    static BlockMeta Meta(const KvNode* node) { return Evictor::Meta(*node); }
    static uint64_t LastUse(const KvNode* node) { return node->last_use; }
    static int32_t Class(const KvNode* node) { return node->lease_class; }
    static EvictRank Rank(const KvNode* node) { return node->rank; }
    static void SetRank(KvNode* node, const EvictRank& rank) { node->rank = rank; }
    static uint32_t Place(const KvNode* node) { return node->leaf_place; }
    static void SetPlace(KvNode* node, uint32_t place) { node->leaf_place = place; }
  };
  void Place(KvNode& node, int kind, EvictHandle& handle);
  static void Remove(EvictHandle& handle);

  const KvShape* shape_;
  int64_t resume_stride_;
  EvictSet spare_, kept_;
  EvictOrder<Host> leaves_;  // the policy knows all nodes that are sealed or were leaves once
};

}  // namespace larder
