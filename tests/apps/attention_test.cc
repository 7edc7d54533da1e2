// How uneven attention is: shares by hand, and those of a model against softmax in double precision.
#include <gtest/gtest.h>

#include "larder/eval_attention.h"
#include "larder/measure.h"
#include "tests/engine/masked_sequence.h"
#include "tests/testing/model_session.h"

namespace larder {
namespace {

TEST(TopShare, ByHand) {
  const std::vector<float> sums = {1, 0, 8, 2, 0, 0, 4, 0, 1, 0};
  EXPECT_DOUBLE_EQ(TopShare(sums, 0.1), 0.5);
  EXPECT_DOUBLE_EQ(TopShare(sums, 0.2), 0.75);
  EXPECT_DOUBLE_EQ(TopShare(sums, 0.29), 0.75);
  EXPECT_DOUBLE_EQ(TopShare(sums, 0.01), 0.5) << "at least one";
  EXPECT_DOUBLE_EQ(TopShare(sums, 1), 1);
}

TEST(AttentionShares, AreThoseOfPlainSoftmax) {
  const auto model =
      testing::LoadModel(testing::DataPath("models/tiny-llama.gguf"), MathMode::kFast, KvType::kF32, 2);
  EvaluationText text;
  text.tokens = FillerTokens(600, model->spec().vocabulary, 5);
  text.windows = PlanWindows(600, 300, 300);
  ASSERT_EQ(text.windows.size(), 2u);
  const auto shares = AttentionShares(*model, text, 0.1);
  ASSERT_TRUE(shares) << shares.error().message;
  ASSERT_EQ(shares->size(), 2u);
  std::vector<double> expected(2);
  for (const int64_t begin : {0, 300}) {
    testing::MaskedSequence sequence(*model, /*by_rank=*/false, 0);
    sequence.Run(std::span(text.tokens).subspan(static_cast<size_t>(begin)), 300);
    for (int layer = 0; layer < 2; ++layer) {
      for (int head = 0; head < 2; ++head) {
        const auto sums = std::span(sequence.Sums(layer, head)).first(300);
        expected[static_cast<size_t>(layer)] += TopShare({sums.begin(), sums.end()}, 0.1) / 4;
      }
    }
  }
  for (size_t layer = 0; layer < 2; ++layer) {
    EXPECT_NEAR((*shares)[layer], expected[layer], 1e-4);
    EXPECT_GT((*shares)[layer], 0.1);
  }
}

}  // namespace
}  // namespace larder
