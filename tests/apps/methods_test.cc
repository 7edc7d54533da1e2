// The comparison of eviction methods: a budget that covers everything has no divergence at all, one that does
// not has some; every arm is scored on every token; the summary's numbers are those of a table made by hand.
#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "larder/eval_methods.h"
#include "tests/testing/model_session.h"

namespace larder {
namespace {

std::vector<int32_t> Text(int64_t n) {
  std::mt19937 random(4);
  std::vector<int32_t> out(static_cast<size_t>(n));
  for (auto& t : out) t = static_cast<int32_t>(random() % 200);
  return out;
}

double KlOf(const ArmDocument& document) {
  double sum = 0;
  for (const Divergence& d : document.tokens) sum += d.kl;
  return sum / static_cast<double>(document.tokens.size());
}

class MethodArms : public ::testing::TestWithParam<const char*> {};

TEST_P(MethodArms, AreHeldAgainstTheFullCache) {
  const auto model = testing::LoadModel(testing::DataPath(std::string("models/") + GetParam()),
                                        MathMode::kFast, KvType::kI16, 2);
  const bool windows = std::string_view(GetParam()) == "tiny-gemma3.gguf";
  const std::string methods = std::string("snapkv:window=8+kernel=3,h2o,streaming,keynorm,random,oracle") +
                              (windows ? "" : ",lacache:span=1");
  const auto whole = PlanArms(methods, "100000", 4, 8, *model);
  ASSERT_TRUE(whole) << whole.error().message;
  const auto cut = PlanArms(methods, "0.25", 4, 8, *model);
  ASSERT_TRUE(cut);
  const auto tokens = Text(150 + 20 + 1);
  auto all = ArmRunner::Create(*model, *whole, 150, 20);
  auto some = ArmRunner::Create(*model, *cut, 150, 20);
  ASSERT_TRUE(all && some);
  const auto kept = (*all)->Run(tokens), dropped = (*some)->Run(tokens);
  ASSERT_TRUE(kept && dropped);
  for (size_t arm = 0; arm < whole->size(); ++arm) {
    const std::string& name = (*whole)[arm].method;
    ASSERT_EQ((*kept)[arm].tokens.size(), 20u);
    if (name.starts_with("lacache")) {
      EXPECT_LT(KlOf((*kept)[arm]), 1e-3);  // by rank: close, not equal
    } else {
      for (const Divergence& d : (*kept)[arm].tokens) {
        EXPECT_EQ(d.base_nll, d.candidate_nll) << name;
        EXPECT_TRUE(d.same_top) << name;
      }
    }
    EXPECT_GT(KlOf((*dropped)[arm]), 1e-7) << name;
    EXPECT_LE((*dropped)[arm].entries, 50) << name;
    EXPECT_GT((*dropped)[arm].private_bytes, 0u);
  }
  // A second document starts anew.
  const auto again = (*some)->Run(tokens);
  ASSERT_TRUE(again);
  for (size_t arm = 0; arm < cut->size(); ++arm) EXPECT_EQ(KlOf((*again)[arm]), KlOf((*dropped)[arm]));
}

INSTANTIATE_TEST_SUITE_P(, MethodArms, ::testing::Values("tiny-llama.gguf", "tiny-gemma3.gguf"));

TEST(PlanArms, SaysWhatIsWrong) {
  const auto model =
      testing::LoadModel(testing::DataPath("models/tiny-llama.gguf"), MathMode::kFast, KvType::kI16, 1);
  EXPECT_FALSE(PlanArms("nosuch", "0.5", 0, 0, *model));
  EXPECT_FALSE(PlanArms("snapkv", "much", 0, 0, *model));
  EXPECT_FALSE(PlanArms("", "0.5", 0, 0, *model));
  const auto arms = PlanArms("h2o,snapkv:window=8", "0.5,64", 4, 32, *model);
  ASSERT_TRUE(arms);
  ASSERT_EQ(arms->size(), 4u);
  EXPECT_EQ((*arms)[3].spec, "snapkv:budget=64,sinks=4,last=32,window=8");
}

TEST(Summarise, TakesMeansOverDocuments) {
  const auto document = [](double kl, bool top, uint64_t bytes) {
    ArmDocument d;
    d.tokens = {{.kl = kl, .base_nll = 1, .candidate_nll = 1 + kl, .same_top = top},
                {.kl = kl, .base_nll = 1, .candidate_nll = 1 + kl, .same_top = true}};
    d.private_bytes = bytes;
    return d;
  };
  const auto out = Summarise({{"a", "0.5", ""}}, {{document(0.1, true, 100)}, {document(0.3, false, 300)}});
  ASSERT_EQ(out.size(), 1u);
  EXPECT_NEAR(out[0].kl_mean, 0.2, 1e-12);
  EXPECT_NEAR(out[0].same_top, 0.75, 1e-12);
  EXPECT_NEAR(out[0].perplexity_ratio, std::exp(0.2), 1e-12);
  EXPECT_NEAR(out[0].private_bytes, 200, 1e-9);
  EXPECT_GE(out[0].kl_low, 0.1 - 1e-12);
  EXPECT_LE(out[0].kl_high, 0.3 + 1e-12);
  MethodsResult result{.model = "m", .full_bytes = 1000, .arms = out};
  EXPECT_NE(MethodsJson(result).find("\"kl_mean\":0.2"), std::string::npos);
  EXPECT_NE(MethodsHtml(result).find("<svg"), std::string::npos);
}

}  // namespace
}  // namespace larder
