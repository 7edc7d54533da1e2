// The comparison of eviction methods: a budget that covers everything has no divergence at all, one that does
// not has some; every arm is scored on every token; the summary's numbers are those of a table made by hand.
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <numeric>
#include <random>

#include "kv/codec/codec.h"
#include "kv/evict/method.h"
#include "larder/equal_loss.h"
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

// 150 tokens of prompt, 20 scored ones from the first row that reads an arm's own cache.
Result<std::vector<ArmDocument>> Continue(ArmRunner& runner, std::span<const int32_t> tokens) {
  LARDER_TRY(runner.Read(tokens.first(150)));
  std::vector<int64_t> targets(20);
  std::iota(targets.begin(), targets.end(), 1);
  return runner.Run(tokens.subspan(150), 0, targets);
}

class MethodArms : public ::testing::TestWithParam<const char*> {};

TEST_P(MethodArms, AreHeldAgainstTheFullCache) {
  const auto model = testing::LoadModel(testing::DataPath(std::string("models/") + GetParam()),
                                        MathMode::kFast, KvType::kI16, 2);
  const bool windows = std::string_view(GetParam()) == "tiny-gemma3.gguf";
  const std::string methods =
      std::string("snapkv:window=8+kernel=3,h2o,streaming,keynorm,random,oracle,kvmerger") +
      (windows ? "" : ",lacache:span=1");
  const auto whole = PlanArms(methods, "100000", 4, 8, *model);
  ASSERT_TRUE(whole) << whole.error().message;
  const auto cut = PlanArms(methods, "0.25", 4, 8, *model);
  ASSERT_TRUE(cut);
  const auto tokens = Text(150 + 20 + 1);
  auto all = ArmRunner::Create(*model, *whole, {}, 171);
  auto some = ArmRunner::Create(*model, *cut, {}, 171);
  ASSERT_TRUE(all && some);
  const auto kept = Continue(**all, tokens), dropped = Continue(**some, tokens);
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
    for (const double entries : (*dropped)[arm].layer_entries) EXPECT_LE(entries, 50) << name;
    EXPECT_FALSE((*dropped)[arm].layer_entries.empty()) << name;
    EXPECT_GT((*dropped)[arm].private_bytes, 0u);
  }
  // A second document starts anew.
  const auto again = Continue(**some, tokens);
  ASSERT_TRUE(again);
  for (size_t arm = 0; arm < cut->size(); ++arm) EXPECT_EQ(KlOf((*again)[arm]), KlOf((*dropped)[arm]));
}

INSTANTIATE_TEST_SUITE_P(, MethodArms, ::testing::Values("tiny-llama.gguf", "tiny-gemma3.gguf"));

// A prompt that ends within the text is the same as a context that ends there; and the token right behind the
// prompt is predicted by its last row, run again on what is left.
TEST(ArmRunner, ReadsTheLastRowOfAPromptAgain) {
  for (const char* name : {"tiny-llama.gguf", "tiny-gemma3.gguf"}) {
    const auto model = testing::LoadModel(testing::DataPath(std::string("models/") + name), MathMode::kFast,
                                          KvType::kI16, 2);
    const auto arms = PlanArms("full,snapkv:window=8+kernel=3,h2o,oracle", "0.25", 4, 8, *model);
    const auto whole = PlanArms("snapkv:window=8,h2o,streaming", "1000", 4, 8, *model);
    ASSERT_TRUE(arms && whole);
    const auto tokens = Text(171);
    auto runner = ArmRunner::Create(*model, *arms, {}, 171), all = ArmRunner::Create(*model, *whole, {}, 171);
    ASSERT_TRUE(runner && all);
    const auto once = Continue(**runner, tokens);
    ASSERT_TRUE(once) << once.error().message;
    std::vector<int64_t> targets(21);
    std::iota(targets.begin(), targets.end(), 50);
    for (ArmRunner* one : {runner->get(), all->get()}) {
      ASSERT_TRUE(one->Read(std::span(tokens).first(100)));
      const auto parts = one->Run(std::span(tokens).subspan(100), 50, targets);
      ASSERT_TRUE(parts) << parts.error().message;
      for (size_t arm = 0; arm < parts->size(); ++arm) {
        const bool exact = one == all->get() || arm == 0;
        EXPECT_EQ((*parts)[arm].tokens[0].kl == 0, exact) << name << arm;
        // The oracle knows one row more here.
        if (one == all->get() || arms->at(arm).kind == ArmKind::kOracle) continue;
        for (size_t i = 0; i < 20; ++i)
          EXPECT_EQ((*parts)[arm].tokens[i + 1].candidate_nll, (*once)[arm].tokens[i].candidate_nll)
              << name << arm;
      }
    }
  }
}

TEST(ArmRunner, HasCodecsBesideMethods) {
  const auto load = [](const std::string& codec) {
    return testing::LoadModel(testing::DataPath("models/tiny-llama.gguf"), MathMode::kFast, KvType::kI16, 2,
                              codec);
  };
  const auto model = load("");
  const auto arms = PlanArms("q8_0,snapkv:window=8,q4_0,t4:center=0+rotate=16", "0.5", 4, 8, *model);
  ASSERT_TRUE(arms) << arms.error().message;
  ASSERT_EQ(arms->size(), 4u);
  EXPECT_EQ((*arms)[3].spec, "t4:center=0,rotate=16");
  std::vector<std::unique_ptr<Model>> codecs;
  for (const size_t arm : {0, 2, 3}) codecs.push_back(load((*arms)[arm].spec));
  auto runner = ArmRunner::Create(*model, *arms, std::move(codecs), 171);
  ASSERT_TRUE(runner);
  const auto out = Continue(**runner, Text(171));
  ASSERT_TRUE(out) << out.error().message;
  EXPECT_GT(KlOf((*out)[0]), 0);
  EXPECT_LT(KlOf((*out)[0]), KlOf((*out)[2]));
  EXPECT_LT((*out)[2].private_bytes, (*out)[0].private_bytes);
  EXPECT_LT((*out)[0].private_bytes, (*runner)->full_bytes());
  EXPECT_GT((*out)[2].private_bytes, (*runner)->full_bytes() / 2);  // the last of three blocks is rows
  EXPECT_NE(KlOf((*out)[2]), KlOf((*out)[3]));
}

// Arms of one budget have equally many pages, with the next token: full ones where lanes are equal.
TEST(ArmRunner, EqualisesPages) {
  for (const char* name : {"tiny-llama.gguf", "tiny-gemma3.gguf"}) {
    const auto model = testing::LoadModel(testing::DataPath(std::string("models/") + name), MathMode::kFast,
                                          KvType::kI16, 2);
    const bool windows = std::string_view(name) == "tiny-gemma3.gguf";
    const auto arms = PlanArms(std::string("streaming,h2o,snapkv:window=8,adakv:window=8,oracle,full") +
                                   (windows ? "" : ",lacache:span=1"),
                               "128,100,100000", 4, 8, *model);
    ASSERT_TRUE(arms) << arms.error().message;
    const auto tokens = Text(220 + 20 + 1);
    auto runner = ArmRunner::Create(*model, *arms, {}, 241);
    ASSERT_TRUE(runner);
    ASSERT_TRUE((*runner)->Read(std::span(tokens).first(220)));
    ASSERT_TRUE((*runner)->EqualisePages());
    const std::vector<int64_t> targets = {1, 2};
    const auto out = (*runner)->Run(std::span(tokens).subspan(220), 0, targets);
    ASSERT_TRUE(out) << out.error().message;
    std::map<std::string, uint64_t> bytes;  // of streaming, by budget
    for (size_t i = 0; i < arms->size(); ++i) {
      const Arm& arm = (*runner)->arms()[i];
      if (arm.kind == ArmKind::kFull) continue;
      if (arm.method == "streaming") bytes[arm.budget] = (*out)[i].resident_bytes;
      if (arm.budget == "100000") {
        EXPECT_EQ(arm.entries, 0) << "all fits: " << arm.method;
        EXPECT_EQ((*out)[i].entries, 220) << arm.method;
      } else if (arm.method.starts_with("adakv")) {
        EXPECT_TRUE(arm.entries > 0 || arm.budget == "100") << "unequal lanes need more pages";
      } else if (arm.budget == "128") {
        EXPECT_EQ(arm.entries, 127) << arm.method;
        EXPECT_LE((*out)[i].entries, 127) << arm.method;
      } else {
        EXPECT_EQ(arm.entries, 0) << "a page is not full: " << arm.method;
      }
      // Tables are as large as the prompt made them; a page more would be a third.
      const auto held = static_cast<double>((*out)[i].resident_bytes);
      EXPECT_LT(held, 1.2 * static_cast<double>(bytes[arm.budget])) << name << arm.method << arm.budget;
      EXPECT_TRUE(arm.method.starts_with("adakv") || held > 0.8 * static_cast<double>(bytes[arm.budget]));
    }
  }
}

TEST(ArmRunner, RunsArmsByThemselves) {
  const auto load = [](const std::string& codec) {
    return testing::LoadModel(testing::DataPath("models/tiny-llama.gguf"), MathMode::kFast, KvType::kI16, 2,
                              codec);
  };
  const auto model = load("");
  const auto arms = PlanArms("full,q4_0,snapkv:window=8,h2o,oracle", "64", 4, 8, *model);
  ASSERT_TRUE(arms);
  std::vector<std::unique_ptr<Model>> codecs;
  codecs.push_back(load("q4_0"));
  auto runner = ArmRunner::Create(*model, *arms, std::move(codecs), 400);
  ASSERT_TRUE(runner);
  const auto tokens = Text(400);
  ASSERT_TRUE((*runner)->Read(std::span(tokens).first(380)));
  const std::vector<int64_t> targets = {1};
  const auto forked = (*runner)->Run(std::span(tokens).subspan(380), 0, targets);
  ASSERT_TRUE(forked);
  const uint64_t full = (*runner)->full_bytes();
  for (size_t arm = 0; arm < arms->size(); ++arm) {
    const auto alone = (*runner)->Alone(arm, std::span(tokens).subspan(380));
    ASSERT_TRUE(alone) << alone.error().message;
    const std::string& name = (*arms)[arm].method;
    EXPECT_GT(alone->tokens_per_s, 0) << name;
    EXPECT_GE(alone->peak_bytes, (*forked)[arm].resident_bytes) << name;
    // Who chooses at the prompt's end has held all of it; so has who codes what a step has written.
    EXPECT_GE(alone->peak_bytes, full * 9 / 10) << name;
    EXPECT_LT(alone->peak_bytes, full * 2) << name;
  }
  // Nothing is left of them.
  const auto again = (*runner)->Run(std::span(tokens).subspan(380), 0, targets);
  ASSERT_TRUE(again);
  for (size_t arm = 0; arm < arms->size(); ++arm) EXPECT_EQ(KlOf((*again)[arm]), KlOf((*forked)[arm]));
}

// What a method has left, as codes: worse than either alone, and smaller than both.
TEST(ArmRunner, HasMethodsTogetherWithCodecs) {
  const auto load = [](const std::string& codec) {
    return testing::LoadModel(testing::DataPath("models/tiny-llama.gguf"), MathMode::kFast, KvType::kI16, 2,
                              codec);
  };
  const auto model = load("");
  const auto arms = PlanArms(
      "q4_0,keynorm,keynorm@q4_0,h2o:decode=false,h2o:decode=false@q8_0,snapkv:window=8,snapkv:window=8@q4_0",
      "128", 4, 8, *model);
  ASSERT_TRUE(arms) << arms.error().message;
  EXPECT_EQ(CodecsOf(*arms), (std::vector<std::string>{"q4_0", "q8_0"}));
  EXPECT_EQ((*arms)[6].spec, "snapkv:budget=128,sinks=4,last=8,window=8");
  std::vector<std::unique_ptr<Model>> codecs;
  codecs.push_back(load("q4_0"));
  codecs.push_back(load("q8_0"));
  auto runner = ArmRunner::Create(*model, *arms, std::move(codecs), 281);
  ASSERT_TRUE(runner);
  const auto tokens = Text(281);
  ASSERT_TRUE((*runner)->Read(std::span(tokens).first(260)));
  std::vector<int64_t> targets(20);
  std::iota(targets.begin(), targets.end(), 1);
  const auto out = (*runner)->Run(std::span(tokens).subspan(260), 0, targets);
  ASSERT_TRUE(out) << out.error().message;
  for (const size_t both : {2, 4, 6}) {
    const ArmDocument &one = (*out)[both], &method = (*out)[both - 1];
    EXPECT_NE(KlOf(one), KlOf(method)) << both;
    EXPECT_LT(one.resident_bytes, method.resident_bytes) << both;
    EXPECT_EQ(one.entries, method.entries);
    EXPECT_TRUE((*runner)->Alone(both, std::span(tokens).subspan(260)));
  }
  EXPECT_GT(KlOf((*out)[6]), KlOf((*out)[0]));
  // Eight bits cost next to nothing beside half of the entries; not so four.
  EXPECT_NEAR(KlOf((*out)[4]) / KlOf((*out)[3]), 1, 0.1);
  const auto again = (*runner)->Run(std::span(tokens).subspan(260), 0, targets);
  ASSERT_TRUE(again);
  for (size_t arm = 0; arm < arms->size(); ++arm) EXPECT_EQ(KlOf((*again)[arm]), KlOf((*out)[arm]));
  EXPECT_FALSE(PlanArms("oracle@q4_0", "0.5", 4, 8, *model));
  EXPECT_FALSE(PlanArms("lacache:span=1@q4_0", "0.5", 4, 8, *model)) << "keys by rank are not rotated";
  EXPECT_FALSE(PlanArms("snapkv@nosuch", "0.5", 4, 8, *model));
  for (const char* rows : {"streaming@q4_0", "h2o@q4_0", "mikv@q4_0"})
    EXPECT_FALSE(PlanArms(rows, "0.5", 4, 8, *model)) << rows;
}

TEST(ArmRunner, GreedyTextIsTheFullCachesOwn) {
  const auto model =
      testing::LoadModel(testing::DataPath("models/tiny-llama.gguf"), MathMode::kFast, KvType::kI16, 2);
  auto runner = ArmRunner::Create(*model, *PlanArms("full", "1", 0, 0, *model), {}, 171);
  ASSERT_TRUE(runner);
  const auto tokens = Text(100);
  ASSERT_TRUE((*runner)->Read(tokens));
  const auto chosen = (*runner)->Greedy(20);
  ASSERT_TRUE(chosen);
  ASSERT_GE(chosen->size(), 2u);
  std::vector<int64_t> targets(chosen->size() - 1);
  std::iota(targets.begin(), targets.end(), 1);
  const auto out = (*runner)->Run(*chosen, 0, targets);
  ASSERT_TRUE(out);
  for (const Divergence& d : out->front().tokens) EXPECT_TRUE(d.base_right && d.candidate_right);
}

TEST(BeforeRepetition, CutsWhereALoopBegins) {
  const std::vector<int32_t> none = {1, 2, 3, 4, 5, 1, 2, 6}, loop = {9, 1, 2, 3, 1, 2, 3, 1, 2, 3},
                             same(10, 7);
  EXPECT_EQ(BeforeRepetition(none, 3), 8);
  EXPECT_EQ(BeforeRepetition(none, 2), 5);
  EXPECT_EQ(BeforeRepetition(loop, 3), 4);
  EXPECT_EQ(BeforeRepetition(same, 4), 1);
  EXPECT_EQ(BeforeRepetition({}, 4), 0);
}

TEST(PlanArms, SaysWhatIsWrong) {
  const auto model =
      testing::LoadModel(testing::DataPath("models/tiny-llama.gguf"), MathMode::kFast, KvType::kI16, 1);
  EXPECT_FALSE(PlanArms("nosuch", "0.5", 0, 0, *model));
  EXPECT_FALSE(PlanArms("snapkv", "much", 0, 0, *model));
  EXPECT_FALSE(PlanArms("", "0.5", 0, 0, *model));
  EXPECT_FALSE(PlanArms("t4:rotate=3", "0.5", 0, 0, *model));
  const auto arms = PlanArms("h2o,snapkv:window=8", "0.5,64", 4, 32, *model);
  ASSERT_TRUE(arms);
  ASSERT_EQ(arms->size(), 4u);
  EXPECT_EQ((*arms)[3].spec, "snapkv:budget=64,sinks=4,last=32,window=8");
  EXPECT_EQ(WithEntries((*arms)[2], 63).spec, "snapkv:budget=63,sinks=4,last=32,window=8");
  EXPECT_EQ(WithEntries((*arms)[2], 63).budget, "0.5");
}

// What a model cannot have is a line of the report; everything else runs.
TEST(PlanArms, LeavesOutWhatTheModelCannotGive) {
  const auto model =
      testing::LoadModel(testing::DataPath("models/tiny-gemma3.gguf"), MathMode::kFast, KvType::kI16, 1);
  Refusals refused;
  const auto arms = PlanArms("snapkv:window=8,lacache,h2o", "0.5,0.25", 4, 8, *model, &refused);
  ASSERT_TRUE(arms) << arms.error().message;
  EXPECT_EQ(arms->size(), 4u);
  ASSERT_EQ(refused.size(), 1u);
  EXPECT_NE(refused["lacache"].find("window"), std::string::npos) << refused["lacache"];
  EXPECT_EQ(RefusalLines(refused), "not measured: lacache: " + refused["lacache"] + "\n");
  EXPECT_FALSE(PlanArms("snapkv:window=8,lacache", "0.5", 4, 8, *model)) << "nobody asked for them";
  const auto none = PlanArms("lacache", "0.5", 4, 8, *model, &refused);
  ASSERT_FALSE(none);
  EXPECT_EQ(none.error().kind, ErrorKind::kUnsupported);
  const auto wrong = PlanArms("lacache,nosuch", "0.5", 4, 8, *model, &refused);
  ASSERT_FALSE(wrong);
  EXPECT_EQ(wrong.error().kind, ErrorKind::kInvalid);
}

// A new method is compared by its line in the list.
TEST(DefaultMethods, AreAllThatThereAre) {
  const auto plain = Split(DefaultMethods({}, {}), ',');
  std::vector<std::string> names;
  for (const EvictMethodEntry& entry : EvictMethods()) names.emplace_back(entry.info.name);
  names.emplace_back("oracle");
  for (const KvCodecEntry& entry : KvCodecs()) names.emplace_back(entry.info.name);
  EXPECT_EQ(plain, names);
  const auto some = Split(DefaultMethods({"t4:center=0", "h2o:decode=false"}, {"t4"}), ',');
  EXPECT_EQ(some.size(), names.size() + 1);
  EXPECT_EQ(std::ranges::count(some, "t4"), 0);
  const auto h2o = std::ranges::find(some, "h2o:decode=false");
  ASSERT_LT(h2o + 1, some.end());
  EXPECT_EQ(*(h2o + 1), "h2o");
  EXPECT_EQ(InfosOf({.method = "snapkv:window=8@q4_0", .budget = "0.5", .spec = ""}).size(), 2u);
  EXPECT_TRUE(InfosOf({.method = "oracle", .budget = "0.5", .spec = ""}).empty());
}

TEST(EqualLoss, LiesBetweenTheBudgets) {
  const auto arm = [](std::string method, std::string budget, double bytes, double kl) {
    ArmSummary s{.arm = {std::move(method), std::move(budget), ""}, .text = {}, .greedy = {}};
    s.text.kl_mean = kl, s.resident_bytes = bytes;
    s.alone.tokens_per_s = bytes;  // the time tells which arm is taken
    return s;
  };
  const MethodsResult result{.model = "m",
                             .full_bytes = 1000,
                             .arms = {arm("h2o", "0.2", 200, 0.1), arm("h2o", "0.8", 800, 0.025),
                                      arm("snapkv", "0.5", 500, 0.01), arm("snapkv", "0.1", 100, 0.04),
                                      arm("random", "0.5", 500, 0.3), arm("random", "0.1", 100, 0.02),
                                      arm("snapkv@q4_0", "0.1", 100, 0.5), arm("oracle", "0.9", 900, 0)}};
  const auto at = AtEqualLoss(result, 0.05);
  ASSERT_EQ(at.size(), 5u);
  // Half of the way from 0.025 to 0.1, and from 800 to 200, on logarithmic axes.
  EXPECT_EQ(at[0].reach, EqualLoss::Reach::kBetween);
  EXPECT_NEAR(at[0].bytes, 0.4, 1e-9);
  EXPECT_NEAR(at[0].ms_per_token, 1e3 / 800, 1e-9);
  EXPECT_EQ(at[0].leaf, "A2");
  EXPECT_EQ(ShownBytes(at[0]), "40 %");
  EXPECT_EQ(at[1].reach, EqualLoss::Reach::kAtMost);
  EXPECT_EQ(ShownBytes(at[1]), "at most 10 %");
  // A lucky small budget behind a worse large one proves nothing.
  EXPECT_EQ(at[2].reach, EqualLoss::Reach::kNot);
  EXPECT_EQ(ShownBytes(at[2]), "not reached: 0.3000 with 50 %");
  EXPECT_EQ(at[3].leaf, "A1 A8");
  EXPECT_EQ(at[4].leaf, "");
  EXPECT_NE(MethodsHtml(result).find("<td>at most 10 %<td>10.00"), std::string::npos);
  EXPECT_NE(MethodsJson(result).find("\"at_equal_loss\":{\"kl\":0.05"), std::string::npos);
}

TEST(PairedFigures, AreTakenTextByText) {
  // Apart from each other by far less than the texts are.
  const std::vector<double> a = {1.1, 5.1, 9.1, 2.1}, b = {1, 5, 9, 2};
  const Estimate difference = PairedDifference(a, b);
  EXPECT_NEAR(difference.mean, 0.1, 1e-9);
  EXPECT_NEAR(difference.interval.low, 0.1, 1e-9);
  EXPECT_NEAR(difference.interval.high, 0.1, 1e-9);
  const Estimate ratio = PairedRatio({2, 10, 18, 4}, b);
  EXPECT_NEAR(ratio.mean, 2, 1e-9);
  EXPECT_NEAR(ratio.interval.low, 2, 1e-9);
  EXPECT_NEAR(ratio.interval.high, 2, 1e-9);
  EXPECT_LT(PairedDifference({0, 4}, {1, 1}).interval.low, 0);
  EXPECT_GT(PairedDifference({0, 4}, {1, 1}).interval.high, 0);
}

TEST(CompareWith, TakesArmsOfTheSameBudget) {
  const auto arm = [](std::string method, std::string budget, std::vector<double> kl) {
    ArmSummary s{.arm = {std::move(method), std::move(budget), ""}, .text = {}, .greedy = {}};
    s.text.kl_documents = std::move(kl);
    return s;
  };
  std::vector<ArmSummary> arms = {arm("a", "0.5", {0.1, 0.2}),  arm("b", "0.5", {0.4, 0.5}),
                                  arm("a", "0.25", {1, 2}),     arm("b", "0.25", {3, 3}),
                                  arm("q8_0", "", {0.5, 0}),    arm("a@q8_0", "0.25", {2, 2.5}),
                                  arm("a@q4_0", "0.25", {2, 2})};
  CompareWith({"a", "absent"}, arms);
  EXPECT_TRUE(arms[0].text.differences.empty() && arms[2].text.differences.empty());
  EXPECT_TRUE(arms[4].text.differences.empty()) << "a codec has no budget";
  ASSERT_EQ(arms[1].text.differences.size(), 1u);
  EXPECT_EQ(arms[1].text.differences[0].base, "a");
  EXPECT_NEAR(arms[1].text.differences[0].kl.mean, 0.3, 1e-12);
  EXPECT_NEAR(arms[3].text.differences[0].kl.mean, 1.5, 1e-12);
  EXPECT_TRUE(arms[1].greedy.differences.empty()) << "nothing was left of greedy texts";
  // Both together: less the sum of what each loses by itself.
  ASSERT_EQ(arms[5].text.differences.size(), 2u);
  EXPECT_EQ(arms[5].text.differences[1].base, kParts);
  EXPECT_NEAR(arms[5].text.differences[1].kl.mean, 0.5, 1e-12);
  EXPECT_NEAR(arms[5].text.differences[1].kl.interval.low, 0.5, 1e-12);
  EXPECT_EQ(arms[6].text.differences.size(), 1u) << "q4_0 alone is not there";
  const MethodsResult result{.model = "m", .bases = {"a"}, .full_bytes = 1000, .arms = arms};
  EXPECT_NE(MethodsHtml(result).find("KL less that of a"), std::string::npos);
  EXPECT_NE(MethodsHtml(result).find("+1.50000 ("), std::string::npos);
  EXPECT_NE(MethodsJson(result).find("\"differences\":[{\"base\":\"a\",\"kl\":1.5"), std::string::npos);
}

TEST(Summarise, TakesMeansOverDocuments) {
  const auto document = [](double kl, bool top, uint64_t bytes) {
    ArmDocument d;
    d.tokens = {{.kl = kl, .base_nll = 1, .candidate_nll = 1 + kl, .same_top = top},
                {.kl = kl, .base_nll = 1, .candidate_nll = 1 + kl, .same_top = true}};
    d.private_bytes = bytes;
    d.layer_entries = {static_cast<double>(bytes), 7};
    return d;
  };
  const auto out = Summarise({{"a", "0.5", ""}}, {{document(0.1, true, 100)}, {document(0.3, false, 300)}},
                             {{document(0.4, true, 900)}});
  ASSERT_EQ(out.size(), 1u);
  EXPECT_NEAR(out[0].text.kl_mean, 0.2, 1e-12);
  EXPECT_NEAR(out[0].text.same_top, 0.75, 1e-12);
  EXPECT_NEAR(out[0].text.perplexity_ratio, std::exp(0.2), 1e-12);
  EXPECT_NEAR(out[0].private_bytes, 200, 1e-9);
  ASSERT_EQ(out[0].layers.size(), 2u);
  EXPECT_NEAR(out[0].layers[0].mean, 200, 1e-9);
  EXPECT_NEAR(out[0].layers[0].variation, std::sqrt(2) * 100 / 200, 1e-9) << "of 100 and 300";
  EXPECT_EQ(out[0].layers[1].variation, 0);
  EXPECT_GE(out[0].text.kl_low, 0.1 - 1e-12);
  EXPECT_LE(out[0].text.kl_high, 0.3 + 1e-12);
  EXPECT_NEAR(out[0].greedy.kl_mean, 0.4, 1e-12);
  MethodsResult result{.model = "m", .greedy_documents = 1, .full_bytes = 1000, .arms = out};
  EXPECT_NE(MethodsJson(result).find("\"layers\":[{\"entries\":200"), std::string::npos);
  EXPECT_NE(MethodsJson(result).find("\"greedy\":{\"kl_mean\":0.4"), std::string::npos);
  EXPECT_NE(MethodsHtml(result).find("<svg"), std::string::npos);
}

}  // namespace
}  // namespace larder
