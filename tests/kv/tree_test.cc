// The prefix tree and the list of ghosts, each against the plainest way to say the same.
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <random>

#include "kv/ghosts.h"
#include "kv/tree.h"

namespace larder {
namespace {

TEST(Tree, AgreesWithASearchThroughAllChildren) {
  std::mt19937 random(1);
  for (int round = 0; round < 30; ++round) {
    KvTree tree(64);
    KvNode root;
    root.depth = -1;
    std::vector<std::unique_ptr<KvNode>> nodes;
    const auto text = [&](int most) {
      std::vector<int32_t> tokens(1 + random() % static_cast<uint32_t>(most));
      for (int32_t& token : tokens) token = random() % 6 == 0;
      return tokens;
    };
    for (int i = 0; i < 200; ++i) {
      if (!nodes.empty() && random() % 2 == 0) {  // one of them grows, and may change places
        KvNode& node = *nodes[random() % nodes.size()];
        if (node.rows < 40) tree.Append(node, text(20));
        continue;
      }
      nodes.push_back(std::make_unique<KvNode>());
      nodes.back()->id = static_cast<uint64_t>(i);
      tree.Append(*nodes.back(), text(20));
      tree.Attach(root, *nodes.back());
    }
    ASSERT_TRUE(std::is_sorted(root.children.begin(), root.children.end(), ByTokens{}));
    for (int i = 0; i < 200; ++i) {
      const auto query = text(60);
      int longest = 0;
      for (const auto& node : nodes) longest = std::max(longest, CommonPrefix(node->published(), query));
      ASSERT_EQ(tree.LongestChild(root, query).rows, longest);
    }
    for (const auto& node : nodes) {
      std::vector<KvNode*> expected;
      bool extended = false;
      for (const auto& other : nodes) {
        const int rows = CommonPrefix(node->published(), other->published());
        if (rows == other->rows && other->rows < node->rows) expected.push_back(other.get());
        extended |= other != node && rows == node->rows;
      }
      auto found = tree.PrefixSiblings(*node);
      std::ranges::sort(found);
      std::ranges::sort(expected);
      ASSERT_EQ(found, expected);
      ASSERT_EQ(tree.ExtendingSibling(*node) != nullptr, extended);
    }
    for (const auto& node : nodes) tree.Detach(*node);
  }
}

TEST(Tree, NamesAreUnique) {
  KvTree tree(1);
  KvNode a, b;
  a.name.bytes[5] = b.name.bytes[5] = 7;
  EXPECT_EQ(tree.Insert(a), nullptr);
  EXPECT_EQ(tree.Insert(b), &a);
  EXPECT_FALSE(b.indexed);
  tree.Erase(b);
  EXPECT_EQ(tree.Find(a.name), &a);
  tree.Erase(a);
  EXPECT_EQ(tree.Find(a.name), nullptr);
}

std::vector<int32_t> Numbers(int from, int n) {
  std::vector<int32_t> tokens(static_cast<size_t>(n));
  for (int i = 0; i < n; ++i) tokens[static_cast<size_t>(i)] = from + i;
  return tokens;
}

TEST(Ghosts, FindTheLatestThatAgreesLongerThanWhatIsThere) {
  GhostList ghosts(100);
  const Digest parent;
  const auto text = Numbers(0, 64);
  ghosts.Add(parent, std::span(text).first(20), 1);
  EXPECT_EQ(ghosts.Find(parent, text, 0), 1);
  EXPECT_EQ(ghosts.Find(parent, text, 19), 1);
  EXPECT_EQ(ghosts.Find(parent, text, 20), std::nullopt);
  ghosts.Add(parent, text, 2);
  EXPECT_EQ(ghosts.Find(parent, text, 20), 2);
  EXPECT_EQ(ghosts.Find(parent, std::span(text).first(3), 0), 2);
  EXPECT_EQ(ghosts.Find(parent, Numbers(1, 64), 0), std::nullopt);
  Digest other;
  other.bytes[3] = 1;
  EXPECT_EQ(ghosts.Find(other, text, 0), std::nullopt);
}

TEST(Ghosts, ForgetTheOldestAndKeepTheirSize) {
  GhostList ghosts(10);
  const uint64_t bytes = ghosts.bytes();
  for (int i = 0; i < 25; ++i) ghosts.Add(Digest{}, Numbers(100 * i, 64), i);
  for (int i = 0; i < 25; ++i) {
    EXPECT_EQ(ghosts.Find(Digest{}, Numbers(100 * i, 64), 0).has_value(), i >= 15) << i;
  }
  EXPECT_EQ(ghosts.bytes(), bytes);
  EXPECT_EQ(GhostList::BytesFor(10), bytes);
}

}  // namespace
}  // namespace larder
