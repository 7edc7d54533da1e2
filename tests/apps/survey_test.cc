// The survey's tree: every leaf has something or the reason why not, and everything has a leaf.
#include "larder/survey.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>

#include "kv/codec/codec.h"
#include "kv/evict/method.h"
#include "kv/reuse/method.h"

namespace larder {
namespace {

std::vector<MethodInfo> AllInfos() {
  std::vector<MethodInfo> infos;
  for (const EvictMethodEntry& entry : EvictMethods()) infos.push_back(entry.info);
  for (const ReuseMethodEntry& entry : ReuseMethods()) infos.push_back(entry.info);
  for (const KvCodecEntry& entry : KvCodecs()) infos.push_back(entry.info);
  return infos;
}

TEST(Survey, EveryMethodNamesALeafOrTwo) {
  for (const MethodInfo& info : AllInfos()) {
    const auto leaves = LeavesOf(info.leaf);
    EXPECT_TRUE(leaves.size() == 1 || leaves.size() == 2) << info.name;
    for (const std::string_view leaf : leaves) {
      EXPECT_NE(std::ranges::find(SurveyLeaves(), leaf, &SurveyLeaf::id), SurveyLeaves().end())
          << info.name << " " << leaf;
    }
  }
}

TEST(Survey, EveryLeafHasSomethingOrAReason) {
  std::map<std::string_view, int> methods;
  for (const MethodInfo& info : AllInfos()) {
    for (const std::string_view leaf : LeavesOf(info.leaf)) ++methods[leaf];
  }
  std::set<std::string_view> ids, reasons;
  for (const SurveyLeaf& leaf : SurveyLeaves()) {
    EXPECT_TRUE(ids.insert(leaf.id).second) << leaf.id;
    EXPECT_FALSE(leaf.title.empty());
    EXPECT_NE(methods[leaf.id] > 0 || !leaf.built_in.empty(), !leaf.gap.empty()) << leaf.id;
    EXPECT_TRUE(leaf.gap.empty() || reasons.insert(leaf.gap).second) << "a reason of its own: " << leaf.id;
    EXPECT_TRUE(!leaf.outside || !leaf.gap.empty()) << leaf.id;
  }
  EXPECT_EQ(ids.size(), 28u);
}

TEST(Survey, LeavesAreSeparatedBySpaces) {
  EXPECT_EQ(LeavesOf("A1"), (std::vector<std::string_view>{"A1"}));
  EXPECT_EQ(LeavesOf("A8 A10"), (std::vector<std::string_view>{"A8", "A10"}));
  EXPECT_TRUE(LeavesOf("").empty());
}

}  // namespace
}  // namespace larder
