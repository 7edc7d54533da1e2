// The score tap equals its plain reference to the last bit, on every instruction set and for any split of the
// rows; each row adds one to its lane in all; sums, squares and entropies are those of the exact softmax.
#include "compute/column_sums.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "base/memory.h"
#include "simd_targets_for_test.h"

namespace larder {
namespace {

constexpr int kHeads = 6, kKvHeads = 2;

class Lanes final : public TileProvider {
 public:
  Lanes(KvType type, int head_dim, int64_t entries, std::mt19937& random)
      : type_(type), dim_(head_dim), entries_(entries), bias_(static_cast<size_t>(entries + kPageTokens)) {
    std::normal_distribution<float> normal;
    for (float& x : bias_) x = 0.1f * normal(random);
    bias_[7] = -std::numeric_limits<float>::infinity();  // masked
    keys_.resize(kKvHeads);
    for (int head = 0; head < kKvHeads; ++head) {
      for (int64_t i = 0; i < entries; ++i) {
        if (i % kPageTokens == 0) {
          pages_.push_back(AlignedBuffer::Allocate(PageBytes(type, head_dim)).value());
          std::memset(pages_.back().data(), 0xFF, pages_.back().size());  // NaN behind the last entry
        }
        std::vector<float> k(static_cast<size_t>(head_dim)), v(k.size());
        for (float& x : k) x = normal(random);
        StoreKvRow(type, head_dim, k.data(), v.data(), pages_.back().data(),
                   static_cast<int>(i % kPageTokens));
        LoadKvRow(type, head_dim, pages_.back().data(), static_cast<int>(i % kPageTokens), k.data(),
                  v.data());
        keys_[static_cast<size_t>(head)].push_back(k);
      }
    }
  }
  int64_t Entries(int, int) const override { return entries_; }
  KvPage Page(int, int head, int64_t page, std::byte*) const override {
    const int64_t each = (entries_ + kPageTokens - 1) / kPageTokens;
    KvPage out = StoredPage(type_, dim_, pages_[static_cast<size_t>(head * each + page)].data());
    out.first_position = static_cast<int32_t>(page * kPageTokens);
    out.entries = static_cast<int32_t>(std::min<int64_t>(kPageTokens, entries_ - page * kPageTokens));
    out.logit_bias = bias_.data() + page * kPageTokens;
    return out;
  }
  double Score(int head, int64_t entry, const float* q, float scale) const {
    double sum = 0;
    const auto& k = keys_[static_cast<size_t>(head)][static_cast<size_t>(entry)];
    for (size_t d = 0; d < k.size(); ++d) sum += static_cast<double>(q[d]) * k[d];
    return sum * scale + bias_[static_cast<size_t>(entry)];
  }

 private:
  KvType type_;
  int dim_;
  int64_t entries_;
  std::vector<float> bias_;
  std::vector<AlignedBuffer> pages_;
  std::vector<std::vector<std::vector<float>>> keys_;
};

struct Sums {
  explicit Sums(size_t rows, int64_t entries)
      : values(rows, std::vector<float>(static_cast<size_t>((entries + 63) / 64 * 64))),
        squares(values),
        entropies(values) {
    for (auto& row : values) sums_at.push_back(row.data());
    for (auto& row : squares) squares_at.push_back(row.data());
    for (auto& row : entropies) entropies_at.push_back(row.data());
  }
  ColumnTarget target() const { return {sums_at, squares_at, entropies_at}; }
  std::vector<std::vector<float>> values, squares, entropies;
  std::vector<float*> sums_at, squares_at, entropies_at;
};

class ColumnSumsTest : public ::testing::TestWithParam<KvType> {};

TEST_P(ColumnSumsTest, EqualTheReferenceAndTheExactSoftmax) {
  for (const auto& [dim, entries, window] :
       {std::tuple(16, 150, 0), std::tuple(64, 65, 0), std::tuple(33, 200, 70)}) {
    std::mt19937 random(7);
    const Lanes lanes(GetParam(), dim, entries, random);
    const AttentionShape shape{0, kHeads, kKvHeads, dim, 0.2f, window, GetParam()};
    std::normal_distribution<float> normal;
    const std::vector<int32_t> positions = {3, 64, 100, static_cast<int32_t>(entries - 1)};
    std::vector<float> q(positions.size() * static_cast<size_t>(kHeads * dim));
    for (float& x : q) x = normal(random);
    std::vector<float> lse(positions.size() * kHeads);
    std::vector<std::vector<double>> exact(kHeads, std::vector<double>(static_cast<size_t>(entries)));
    std::vector<std::vector<double>> exact_squares(exact), exact_entropies(exact);
    std::vector<TapRow> rows;
    for (size_t r = 0; r < positions.size(); ++r) {
      const float* row_q = q.data() + r * static_cast<size_t>(kHeads * dim);
      for (int h = 0; h < kHeads; ++h) {
        const int64_t first = window > 0 ? std::max(0, positions[r] - window + 1) : 0;
        const int64_t last = std::min<int64_t>(positions[r], entries - 1);
        double sum = 0;
        const auto score = [&](int64_t i) { return lanes.Score(h / 3, i, row_q + h * dim, shape.scale); };
        for (int64_t i = first; i <= last; ++i) sum += std::exp(score(i));
        for (int64_t i = first; i <= last; ++i) {
          const double p = std::exp(score(i)) / sum;
          exact[static_cast<size_t>(h)][static_cast<size_t>(i)] += p;
          exact_squares[static_cast<size_t>(h)][static_cast<size_t>(i)] += p * p;
          exact_entropies[static_cast<size_t>(h)][static_cast<size_t>(i)] -= p > 0 ? p * std::log(p) : 0;
        }
        lse[r * kHeads + static_cast<size_t>(h)] = static_cast<float>(std::log(sum));
      }
      rows.push_back({row_q, lse.data() + r * kHeads, positions[r]});
    }
    Sums heads(kHeads, entries), groups(kKvHeads, entries);
    ColumnSumsReference(shape, lanes, rows, heads.target());
    ColumnSumsReference(shape, lanes, rows, groups.target());
    for (size_t h = 0; h < kHeads; ++h) {
      double total = 0;
      for (size_t i = 0; i < static_cast<size_t>(entries); ++i) {
        EXPECT_NEAR(heads.values[h][i], exact[h][i], 2e-5) << "head " << h << " entry " << i;
        EXPECT_NEAR(heads.squares[h][i], exact_squares[h][i], 2e-5) << "head " << h << " entry " << i;
        EXPECT_NEAR(heads.entropies[h][i], exact_entropies[h][i], 2e-5) << "head " << h << " entry " << i;
        total += heads.values[h][i];
      }
      EXPECT_NEAR(total, static_cast<double>(rows.size()), 1e-3);
    }
    for (size_t i = 0; i < static_cast<size_t>(entries); ++i) {
      EXPECT_NEAR(groups.values[1][i], (exact[3][i] + exact[4][i] + exact[5][i]) / 3, 2e-5);
      EXPECT_NEAR(groups.entropies[1][i],
                  (exact_entropies[3][i] + exact_entropies[4][i] + exact_entropies[5][i]) / 3, 2e-5);
    }
    ForEachSimdTarget([&] {
      for (const int threads : {1, 3}) {
        ThreadPool pool(threads);
        ColumnScratch scratch;
        Sums whole(kHeads, entries), parts(kHeads, entries), mean(kKvHeads, entries), only(kHeads, entries);
        ColumnSums(pool, scratch, shape, lanes, rows, whole.target());
        for (const TapRow& row : rows) ColumnSums(pool, scratch, shape, lanes, {&row, 1}, parts.target());
        ColumnSums(pool, scratch, shape, lanes, rows, mean.target());
        ColumnSums(pool, scratch, shape, lanes, rows, {only.sums_at, {}, only.entropies_at});
        EXPECT_EQ(whole.values, heads.values);
        EXPECT_EQ(whole.squares, heads.squares);
        EXPECT_EQ(whole.entropies, heads.entropies);
        EXPECT_EQ(parts.values, heads.values);
        EXPECT_EQ(parts.entropies, heads.entropies);
        EXPECT_EQ(mean.values, groups.values);
        EXPECT_EQ(mean.entropies, groups.entropies);
        EXPECT_EQ(only.entropies, heads.entropies);
      }
    });
  }
}

INSTANTIATE_TEST_SUITE_P(, ColumnSumsTest, ::testing::Values(KvType::kI16, KvType::kF32));

}  // namespace
}  // namespace larder
