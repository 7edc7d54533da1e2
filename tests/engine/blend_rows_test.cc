// Rows of chunks in a sequence: where they stand, what stands in for them, how far they are from true ones.
#include <cmath>
#include <cstdlib>

#include "compute/ops.h"
#include "engine/blend_driver.h"
#include "engine/hook_chain.h"
#include "tests/engine/blend_fixture.h"

namespace larder::testing {
namespace {

class BlendRowsTest : public BlendTest {};

// Runs a prompt's rows as the engine does, with `watch` beside the driver's own hooks.
void RunPrompt(Model& model, BlendDriver& driver, const Tokens& prompt, ForwardHooks* watch = nullptr) {
  ASSERT_TRUE(driver.Begin(nullptr, 0));
  for (int64_t from = 0; from < std::ssize(prompt);) {
    const int64_t end = driver.ChunkEnd(from);
    ASSERT_TRUE(driver.Reserve(end - from));
    std::vector<Row> rows;
    for (int64_t at = from; at < end; ++at) {
      rows.push_back({.token = prompt[static_cast<size_t>(at)]});
      rows.back().position = static_cast<int32_t>(at);
      rows.back().kv = driver.store();
    }
    HookChain hooks;
    if (ForwardHooks* own = driver.HooksFor(from); own != nullptr) {
      hooks.Add(own);
      hooks.Add(watch);
    }
    model.Forward(rows, nullptr, hooks.get());
    ASSERT_TRUE(driver.AfterRows(end, prompt));
    from = end;
  }
}

// In layer 0 a row depends on its token and place only, so that a stored key is the true one wherever it
// goes.
TEST_P(BlendRowsTest, KeysOfTheFirstLayerAreTrueAtEveryPlace) {
  for (const KvType type : {KvType::kF32, KvType::kI16}) {
    const auto model = Load(2, type);
    const ModelSpec& spec = model->spec();
    const auto core = StartWith(*model, {c_});
    for (const int64_t offset : {0, 1, 37, 64, 200}) {
      const Tokens prompt = Text(30, offset) + c_;
      const auto spans = core->chunks().Match("t", prompt);
      ASSERT_EQ(spans.size(), 1u);
      ASSERT_EQ(spans[0].begin, offset);
      auto pages = core->cache().MakePageSource();
      LaneTable lanes(&model->kv_shape(), pages.get(), PositionMode::kKeep, {});
      ASSERT_TRUE(lanes.Reserve(std::ssize(prompt), 0));
      std::vector<Row> rows(prompt.size());
      for (size_t i = 0; i < rows.size(); ++i) {
        rows[i].token = prompt[i];
        rows[i].position = static_cast<int32_t>(i);
        rows[i].kv = &lanes;
      }
      model->Forward(rows, nullptr);
      lanes.Advance();
      RopeTable rope(spec.ropes[static_cast<size_t>(spec.layers[0].rope)], spec.rotary_dim);
      rope.Grow(std::ssize(prompt));
      std::vector<float> k(static_cast<size_t>(spec.head_dim)), v = k, true_k = k, true_v = k;
      for (int64_t row = 0; row < std::ssize(c_); ++row) {
        spans[0].chunk->Read(0, 0, row, k.data(), v.data());
        Rotate(k.data(), 1, spec.head_dim, spec.rotary_dim, rope.Cosines(offset + row),
               rope.Sines(offset + row));
        lanes.Load(0, 0, offset + row, true_k.data(), true_v.data());
        float largest = 0;
        for (const float x : true_k) largest = std::max(largest, std::abs(x));
        for (size_t i = 0; i < k.size(); ++i) {
          EXPECT_NEAR(k[i], true_k[i], type == KvType::kF32 ? 0 : 1e-3 * largest) << row << " at " << offset;
          EXPECT_NEAR(v[i], true_v[i], 0);
        }
      }
    }
  }
}

// What stands in for a row is the chunk's, the key rotated to where the row stands, or to where it stood.
TEST_P(BlendRowsTest, RowsThatLeftAreTheChunksInEveryLayer) {
  const auto model = Load(2);
  const ModelSpec& spec = model->spec();
  const auto core = StartWith(*model, {a_, b_});
  const Tokens prompt = system_ + a_ + b_ + question_;
  const auto pages = core->cache().MakePageSource();
  BlendResources resources(*model, *pages);
  for (const bool reposition : {true, false}) {
    const auto method =
        *CreateReuseMethod(fmt::format("blend:ratio=0,reposition={}", reposition), {.layers = 0});
    const auto spans = core->chunks().Match("t", prompt);
    ASSERT_EQ(spans.size(), 2u);
    BlendDriver driver(resources, *method, spans, std::ssize(prompt));
    RunPrompt(*model, driver, prompt);
    EXPECT_EQ(driver.spared_rows(), 194);
    const size_t dim = static_cast<size_t>(spec.head_dim);
    std::vector<float> k(dim), v(dim), stored_k(dim), stored_v(dim);
    for (int layer = 2; layer < model->kv_shape().layers(); ++layer) {
      RopeTable rope(spec.ropes[static_cast<size_t>(spec.layers[static_cast<size_t>(layer)].rope)],
                     spec.rotary_dim);
      rope.Grow(1024);
      for (const ChunkSpan& span : spans) {
        const int64_t row = span.rows - 1;  // the newest, which no window has passed
        if (spec.layers[static_cast<size_t>(layer)].window > 0 && span.begin + row + 64 < 224) continue;
        const int64_t angle = reposition ? span.begin + row : 1 + row;  // stored behind one token
        span.chunk->Read(layer, 0, row, k.data(), v.data());
        Rotate(k.data(), 1, spec.head_dim, spec.rotary_dim, rope.Cosines(angle), rope.Sines(angle));
        driver.store()->Load(layer, 0, span.begin + row, stored_k.data(), stored_v.data());
        for (size_t i = 0; i < dim; ++i) {
          EXPECT_NEAR(k[i], stored_k[i], 2e-3) << "layer " << layer << " at " << span.begin;
          EXPECT_NEAR(v[i], stored_v[i], 2e-3);
        }
      }
    }
  }
}

// With gradual filtering rows leave in four layers, fewer each time, and who left is the chunk's from then
// on.
TEST_P(BlendRowsTest, RowsLeaveInSeveralLayers) {
  const auto model = Load(2);
  if (model->kv_shape().layers() < 6) GTEST_SKIP() << "too few layers";
  const auto core = StartWith(*model, {a_, b_});
  const Tokens prompt = system_ + a_ + b_ + question_;
  const auto pages = core->cache().MakePageSource();
  BlendResources resources(*model, *pages);
  const auto method = *CreateReuseMethod("blend:ratio=0.25,gradual=2", {});
  struct Counter final : ForwardHooks {
    std::vector<std::vector<int32_t>> positions;  // by layer
    void BeforeLayer(int, std::span<const Row> rows, float*) override {
      positions.emplace_back();
      for (const Row& row : rows) positions.back().push_back(row.position);
    }
  } counter;
  const auto spans = core->chunks().Match("t", prompt);
  BlendDriver driver(resources, *method, spans, std::ssize(prompt));
  RunPrompt(*model, driver, prompt, &counter);
  ASSERT_EQ(std::ssize(counter.positions), model->kv_shape().layers());
  const std::vector<size_t> expected = {194, 194, 97, 80, 64, 48};
  int64_t differ = 0;
  for (size_t layer = 0; layer < counter.positions.size(); ++layer) {
    const auto& now = counter.positions[layer];
    EXPECT_EQ(now.size(), expected[std::min(layer, expected.size() - 1)]) << layer;
    EXPECT_TRUE(std::ranges::includes(counter.positions[layer - (layer > 0)], now)) << layer;
    if (model->spec().layers[layer].window > 0) continue;
    const size_t dim = static_cast<size_t>(model->spec().head_dim);
    std::vector<float> k(dim), v(dim), own(dim);
    for (const ChunkSpan& span : spans) {
      for (int64_t row = 0; row < span.rows; ++row) {
        span.chunk->Read(static_cast<int>(layer), 0, span.first + row, k.data(), v.data());
        driver.store()->Load(static_cast<int>(layer), 0, span.begin + row, k.data(), own.data());
        const bool computed = std::ranges::binary_search(now, static_cast<int32_t>(span.begin + row));
        float distance = 0;
        for (size_t i = 0; i < dim; ++i) distance = std::max(distance, std::abs(v[i] - own[i]));
        EXPECT_TRUE(computed || distance < 2e-3f) << layer;
        differ += computed && distance > 2e-3f;
      }
    }
  }
  EXPECT_GT(differ, 24) << "of 48 that were computed";
  EXPECT_EQ(driver.spared_rows(), 194 - 48);
}

// What the method sees of attention is the softmax weight that each row gets from all rows of the piece.
TEST_P(BlendRowsTest, AttentionIsSummedOverThePiece) {
  const auto model = Load(2, KvType::kF32);
  const ModelSpec& spec = model->spec();
  const auto core = StartWith(*model, {a_});
  const Tokens prompt = a_ + question_;
  const auto pages = core->cache().MakePageSource();
  BlendResources resources(*model, *pages);
  struct Spy final : ReuseMethod {
    mutable std::vector<float> attention;
    ReuseNeeds needs() const override { return {.chunks = true, .attention = true}; }
    void Choose(const ReuseView& view, std::span<uint8_t>) const override {
      attention.assign(view.attention.begin(), view.attention.end());
    }
  } spy;
  struct Queries final : ForwardHooks {
    std::vector<float> q;
    size_t width = 0;
    void AfterQkv(int layer, std::span<const Row> rows, float* data, float*, float*) override {
      if (layer == 0) q.assign(data, data + rows.size() * width);
    }
  } queries;
  queries.width = static_cast<size_t>(spec.heads * spec.head_dim);
  BlendDriver driver(resources, spy, core->chunks().Match("t", prompt), std::ssize(prompt));
  RunPrompt(*model, driver, prompt, &queries);
  const int window = spec.layers[0].window, group = spec.heads / spec.kv_heads;
  if (window > 0) GTEST_SKIP() << "rows that a window has passed are gone";
  std::vector<double> expected(a_.size());
  const auto dim = static_cast<size_t>(spec.head_dim);
  std::vector<float> k(dim), v(dim);
  for (size_t row = 0; row < a_.size(); ++row) {
    for (int head = 0; head < spec.heads; ++head) {
      std::vector<double> weights;
      double sum = 0;
      for (size_t at = 0; at <= row; ++at) {
        driver.store()->Load(0, head / group, static_cast<int64_t>(at), k.data(), v.data());
        const float* q = &queries.q[row * queries.width + static_cast<size_t>(head) * dim];
        double score = 0;
        for (size_t i = 0; i < dim; ++i) score += double{q[i]} * double{k[i]};
        weights.push_back(std::exp(score * double{spec.attention_scale}));
        sum += weights.back();
      }
      for (size_t at = 0; at <= row; ++at) expected[at] += weights[at] / sum / group;
    }
  }
  ASSERT_EQ(spy.attention.size(), expected.size());
  for (size_t i = 0; i < expected.size(); ++i)
    EXPECT_NEAR(spy.attention[i], expected[i], 1e-3 * (1 + expected[i])) << i;
}

// A chunk that was run behind what stands before it now has true rows: reusing all of it changes little,
// while behind other tokens it changes much.
TEST_P(BlendRowsTest, AChunkBehindItsOwnPrefixHardlyDeviates) {
  if (!IsDeep()) GTEST_SKIP() << "too few layers to deviate";
  const auto model = Load(2);
  const Tokens prompt = system_ + a_ + question_;
  const auto full = Ask(*Start(*model), prompt, "prefix");
  const auto distance = [&](const Tokens& prefix) {
    const auto core = Start(*model);
    Store(*core, prefix, a_);
    const auto answer = Ask(*core, prompt, "blend:ratio=0", 1);
    EXPECT_EQ(answer->report.read_chunks, 130);
    return std::abs(answer->logprobs[0] - full->logprobs[0]);
  };
  EXPECT_LT(distance(system_), 2e-3f);
  EXPECT_GT(distance(Text(50, 30)), 10 * distance(system_));
}

// The same on a real model without windows.
TEST(BlendOfTextTest, ChoosesRowsAndStaysExactWhereItSaysSo) {
  const char* path = std::getenv("LARDER_SMOLLM2");
  if (path == nullptr) GTEST_SKIP() << "LARDER_SMOLLM2 is not set";
  const auto model = LoadModel(path, MathMode::kFast, KvType::kI16, 2);
  const Tokenizer& tokenizer = model->tokenizer();
  const auto text = [&](std::string_view topic) {
    std::string out;
    for (int i = 0; i < 24; ++i)
      out += fmt::format("The {} of house {} has {} doors. ", topic, i, (i * 7) % 12 + 1);
    return tokenizer.Encode(out, {.add_special = false, .parse_special = false});
  };
  const Tokens kitchen = text("kitchen"), cellar = text("cellar"),
               question = tokenizer.Encode("How many doors has the cellar of house 5?", {});
  SystemClock clock;
  const auto answer = [&](const std::string& reuse, float* first, int64_t* spared) {
    auto core = EngineCore::Create(model.get(), {}, &clock);
    ASSERT_TRUE(core);
    auto sink = std::make_shared<Answer>();
    Request r;
    r.prompt = kitchen + cellar + question;
    r.parts = {{0, std::ssize(kitchen)}, {std::ssize(kitchen), std::ssize(cellar)}};
    r.reuse = reuse;
    r.max_tokens = 1;
    r.logprobs = 0;
    r.forced_output = {question[0]};
    (*core)->Add(1, r, sink);
    while ((*core)->unfinished() > 0) (*core)->Step();
    ASSERT_TRUE(sink->finished) << sink->error;
    *first = sink->logprobs[0];
    *spared = sink->report.read_chunks;
  };
  float full, all, some, none;
  int64_t rows;
  answer("prefix", &full, &rows);
  EXPECT_EQ(rows, 0);
  answer("blend:ratio=1", &all, &rows);
  EXPECT_EQ(all, full);
  EXPECT_EQ(rows, 0);
  answer("blend:ratio=0.3", &some, &rows);
  const int64_t covered = std::ssize(kitchen) + std::ssize(cellar);
  EXPECT_EQ(rows, covered - static_cast<int64_t>(0.3 * static_cast<double>(covered)));
  EXPECT_NE(some, full);
  answer("blend:ratio=0", &none, &rows);
  EXPECT_EQ(rows, covered);
  EXPECT_NE(none, some);
}

INSTANTIATE_TEST_SUITE_P(, BlendRowsTest, ::testing::Values("tiny-llama.gguf", "tiny-gemma3.gguf"));

}  // namespace
}  // namespace larder::testing
