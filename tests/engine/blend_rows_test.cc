// Rows of chunks in a sequence: where they stand, what stands in for them, how far they are from true ones.
#include <cmath>
#include <cstdlib>

#include "compute/ops.h"
#include "engine/blend_driver.h"
#include "tests/engine/blend_fixture.h"

namespace larder::testing {
namespace {

class BlendRowsTest : public BlendTest {};

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
    ASSERT_TRUE(driver.Begin(nullptr, 0));
    for (int64_t from = 0; from < 224;) {
      const int64_t end = driver.ChunkEnd(from);
      ASSERT_TRUE(driver.Reserve(end - from));
      std::vector<Row> rows;
      for (int64_t at = from; at < end; ++at) {
        rows.push_back({.token = prompt[static_cast<size_t>(at)]});
        rows.back().position = static_cast<int32_t>(at);
        rows.back().kv = driver.store();
      }
      model->Forward(rows, nullptr, driver.HooksFor(from));
      ASSERT_TRUE(driver.AfterRows(end, prompt));
      from = end;
    }
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
