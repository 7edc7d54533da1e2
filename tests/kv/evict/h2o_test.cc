// H2O by hand: one head of two elements, one heavy entry and one recent, five tokens.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "compute/column_sums.h"
#include "kv/evict/method.h"
#include "tests/kv/heap_pages.h"

namespace larder {
namespace {

using Numbers = std::vector<int32_t>;

// A token: its key, its value, and its query, whose products with the keys are logarithms of the weights that
// it gives before they are divided by their sum.
struct Token {
  float k[2], v[2], q[2];
};

class OneHead {
 public:
  explicit OneHead(const char* spec)
      : shape_(*KvShape::Create({0}, 1, 2, KvType::kF32)),
        pages_(shape_.page_bytes()),
        method_(*CreateEvictMethod(spec, {.layers = 1})),
        lanes_(&shape_, &pages_, PositionMode::kKeep, {}) {}

  // Stored, attended from, tapped; returns what attention gave.
  std::vector<float> Row(const Token& token) {
    const auto position = static_cast<int32_t>(rows_++);
    EXPECT_TRUE(lanes_.Reserve(1, position));
    StoreKvRow(KvType::kF32, 2, token.k, token.v, lanes_.WritablePage(0, 0, position),
               lanes_.WritableSlot(0, 0, position));
    lanes_.Advance();
    const AttentionShape shape{0, 1, 1, 2, 1.0f, 0, KvType::kF32};
    std::vector<float> out(2), lse(1);
    const AttentionRow row{token.q, out.data(), lse.data(), &lanes_, position};
    Attention(pool_, attention_, shape, {&row, 1});
    float* const sums = lanes_.Scores(0, 0).data();
    const TapRow tap{token.q, lse.data(), position};
    ColumnSums(pool_, columns_, shape, lanes_, {&tap, 1}, {{&sums, 1}, {}});
    return out;
  }
  // The sum of a token's entry.
  double SumOf(int32_t token) {
    const auto here = lanes_.Positions(0, 0);
    const auto at = std::ranges::find(here, token) - here.begin();
    return static_cast<double>(lanes_.Scores(0, 0)[static_cast<size_t>(at)]);
  }
  void AfterPrompt() {
    EvictView view{shape_, 1, layers_, rows_, rows_, lanes_, {}};
    ASSERT_TRUE(method_->AfterPrompt(view));
  }
  void AfterToken() {
    EvictView view{shape_, 1, layers_, 1, rows_, lanes_, {}};
    ASSERT_TRUE(method_->AfterToken(view));
  }
  Numbers Kept() const {
    Numbers kept(lanes_.Positions(0, 0).begin(), lanes_.Positions(0, 0).end());
    std::ranges::sort(kept);
    return kept;
  }

 private:
  KvShape shape_;
  HeapPages pages_;
  ThreadPool pool_{1};
  AttentionScratch attention_;
  ColumnScratch columns_;
  std::unique_ptr<EvictMethod> method_;
  LaneTable lanes_;
  const std::vector<int> layers_ = {0};
  int64_t rows_ = 0;
};

// A key of (1, 0) takes e^q0, one of (0, 1) takes e^q1, one of (0, 0) takes 1. Weights in sixteenths:
//
//   token   key      weights of tokens 0..4      sums after it                          goes   stays
//   0       (0, 0)   16                          16                                            0
//   1       (1, 0)    1  15                      17  15                                        0 1
//   2       (0, 1)    1   4  11                  18  19  11                             0      1 2
//   3       (0, 0)    -   1   5  10               -  20  16  10                         2      1 3
//   4       (0, 1)    -   1   -  14   1           -  21   -  24   1                     1      3 4
//
// Token 2 goes although it is newer than token 1 and the last row gave it more: the sum decides. Then token
// 3, with the sum of two rows, has overtaken token 1. Nothing goes before token 2, so that the prompt may end
// with each of the first three.
TEST(H2o, FiveTokensByHand) {
  const auto log = [](double x) { return static_cast<float>(std::log(x)); };
  const Token tokens[] = {
      {{0, 0}, {1, 0}, {0, 0}},
      {{1, 0}, {2, 0}, {log(15), 0}},                     // 1 : 15
      {{0, 1}, {4, 0}, {log(4), log(11)}},                // 1 : 4 : 11
      {{0, 0}, {8, 0}, {log(1.0 / 10), log(5.0 / 10)}},   // 1 : 5 : 10
      {{0, 1}, {16, 0}, {log(1.0 / 14), log(1.0 / 14)}},  // 1 : 14 : 1
  };
  struct Step {
    Numbers kept;
    std::vector<double> sums;  // of these, in sixteenths
    double out;                // attention's first element, in sixteenths: the victim takes part
  };
  const Step steps[] = {{{0}, {16}, 16},
                        {{0, 1}, {17, 15}, 1 * 1 + 15 * 2},
                        {{1, 2}, {19, 11}, 1 * 1 + 4 * 2 + 11 * 4},
                        {{1, 3}, {20, 10}, 1 * 2 + 5 * 4 + 10 * 8},
                        {{3, 4}, {24, 1}, 1 * 2 + 14 * 8 + 1 * 16}};
  for (const size_t prompt : {1u, 2u, 3u}) {
    OneHead head("h2o:budget=2,recent=0.5");
    for (size_t i = 0; i < std::size(steps); ++i) {
      const std::vector<float> out = head.Row(tokens[i]);
      if (i + 1 == prompt) head.AfterPrompt();
      if (i >= prompt) head.AfterToken();
      ASSERT_EQ(head.Kept(), steps[i].kept) << "after token " << i;
      for (size_t j = 0; j < steps[i].kept.size(); ++j)
        EXPECT_NEAR(head.SumOf(steps[i].kept[j]), steps[i].sums[j] / 16, 1e-5) << "after token " << i;
      EXPECT_NEAR(out[0], steps[i].out / 16, 1e-5) << "after token " << i;
    }
  }
}

}  // namespace
}  // namespace larder
