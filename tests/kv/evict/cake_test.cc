// CAKE on made-up attention, against its formulas written down plainly in double precision.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

#include "kv/evict/select.h"
#include "tests/kv/heap_pages.h"

namespace larder {
namespace {

constexpr int kHeads = 4, kKvHeads = 2, kGroup = kHeads / kKvHeads, kDim = 16;

// What the last rows of a prompt attend to: [layer][head][row][column].
struct Attention {
  // Layers differ in how far they spread and in how much they shift; or all are the same.
  Attention(int layer_count, int64_t prompt, int64_t window_rows, uint32_t seed, bool same = false)
      : layers(layer_count), n(prompt), window(window_rows) {
    std::mt19937 random(seed);
    std::normal_distribution<double> normal;
    for (int layer = 0; layer < layers; ++layer) {
      if (same) random.seed(seed);
      const double spread = 0.5 + 3 * std::abs(normal(random)), shift = 0.1 + std::abs(normal(random));
      p.emplace_back();
      for (int head = 0; head < kHeads; ++head) {
        std::vector<double> liked(static_cast<size_t>(n));
        for (double& x : liked) x = spread * normal(random);
        p.back().emplace_back();
        for (int64_t row = 0; row < window; ++row) {
          std::vector<double> weights;
          for (const double x : liked) weights.push_back(std::exp(x + shift * normal(random)));
          const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
          for (double& x : weights) x /= sum;
          p.back().back().push_back(std::move(weights));
        }
      }
    }
  }
  // As the score tap gives them.
  ColumnScores Columns(int layer) const {
    ColumnScores out;
    out.stride = (n + kPageTokens - 1) / kPageTokens * kPageTokens;
    out.sums.resize(static_cast<size_t>(kHeads * out.stride));
    out.squares.resize(out.sums.size());
    out.entropies.resize(out.sums.size());
    for (size_t head = 0; head < kHeads; ++head) {
      for (const auto& row : p[static_cast<size_t>(layer)][head]) {
        for (size_t i = 0; i < row.size(); ++i) {
          const size_t at = head * static_cast<size_t>(out.stride) + i;
          out.sums[at] += static_cast<float>(row[i]);
          out.squares[at] += static_cast<float>(row[i] * row[i]);
          out.entropies[at] -= static_cast<float>(row[i] * std::log(row[i]));
        }
      }
    }
    return out;
  }

  int layers;
  int64_t n, window;
  std::vector<std::vector<std::vector<std::vector<double>>>> p;
};

using Kept = std::vector<std::vector<int32_t>>;  // [layer * kKvHeads + head], ascending

// A method at the end of a prompt, as the driver has it.
struct Chosen {
  Chosen(const std::string& spec, const Attention& attention)
      : shape(*KvShape::Create(std::vector<int>(static_cast<size_t>(attention.layers)), kKvHeads, kDim,
                               KvType::kF32)),
        pages(shape.page_bytes()),
        lanes(&shape, &pages, PositionMode::kKeep, {}) {
    const auto method = *CreateEvictMethod(spec, {.layers = attention.layers});
    EXPECT_TRUE(lanes.Reserve(attention.n, 0));
    lanes.Advance();
    std::vector<int> layers(static_cast<size_t>(attention.layers));
    std::iota(layers.begin(), layers.end(), 0);
    std::vector<ColumnScores> scores(layers.size());
    EvictView view{shape, kHeads, layers, attention.n, attention.n, lanes, scores};
    for (const int layer : layers) {
      scores[static_cast<size_t>(layer)] = attention.Columns(layer);
      if (!method->needs().each_layer) continue;
      EXPECT_TRUE(method->AfterLayer(view, layer));
      scores[static_cast<size_t>(layer)] = {};
      taken.push_back(pages.taken());
    }
    EXPECT_TRUE(method->AfterPrompt(view));
    for (int lane = 0; lane < attention.layers * kKvHeads; ++lane) {
      const auto positions = lanes.Positions(lane / kKvHeads, lane % kKvHeads);
      kept.emplace_back(positions.begin(), positions.end());
    }
  }
  int64_t Entries() const {
    return std::accumulate(kept.begin(), kept.end(), int64_t{0},
                           [](int64_t sum, const auto& lane) { return sum + std::ssize(lane); });
  }

  KvShape shape;
  HeapPages pages;
  LaneTable lanes;
  std::vector<size_t> taken;  // pages, after each layer
  Kept kept;
};

// The formulas. Budgets are those of the ranked entries, left of the window.
class Formulas {
 public:
  Formulas(const Attention& attention, double gamma, double tau1, double tau2)
      : a_(attention), ranked_(static_cast<size_t>(attention.n - attention.window)) {
    for (int layer = 0; layer < a_.layers; ++layer) {
      double dispersion = 0, shift = 0;
      for (size_t head = 0; head < kHeads; ++head) {
        std::vector<double> indicator(ranked_);
        for (size_t i = 0; i < ranked_; ++i) {
          const auto& rows = a_.p[static_cast<size_t>(layer)][head];
          double mean = 0, variance = 0;
          for (const auto& row : rows) mean += row[i] / static_cast<double>(a_.window);
          for (const auto& row : rows) {
            variance += (row[i] - mean) * (row[i] - mean) / static_cast<double>(a_.window - 1);
            dispersion -= row[i] * std::log(row[i] + 1e-10);
          }
          shift += variance;
          indicator[i] = mean + gamma * variance;
        }
        indicators_.push_back(std::move(indicator));
      }
      preferences_.push_back(std::pow(dispersion, 1 / tau1) * std::pow(shift, 1 / tau2));
    }
  }
  // Of the layers up to this one, when it has come.
  std::vector<int64_t> Budgets(int layer, int64_t budget) const {
    return DivideEntries((budget - a_.window) * a_.layers,
                         std::span(preferences_).first(static_cast<size_t>(layer) + 1),
                         std::ssize(indicators_[0]));
  }
  std::vector<int32_t> Keep(int layer, int kv_head, int64_t budget) const {
    std::vector<std::pair<double, int32_t>> order;
    for (int64_t i = 0; i < static_cast<int64_t>(ranked_); ++i) {
      double pooled = 0;
      for (int h = kv_head * kGroup; h < (kv_head + 1) * kGroup; ++h) {
        for (int64_t j = std::max<int64_t>(0, i - 2); j <= std::min(static_cast<int64_t>(ranked_) - 1, i + 2);
             ++j)
          pooled += indicators_[static_cast<size_t>(layer * kHeads + h)][static_cast<size_t>(j)] / 5 / kGroup;
      }
      order.emplace_back(-pooled, static_cast<int32_t>(i));
    }
    std::ranges::sort(order);
    std::vector<int32_t> kept;
    for (int64_t i = 0; i < budget; ++i) kept.push_back(order[static_cast<size_t>(i)].second);
    for (int64_t i = a_.n - a_.window; i < a_.n; ++i) kept.push_back(static_cast<int32_t>(i));
    std::ranges::sort(kept);
    return kept;
  }

 private:
  const Attention& a_;
  size_t ranked_;
  std::vector<std::vector<double>> indicators_;  // [layer * kHeads + head]
  std::vector<double> preferences_;
};

TEST(Cake, OneChoiceKeepsWhatTheFormulasSay) {
  std::mt19937 random(8);
  for (uint32_t round = 0; round < 12; ++round) {
    const int layers = 1 + static_cast<int>(random() % 6);
    const int64_t window = 2 + static_cast<int64_t>(random() % 14),
                  budget = window + static_cast<int64_t>(random() % 80),
                  n = budget + window + 1 + static_cast<int64_t>(random() % 60);
    const Attention attention(layers, n, window, round);
    const double gamma = round % 3 == 0 ? 0 : 200, tau1 = 0.5 + 0.5 * (round % 4),
                 tau2 = 1.6 - 0.4 * (round % 3);
    const Formulas formulas(attention, gamma, tau1, tau2);
    const std::string spec = fmt::format("cake:cascade=false,budget={},window={},gamma={},tau1={},tau2={}",
                                         budget, window, gamma, tau1, tau2);
    const Chosen run(spec, attention);
    const auto budgets = formulas.Budgets(layers - 1, budget);
    for (int layer = 0; layer < layers; ++layer) {
      for (int head = 0; head < kKvHeads; ++head) {
        EXPECT_EQ(run.kept[static_cast<size_t>(layer * kKvHeads + head)],
                  formulas.Keep(layer, head, budgets[static_cast<size_t>(layer)]))
            << spec << " n " << n << " layer " << layer;
      }
    }
    EXPECT_EQ(run.Entries(), kKvHeads * layers * budget) << spec;
  }
}

// A lane that another choice at the end would keep more of has lost entries when its part was smaller.
TEST(Cake, TheCascadeEndsWhereOneChoiceDoes) {
  constexpr int kLayers = 12, kPrompts = 20;
  constexpr int64_t kPrompt = 400, kWindow = 16, kBudget = 64;
  int equal = 0;
  for (uint32_t prompt = 0; prompt < kPrompts; ++prompt) {
    const Attention attention(kLayers, kPrompt, kWindow, 100 + prompt);
    const Formulas formulas(attention, 200, 1, 1);
    const std::string spec = fmt::format("cake:budget={},window={}", kBudget, kWindow);
    const Chosen cascade(spec, attention), once(spec + ",cascade=false", attention);
    EXPECT_EQ(once.Entries(), kKvHeads * kLayers * kBudget);
    std::vector<int64_t> least(kLayers, kPrompt);
    std::vector<bool> grew(kLayers);
    for (int layer = 0; layer < kLayers; ++layer) {
      const auto budgets = formulas.Budgets(layer, kBudget);
      for (size_t i = 0; i < budgets.size(); ++i) {
        grew[i] = grew[i] || budgets[i] > least[i];
        least[i] = std::min(least[i], budgets[i]);
      }
    }
    for (size_t lane = 0; lane < once.kept.size(); ++lane) {
      if (cascade.kept[lane] == once.kept[lane]) {
        ++equal;
        continue;
      }
      EXPECT_TRUE(grew[lane / kKvHeads]) << "prompt " << prompt << " lane " << lane;
      EXPECT_TRUE(std::ranges::includes(once.kept[lane], cascade.kept[lane]));
    }
  }
  EXPECT_GE(equal, kPrompts * kLayers * kKvHeads * 95 / 100);
}

// Layers that have come hold no more pages than the whole budget fills, and what they give up goes back then.
TEST(Cake, MemoryFallsLayerByLayer) {
  constexpr int kLayers = 10;
  constexpr int64_t kPrompt = 1000, kWindow = 16, kBudget = 100;
  const Attention attention(kLayers, kPrompt, kWindow, 5);
  const Formulas formulas(attention, 200, 1, 1);
  const auto pages_of = [](int64_t entries) {
    return kKvHeads * static_cast<size_t>((entries + kPageTokens - 1) / kPageTokens);
  };
  const Chosen run(fmt::format("cake:budget={},window={}", kBudget, kWindow), attention);
  std::vector<size_t> held(kLayers, pages_of(kPrompt));
  for (int layer = 0; layer < kLayers; ++layer) {
    const auto budgets = formulas.Budgets(layer, kBudget);
    for (size_t i = 0; i < budgets.size(); ++i) held[i] = std::min(held[i], pages_of(kWindow + budgets[i]));
    EXPECT_EQ(run.taken[static_cast<size_t>(layer)], std::accumulate(held.begin(), held.end(), size_t{0}))
        << "after layer " << layer;
  }
  EXPECT_LT(run.taken.front(), kLayers * pages_of(kPrompt));
  EXPECT_LE(run.taken.back(), pages_of(kLayers * kBudget) + kLayers * kKvHeads);
  const Chosen once(fmt::format("cake:cascade=false,budget={},window={}", kBudget, kWindow), attention);
  EXPECT_EQ(once.taken[kLayers - 2], kLayers * pages_of(kPrompt));
  EXPECT_EQ(once.taken.back(), run.taken.back());
}

void ExpectEqualLanes(const Chosen& run, int64_t entries) {
  for (const auto& lane : run.kept) EXPECT_EQ(std::ssize(lane), entries);
}

TEST(Cake, EqualPreferencesGiveEqualBudgets) {
  ExpectEqualLanes(Chosen("cake:budget=50,window=8", Attention(6, 300, 8, 1, /*same=*/true)), 50);
  // Of a single row there is no variance, and all preferences are 0.
  ExpectEqualLanes(Chosen("cake:budget=50,window=1", Attention(6, 300, 1, 1)), 50);
  const Chosen unequal("cake:budget=50,window=8", Attention(6, 300, 8, 1));
  EXPECT_NE(unequal.kept.front().size(), unequal.kept.back().size());
}

TEST(Cake, EqualPartsWithoutABonusAreSnapKv) {
  for (const int64_t window : {7, 16, 32}) {
    const Attention attention(4, 333, window, static_cast<uint32_t>(window));
    const std::string common = fmt::format("budget=0.3,window={},kernel=5,pooling=avg", window);
    const Chosen cake("cake:parts=equal,gamma=0," + common, attention);
    EXPECT_EQ(cake.kept, Chosen("snapkv:" + common, attention).kept);
    EXPECT_NE(cake.kept, Chosen("cake:parts=equal," + common, attention).kept);
  }
}

TEST(Cake, AWindowMoreThanTheBudgetIsKept) {
  ExpectEqualLanes(Chosen("cake:budget=50,window=8", Attention(3, 58, 8, 2)), 58);
  EXPECT_EQ(Chosen("cake:budget=50,window=8", Attention(3, 59, 8, 2)).Entries(), 3 * kKvHeads * 50);
  // A limit is one.
  const KvShape shape = *KvShape::Create({0, 0, 0}, kKvHeads, kDim, KvType::kF32);
  const uint64_t page = shape.page_bytes() + LaneTable::kTableBytesPerPage;
  const Chosen bytes(fmt::format("cake:budget={}B,window=8", 3 * kKvHeads * 2 * page),
                     Attention(3, 65, 8, 2));
  EXPECT_EQ(bytes.Entries(), 3 * kKvHeads * (kPageTokens - 1));
}

TEST(Cake, SinksAndNewestStayAndCount) {
  const Chosen run("cake:budget=60,window=8,sinks=4,last=20", Attention(5, 300, 8, 3));
  EXPECT_EQ(run.Entries(), 5 * kKvHeads * 60);
  for (const auto& lane : run.kept) {
    for (const int32_t position : {0, 1, 2, 3, 280, 299})
      EXPECT_TRUE(std::ranges::binary_search(lane, position));
  }
}

}  // namespace
}  // namespace larder
