// Streams: memory is constant to the byte, a budget that holds the whole stream is the full cache, what
// cannot stream is refused, and the figures are those of passes made by hand.
#include <gtest/gtest.h>

#include <cmath>

#include "larder/eval_stream.h"
#include "larder/measure.h"
#include "tests/testing/model_session.h"

namespace larder {
namespace {

class Streams : public ::testing::Test {
 protected:
  Streams() { Load(KvType::kI16); }
  static std::unique_ptr<Model> Loaded(KvType type) {
    return testing::LoadModel(testing::DataPath("models/tiny-llama.gguf"), MathMode::kFast, type, 2);
  }
  void Load(KvType type) {
    session_ = nullptr;
    model_ = Loaded(type);
    auto session = Session::Create(*model_, 2048, 2);
    LARDER_CHECK(session.has_value());
    session_ = *std::move(session);
  }
  EvaluationText TextOf(int64_t tokens) const {
    EvaluationText text;
    text.tokens = FillerTokens(tokens, model_->spec().vocabulary, 3);
    return text;
  }
  Result<StreamPass> Run(const std::string& method, const std::string& budget, int64_t tokens) {
    LARDER_ASSIGN(const auto arms, PlanArms(method, budget, 4, 8, *model_));
    return RunStream(*model_, *session_, arms.front(), TextOf(tokens));
  }

  std::unique_ptr<Model> model_;
  std::unique_ptr<Session> session_;
};

TEST_F(Streams, HoldTheSameBytesAllAlong) {
  // Beyond the context that the model was made for.
  for (const char* method : {"lacache:chunk=64+span=1", "streaming:positions=rank+chunk=64"}) {
    const auto pass = Run(method, "100", model_->spec().context + 1000);
    ASSERT_TRUE(pass) << pass.error().message;
    EXPECT_EQ(std::ssize(pass->nll), model_->spec().context + 999);
    EXPECT_EQ(pass->bytes_low, pass->bytes_high) << method;
    EXPECT_LT(pass->peak_bytes, 2 * pass->bytes_high + 100000);
    for (const double nll : pass->nll) ASSERT_TRUE(std::isfinite(nll));
    const auto shorter = Run(method, "100", 1000);
    EXPECT_EQ(shorter->peak_bytes, pass->peak_bytes) << method;
  }
}

TEST_F(Streams, WithRoomForAllAreTheFullCache) {
  struct Form {
    KvType type;
    double tolerance;  // of positions by rank: keys that are rotated when they are read are not those rounded
  };
  for (const Form& form : {Form{KvType::kI16, 1e-2}, Form{KvType::kF32, 1e-4}}) {
    Load(form.type);
    auto subject = Subject::Create("full", Loaded(form.type), 401);
    ASSERT_TRUE(subject);
    const auto full = RunWindows(*subject, TextOf(400), 400);
    ASSERT_TRUE(full);
    for (const char* method : {"lacache:chunk=64+span=1", "streaming:positions=rank+chunk=64"}) {
      const auto pass = Run(method, "1000", 400);
      ASSERT_TRUE(pass);
      ASSERT_EQ(pass->nll.size(), full->nll.size());
      for (size_t i = 0; i < pass->nll.size(); ++i)
        ASSERT_NEAR(pass->nll[i], full->nll[i], form.tolerance) << method << i;
    }
    const auto kept = Run("streaming:chunk=64", "1000", 400);  // true positions: to the bit
    ASSERT_TRUE(kept);
    EXPECT_EQ(kept->nll, full->nll);
  }
}

TEST_F(Streams, WhatCannotStreamIsRefused) {
  EXPECT_FALSE(Run("snapkv", "100", 1000));
  EXPECT_FALSE(Run("lacache:span=1", "100", 1000));
  EXPECT_FALSE(Run("full", "100", 1000));
  EXPECT_FALSE(Run("streaming:chunk=64", "100", model_->spec().context + 100));
  EXPECT_TRUE(Run("streaming:chunk=64", "100", 1000));
}

TEST(StreamSummary, ComparesWhatAllHaveScored) {
  StreamPass a{.method = "a", .budget = "8", .first = 1, .nll = std::vector<double>(1000, 2.0), .seconds = 1};
  StreamPass b{.method = "b", .budget = "8", .first = 5, .nll = std::vector<double>(996, 1.5), .seconds = 1};
  a.nll[0] = 100;  // scored by a alone
  const auto lines = SummariseStream({a, b});
  ASSERT_EQ(lines.size(), 2u);
  EXPECT_EQ(lines[0].pass.first, 5);
  EXPECT_NEAR(lines[0].perplexity, std::exp(2.0), 1e-9);
  EXPECT_NEAR(lines[1].perplexity, std::exp(1.5), 1e-9);
  EXPECT_NEAR(lines[1].less, 0.5, 1e-12);
  EXPECT_NEAR(lines[1].low, 0.5, 1e-12);
  EXPECT_EQ(lines[0].parts.size(), 8u);
  EXPECT_FALSE(lines[1].below_windows || lines[1].excess);
  EXPECT_NE(StreamJson({.model = "m", .lines = lines}).find("\"log_perplexity_less\":0.5"),
            std::string::npos);
}

TEST(StreamSummary, ComparesWithWindowsAndTheFullCache) {
  const auto pass = [](const char* method, const char* budget, double nll) {
    StreamPass p{.method = method, .budget = budget, .first = 1, .nll = {}, .seconds = 1};
    for (int i = 0; i < 1000; ++i) p.nll.push_back(nll + (i % 7) * 0.5);
    return p;
  };
  const auto lines = SummariseStream(
      {pass("first", "8", 2.4), pass("other", "8", 2.3), pass("windows", "8", 2.9), pass("full", "", 2.0)});
  ASSERT_EQ(lines.size(), 4u);
  ASSERT_TRUE(lines[1].excess && lines[1].below_windows);
  EXPECT_NEAR(lines[1].excess->mean, 0.75, 1e-9);
  EXPECT_NEAR(lines[1].excess->interval.high, 0.75, 1e-9);
  EXPECT_NEAR(lines[1].below_windows->mean, 0.6, 1e-9);
  EXPECT_NEAR(lines[1].below_windows->interval.low, 0.6, 1e-9);
  EXPECT_FALSE(lines[0].excess) << "it is the measure";
  EXPECT_FALSE(lines[2].below_windows || lines[3].excess);
  EXPECT_NE(StreamJson({.model = "m", .lines = lines}).find("\"excess_of_first\":{\"mean\":0.7"),
            std::string::npos);
}

TEST(CopyProbe, PutsStringsIntoTheTextTwice) {
  std::vector<int32_t> text(3000);
  for (size_t i = 0; i < text.size(); ++i) text[i] = static_cast<int32_t>(i);
  const std::vector<int32_t> before = text;
  const std::vector<int64_t> gaps = {100, 1000};
  const auto copies = PlantCopies(text, gaps);
  ASSERT_EQ(text.size(), before.size());
  ASSERT_GT(copies.size(), 20u);
  std::vector<bool> planted(text.size());
  for (const Copy& copy : copies) {
    const auto at = [&](int64_t begin) {
      return std::span(text).subspan(static_cast<size_t>(begin), kCopyTokens);
    };
    EXPECT_TRUE(std::ranges::equal(at(copy.first), at(copy.second)));
    EXPECT_GE(copy.second - copy.first - kCopyTokens, copy.gap);
    EXPECT_LE(copy.second - copy.first - kCopyTokens, copy.gap + 3 * kCopyTokens);
    EXPECT_LE(copy.second + kCopyTokens, std::ssize(text));
    for (const int64_t begin : {copy.first, copy.second}) {
      for (int64_t i = begin; i < begin + kCopyTokens; ++i) {
        EXPECT_FALSE(planted[static_cast<size_t>(i)]) << "one string lies in another";
        planted[static_cast<size_t>(i)] = true;
      }
    }
  }
  EXPECT_NEAR(static_cast<double>(std::ranges::count(copies, 100, &Copy::gap)),
              static_cast<double>(std::ranges::count(copies, 1000, &Copy::gap)), 10);
  std::vector<int32_t> again = before, shorter(before.begin(), before.begin() + 100);
  PlantCopies(again, gaps);
  EXPECT_EQ(again, text);
  EXPECT_TRUE(PlantCopies(shorter, gaps).empty());
}

TEST(CopyProbe, IsScoredByGap) {
  const std::vector<Copy> copies = {{10, 40, 14}, {60, 90, 14}, {120, 200, 64}};
  StreamPass one{
      .method = "one", .budget = "8", .first = 1, .nll = std::vector<double>(300, 5.0), .seconds = 1};
  StreamPass other = one;
  other.method = "other";
  const auto set = [](StreamPass& pass, int64_t begin, double nll) {
    for (int64_t i = begin + 1; i < begin + kCopyTokens; ++i)
      pass.nll[static_cast<size_t>(i - pass.first)] = nll;
  };
  set(one, 40, 2), set(one, 90, 4), set(one, 200, 4.5);
  set(other, 40, 1), set(other, 90, 3), set(other, 200, 4.5);
  const auto lines = SummariseStream({one, other}, copies);
  ASSERT_EQ(lines[1].copies.size(), 2u);
  EXPECT_NEAR(lines[1].copies_first, -5, 1e-12);
  const CopyScore &near = lines[1].copies[0], &far = lines[1].copies[1];
  EXPECT_EQ(near.gap, 14);
  EXPECT_EQ(near.copies, 2);
  EXPECT_NEAR(near.second.mean, -2, 1e-12);
  EXPECT_NEAR(near.more.mean, 1, 1e-12);
  EXPECT_NEAR(near.more.interval.low, 1, 1e-12);
  EXPECT_NEAR(far.second.mean, -4.5, 1e-12);
  EXPECT_NEAR(far.more.mean, 0, 1e-12);
  EXPECT_NEAR(lines[0].copies[0].second.mean, -3, 1e-12);
  EXPECT_NE(StreamJson({.model = "m", .lines = lines}).find("\"copies\":{\"first_time\":-5.0"),
            std::string::npos);
}

// Windows begin to score later than methods do, and may end before.
TEST(StreamSummary, LeavesOutCopiesThatAPassHasNotScored) {
  const StreamPass all{
      .method = "a", .budget = "8", .first = 1, .nll = std::vector<double>(299, 5.0), .seconds = 1};
  const StreamPass later{
      .method = "b", .budget = "8", .first = 50, .nll = std::vector<double>(200, 5.0), .seconds = 1};
  const auto lines = SummariseStream({all, later}, {{40, 90, 34}, {60, 110, 34}, {200, 240, 24}});
  ASSERT_EQ(lines[0].copies.size(), 1u);
  EXPECT_EQ(lines[0].copies[0].copies, 1);
  EXPECT_EQ(lines[1].copies[0].gap, 34);
}

}  // namespace
}  // namespace larder
