// KVMerger on lanes with made-up keys: what it merges and how, by the published rule said plainly; repeated
// tokens become one without a trace; every token is counted once.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

#include "compute/column_sums.h"
#include "kv/evict/method.h"
#include "tests/kv/heap_pages.h"

namespace larder {
namespace {

constexpr int kHeads = 4, kKvHeads = 2, kDim = 16;

using Numbers = std::vector<double>;

// A prompt's lanes, all layers alike.
class Prompt {
 public:
  explicit Prompt(int layers, KvType type = KvType::kF32)
      : shape_(*KvShape::Create(std::vector<int>(static_cast<size_t>(layers)), kKvHeads, kDim, type)),
        pages_(shape_.page_bytes()),
        lanes_(&shape_, &pages_, PositionMode::kKeep, {}) {
    for (int layer = 0; layer < layers; ++layer) layers_.push_back(layer);
  }

  std::vector<float> Floats(size_t n) {
    std::vector<float> out(n);
    for (float& x : out) x = normal_(random_);
    return out;
  }
  // A row in each lane, with keys like the ones before, and attention.
  void Row(float alike) {
    keys_.resize(layers_.size() * kKvHeads, std::vector<float>(kDim));
    for (const int layer : layers_) {
      for (int head = 0; head < kKvHeads; ++head) {
        std::vector<float>& k = keys_[static_cast<size_t>(layer * kKvHeads + head)];
        for (float& x : k) x = alike * x + std::sqrt(1 - alike * alike) * normal_(random_);
        Append(layer, head, k, Floats(kDim));
        lanes_.Scores(layer, head).back() = std::abs(normal_(random_));
      }
    }
    ++rows_;
  }
  void Append(int layer, int head, const std::vector<float>& k, const std::vector<float>& v) {
    const auto position = static_cast<int32_t>(lanes_.Length(layer, head));
    ASSERT_TRUE(lanes_.Append(layer, head, k.data(), v.data(), position));
  }
  void SetRows(int64_t rows) { rows_ = rows; }
  // The prompt ends.
  void Merge(const std::string& spec) {
    const auto method = CreateEvictMethod(spec, {.layers = static_cast<int>(layers_.size())});
    ASSERT_TRUE(method) << method.error().message;
    EvictView view{shape_, kHeads, layers_, rows_, rows_, lanes_, {}};
    ASSERT_TRUE((*method)->AfterPrompt(view));
  }
  // What rows behind the prompt see.
  std::vector<float> Attend(const std::vector<float>& q) {
    std::vector<float> out(q.size()), lse(kHeads);
    const AttentionRow row{q.data(), out.data(), lse.data(), &lanes_, 1 << 20};
    Attention(pool_, attention_, ShapeOfAttention(), {&row, 1});
    std::vector<float*> sums;
    for (int head = 0; head < kKvHeads; ++head) {
      std::ranges::fill(lanes_.Scores(0, head), 0);
      sums.push_back(lanes_.Scores(0, head).data());
    }
    const TapRow tap{q.data(), lse.data(), 1 << 20};
    ColumnSums(pool_, columns_, ShapeOfAttention(), lanes_, {&tap, 1}, {sums, {}});
    return out;
  }
  LaneTable& lanes() { return lanes_; }
  const KvShape& shape() const { return shape_; }

 private:
  AttentionShape ShapeOfAttention() const { return {0, kHeads, kKvHeads, kDim, 0.25f, 0, shape_.type()}; }

  KvShape shape_;
  HeapPages pages_;
  ThreadPool pool_{1};
  AttentionScratch attention_;
  ColumnScratch columns_;
  LaneTable lanes_;
  std::vector<int> layers_;
  std::vector<std::vector<float>> keys_;
  std::mt19937 random_{8};
  std::normal_distribution<float> normal_;
  int64_t rows_ = 0;
};

// A lane's entries as numbers.
struct Entries {
  Entries(LaneTable& lanes, int layer, int head) {
    for (int64_t i = 0; i < lanes.Length(layer, head); ++i) {
      std::vector<float> k(kDim), v(kDim);
      lanes.Load(layer, head, i, k.data(), v.data());
      keys.emplace_back(k.begin(), k.end());
      values.emplace_back(v.begin(), v.end());
      positions.push_back(lanes.PositionOf(layer, head, i));
      counts.push_back(std::exp(static_cast<double>(lanes.LogitBias(layer, head, i))));
      scores.push_back(static_cast<double>(lanes.Scores(layer, head)[static_cast<size_t>(i)]));
    }
  }
  int64_t size() const { return std::ssize(keys); }

  std::vector<Numbers> keys, values;
  std::vector<int32_t> positions;
  Numbers counts, scores;
};

struct Options {
  int64_t room, sinks, recent, heavy;
  double sigma = 0;
  bool attention = true;
};

// Tokens that stay single.
std::vector<bool> NaiveProtected(const Entries& e, const Options& o, int64_t heavy) {
  std::vector<bool> out(static_cast<size_t>(e.size()));
  for (int64_t i = 0; i < e.size(); ++i)
    out[static_cast<size_t>(i)] = i < o.sinks || i >= e.size() - o.recent;
  std::vector<int64_t> order(static_cast<size_t>(e.size()));
  std::iota(order.begin(), order.end(), 0);
  std::ranges::stable_sort(order, std::greater(),
                           [&](int64_t i) { return e.scores[static_cast<size_t>(i)]; });
  for (const int64_t i : order) {
    if (std::ranges::count(out, true) >= o.recent + heavy) break;
    out[static_cast<size_t>(i)] = true;
  }
  return out;
}

// From the last token to the first, as published: a token joins the next one's run if neither is protected
// and their keys are similar. First tokens of the runs.
std::vector<int64_t> NaiveRuns(const Entries& e, const std::vector<bool>& single, double eps) {
  std::vector<int64_t> firsts;
  for (int64_t i = e.size() - 1; i >= 0; --i) {
    const auto at = static_cast<size_t>(i);
    bool joins = i + 1 < e.size() && !single[at] && !single[at + 1];
    if (joins) {
      const Numbers &a = e.keys[at], &b = e.keys[at + 1];
      const double dot = std::inner_product(a.begin(), a.end(), b.begin(), 0.0),
                   aa = std::inner_product(a.begin(), a.end(), a.begin(), 0.0),
                   bb = std::inner_product(b.begin(), b.end(), b.begin(), 0.0);
      joins = dot / std::sqrt(aa * bb) >= eps;
    }
    if (joins) {
      firsts.back() = i;
    } else {
      firsts.push_back(i);
    }
  }
  std::ranges::reverse(firsts);
  return firsts;
}

// With eps found by halving, and as many of the heaviest protected as leave room.
std::vector<int64_t> NaiveChoice(const Entries& e, const Options& o) {
  for (int64_t heavy = o.attention ? o.heavy : 0;; --heavy) {
    const std::vector<bool> single = NaiveProtected(e, o, heavy);
    if (std::ssize(NaiveRuns(e, single, -2)) > o.room && heavy > 0) continue;
    double low = -2, high = 2;
    for (int step = 0; step < 60; ++step) {
      const double middle = (low + high) / 2;
      (std::ssize(NaiveRuns(e, single, middle)) <= o.room ? low : high) = middle;
    }
    return NaiveRuns(e, single, low);
  }
}

// The weighted mean of tokens [first, end), and how well an entry agrees.
void ExpectMerged(const Entries& before, int64_t first, int64_t end, const Options& o, const Entries& after,
                  size_t entry) {
  auto pivot = static_cast<size_t>(o.attention ? first : first + (end - first - 1) / 2);
  for (auto i = static_cast<size_t>(first); o.attention && i < static_cast<size_t>(end); ++i)
    if (before.scores[i] > before.scores[pivot]) pivot = i;
  Numbers square, weight;
  for (auto i = static_cast<size_t>(first); i < static_cast<size_t>(end); ++i) {
    double sum = 0;
    for (size_t d = 0; d < kDim; ++d) sum += std::pow(before.keys[i][d] - before.keys[pivot][d], 2);
    square.push_back(sum);
  }
  const auto count = static_cast<double>(end - first);
  const double width =
      o.sigma > 0 ? o.sigma * o.sigma : std::accumulate(square.begin(), square.end(), 0.0) / count;
  for (const double s : square) weight.push_back(width > 0 ? std::exp(-s / (2 * width)) : 1);
  const double all = std::accumulate(weight.begin(), weight.end(), 0.0);
  for (size_t d = 0; d < kDim; ++d) {
    double k = 0, v = 0;
    for (size_t i = 0; i < weight.size(); ++i) {
      k += weight[i] / all * before.keys[static_cast<size_t>(first) + i][d];
      v += weight[i] / all * before.values[static_cast<size_t>(first) + i][d];
    }
    ASSERT_NEAR(after.keys[entry][d], k, 1e-5);
    ASSERT_NEAR(after.values[entry][d], v, 1e-5);
  }
  ASSERT_EQ(after.positions[entry], end - 1);
  ASSERT_NEAR(after.counts[entry], count, 1e-4);
}

TEST(KvMerger, MergesAsTheNaiveRule) {
  std::mt19937 random(2);
  for (int round = 0; round < 24; ++round) {
    const int64_t n = 40 + static_cast<int64_t>(random() % 200);
    Options o{.room = 12 + static_cast<int64_t>(random() % (n - 12)),
              .sinks = static_cast<int64_t>(random() % 4),
              .recent = 0,
              .heavy = 0,
              .sigma = round % 3 == 0 ? 1.5 : 0,
              .attention = round % 4 != 3};
    // Up to more than there is room for.
    const double recent = 0.125 * static_cast<double>(random() % 4),
                 heavy = 0.125 * static_cast<double>(random() % 7);
    o.recent = static_cast<int64_t>(recent * static_cast<double>(o.room));
    o.heavy = static_cast<int64_t>(heavy * static_cast<double>(o.room));
    const std::string spec =
        fmt::format("kvmerger:budget={},sinks={},recent={},heavy={},sigma={},attention={}", o.room, o.sinks,
                    recent, heavy, o.sigma, o.attention ? "all" : "none");
    Prompt prompt(1);
    for (int64_t i = 0; i < n; ++i) prompt.Row(0.7f);
    std::vector<Entries> before;
    for (int head = 0; head < kKvHeads; ++head) before.emplace_back(prompt.lanes(), 0, head);
    prompt.Merge(spec);
    for (int head = 0; head < kKvHeads; ++head) {
      const Entries& was = before[static_cast<size_t>(head)];
      const Entries is(prompt.lanes(), 0, head);
      std::vector<int64_t> firsts = NaiveChoice(was, o);
      ASSERT_EQ(is.size(), o.room) << spec << " of " << n;
      ASSERT_EQ(std::ssize(firsts), o.room) << spec << " of " << n;
      firsts.push_back(n);
      for (size_t i = 0; i + 1 < firsts.size(); ++i)
        ASSERT_NO_FATAL_FAILURE(ExpectMerged(was, firsts[i], firsts[i + 1], o, is, i))
            << spec << " run " << i;
    }
  }
}

// Repeated tokens have the weight of one if nobody counts them.
TEST(KvMerger, RepeatedTokensBecomeOneWithoutATrace) {
  for (const KvType type : {KvType::kF32, KvType::kI16}) {
    for (const bool even : {true, false}) {
      for (const std::string how : {"eps=0.9999,budget=50", "eps=0,budget=41"}) {
        for (const bool bias : {true, false}) {
          Prompt prompt(1, type);
          int64_t rows = 0;
          std::vector<int64_t> repeats;
          for (int i = 0; i < 40; ++i) rows += repeats.emplace_back(even ? 5 : 1 + i * 7 % 6);
          repeats.push_back(1);
          for (int head = 0; head < kKvHeads; ++head) {
            for (const int64_t n : repeats) {
              const auto k = prompt.Floats(kDim), v = prompt.Floats(kDim);
              for (int64_t i = 0; i < n; ++i) prompt.Append(0, head, k, v);
            }
          }
          prompt.SetRows(rows + 1);
          const auto q = prompt.Floats(kHeads * kDim);
          const auto full = prompt.Attend(q);
          std::vector<Entries> before;
          for (int head = 0; head < kKvHeads; ++head) before.emplace_back(prompt.lanes(), 0, head);
          prompt.Merge(fmt::format("kvmerger:{},sinks=0,recent=0,heavy=0,attention=none,bias={}", how, bias));
          const auto merged = prompt.Attend(q);
          float worst = 0;
          for (size_t i = 0; i < q.size(); ++i) worst = std::max(worst, std::abs(full[i] - merged[i]));
          const std::string what = fmt::format("{} bias {} even {}", how, bias, even);
          if (bias) {
            EXPECT_LT(worst, type == KvType::kF32 ? 1e-5f : 1e-3f) << what;
          } else {
            EXPECT_GT(worst, even ? 5e-3f : 5e-2f) << what;
          }
          // The tap gives an entry what its tokens had.
          for (int head = 0; head < kKvHeads; ++head) {
            const Entries& was = before[static_cast<size_t>(head)];
            const Entries is(prompt.lanes(), 0, head);
            ASSERT_EQ(is.size(), 41) << what;
            auto from = was.scores.begin();
            for (size_t i = 0; bias && i < repeats.size(); from += repeats[i++])
              ASSERT_NEAR(is.scores[i], std::accumulate(from, from + repeats[i], 0.0), 1e-4) << what;
          }
        }
      }
    }
  }
}

TEST(KvMerger, EveryTokenIsCountedOnce) {
  for (const std::string runs : {"similar", "random"}) {
    for (const int64_t budget : {1, 2, 5, 37, 64, 100, 149, 150, 151}) {
      Prompt prompt(1);
      for (int i = 0; i < 150; ++i) prompt.Row(0.5f);
      prompt.Merge(fmt::format("kvmerger:budget={},sinks=0,runs={}", budget, runs));
      for (int head = 0; head < kKvHeads; ++head) {
        const Entries e(prompt.lanes(), 0, head);
        EXPECT_EQ(e.size(), std::min<int64_t>(budget, 150)) << runs;
        EXPECT_NEAR(std::accumulate(e.counts.begin(), e.counts.end(), 0.0), 150, 1e-3) << runs << budget;
      }
    }
  }
}

// As many runs of each length, between the same protected tokens, in another order; plain means.
TEST(KvMerger, RandomRunsAreAsLong) {
  Prompt similar(1), random(1);
  for (int i = 0; i < 300; ++i) similar.Row(0.7f), random.Row(0.7f);
  const Entries before(random.lanes(), 0, 1);
  similar.Merge("kvmerger:budget=90,heavy=0.1");
  random.Merge("kvmerger:budget=90,heavy=0.1,runs=random");
  const Entries a(similar.lanes(), 0, 1), b(random.lanes(), 0, 1);
  EXPECT_NE(a.positions, b.positions);
  Numbers lengths_a = a.counts, lengths_b = b.counts;
  std::ranges::sort(lengths_a);
  std::ranges::sort(lengths_b);
  EXPECT_EQ(lengths_a, lengths_b);
  int64_t first = 0;
  for (size_t i = 0; i < static_cast<size_t>(b.size()); ++i) {
    const auto count = static_cast<int64_t>(std::lround(b.counts[i]));
    ASSERT_EQ(b.positions[i], first + count - 1);
    for (size_t d = 0; d < kDim; ++d) {
      double k = 0, v = 0;
      for (auto j = static_cast<size_t>(first); j < static_cast<size_t>(first + count); ++j)
        k += before.keys[j][d], v += before.values[j][d];
      ASSERT_NEAR(b.keys[i][d], k / static_cast<double>(count), 1e-5);
      ASSERT_NEAR(b.values[i][d], v / static_cast<double>(count), 1e-5);
    }
    first += count;
  }
}

// The baseline that drops: what is single otherwise, too, and nothing else.
TEST(KvMerger, WithoutMergingTheProtectedAreLeft) {
  Prompt merged(1), dropped(1);
  for (int i = 0; i < 200; ++i) merged.Row(0.7f), dropped.Row(0.7f);
  const Entries before(dropped.lanes(), 0, 0);
  merged.Merge("kvmerger:budget=100");
  dropped.Merge("kvmerger:budget=100,merge=false");
  const Entries with(merged.lanes(), 0, 0), without(dropped.lanes(), 0, 0);
  EXPECT_EQ(without.size(), 34 + 24);
  for (size_t i = 0; i < static_cast<size_t>(without.size()); ++i) {
    EXPECT_EQ(without.counts[i], 1);
    EXPECT_EQ(without.keys[i], before.keys[static_cast<size_t>(without.positions[i])]);
    const auto same = std::ranges::find(with.positions, without.positions[i]) - with.positions.begin();
    ASSERT_LT(same, with.size());
    EXPECT_EQ(with.counts[static_cast<size_t>(same)], 1);
  }
  EXPECT_TRUE(std::ranges::includes(without.positions, std::vector<int32_t>{0, 1, 2, 3, 166, 199}));
}

// Whole layers are part of the budget, unless they would take half of what the others have.
TEST(KvMerger, TheFirstLayersAndTheLastStayWhole) {
  struct Case {
    const char* spec;
    int64_t whole, others;
  };
  for (const Case& c : {Case{"budget=120", 200, (8 * 120 - 3 * 200) / 5}, Case{"budget=100", 100, 100},
                        Case{"budget=100,first-layers=0", 200, (8 * 100 - 200) / 7},
                        Case{"budget=60,first-layers=0,last-layers=0", 60, 60}}) {
    Prompt prompt(8);
    for (int i = 0; i < 200; ++i) prompt.Row(0.5f);
    prompt.Merge(std::string("kvmerger:") + c.spec);
    const bool first = std::string_view(c.spec).find("first") == std::string_view::npos;
    for (int layer = 0; layer < 8; ++layer) {
      const bool whole = layer == 7 || (first && layer < 2);
      EXPECT_EQ(prompt.lanes().Length(layer, 1), whole ? c.whole : c.others) << c.spec << " " << layer;
    }
  }
}

// Lanes of unequal lengths may each begin a page more.
TEST(KvMerger, KeepsAByteBudget) {
  Prompt prompt(8);
  for (int i = 0; i < 500; ++i) prompt.Row(0.5f);
  const auto page = static_cast<int64_t>(prompt.shape().page_bytes() + LaneTable::kTableBytesPerPage);
  const int64_t pages = 6 * 8 * kKvHeads;
  prompt.Merge(fmt::format("kvmerger:budget={}B", pages * page));
  int64_t taken = 0;
  for (int layer = 0; layer < 8; ++layer) {
    for (int head = 0; head < kKvHeads; ++head) taken += prompt.lanes().Pages(layer, head);
  }
  EXPECT_EQ(prompt.lanes().Length(7, 0), 500) << "a layer is whole";
  EXPECT_LE(taken, pages);
  EXPECT_GE(taken, pages - 8 * kKvHeads);
}

// A threshold leaves what it leaves; at 1 nothing is similar enough, whatever the budget.
TEST(KvMerger, AThresholdStandsInForTheBudget) {
  Prompt prompt(1);
  for (int i = 0; i < 200; ++i) prompt.Row(0.8f);
  const Entries before(prompt.lanes(), 0, 0);
  prompt.Merge("kvmerger:budget=20,eps=1");
  EXPECT_EQ(Entries(prompt.lanes(), 0, 0).keys, before.keys);
  prompt.Merge("kvmerger:budget=20,eps=0.8,sinks=0,recent=0,heavy=0");
  const std::vector<bool> none(200);
  EXPECT_EQ(prompt.lanes().Length(0, 0), std::ssize(NaiveRuns(before, none, 0.8)));
  EXPECT_GT(prompt.lanes().Length(0, 0), 20);
  EXPECT_LT(prompt.lanes().Length(0, 0), 200);
}

// Keys of zeros and numbers that are none are like nothing else, and still the budget is met.
TEST(KvMerger, KeysWithoutADirectionAreJoinedLast) {
  Prompt prompt(1);
  for (int i = 0; i < 60; ++i) {
    for (int head = 0; head < kKvHeads; ++head) {
      std::vector<float> k(kDim, i < 20 ? 0.0f : i < 40 ? NAN : 1.0f);
      prompt.Append(0, head, k, prompt.Floats(kDim));
    }
  }
  prompt.SetRows(60);
  prompt.Merge("kvmerger:budget=41,sinks=0,recent=0,heavy=0,attention=none");
  EXPECT_EQ(prompt.lanes().Length(0, 0), 41);
  EXPECT_NEAR(std::exp(prompt.lanes().LogitBias(0, 0, 40)), 20, 1e-3) << "those of ones";
  EXPECT_EQ(prompt.lanes().LogitBias(0, 0, 39), 0);
}

TEST(KvMerger, RefusesWhatCannotBe) {
  for (const char* spec : {"kvmerger:positions=rank", "kvmerger:eps=1.5", "kvmerger:eps=0.75,budget=1MiB",
                           "kvmerger:runs=some", "kvmerger:recent=2"})
    EXPECT_FALSE(CreateEvictMethod(spec, {.layers = 4})) << spec;
}

}  // namespace
}  // namespace larder
