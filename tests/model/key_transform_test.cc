// Rotating and centring keys leaves a model's logits as they were, where nothing is rounded; and a codec that
// centres takes means of this model only.
#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "kv/codec/means.h"
#include "model/forward.h"
#include "model/weights.h"
#include "tests/testing/model_session.h"

namespace larder {
namespace {

using testing::DataPath;

// All logits of a text, in floats throughout.
std::vector<float> LogitsWith(const std::string& model, const KeyTransform& keys) {
  ThreadPool pool(2);
  ManualClock clock;
  const auto opened_file = GgufFile::Open(DataPath("models/" + model));
  const auto& file = *opened_file;
  const ModelSpec spec = *DescribeModel(*file);
  const auto packed = PackWeights(*file, spec, MathMode::kF32, pool, {});
  std::vector<int> windows;
  for (const LayerSpec& layer : spec.layers) windows.push_back(layer.window);
  auto created =
      KvCache::Create(*KvShape::Create(windows, spec.kv_heads, spec.head_dim, KvType::kF32), {}, {}, &clock);
  constexpr int kRows = 150;
  auto& cache = *created;
  auto opened = cache->Open("t", {});
  auto sequence = std::move(opened->sequence);
  EXPECT_TRUE(cache->Reserve(*sequence, kRows));
  std::vector<Row> rows(kRows);
  for (int i = 0; i < kRows; ++i) {
    rows[static_cast<size_t>(i)] = {.token = (i * 37 + 11) % 250, .position = i, .kv = sequence.get()};
    rows[static_cast<size_t>(i)].wants_hidden = true;
  }
  ForwardPass pass(spec, *packed, KvType::kF32, keys, pool);
  std::vector<float> hidden(static_cast<size_t>(kRows * spec.width));
  pass.Run(rows, hidden.data(), nullptr);
  std::vector<float> logits(static_cast<size_t>(kRows * spec.vocabulary));
  pass.Logits(hidden.data(), kRows, logits.data());
  cache->Close(std::move(sequence));
  return logits;
}

TEST(KeyTransform, DoesNotChangeLogits) {
  for (const std::string model : {"tiny-llama.gguf", "tiny-qwen3.gguf", "tiny-gemma3.gguf"}) {
    const ModelSpec spec = *DescribeModel(**GgufFile::Open(DataPath("models/" + model)));
    const std::vector<float> plain = LogitsWith(model, {});
    float largest = 0;
    for (const float x : plain) largest = std::max(largest, std::abs(x));
    std::mt19937 random(4);
    std::normal_distribution<float> normal(0, 0.3f);
    std::vector<float> means(spec.layers.size() * static_cast<size_t>(spec.kv_heads * spec.head_dim));
    for (float& x : means) x = normal(random);
    for (const KeyTransform& keys : {KeyTransform{spec.head_dim, {}}, KeyTransform{16, {}},
                                     KeyTransform{1, means}, KeyTransform{spec.head_dim, means}}) {
      const std::vector<float> changed = LogitsWith(model, keys);
      float worst = 0;
      for (size_t i = 0; i < plain.size(); ++i) worst = std::max(worst, std::abs(plain[i] - changed[i]));
      EXPECT_GT(worst, 0.0f) << model << ": it did something";
      EXPECT_LT(worst, 1e-5f * largest) << model << ", blocks of " << keys.rotation;
    }
  }
}

Result<std::unique_ptr<Model>> LoadCentred(const std::string& means) {
  return Model::Load(DataPath("models/tiny-llama.gguf"),
                     {.kv_codec = "t4", .key_means = means, .threads = 1, .progress = {}});
}

TEST(KeyTransform, ACodecThatCentresWantsThisModelsMeans) {
  const auto missing = LoadCentred(::testing::TempDir() + "no-such-means");
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().kind, ErrorKind::kNotFound);
  EXPECT_NE(missing.error().message.find("larder calibrate"), std::string::npos);

  auto plain = testing::LoadModel(DataPath("models/tiny-llama.gguf"), MathMode::kFast, KvType::kI16, 1);
  const KvShape& shape = plain->kv_shape();
  KeyMeans means{.weights = plain->weights_digest(),
                 .layers = shape.layers(),
                 .kv_heads = shape.kv_heads(),
                 .head_dim = shape.head_dim(),
                 .values = {}};
  means.values.resize(static_cast<size_t>(shape.layers() * shape.kv_heads() * shape.head_dim()), 0.25f);
  const std::string path = ::testing::TempDir() + KeyMeansFile(means.weights);
  ASSERT_TRUE(means.Write(path));
  for (const std::string& place : {path, ::testing::TempDir()}) {
    const auto model = LoadCentred(place);
    ASSERT_TRUE(model) << model.error().message;
    EXPECT_NE((*model)->kv_identity().codec.find(means.digest().Hex()), std::string::npos);
    EXPECT_NE((*model)->kv_identity().codec, plain->kv_identity().codec);
  }
  means.weights.bytes[0] ^= 1;
  ASSERT_TRUE(means.Write(path));
  EXPECT_EQ(LoadCentred(path).error().kind, ErrorKind::kInvalid);
}

}  // namespace
}  // namespace larder
