// Who may be evicted, in order, at all times: finding the next victim is O(log n), never a scan. Three sets:
//   spare  window blocks nobody holds and no resume point needs: they go first
//   leaves nodes nobody holds and nothing follows, in the policy's order
//   kept   window blocks that a resume point needs, inside nodes that cannot go yet: the last resort
#pragma once

#include <cstdint>
#include <memory>

#include "kv/node.h"

namespace larder {

// First row that a window layer must still see to go on after `length` rows, or to run row length-1 once more
// (a full hit that needs logits), hence not length - window + 1.
inline int64_t WindowStart(int64_t length, int window) { return length > window ? length - window : 0; }

class Evictor {
 public:
  Evictor(const KvShape* shape, std::unique_ptr<EvictPolicy> policy, int64_t resume_stride);

  // Sorts a node in again; to be called after anything that matters about it changed.
  void Update(KvNode& node);
  // Takes it out of all sets.
  void Forget(KvNode& node);
  // The next to go, or null. kind -1: the node with all its blocks; else the block of that kind.
  const EvictKey* Next() const;

  const EvictPolicy& policy() const { return *policy_; }
  // Whether a resume point, or the stride, wants this window block.
  bool Needed(const KvNode& node, int kind) const;
  bool Held(const KvNode& node, int kind) const;
  // Where a node and its window blocks belong and under which key; for Update and for checking. Null: in no
  // set.
  EvictSet* SetOf(const KvNode& node, int kind);
  EvictScore Score(const KvNode& node) const;

 private:
  void Place(KvNode& node, int kind, EvictHandle& handle);
  static void Remove(EvictHandle& handle);

  const KvShape* shape_;
  std::unique_ptr<EvictPolicy> policy_;
  int64_t resume_stride_;
  EvictSet spare_, leaves_, kept_;
};

}  // namespace larder
