#include "kv/tree.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <iterator>

#include "base/result.h"

namespace larder {
namespace {

bool Less(std::span<const int32_t> a, std::span<const int32_t> b) {
  return std::lexicographical_compare(a.begin(), a.end(), b.begin(), b.end());
}

// Takes `node` out of the chain that begins at `head`.
void Unlink(KvNode*& head, KvNode& node, KvNode* KvNode::* next) {
  KvNode** at = &head;
  while (*at != &node) {
    LARDER_CHECK(*at != nullptr);
    at = &((*at)->*next);
  }
  *at = node.*next;
  node.*next = nullptr;
}

}  // namespace

bool ByTokens::operator()(const KvNode* a, const KvNode* b) const {
  if (Less(a->published(), b->published())) return true;
  if (Less(b->published(), a->published())) return false;
  return a->id < b->id;
}
bool ByTokens::operator()(const KvNode* a, std::span<const int32_t> b) const {
  return Less(a->published(), b);
}
bool ByTokens::operator()(std::span<const int32_t> a, const KvNode* b) const {
  return Less(a, b->published());
}

int CommonPrefix(std::span<const int32_t> a, std::span<const int32_t> b) {
  const size_t n = std::min(a.size(), b.size());
  return static_cast<int>(std::mismatch(a.begin(), a.begin() + static_cast<ptrdiff_t>(n), b.begin()).first -
                          a.begin());
}

uint64_t ContentHash(uint64_t parent, std::span<const int32_t> tokens) {
  std::array<int32_t, kPageTokens + 2> text;
  LARDER_CHECK(tokens.size() <= kPageTokens);
  std::memcpy(text.data(), &parent, sizeof parent);
  std::copy(tokens.begin(), tokens.end(), text.begin() + 2);
  return Checksum64(std::as_bytes(std::span(text).first(tokens.size() + 2)));
}

KvTree::KvTree(size_t expected_nodes)
    : by_name_(std::bit_ceil(std::max<size_t>(expected_nodes, 64))), by_content_(by_name_.size()) {}

void KvTree::Attach(KvNode& parent, KvNode& node) {
  LARDER_CHECK(node.parent == nullptr && node.rows > 0 && (parent.depth < 0 || parent.sealed()));
  node.parent = &parent;
  node.sibling = parent.children.insert(&node).first;
}

void KvTree::Detach(KvNode& node) {
  node.parent->children.erase(node.sibling);
  node.parent = nullptr;
}

void KvTree::Append(KvNode& node, std::span<const int32_t> tokens) {
  LARDER_CHECK(node.rows + tokens.size() <= kPageTokens);
  const auto extend = [&] {
    std::copy(tokens.begin(), tokens.end(), node.tokens.begin() + node.rows);
    node.rows += static_cast<int32_t>(tokens.size());
  };
  if (node.parent == nullptr || node.parent->children.size() == 1) return extend();
  auto entry = node.parent->children.extract(node.sibling);
  extend();
  node.sibling = node.parent->children.insert(std::move(entry)).position;
}

KvNode* KvTree::Find(const Digest& name) const {
  KvNode* node = by_name_[NameBucket(name)];
  while (node != nullptr && node->name != name) node = node->next_name;
  return node;
}

KvNode* KvTree::Insert(KvNode& node) {
  if (KvNode* other = Find(node.name); other != nullptr) return other;
  KvNode*& named = by_name_[NameBucket(node.name)];
  node.next_name = named;
  named = &node;
  KvNode*& content = by_content_[ContentBucket(node.content)];
  node.next_content = content;
  content = &node;
  node.indexed = true;
  return nullptr;
}

void KvTree::Erase(KvNode& node) {
  if (!node.indexed) return;
  Unlink(by_name_[NameBucket(node.name)], node, &KvNode::next_name);
  Unlink(by_content_[ContentBucket(node.content)], node, &KvNode::next_content);
  node.indexed = false;
}

const KvNode* KvTree::FindForeign(const KvNode& parent, std::span<const int32_t> tokens) const {
  const uint64_t content = ContentHash(parent.content, tokens);
  const KvNode* node = by_content_[ContentBucket(content)];
  while (node != nullptr && (node->content != content || node->tenant == parent.tenant))
    node = node->next_content;
  return node;
}

KvTree::Agreement KvTree::LongestChild(const KvNode& parent, std::span<const int32_t> tokens) const {
  const auto& children = parent.children;
  Agreement best;
  const auto consider = [&](KvNode* child) {
    const int rows = CommonPrefix(child->published(), tokens);
    if (best.child == nullptr || rows > best.rows) best = {child, rows};
  };
  const auto after = children.lower_bound(tokens);
  if (after != children.end()) consider(*after);
  if (after != children.begin()) consider(*std::prev(after));
  return best;
}

std::vector<KvNode*> KvTree::PrefixSiblings(const KvNode& node) const {
  // A sibling before the node is either a prefix of it or agrees on some rows only; then every prefix still
  // to be found has at most that many rows and stands no later than the text of exactly those rows.
  std::vector<KvNode*> found;
  const auto& siblings = node.parent->children;
  auto at = siblings.lower_bound(node.published());
  while (at != siblings.begin()) {
    KvNode* sibling = *--at;
    const int rows = CommonPrefix(sibling->published(), node.published());
    if (rows == sibling->rows) {
      found.push_back(sibling);
    } else if (rows > 0) {
      at = siblings.upper_bound(node.published().first(static_cast<size_t>(rows)));
    } else {
      break;
    }
  }
  return found;
}

KvNode* KvTree::ExtendingSibling(const KvNode& node) const {
  const auto& siblings = node.parent->children;
  const auto next = std::next(node.sibling);
  if (next != siblings.end() && CommonPrefix((*next)->published(), node.published()) == node.rows)
    return *next;
  // Equal texts stand side by side in order of age: the older one may be the one before.
  if (node.sibling != siblings.begin()) {
    KvNode* previous = *std::prev(node.sibling);
    if (previous->rows == node.rows && CommonPrefix(previous->published(), node.published()) == node.rows) {
      return previous;
    }
  }
  return nullptr;
}

uint64_t KvTree::bytes() const { return (by_name_.capacity() + by_content_.capacity()) * sizeof(KvNode*); }

}  // namespace larder
