#include "larder/evaluation.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>

#include "larder/calibration.h"
#include "larder/measure.h"

namespace larder {
namespace {

constexpr const char* kModels[] = {"tiny-llama.gguf", "tiny-gemma3.gguf"};

std::unique_ptr<Model> Load(const std::string& name, MathMode math, KvType type) {
  ModelOptions options;
  options.math = math;
  options.kv_type = type;
  options.threads = 2;
  auto model = Model::Load(std::string(LARDER_TEST_DATA) + "/models/" + name, std::move(options));
  EXPECT_TRUE(model) << model.error().message;
  return model ? *std::move(model) : nullptr;
}

EvaluationText TextOf(const Model& model, int64_t tokens, int64_t window, int64_t stride) {
  EvaluationText text;
  text.tokens = FillerTokens(tokens, model.spec().vocabulary, 9);
  text.windows = PlanWindows(tokens, window, stride);
  return text;
}

void Ignore(double) {}

TEST(Evaluation, ASettingDoesNotDivergeFromItself) {
  for (const char* name : kModels) {
    auto base = Subject::Create("a", Load(name, MathMode::kFast, KvType::kI16), 49);
    auto candidate = Subject::Create("b", Load(name, MathMode::kFast, KvType::kI16), 49);
    ASSERT_TRUE(base && candidate);
    const EvaluationText text = TextOf(base->model(), 100, 48, 16);
    const auto scored = CompareOnText(*base, *candidate, text, Ignore);
    ASSERT_TRUE(scored) << scored.error().message;
    ASSERT_EQ(static_cast<int64_t>(scored->size()), text.scored());
    for (const ScoredToken& token : *scored) {
      EXPECT_EQ(token.divergence.kl, 0) << name;
      EXPECT_TRUE(token.divergence.same_top);
    }
  }
}

TEST(Evaluation, FastArithmeticDivergesALittle) {
  auto base = Subject::Create("a", Load("tiny-llama-q8_0.gguf", MathMode::kF32, KvType::kF32), 65);
  auto candidate = Subject::Create("b", Load("tiny-llama-q8_0.gguf", MathMode::kFast, KvType::kI16), 65);
  ASSERT_TRUE(base && candidate);
  const EvaluationText text = TextOf(base->model(), 64, 64, 32);
  const auto scored = CompareOnText(*base, *candidate, text, Ignore);
  ASSERT_TRUE(scored) << scored.error().message;
  double sum = 0;
  for (const ScoredToken& token : *scored) sum += token.divergence.kl;
  EXPECT_GT(sum, 0);
  EXPECT_LT(sum / static_cast<double>(scored->size()), 0.05);
}

// Windows and pieces are bookkeeping only: the scores are those of one pass over each window, row by row.
TEST(Evaluation, ScoresEqualAPlainPass) {
  for (const char* name : kModels) {
    auto subject = Subject::Create("a", Load(name, MathMode::kF32, KvType::kF32), 41);
    ASSERT_TRUE(subject);
    const EvaluationText text = TextOf(subject->model(), 120, 40, 20);
    const auto scores = ScoreText(*subject, text, Ignore);
    ASSERT_TRUE(scores) << scores.error().message;
    auto session = Session::Create(subject->model(), 40, 1);
    ASSERT_TRUE(session);
    const auto vocabulary = static_cast<size_t>(subject->model().spec().vocabulary);
    const auto width = static_cast<size_t>(subject->model().spec().width);
    std::vector<float> hidden(width), logits(vocabulary);
    size_t at = 0;
    for (const TextWindow& window : text.windows) {
      auto sequence = (*session)->Open();
      ASSERT_TRUE(sequence);
      KvSequence* pointer = sequence->get();
      for (int64_t p = window.begin; p + 1 < window.end; ++p) {
        ASSERT_TRUE((*session)->Step({&pointer, 1}, std::span(text.tokens).subspan(static_cast<size_t>(p), 1),
                                     hidden.data()));
        if (p + 1 < window.score_from) continue;
        subject->model().Logits(hidden.data(), 1, logits.data());
        EXPECT_EQ(NegativeLogLikelihood(logits, text.tokens[static_cast<size_t>(p + 1)]), (*scores)[at++])
            << name;
      }
      (*session)->Close(*std::move(sequence));
    }
    EXPECT_EQ(at, scores->size());
  }
}

// Behind a method that keeps everything scores are those of the full cache; behind one that does not, others.
TEST(Evaluation, MethodsAreScoredFromTheFirstRowBehindThem) {
  for (const char* name : kModels) {
    auto base = Subject::Create("a", Load(name, MathMode::kFast, KvType::kI16), 121);
    auto candidate = Subject::Create("b", Load(name, MathMode::kFast, KvType::kI16), 121);
    ASSERT_TRUE(base && candidate);
    const EvaluationText text = TextOf(base->model(), 300, 120, 40);
    for (const char* method : {"snapkv:window=8", "h2o", "streaming"}) {
      ASSERT_TRUE(candidate->Evict(std::string(method) + (method[0] == 's' && method[1] == 'n' ? "," : ":") +
                                   "budget=1000"));
      const auto same = CompareOnText(*base, *candidate, text, Ignore);
      ASSERT_TRUE(same) << same.error().message;
      for (const ScoredToken& token : *same) ASSERT_EQ(token.divergence.kl, 0) << name << method;
    }
    ASSERT_TRUE(candidate->Evict("streaming:budget=16"));
    const auto other = CompareOnText(*base, *candidate, text, Ignore);
    ASSERT_TRUE(other);
    EXPECT_GT(other->front().divergence.kl, 0) << "the first scored row reads what is left";
    EXPECT_FALSE(candidate->Evict("nosuch"));
  }
  auto full = Subject::Create("a", Load(kModels[0], MathMode::kFast, KvType::kI16), 121),
       some = Subject::Create("b", Load(kModels[0], MathMode::kFast, KvType::kI16), 121);
  ASSERT_TRUE(full && some && some->Evict("streaming:budget=16"));
  ASSERT_TRUE(CompareOnText(*full, *some, TextOf(full->model(), 300, 120, 40), Ignore));
  EXPECT_LT(some->kv_bytes(), full->kv_bytes());
}

// A method and a codec: full pages of what the method has left become codes.
TEST(Evaluation, MethodsAndCodecsLoseTogether) {
  const auto load = [](const std::string& codec) {
    ModelOptions options;
    options.kv_codec = codec;
    options.threads = 2;
    return *Model::Load(std::string(LARDER_TEST_DATA) + "/models/tiny-llama.gguf", std::move(options));
  };
  auto base = Subject::Create("a", load(""), 201);
  ASSERT_TRUE(base);
  const EvaluationText text = TextOf(base->model(), 500, 200, 50);
  const auto mean = [&](const std::string& codec, const std::string& method, uint64_t& bytes) {
    auto candidate = Subject::Create("b", load(codec), 201);
    EXPECT_TRUE(candidate && candidate->Evict(method)) << codec;
    const auto scored = CompareOnText(*base, *candidate, text, Ignore);
    EXPECT_TRUE(scored) << scored.error().message;
    double sum = 0;
    for (const ScoredToken& token : *scored) sum += token.divergence.kl;
    bytes = candidate->kv_bytes();
    return sum / static_cast<double>(scored->size());
  };
  uint64_t rows = 0, eight = 0, four = 0, some = 0;
  EXPECT_EQ(mean("", "snapkv:budget=1000,window=8", rows), 0);
  const double q8_0 = mean("q8_0", "snapkv:budget=1000,window=8", eight);
  const double q4_0 = mean("q4_0", "snapkv:budget=1000,window=8", four);
  EXPECT_GT(q8_0, 0);
  EXPECT_GT(q4_0, q8_0);
  EXPECT_LT(eight, rows);
  EXPECT_LT(four, eight);
  EXPECT_GT(mean("q4_0", "snapkv:budget=64,window=8", some), q4_0);
  EXPECT_LT(some, four);
  uint64_t none = 0;  // what decides for every token stays rows
  EXPECT_EQ(mean("q4_0", "h2o:budget=100", none), mean("", "h2o:budget=100", none));
}

TEST(Evaluation, TextsThatCannotBeScoredAreRefused) {
  const auto model = Load("tiny-llama.gguf", MathMode::kFast, KvType::kI16);
  const std::string path = testing::TempDir() + "larder-eval-" + std::to_string(getpid());
  std::ofstream(path) << "";
  EXPECT_FALSE(ReadEvaluationText(path, model->tokenizer(), 64, 32, 0));
  EXPECT_FALSE(ReadEvaluationText("", model->tokenizer(), 64, 32, 0));
  EXPECT_FALSE(ReadEvaluationText(path + "-absent", model->tokenizer(), 64, 32, 0));
  EXPECT_FALSE(ReadEvaluationText(path, model->tokenizer(), 64, 65, 0));
  std::ofstream(path) << "some words that make more than two tokens";
  const auto text = ReadEvaluationText(path, model->tokenizer(), 64, 32, 3);
  ASSERT_TRUE(text) << text.error().message;
  EXPECT_EQ(text->tokens.size(), 3u);
  unlink(path.c_str());
}

TEST(Session, SequencesOfOneSessionShareNothing) {
  const auto model = Load("tiny-llama.gguf", MathMode::kFast, KvType::kI16);
  auto session = Session::Create(*model, 200, 1);
  ASSERT_TRUE(session);
  const auto tokens = FillerTokens(150, model->spec().vocabulary, 1);
  for (int round = 0; round < 3; ++round) {
    auto sequence = (*session)->Open();
    ASSERT_TRUE(sequence);
    EXPECT_EQ((*sequence)->length(), 0);
    ASSERT_TRUE((*session)->Append(**sequence, tokens, 150, nullptr));
    EXPECT_EQ((*sequence)->length(), 150);
    (*session)->Close(*std::move(sequence));
    EXPECT_EQ((*session)->cache().stats().blocks, 0u);
  }
  EXPECT_EQ((*session)->cache().stats().hits_rows, 0u);
}

TEST(Session, ContextIsTheModelsLimit) {
  const auto model = Load("tiny-llama.gguf", MathMode::kFast, KvType::kI16);
  EXPECT_FALSE(Session::Create(*model, model->spec().context + 1, 1));
}

TEST(ModelWork, MatchesTheWeightsOfAKnownModel) {
  // SmolLM2-135M: 106.2 M multiplications a token in the layers, 28.3 M in the head, 34,560 n in attention.
  ModelSpec spec;
  spec.width = 576;
  spec.heads = 9;
  spec.kv_heads = 3;
  spec.head_dim = 64;
  spec.feed_forward = 1536;
  spec.vocabulary = 49152;
  spec.layers.resize(30);
  EXPECT_NEAR(ModelWork::Of(spec).layer_macs, 106.2e6, 0.05e6);
  EXPECT_NEAR(ModelWork::Of(spec).head_macs, 28.3e6, 0.05e6);
  EXPECT_EQ(AttentionMacs(spec, 100), 3456000);
  spec.layers[0].window = 10;
  EXPECT_EQ(AttentionMacs(spec, 100), 3456000 - 90 * 2 * 9 * 64);
}

// The means are those of the keys that a plain cache holds.
TEST(Calibration, FindsTheMeansOfTheKeys) {
  const auto model = Load("tiny-qwen3.gguf", MathMode::kF32, KvType::kF32);
  const KvShape& shape = model->kv_shape();
  auto tokens = FillerTokens(90, model->spec().vocabulary, 4);
  const auto means = MeanKeys(*model, tokens, 200, Ignore);
  ASSERT_TRUE(means) << means.error().message;
  EXPECT_EQ(means->weights, model->weights_digest());
  EXPECT_FALSE(MeanKeys(*model, {}, 200, Ignore));

  if (model->tokenizer().add_bos()) tokens.insert(tokens.begin(), model->tokenizer().bos());
  const auto session = Session::Create(*model, std::ssize(tokens), 1);
  const auto sequence = (*session)->Open();
  ASSERT_TRUE((*session)->Append(**sequence, tokens, std::ssize(tokens), nullptr));
  const int dim = shape.head_dim();
  std::vector<float> k(static_cast<size_t>(dim)), v(k.size());
  const float* mean = means->values.data();
  for (int layer = 0; layer < shape.layers(); ++layer) {
    for (int head = 0; head < shape.kv_heads(); ++head, mean += dim) {
      std::vector<double> sum(k.size());
      for (int64_t row = 0; row < std::ssize(tokens); ++row) {
        const KvPage page = (*sequence)->Page(layer, head, row / kPageTokens, nullptr);
        LoadKvRow(KvType::kF32, dim, static_cast<const std::byte*>(page.k),
                  static_cast<int>(row % kPageTokens), k.data(), v.data());
        for (size_t d = 0; d < k.size(); ++d) sum[d] += static_cast<double>(k[d]);
      }
      for (size_t d = 0; d < k.size(); ++d)
        EXPECT_NEAR(mean[d], sum[d] / static_cast<double>(tokens.size()), 1e-5);
    }
  }
}

}  // namespace
}  // namespace larder
