// A node of the prefix tree: up to 64 tokens after its parent's, with one block of memory per kind of layer.
// Private to src/kv.
#pragma once

#include <array>
#include <compare>
#include <cstdint>
#include <set>
#include <span>

#include "base/hash.h"
#include "base/memory.h"
#include "kv/shape.h"
#include "store/evict/order.h"

namespace larder {

class KvRestore;
class KvSequence;
struct KvNode;

// A window block that may be evicted, ordered: lowest class first, then least recently used, then oldest.
struct EvictKey {
  int32_t lease_class;  // of the node
  uint64_t last_use;
  uint64_t id;  // of the node
  int kind;     // whose block
  KvNode* node;

  friend std::weak_ordering operator<=>(const EvictKey& a, const EvictKey& b) {
    if (const auto order = a.lease_class <=> b.lease_class; order != 0) return order;
    if (const auto order = a.last_use <=> b.last_use; order != 0) return order;
    if (const auto order = a.id <=> b.id; order != 0) return order;
    return a.kind <=> b.kind;
  }
};
using EvictSet = std::set<EvictKey>;

struct EvictHandle {
  EvictSet* set = nullptr;  // null: not a candidate
  EvictSet::iterator at;
};

// Children are ordered by their tokens, so that the one that agrees longest with a text is next to where the
// text would stand; equal ones (two sequences computed the same at once) by age.
struct ByTokens {
  using is_transparent = void;
  bool operator()(const KvNode* a, const KvNode* b) const;
  bool operator()(const KvNode* a, std::span<const int32_t> b) const;
  bool operator()(std::span<const int32_t> a, const KvNode* b) const;
};

struct KvNode {
  struct Slot {
    AlignedBuffer block;  // empty: not resident; with a codec, rows until the node is sealed, then codes
    // With a codec. Unsealed: where its codes are made, if its writer may fill it. Sealed: its rows, while a
    // sequence ends inside. Else empty; so it is always held, and is counted as such.
    AlignedBuffer aside;
    int32_t holders =
        0;  // windows: sequences that hold this block. A kind that sees everything follows the node.
    int32_t needed = 0;  // windows: resume points whose window includes it
    int32_t leased = 0;  // windows: hard leases that hold this block; part of `holders`
    EvictHandle evict;
  };

  uint64_t id = 0;
  KvNode* parent = nullptr;  // null: a root, or not yet part of the tree (nothing published)
  int32_t tenant = 0;
  int32_t depth = 0;  // index in the chain; a root has -1
  int32_t rows = 0;   // published
  std::array<int32_t, kPageTokens> tokens;
  Digest name;           // once sealed; of a root: where the chain starts
  uint64_t content = 0;  // once sealed: hash of all tokens up to here, without the tenant
  bool indexed = false;  // found by its name; false if other tokens have the same name (a collision)
  KvSequence* writer = nullptr;
  int64_t holders = 0;
  int32_t leased = 0;       // hard leases that hold it; part of `holders`
  int32_t lease_ends = 0;   // leases that end here, hard or soft
  int32_t lease_class = 0;  // 0, or 1 + the highest priority of the soft ones
  uint64_t resume = 0;      // bit r-1: a sequence may want to resume after row r
  uint64_t last_use = 0, uses = 0, birth = 0;
  KvRestore* arriving = nullptr;  // whose reads have not brought all of its layers yet; only theirs to use
  // Of these rows, in tiers below, bit t: tier t. A tier that has let go of them since may not have said so.
  uint8_t given = 0;     // to be written, and not refused
  uint8_t below = 0;     // it has said that it has them
  bool refused = false;  // when last given, no tier took them
  uint16_t writes = 0;   // under way
  std::array<Slot, kMaxKvKinds> slots;
  EvictRank rank;                     // of the eviction policy, once it knows the node
  uint32_t leaf_place = kNotOffered;  // among the nodes that may go
  bool ranked = false;                // the policy knows it
  std::set<KvNode*, ByTokens> children;
  std::set<KvNode*, ByTokens>::iterator sibling;  // in parent->children
  KvNode* next_name = nullptr;                    // chains of the tree's two hash tables
  KvNode* next_content = nullptr;

  bool sealed() const { return rows == kPageTokens; }
  bool idle() const { return holders == leased; }  // nobody runs on it, nothing moves it
  std::span<const int32_t> published() const { return {tokens.data(), static_cast<size_t>(rows)}; }
  int64_t start() const { return int64_t{depth} * kPageTokens; }  // position of the first row
};

// What a node costs besides its blocks: itself, its place among its siblings, its window blocks in ordered
// sets, its place in the order of eviction and what the policy may keep about it.
inline uint64_t NodeCost(int kinds) {
  constexpr uint64_t kAllocatorSlack = 16;
  constexpr uint64_t kTreeEntry = 4 * sizeof(void*) + kAllocatorSlack;
  return sizeof(KvNode) + kAllocatorSlack + kTreeEntry + sizeof(KvNode*) +
         (kTreeEntry + sizeof(EvictKey)) * static_cast<uint64_t>(kinds) + 2 * sizeof(KvNode*);
}

}  // namespace larder
