// MiKV by hand: which entries stay rows, with scores that are given.
#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <set>

#include "kv/evict/method.h"
#include "tests/kv/heap_pages.h"

namespace larder {
namespace {

constexpr int kDim = 32, kHeads = 2;

class OneLane {
 public:
  OneLane(const std::string& spec, const std::vector<float>& scores)
      : shape_(*KvShape::Create({0}, 1, kDim, KvType::kI16)),
        pages_(shape_.page_bytes()),
        method_(*CreateEvictMethod(spec, {.layers = 1, .head_dim = kDim})),
        lanes_(&shape_, &pages_, PositionMode::kKeep, {}) {
    std::mt19937 random(2);
    std::normal_distribution<float> normal;
    std::vector<float> k(kDim), v(kDim);
    for (size_t i = 0; i < scores.size(); ++i) {
      for (float& x : k) x = normal(random);
      for (float& x : v) x = normal(random);
      EXPECT_TRUE(lanes_.Append(0, 0, k.data(), v.data(), static_cast<int32_t>(i)));
    }
    // Both query heads attend alike.
    ColumnScores columns;
    columns.stride = std::ssize(scores);
    columns.sums = scores;
    columns.sums.insert(columns.sums.end(), scores.begin(), scores.end());
    const auto rows = std::ssize(scores);
    EvictView view{shape_, kHeads, layers_, rows, rows, lanes_, {&columns, 1}};
    EXPECT_TRUE(method_->AfterPrompt(view));
  }
  const LaneTable& lanes() const { return lanes_; }
  // Positions that are rows.
  std::set<int32_t> Rows() const {
    const auto positions = lanes_.Positions(0, 0);
    const auto coded = static_cast<size_t>(lanes_.CodedPages(0, 0)) * kPageTokens;
    return {positions.begin() + static_cast<int64_t>(coded), positions.end()};
  }

 private:
  KvShape shape_;
  HeapPages pages_;
  std::unique_ptr<EvictMethod> method_;
  LaneTable lanes_;
  const std::vector<int> layers_ = {0};
};

std::vector<float> RandomScores(uint32_t seed, size_t n) {
  std::mt19937 random(seed);
  std::vector<float> scores(n);
  for (float& score : scores) score = static_cast<float>(random() % 40);  // with ties
  return scores;
}

TEST(Mikv, TheLowestBecomeCodesAndNothingIsDropped) {
  for (uint32_t seed = 0; seed < 10; ++seed) {
    const size_t n = 150 + 37 * seed;
    const auto scores = RandomScores(seed, n);
    const OneLane lane("mikv:budget=60,window=16,kernel=1,sinks=4", scores);
    ASSERT_EQ(lane.lanes().Length(0, 0), static_cast<int64_t>(n));
    // Sinks and the window first, then by score; the later of equal ones is the lower.
    std::vector<int32_t> ranked;
    for (int32_t i = 4; i < static_cast<int32_t>(n) - 16; ++i) ranked.push_back(i);
    std::ranges::stable_sort(ranked, std::greater(),
                             [&](int32_t i) { return scores[static_cast<size_t>(i)]; });
    const size_t codes = (n - 60) / kPageTokens * kPageTokens;
    std::set<int32_t> rows;
    for (int32_t i = 0; i < static_cast<int32_t>(n); ++i) {
      if (i < 4 || i >= static_cast<int32_t>(n) - 16) rows.insert(i);
    }
    rows.insert(ranked.begin(), ranked.end() - static_cast<int64_t>(codes));
    EXPECT_EQ(lane.Rows(), rows) << n;
  }
}

TEST(Mikv, RowsAreWhatSnapKvWouldKeep) {
  const auto scores = RandomScores(3, 60 + 3 * kPageTokens);
  const OneLane mikv("mikv:budget=60,window=16", scores), snapkv("snapkv:budget=60,window=16", scores);
  EXPECT_EQ(mikv.Rows(), snapkv.Rows());
}

TEST(Mikv, ABudgetForAllAndPromptsWithinTheWindowStayRows) {
  const auto scores = RandomScores(4, 200);
  for (const char* spec : {"mikv:budget=200", "mikv:budget=1.0", "mikv:budget=10,window=200"}) {
    const OneLane lane(spec, scores);
    EXPECT_EQ(lane.lanes().CodedPages(0, 0), 0) << spec;
    EXPECT_FALSE(lane.lanes().MakesTiles());
  }
}

TEST(Mikv, TheCodecIsAParameter) {
  const auto scores = RandomScores(5, 60 + 4 * kPageTokens);
  const OneLane eight("mikv:budget=60,codec=q8_0", scores), four("mikv:budget=60", scores);
  EXPECT_EQ(eight.Rows(), four.Rows());
  EXPECT_GT(eight.lanes().bytes(), four.lanes().bytes());
}

TEST(Mikv, RefusesWhatItCannotCode) {
  const EvictModel good{.layers = 1, .head_dim = kDim};
  EXPECT_TRUE(CreateEvictMethod("mikv", good));
  EvictModel floats = good, odd = good;
  floats.kv_type = KvType::kF32;
  odd.head_dim = 72;
  EXPECT_EQ(CreateEvictMethod("mikv", floats).error().kind, ErrorKind::kUnsupported);
  EXPECT_EQ(CreateEvictMethod("mikv", odd).error().kind, ErrorKind::kUnsupported);
  EXPECT_EQ(CreateEvictMethod("mikv:codec=t4", good).error().kind, ErrorKind::kInvalid);
}

}  // namespace
}  // namespace larder
