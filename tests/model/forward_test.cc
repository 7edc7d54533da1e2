// Do the seams of the forward pass hold: hooks, rows that enter and leave at any layer, rows that do not
// write, lanes of ragged length?
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <cstring>
#include <map>

#include "kv/lanes.h"
#include "model/rope.h"
#include "model/weights.h"
#include "tests/testing/model_session.h"

namespace larder {
namespace {

using testing::DataPath;
using testing::LoadModel;
using testing::ModelSession;

std::vector<int32_t> SomeTokens(int64_t n) {
  std::vector<int32_t> out;
  for (int64_t i = 0; i < n; ++i) out.push_back(static_cast<int32_t>((i * 37 + 11) % 250));
  return out;
}

// Keeps the state of every row before one layer, by position.
struct CaptureState : ForwardHooks {
  CaptureState(int wanted, int state_width) : layer(wanted), width(state_width) {}
  int layer, width;
  std::map<int32_t, std::vector<float>> states;
  void BeforeLayer(int l, std::span<const Row> rows, float* x) override {
    if (l != layer) return;
    for (size_t i = 0; i < rows.size(); ++i) {
      states[rows[i].position].assign(x + i * static_cast<size_t>(width),
                                      x + (i + 1) * static_cast<size_t>(width));
    }
  }
};

TEST(Forward, RowsLeaveAtALayerAndEnterThereAgain) {
  auto model = LoadModel(DataPath("models/tiny-qwen3.gguf"), MathMode::kFast, KvType::kI16, 2);
  const int layers = static_cast<int>(model->spec().layers.size()), width = model->spec().width,
            cut = layers / 2;
  const auto tokens = SomeTokens(90);
  ModelSession session(model.get());
  auto whole = session.Open(tokens);
  session.Finish(whole);

  ModelSession other(model.get());
  auto split = other.Open(tokens);
  ASSERT_TRUE(other.cache().Reserve(*split.kv, 90));
  std::vector<Row> rows(90);
  CaptureState before(cut, width);
  for (size_t i = 0; i < rows.size(); ++i) {
    rows[i].token = tokens[i];
    rows[i].position = static_cast<int32_t>(i);
    rows[i].kv = split.kv.get();
    // Every third row goes one layer further than it needs to, so that layers see a part of the batch.
    rows[i].leave_layer = static_cast<int16_t>(i % 3 == 0 ? cut : cut - 1);
  }
  model->Forward(rows, nullptr, &before);
  CaptureState all(cut, width);
  std::vector<Row> full = rows;
  for (Row& row : full) row.leave_layer = -1;
  model->Forward(full, nullptr, &all);
  for (size_t i = 0; i < rows.size(); ++i) {
    const int32_t p = static_cast<int32_t>(i);
    EXPECT_EQ(before.states.contains(p), i % 3 == 0);
    rows[i].token = -1;
    rows[i].input = all.states.at(p).data();
    rows[i].enter_layer = static_cast<int16_t>(cut);
    rows[i].leave_layer = -1;
    rows[i].wants_hidden = true;
  }
  std::vector<float> hidden(90 * static_cast<size_t>(width)),
      logits(static_cast<size_t>(model->spec().vocabulary));
  model->Forward(rows, hidden.data());
  for (size_t i : {size_t{0}, size_t{44}, size_t{89}}) {
    model->Logits(&hidden[i * static_cast<size_t>(width)], 1, logits.data());
    EXPECT_EQ(std::memcmp(logits.data(), whole.logits[i].data(), logits.size() * sizeof(float)), 0)
        << "row " << i;
  }
}

// Log-sum-exp arrives with the hook and means what it says: exp(lse) is the sum over visible keys of
// exp(score).
TEST(Forward, LogSumExpOfAttentionIsReported) {
  struct Hook : ForwardHooks {
    int heads, kv_heads, dim;
    float scale;
    std::vector<float> q, k;
    int64_t checked = 0;
    bool WantsLse(int layer) const override { return layer == 0; }
    void AfterQkv(int layer, std::span<const Row> rows, float* qs, float* ks, float*) override {
      if (layer != 0) return;
      q.assign(qs, qs + rows.size() * static_cast<size_t>(heads * dim));
      k.assign(ks, ks + rows.size() * static_cast<size_t>(kv_heads * dim));
    }
    void AfterAttention(int layer, std::span<const Row> rows, const float* lse) override {
      if (layer != 0) return;
      ASSERT_NE(lse, nullptr);
      for (size_t r = 0; r < rows.size(); ++r) {
        for (int h = 0; h < heads; ++h) {
          double sum = 0;
          for (size_t j = 0; j <= r; ++j) {
            double dot = 0;
            for (int d = 0; d < dim; ++d) {
              dot +=
                  static_cast<double>(
                      q[(r * static_cast<size_t>(heads) + static_cast<size_t>(h)) * static_cast<size_t>(dim) +
                        static_cast<size_t>(d)]) *
                  k[(j * static_cast<size_t>(kv_heads) + static_cast<size_t>(h / (heads / kv_heads))) *
                        static_cast<size_t>(dim) +
                    static_cast<size_t>(d)];
            }
            sum += std::exp(dot * static_cast<double>(scale));
          }
          EXPECT_NEAR(lse[r * static_cast<size_t>(heads) + static_cast<size_t>(h)], std::log(sum), 1e-4);
          ++checked;
        }
      }
    }
  } hook;
  auto model = LoadModel(DataPath("models/tiny-llama.gguf"), MathMode::kF32, KvType::kF32, 2);
  hook.heads = model->spec().heads;
  hook.kv_heads = model->spec().kv_heads;
  hook.dim = model->spec().head_dim;
  hook.scale = model->spec().attention_scale;
  ModelSession session(model.get());
  auto run = session.Open(SomeTokens(70));
  ASSERT_TRUE(session.cache().Reserve(*run.kv, 70));
  std::vector<Row> rows(70);
  for (size_t i = 0; i < rows.size(); ++i) {
    rows[i].token = run.tokens[i];
    rows[i].position = static_cast<int32_t>(i);
    rows[i].kv = run.kv.get();
  }
  model->Forward(rows, nullptr, &hook);
  EXPECT_EQ(hook.checked, 70 * hook.heads);
}

// AfterQkv may change what is stored: with every value zeroed, attention contributes nothing and all
// positions of equal token give equal logits.
TEST(Forward, AfterQkvMayReplaceKeysAndValues) {
  struct ZeroValues : ForwardHooks {
    int kv_width;
    void AfterQkv(int, std::span<const Row> rows, float*, float*, float* v) override {
      std::fill(v, v + rows.size() * static_cast<size_t>(kv_width), 0.0f);
    }
  } hook;
  auto model = LoadModel(DataPath("models/tiny-llama.gguf"), MathMode::kFast, KvType::kI16, 1);
  hook.kv_width = model->spec().kv_heads * model->spec().head_dim;
  ModelSession session(model.get());
  auto run = session.Open({5, 9, 77, 5});
  ASSERT_TRUE(session.cache().Reserve(*run.kv, 4));
  std::vector<Row> rows(4);
  for (size_t i = 0; i < 4; ++i) {
    rows[i].token = run.tokens[i];
    rows[i].position = static_cast<int32_t>(i);
    rows[i].kv = run.kv.get();
    rows[i].wants_hidden = true;
  }
  const size_t width = static_cast<size_t>(model->spec().width);
  std::vector<float> hidden(4 * width);
  model->Forward(rows, hidden.data(), &hook);
  EXPECT_EQ(std::memcmp(hidden.data(), &hidden[3 * width], width * sizeof(float)), 0);
  EXPECT_NE(std::memcmp(hidden.data(), &hidden[width], width * sizeof(float)), 0);
}

TEST(Rope, PermutationTurnsPairsIntoHalves) {
  const auto order = RotaryPermutation(2, 8, 6);
  EXPECT_EQ(order, (std::vector<int32_t>{0, 2, 4, 1, 3, 5, 6, 7, 8, 10, 12, 9, 11, 13, 14, 15}));
}

TEST(Rope, TableIsExactToFloat) {
  RopeSpec spec;
  spec.base = 10000;
  spec.factors = {1, 2, 4, 8};
  RopeTable table(spec, 8);
  table.Grow(5000);
  const int64_t p = 4321;
  for (int i = 0; i < 4; ++i) {
    const double angle =
        static_cast<double>(p) * std::pow(10000.0, -2.0 * i / 8) / spec.factors[static_cast<size_t>(i)];
    EXPECT_EQ(table.Cosines(p)[i], static_cast<float>(std::cos(angle)));
    EXPECT_EQ(table.Sines(p)[i], static_cast<float>(std::sin(angle)));
  }
}

TEST(ModelLoad, EveryArchitectureDescribesItselfAndUnknownOnesAreRefused) {
  for (const char* name : {"tiny-llama", "tiny-llama3", "tiny-qwen2", "tiny-qwen3", "tiny-gemma3"}) {
    auto file = GgufFile::Open(DataPath("models/" + std::string(name) + ".gguf"));
    ASSERT_TRUE(file) << file.error().message;
    auto spec = DescribeModel(**file);
    ASSERT_TRUE(spec) << spec.error().message;
    EXPECT_EQ(spec->qk_norm, std::string(name) == "tiny-qwen3" || std::string(name) == "tiny-gemma3");
    EXPECT_EQ(spec->qkv_bias, std::string(name) == "tiny-qwen2");
    EXPECT_EQ(spec->ropes[0].factors.empty(), std::string(name) != "tiny-llama3");
    EXPECT_EQ(spec->layers[0].window > 0, std::string(name) == "tiny-gemma3");
  }
}

}  // namespace
}  // namespace larder
