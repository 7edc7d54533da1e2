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
#include "kv/policy.h"
#include "kv/shape.h"

namespace larder {

class KvSequence;
struct KvNode;

// A candidate for eviction, ordered: lowest score first, then least recently used, then oldest.
struct EvictKey {
  EvictScore score;
  uint64_t last_use;
  uint64_t id;  // of the node
  int kind;     // whose window block; -1: the whole node
  KvNode* node;

  friend std::weak_ordering operator<=>(const EvictKey& a, const EvictKey& b) {
    for (size_t i = 0; i < a.score.size(); ++i) {
      if (a.score[i] < b.score[i]) return std::weak_ordering::less;
      if (b.score[i] < a.score[i]) return std::weak_ordering::greater;
    }
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
    AlignedBuffer block;  // empty: not resident
    int32_t holders =
        0;  // windows: sequences that hold this block. A kind that sees everything follows the node.
    int32_t needed = 0;  // windows: resume points whose window includes it
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
  uint64_t resume = 0;  // bit r-1: a sequence may want to resume after row r
  uint64_t last_use = 0, uses = 0, birth = 0;
  std::array<Slot, kMaxKvKinds> slots;
  EvictHandle evict;
  std::set<KvNode*, ByTokens> children;
  std::set<KvNode*, ByTokens>::iterator sibling;  // in parent->children
  KvNode* next_name = nullptr;                    // chains of the tree's two hash tables
  KvNode* next_content = nullptr;

  bool sealed() const { return rows == kPageTokens; }
  std::span<const int32_t> published() const { return {tokens.data(), static_cast<size_t>(rows)}; }
  int64_t start() const { return int64_t{depth} * kPageTokens; }  // position of the first row
};

// What a node costs besides its blocks: itself, its place among its siblings, its candidates in ordered sets.
inline uint64_t NodeCost(int kinds) {
  constexpr uint64_t kAllocatorSlack = 16;
  constexpr uint64_t kTreeEntry = 4 * sizeof(void*) + kAllocatorSlack;
  return sizeof(KvNode) + kAllocatorSlack + kTreeEntry + sizeof(KvNode*) +
         (kTreeEntry + sizeof(EvictKey)) * static_cast<uint64_t>(1 + kinds);
}

}  // namespace larder
