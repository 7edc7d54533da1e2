// Runs of a lane's entries become one each: the mean that a plain loop makes, nothing else changes, and what
// is shared stays as it is.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <random>

#include "kv/lanes.h"
#include "tests/kv/heap_pages.h"

namespace larder {
namespace {

constexpr int kDim = 16, kEntries = 300;

// The parameter is what rows are stored as.
class MergeLanes : public testing::TestWithParam<KvType> {
 protected:
  MergeLanes() : shape_(*KvShape::Create({0}, 1, kDim, GetParam())), pages_(shape_.page_bytes()) {}

  LaneTable Make(PageSource& pages) const { return {&shape_, &pages, PositionMode::kKeep, {}}; }
  void Append(LaneTable& table, int32_t position) {
    std::vector<float> k(kDim), v(kDim);
    for (float& x : k) x = normal_(random_);
    for (float& x : v) x = normal_(random_);
    ASSERT_TRUE(table.Append(0, 0, k.data(), v.data(), position));
  }
  // Runs with gaps between some of them, and weights for all entries.
  void Plan(int64_t entries, int longest) {
    runs_.clear();
    weights_.assign(static_cast<size_t>(entries), 0);
    for (int32_t at = 0; at < entries;) {
      const auto count =
          static_cast<int32_t>(std::min<int64_t>(1 + static_cast<int>(random_() % longest), entries - at));
      if (random_() % 5 != 0) {
        runs_.push_back({at, count, std::log(static_cast<float>(count))});
        float sum = 0;
        for (int32_t i = at; i < at + count; ++i) {
          weights_[static_cast<size_t>(i)] = 1 + static_cast<float>(random_() % 100);
          sum += weights_[static_cast<size_t>(i)];
        }
        for (int32_t i = at; i < at + count; ++i) weights_[static_cast<size_t>(i)] /= sum;
      }
      at += count;
    }
  }
  struct Row {
    std::vector<float> k = std::vector<float>(kDim), v = std::vector<float>(kDim);
    int32_t position = 0;
    float score = 0, bias = 0;
    bool operator==(const Row&) const = default;
  };
  static std::vector<Row> RowsOf(LaneTable& table) {
    std::vector<Row> rows(static_cast<size_t>(table.Length(0, 0)));
    for (size_t i = 0; i < rows.size(); ++i) {
      const auto entry = static_cast<int64_t>(i);
      table.Load(0, 0, entry, rows[i].k.data(), rows[i].v.data());
      rows[i].position = table.PositionOf(0, 0, entry);
      rows[i].score = table.Scores(0, 0)[i];
      rows[i].bias = table.LogitBias(0, 0, entry);
    }
    return rows;
  }
  // The mean, plainly, within half a code where codes are stored.
  void ExpectMean(const Row& row, std::span<const Row> members, std::span<const float> weights) const {
    for (std::vector<float> Row::* part : {&Row::k, &Row::v}) {
      std::vector<double> mean(kDim);
      double largest = 0;
      for (size_t d = 0; d < kDim; ++d) {
        for (size_t i = 0; i < members.size(); ++i)
          mean[d] += static_cast<double>(weights[i]) * static_cast<double>((members[i].*part)[d]);
        largest = std::max(largest, std::abs(mean[d]));
      }
      const double tolerance = 1e-6 + (GetParam() == KvType::kI16 ? 0.51 * largest / 8191 : 0);
      for (size_t d = 0; d < kDim; ++d) ASSERT_NEAR((row.*part)[d], mean[d], tolerance);
    }
  }

  KvShape shape_;
  HeapPages pages_;
  std::mt19937 random_{3};
  std::normal_distribution<float> normal_;
  std::vector<MergedRun> runs_;
  std::vector<float> weights_;
};

TEST_P(MergeLanes, RunsBecomeTheirMeans) {
  for (const int longest : {1, 2, 9, 200}) {
    LaneTable table = Make(pages_);
    for (int i = 0; i < kEntries; ++i) Append(table, 2 * i);
    for (int i = 0; i < kEntries; ++i) table.Scores(0, 0)[static_cast<size_t>(i)] = static_cast<float>(i);
    for (int i = 0; i < kEntries; i += 7) table.SetLogitBias(0, 0, i, 0.5f);
    const std::vector<Row> before = RowsOf(table);
    Plan(kEntries, longest);
    ASSERT_TRUE(table.Merge(0, 0, runs_, weights_));
    const std::vector<Row> after = RowsOf(table);
    ASSERT_EQ(after.size(), runs_.size());
    EXPECT_EQ(pages_.taken(), (runs_.size() + kPageTokens - 1) / kPageTokens) << "pages go back at once";
    for (size_t i = 0; i < runs_.size(); ++i) {
      const auto first = static_cast<size_t>(runs_[i].first), count = static_cast<size_t>(runs_[i].count);
      if (count == 1) {
        ASSERT_EQ(after[i], before[first]) << "to the last bit";
        continue;
      }
      ASSERT_NO_FATAL_FAILURE(ExpectMean(after[i], std::span(before).subspan(first, count),
                                         std::span(weights_).subspan(first, count)));
      ASSERT_EQ(after[i].position, before[first + count - 1].position) << "the newest one's";
      ASSERT_EQ(after[i].bias, runs_[i].logit_bias);
      float score = 0;
      for (size_t j = first; j < first + count; ++j) score += before[j].score;
      ASSERT_EQ(after[i].score, score);
    }
  }
}

// Entries may lie in any order; attention's mask never shows a part of a run.
TEST_P(MergeLanes, ThePositionIsTheNewest) {
  LaneTable table = Make(pages_);
  for (const int32_t position : {30, 10, 50, 20, 40}) Append(table, position);
  weights_.assign(5, 0.5f);
  ASSERT_TRUE(table.Merge(0, 0, std::vector<MergedRun>{{0, 2, 0}, {2, 2, 0}}, weights_));
  EXPECT_EQ(table.PositionOf(0, 0, 0), 30);
  EXPECT_EQ(table.PositionOf(0, 0, 1), 50);
  const KvPage page = table.Page(0, 0, 0, nullptr);
  EXPECT_EQ(page.entries, 2);
  ASSERT_NE(page.positions, nullptr);
  EXPECT_EQ(page.positions[1], 50);
}

// A bias goes where its entry goes, and rows that come have none.
TEST_P(MergeLanes, TheBiasFollowsItsEntry) {
  LaneTable table = Make(pages_);
  for (int i = 0; i < kEntries; ++i) Append(table, i);
  Plan(kEntries, 4);
  ASSERT_TRUE(table.Merge(0, 0, runs_, weights_));
  std::map<int32_t, float> bias;
  for (int64_t i = 0; i < table.Length(0, 0); ++i) bias[table.PositionOf(0, 0, i)] = table.LogitBias(0, 0, i);
  const auto check = [&](LaneTable& lanes, const char* what) {
    for (int64_t i = 0; i < lanes.Length(0, 0); ++i)
      ASSERT_EQ(lanes.LogitBias(0, 0, i), bias[lanes.PositionOf(0, 0, i)]) << what;
  };
  std::vector<int32_t> kept;
  for (int32_t i = 0; i < table.Length(0, 0); i += 1 + i % 2) kept.push_back(i);
  ASSERT_TRUE(table.Keep(0, 0, kept));
  check(table, "Keep");
  for (int i = 0; i < 20; ++i) ASSERT_TRUE(table.Remove(0, 0, i));
  check(table, "Remove");
  for (int i = kEntries; i < kEntries + 100; ++i) Append(table, i);
  check(table, "Append");
  ASSERT_TRUE(table.Settle());
  check(table, "Settle");
  LaneTable copy = Make(pages_);
  ASSERT_TRUE(copy.CopyFrom(table));
  ASSERT_TRUE(copy.Reserve(100, kEntries + 100));
  for (int i = 0; i < 100; ++i)
    EXPECT_EQ(copy.Page(0, 0, (copy.Length(0, 0) + i) / kPageTokens, nullptr)
                  .logit_bias[(copy.Length(0, 0) + i) % kPageTokens],
              0);
  copy.Advance();
  check(copy, "CopyFrom, Reserve");
  const LaneTable moved = std::move(table);
  EXPECT_EQ(copy.LogitBias(0, 0, 0), moved.LogitBias(0, 0, 0));
}

// Pages of a shared prefix are read where they lie; nothing is written there, and with a page too few nothing
// has changed here either.
TEST_P(MergeLanes, ASharedPrefixIsNotWritten) {
  LaneTable prefix = Make(pages_);
  for (int i = 0; i < kEntries; ++i) Append(prefix, i);
  const std::vector<Row> shared = RowsOf(prefix);
  const auto bytes_of = [&](int64_t page) {
    const auto* begin = static_cast<const std::byte*>(prefix.Page(0, 0, page, nullptr).k);
    return std::vector<std::byte>(begin, begin + shape_.page_bytes());
  };
  std::vector<std::vector<std::byte>> before;
  for (int64_t page = 0; page < kEntries / kPageTokens; ++page) before.push_back(bytes_of(page));
  Plan(kEntries, 2);
  const size_t needed = (runs_.size() + kPageTokens - 1) / kPageTokens;
  ASSERT_GE(needed, 3u);
  for (size_t room = 1; room <= needed + 1; ++room) {
    HeapPages few(shape_.page_bytes(), room);
    LaneTable table = Make(few);
    ASSERT_TRUE(table.Borrow(&prefix, kEntries));
    ASSERT_EQ(few.taken(), 1u) << "the last one, which is not full";
    const Status status = table.Merge(0, 0, runs_, weights_);
    ASSERT_EQ(status.has_value(), room > needed) << room;
    if (!status) {
      EXPECT_EQ(status.error().kind, ErrorKind::kExhausted);
      EXPECT_EQ(RowsOf(table), shared);
    } else {
      EXPECT_EQ(table.Length(0, 0), std::ssize(runs_));
      EXPECT_EQ(few.taken(), needed);
      EXPECT_FALSE(table.borrows());
    }
    for (size_t page = 0; page < before.size(); ++page)
      ASSERT_EQ(bytes_of(static_cast<int64_t>(page)), before[page]) << room;
  }
}

// Runs of one, all of them: not a page is touched, borrowed ones stay borrowed.
TEST_P(MergeLanes, NothingToMergeIsNothing) {
  LaneTable prefix = Make(pages_);
  for (int i = 0; i < kEntries; ++i) Append(prefix, i);
  LaneTable table = Make(pages_);
  ASSERT_TRUE(table.Borrow(&prefix, kEntries));
  const size_t taken = pages_.taken();
  for (int32_t i = 0; i < kEntries; ++i) runs_.push_back({.first = i});
  weights_.assign(kEntries, 1);
  ASSERT_TRUE(table.Merge(0, 0, runs_, weights_));
  EXPECT_EQ(pages_.taken(), taken);
  EXPECT_EQ(RowsOf(table), RowsOf(prefix));
  // The first page stays borrowed if its entries stay.
  runs_.resize(200);
  runs_.push_back({200, 100, 1});
  ASSERT_TRUE(table.Merge(0, 0, runs_, weights_));
  EXPECT_EQ(table.borrowed_bytes(), 3 * shape_.page_bytes());
}

INSTANTIATE_TEST_SUITE_P(, MergeLanes, testing::Values(KvType::kF32, KvType::kI16),
                         [](const auto& info) { return info.param == KvType::kF32 ? "f32" : "i16"; });

}  // namespace
}  // namespace larder
