// Eviction methods on lane tables with made-up keys: what is dropped is as if it were masked, at every step.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <map>
#include <random>
#include <set>

#include "compute/column_sums.h"
#include "kv/evict/method.h"
#include "tests/kv/heap_pages.h"

namespace larder {
namespace {

constexpr int kLayers = 2, kHeads = 4, kKvHeads = 2, kDim = 16;

// One request's rows, in a table that a method works on and in one that keeps everything.
class Twin {
 public:
  Twin(const std::string& spec, int layers)
      : shape_(*KvShape::Create(std::vector<int>(static_cast<size_t>(layers)), kKvHeads, kDim, KvType::kF32)),
        pages_(shape_.page_bytes()),
        pool_(1),
        method_(*CreateEvictMethod(spec, {.layers = layers, .windows = false})),
        kept_(&shape_, &pages_, PositionMode::kKeep, {}),
        full_(&shape_, &pages_, PositionMode::kKeep, {}) {
    for (int layer = 0; layer < layers; ++layer) layers_.push_back(layer);
  }

  // A row arrives: stored, attended from, tapped where the method wants it. Returns the largest difference of
  // the two tables' attention, entries that are gone being masked in the full one.
  double Row() {
    const auto position = static_cast<int32_t>(rows_++);
    std::vector<float> q(kHeads * kDim);
    for (float& x : q) x = 2 * normal_(random_);
    Store(position);
    double worst = 0;
    for (const int layer : layers_) {
      std::vector<float> lse(kHeads), a(q.size()), b(q.size());
      Attend(kept_, layer, q, position, a, lse);
      if (method_->needs().tap == ScoreTap::kAllRows) {
        std::vector<float*> sums;
        for (int head = 0; head < kKvHeads; ++head) sums.push_back(kept_.Scores(layer, head).data());
        const TapRow row{q.data(), lse.data(), position};
        ColumnSums(pool_, scratch_, ShapeOf(layer), kept_, {&row, 1}, {sums, {}});
      }
      Mask(layer);
      Attend(full_, layer, q, position, b, lse);
      for (size_t i = 0; i < a.size(); ++i)
        worst = std::max(worst, std::abs(static_cast<double>(a[i]) - b[i]));
      queries_[static_cast<size_t>(layer)].push_back(q);
    }
    return worst;
  }
  void AfterPrompt() {
    prompt_ = rows_;
    std::vector<ColumnScores> scores(layers_.size());
    EvictView view{shape_, kHeads, layers_, prompt_, rows_, kept_, scores};
    if (method_->needs().tap == ScoreTap::kLastRows) {
      for (const int layer : layers_) {
        scores[static_cast<size_t>(layer)] = LastRows(layer);
        ASSERT_TRUE(method_->AfterLayer(view, layer));
      }
    }
    ASSERT_TRUE(method_->AfterPrompt(view));
  }
  void AfterToken() {
    EvictView view{shape_, kHeads, layers_, prompt_, rows_, kept_, {}};
    if (method_->needs().every_token) {
      ASSERT_TRUE(method_->AfterToken(view));
    }
  }

  std::vector<int32_t> Kept(int layer, int head) const {
    const auto positions = kept_.Positions(layer, head);
    std::vector<int32_t> sorted(positions.begin(), positions.end());
    std::ranges::sort(sorted);
    return sorted;
  }
  LaneTable& table() { return kept_; }
  const KvShape& shape() const { return shape_; }
  // SnapKV's scores of what lies before the window, from the whole matrix of attention in double precision.
  std::vector<double> NaiveWindowScores(int head, int64_t n, int64_t window, int64_t kernel, bool max) {
    std::vector<std::vector<float>> keys;
    for (int64_t i = 0; i < n; ++i) {
      std::vector<float> k(kDim), v(kDim);
      full_.Load(0, head, i, k.data(), v.data());
      keys.push_back(k);
    }
    std::vector<double> score(static_cast<size_t>(n - window)), pooled;
    for (int64_t row = n - window; row < n; ++row) {
      for (int h = 2 * head; h < 2 * head + 2; ++h) {
        const float* q = queries_[0][static_cast<size_t>(row)].data() + h * kDim;
        std::vector<double> p(static_cast<size_t>(row + 1));
        double sum = 0;
        for (size_t i = 0; i < p.size(); ++i) {
          double dot = 0;
          for (size_t d = 0; d < kDim; ++d) dot += static_cast<double>(q[d]) * keys[i][d];
          sum += p[i] = std::exp(dot * 0.25);
        }
        for (size_t i = 0; i < score.size(); ++i) score[i] += p[i] / sum / 2;
      }
    }
    for (int64_t i = 0; i < n - window; ++i) {
      double total = 0, largest = 0;
      for (int64_t j = std::max<int64_t>(0, i - kernel / 2); j <= std::min(n - window - 1, i + kernel / 2);
           ++j) {
        total += score[static_cast<size_t>(j)];
        largest = std::max(largest, score[static_cast<size_t>(j)]);
      }
      pooled.push_back(max ? largest : total / static_cast<double>(kernel));
    }
    return pooled;
  }
  std::vector<int32_t> NaiveSnapKv(int head, int64_t n, int64_t window, int64_t budget, int64_t kernel,
                                   bool max) {
    std::vector<int32_t> kept;
    for (int32_t i = 0; i < n; ++i) kept.push_back(i);
    if (n <= window || n <= budget) return kept;
    std::vector<std::pair<double, int32_t>> ranked;
    // Neighbours share a maximum, and equal scores go to the lower position.
    for (const double score : NaiveWindowScores(head, n, window, kernel, max))
      ranked.emplace_back(-score, static_cast<int32_t>(ranked.size()));
    std::ranges::sort(ranked);
    kept.clear();
    for (int64_t i = 0; i < std::min<int64_t>(std::max<int64_t>(0, budget - window), n - window); ++i)
      kept.push_back(ranked[static_cast<size_t>(i)].second);
    for (int64_t i = n - window; i < n; ++i) kept.push_back(static_cast<int32_t>(i));
    std::ranges::sort(kept);
    return kept;
  }

 private:
  void Store(int32_t position) {
    std::vector<float> k(kDim), v(kDim);
    ASSERT_TRUE(kept_.Reserve(1, position));
    for (const int layer : layers_) {
      for (int head = 0; head < kKvHeads; ++head) {
        for (float& x : k) x = normal_(random_);
        for (float& x : v) x = normal_(random_);
        StoreKvRow(KvType::kF32, kDim, k.data(), v.data(), kept_.WritablePage(layer, head, position),
                   kept_.WritableSlot(layer, head, position));
        ASSERT_TRUE(full_.Append(layer, head, k.data(), v.data(), position));
      }
    }
    kept_.Advance();
  }
  AttentionShape ShapeOf(int layer) const { return {layer, kHeads, kKvHeads, kDim, 0.25f, 0, KvType::kF32}; }
  void Attend(const LaneTable& table, int layer, const std::vector<float>& q, int32_t position,
              std::vector<float>& out, std::vector<float>& lse) {
    const AttentionRow row{q.data(), out.data(), lse.data(), &table, position};
    Attention(pool_, attention_, ShapeOf(layer), {&row, 1});
  }
  void Mask(int layer) {
    for (int head = 0; head < kKvHeads; ++head) {
      const auto here = kept_.Positions(layer, head);
      const std::set<int32_t> kept(here.begin(), here.end());
      for (int64_t i = 0; i < full_.Length(layer, head); ++i) {
        if (!kept.contains(full_.PositionOf(layer, head, i)))
          full_.SetLogitBias(layer, head, i, -std::numeric_limits<float>::infinity());
      }
    }
  }
  ColumnScores LastRows(int layer) {
    ColumnScores scores;
    scores.stride = (rows_ + 63) / 64 * 64;
    scores.sums.resize(static_cast<size_t>(kHeads * scores.stride));
    scores.squares.resize(scores.sums.size());
    scores.entropies.resize(scores.sums.size());
    std::vector<float*> sums, squares, entropies;
    for (int h = 0; h < kHeads; ++h) {
      sums.push_back(scores.sums.data() + h * scores.stride);
      squares.push_back(scores.squares.data() + h * scores.stride);
      entropies.push_back(scores.entropies.data() + h * scores.stride);
    }
    for (int64_t at = std::max<int64_t>(0, rows_ - method_->needs().rows); at < rows_; ++at) {
      const auto& q = queries_[static_cast<size_t>(layer)][static_cast<size_t>(at)];
      std::vector<float> out(q.size()), lse(kHeads);
      Attend(kept_, layer, q, static_cast<int32_t>(at), out, lse);
      const TapRow row{q.data(), lse.data(), static_cast<int32_t>(at)};
      ColumnSums(pool_, scratch_, ShapeOf(layer), kept_, {&row, 1}, {sums, squares, entropies});
    }
    return scores;
  }

  KvShape shape_;
  HeapPages pages_;
  ThreadPool pool_;
  AttentionScratch attention_;
  ColumnScratch scratch_;
  std::unique_ptr<EvictMethod> method_;
  LaneTable kept_, full_;
  std::vector<int> layers_;
  std::map<size_t, std::vector<std::vector<float>>> queries_;
  std::mt19937 random_{11};
  std::normal_distribution<float> normal_;
  int64_t rows_ = 0, prompt_ = 0;
};

class EvictedIsMasked : public ::testing::TestWithParam<const char*> {};

TEST_P(EvictedIsMasked, AtEveryStep) {
  Twin twin(GetParam(), kLayers);
  for (int i = 0; i < 150; ++i) ASSERT_LT(twin.Row(), 1e-5) << "prompt row " << i;
  twin.AfterPrompt();
  EXPECT_LT(twin.Kept(0, 0).size(), 100u);
  for (int i = 0; i < 256; ++i) {
    ASSERT_LT(twin.Row(), 1e-3) << "token " << i;
    twin.AfterToken();
  }
}

INSTANTIATE_TEST_SUITE_P(, EvictedIsMasked,
                         ::testing::Values("adakv:budget=0.3,window=16", "cake:budget=0.3,window=16",
                                           "h2o:budget=40", "h2o:budget=0.5,sinks=4,decode=false",
                                           "snapkv:budget=0.3,window=16,kernel=5", "streaming:budget=70",
                                           "random:budget=64,last=8", "keynorm:budget=0.4,sinks=4"));

// A prompt of n tokens, with a window of W, C entries to keep and pooling over k.
struct SnapCase {
  int64_t n, window, budget, kernel;
  bool max;
  int64_t kept = -1;  // entries that must be left; -1: what the naive rule says
};
std::vector<SnapCase> SnapCases() {
  std::vector<SnapCase> cases;
  for (const bool max : {true, false}) {
    cases.insert(cases.end(), {
                                  {60, 8, 60, 5, max, 60},  // n = C: all of it
                                  {59, 8, 60, 5, max, 59},  // n = C - 1
                                  {61, 8, 60, 5, max, 60},  // n = C + 1: one goes
                                  {9, 8, 9, 3, max, 9},     // n = W + 1, all of it
                                  {9, 8, 8, 3, max, 8},     // n = W + 1 and no room beside the window
                                  {8, 8, 4, 3, max, 8},     // n = W: nothing to rank
                                  {7, 8, 4, 3, max, 7},     // n < W
                                  {12, 8, 10, 7, max, 10},  // the pooling is wider than what is pooled
                                  {40, 8, 20, 1, max, 20},  // no pooling
                              });
  }
  std::mt19937 random(3);
  for (int round = 0; round < 20; ++round) {
    const int64_t window = 1 + static_cast<int64_t>(random() % 12);
    const int64_t n = window + static_cast<int64_t>(random() % 90),
                  budget = window + static_cast<int64_t>(random() % 40);
    cases.push_back({n, window, budget, 1 + 2 * static_cast<int64_t>(random() % 4), round % 2 == 0});
  }
  return cases;
}

// The published rule, with full matrices and no cleverness.
TEST(SnapKv, ChoosesAsTheNaiveRule) {
  for (const SnapCase& c : SnapCases()) {
    const std::string what = fmt::format("budget={},window={},kernel={},pooling={}", c.budget, c.window,
                                         c.kernel, c.max ? "max" : "avg");
    Twin twin("snapkv:" + what, 1);
    for (int64_t i = 0; i < c.n; ++i) twin.Row();
    std::vector<std::vector<int32_t>> expected;
    for (int head = 0; head < kKvHeads; ++head)
      expected.push_back(twin.NaiveSnapKv(head, c.n, c.window, c.budget, c.kernel, c.max));
    twin.AfterPrompt();
    for (int head = 0; head < kKvHeads; ++head) {
      const auto kept = twin.Kept(0, head);
      EXPECT_EQ(kept, expected[static_cast<size_t>(head)]) << "n " << c.n << " " << what;
      if (c.kept >= 0) {
        EXPECT_EQ(std::ssize(kept), c.kept) << "n " << c.n << " " << what;
      }
    }
  }
}

// Heads compete for what the certain share leaves; each then keeps what SnapKV would with so much room.
TEST(AdaKv, DividesALayersRoomByScores) {
  std::mt19937 random(4);
  int unequal = 0;
  for (int round = 0; round < 20; ++round) {
    const int64_t window = 1 + static_cast<int64_t>(random() % 12),
                  room = static_cast<int64_t>(random() % 40);
    const int64_t n = window + room + 1 + static_cast<int64_t>(random() % 60);
    const double floor = 0.25 * (round % 5);
    Twin twin(fmt::format("adakv:budget={},window={},kernel=3,floor={}", window + room, window, floor), 1);
    for (int64_t i = 0; i < n; ++i) twin.Row();
    const auto certain = static_cast<int64_t>(floor * static_cast<double>(room));
    std::vector<std::pair<double, int>> all;
    for (int head = 0; head < kKvHeads; ++head) {
      std::vector<double> scores = twin.NaiveWindowScores(head, n, window, 3, true);
      std::ranges::sort(scores, std::greater());
      for (size_t i = static_cast<size_t>(certain); i < scores.size(); ++i)
        all.emplace_back(-scores[i], head);
    }
    std::ranges::sort(all);
    std::vector<int64_t> budgets(kKvHeads, window + certain);
    for (int64_t i = 0; i < kKvHeads * (room - certain); ++i)
      ++budgets[static_cast<size_t>(all[static_cast<size_t>(i)].second)];
    std::vector<std::vector<int32_t>> expected;
    for (int head = 0; head < kKvHeads; ++head)
      expected.push_back(twin.NaiveSnapKv(head, n, window, budgets[static_cast<size_t>(head)], 3, true));
    twin.AfterPrompt();
    for (int head = 0; head < kKvHeads; ++head) {
      EXPECT_EQ(twin.Kept(0, head), expected[static_cast<size_t>(head)])
          << "n " << n << " window " << window << " room " << room << " floor " << floor;
    }
    unequal += twin.Kept(0, 0).size() != twin.Kept(0, 1).size();
  }
  EXPECT_GE(unequal, 5);
}

// Lanes of unequal lengths may each begin a page more than equal ones would.
TEST(AdaKv, KeepsAByteBudget) {
  constexpr int64_t kPages = 3;
  Twin probe("adakv", 1);
  const auto page = static_cast<int64_t>(probe.shape().page_bytes() + LaneTable::kTableBytesPerPage);
  Twin twin(fmt::format("adakv:budget={}B,window=8,floor=0", kKvHeads * kPages * page), 1);
  for (int i = 0; i < 500; ++i) twin.Row();
  twin.AfterPrompt();
  int64_t pages = 0;
  for (int head = 0; head < kKvHeads; ++head)
    pages += (std::ssize(twin.Kept(0, head)) + kPageTokens - 1) / kPageTokens;
  EXPECT_NE(twin.Kept(0, 0).size(), twin.Kept(0, 1).size());
  EXPECT_LE(pages, kKvHeads * kPages);
}

// Protected entries that are more than the prompt keep all of it.
TEST(AdaKv, ManyNewestKeepEverything) {
  Twin twin("adakv:budget=20,window=8,last=1000", 1);
  for (int i = 0; i < 100; ++i) twin.Row();
  twin.AfterPrompt();
  EXPECT_EQ(twin.Kept(0, 0).size(), 100u);
}

// Sums grow by one for each row and head, until something is dropped.
TEST(H2o, SumsAreConserved) {
  Twin twin("h2o:budget=0.5", kLayers);
  for (int i = 0; i < 100; ++i) twin.Row();
  for (int head = 0; head < kKvHeads; ++head) {
    double sum = 0;
    for (const float score : twin.table().Scores(1, head)) sum += static_cast<double>(score);
    EXPECT_NEAR(sum, 100, 1e-2);
  }
}

TEST(H2o, OneGoesForEachThatComes) {
  Twin twin("h2o:budget=10,recent=0.3", 1);
  for (int i = 0; i < 30; ++i) twin.Row();
  twin.AfterPrompt();
  std::vector<int32_t> before = twin.Kept(0, 1);
  ASSERT_EQ(before.size(), 10u);
  EXPECT_TRUE(std::ranges::includes(before, std::vector<int32_t>{27, 28, 29}));
  for (int32_t i = 30; i < 60; ++i) {
    twin.Row();
    twin.AfterToken();
    const std::vector<int32_t> now = twin.Kept(0, 1);
    ASSERT_EQ(now.size(), 10u);
    EXPECT_TRUE(std::ranges::includes(now, std::vector<int32_t>{i - 2, i - 1, i}));
    before.push_back(i);
    EXPECT_TRUE(std::ranges::includes(before, now));  // nothing ever returns
    before = now;
  }
}

}  // namespace
}  // namespace larder
