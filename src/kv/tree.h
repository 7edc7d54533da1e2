// The prefix tree as a structure: who follows whom, who has which name, who agrees longest with a text. It
// owns no nodes and knows nothing about memory, holders or time.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kv/node.h"

namespace larder {

// Leading tokens that two texts have in common.
int CommonPrefix(std::span<const int32_t> a, std::span<const int32_t> b);

// Hash of all tokens up to the end of a block, whoever's they are. For explanations only, so a fast hash
// does.
uint64_t ContentHash(uint64_t parent, std::span<const int32_t> tokens);

class KvTree {
 public:
  explicit KvTree(size_t expected_nodes);

  // Makes `node`, which has tokens, a child. REQUIRES: parent is a root or sealed.
  void Attach(KvNode& parent, KvNode& node);
  void Detach(KvNode& node);
  // Adds published tokens to a node, in the tree or not, keeping its siblings in order.
  void Append(KvNode& node, std::span<const int32_t> tokens);

  // Sealed nodes by name. Insert answers the node that already has the name, or null after inserting.
  KvNode* Find(const Digest& name) const;
  KvNode* Insert(KvNode& node);
  void Erase(KvNode& node);
  // Another tenant's sealed node that stands for the same text as `tokens` after `parent`, or null.
  const KvNode* FindForeign(const KvNode& parent, std::span<const int32_t> tokens) const;

  struct Agreement {
    KvNode* child = nullptr;
    int rows = 0;
  };
  // The child whose published tokens agree longest with `tokens`; null if there are no children.
  Agreement LongestChild(const KvNode& parent, std::span<const int32_t> tokens) const;
  // Siblings whose tokens are a proper prefix of the node's.
  std::vector<KvNode*> PrefixSiblings(const KvNode& node) const;
  // A sibling whose tokens begin with all of the node's, or null.
  KvNode* ExtendingSibling(const KvNode& node) const;

  uint64_t bytes() const;  // of the tables

 private:
  size_t NameBucket(const Digest& name) const { return DigestHash{}(name) & (by_name_.size() - 1); }
  size_t ContentBucket(uint64_t content) const { return content & (by_content_.size() - 1); }

  std::vector<KvNode*> by_name_, by_content_;  // heads of chains; sizes are powers of two and fixed
};

}  // namespace larder
