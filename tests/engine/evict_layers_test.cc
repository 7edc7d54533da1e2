// The trigger at the end of a layer, in the pass over a prompt's last rows: layers in their order, the scores
// of one at a time; what is dropped of layers that the pass has read changes nothing of it, and its memory
// comes back at once. CAKE, which works on it, keeps the same whatever the prompt's way into the lanes was.
#include <cmath>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "engine/evict_driver.h"
#include "tests/engine/core_fixture.h"

namespace larder {
namespace {

using testing::Tokens;

// A method at work on a prompt, of which `shared` rows are read from a prefix.
class Prompt {
 public:
  Prompt(Model& model, std::unique_ptr<EvictMethod> method, const Tokens& text, int64_t shared = 0,
         int64_t chunk = 512)
      : session_(&model),
        run_(session_.Open(text)),
        resources_(model, session_.cache().MakePageSource()),
        driver_(resources_, std::move(method), std::ssize(text)) {
    run_.tokens.resize(static_cast<size_t>(shared));
    session_.Finish(run_);
    LARDER_CHECK(shared <= driver_.ReadableRows());
    EXPECT_TRUE(driver_.Begin(run_.kv.get(), shared));
    const auto n = static_cast<int64_t>(text.size());
    while (driver_.rows() < n && status_) {
      const int64_t end = std::min(n, driver_.rows() + chunk);
      EXPECT_TRUE(driver_.Reserve(end - driver_.rows()));
      std::vector<Row> rows;
      for (int64_t at = driver_.rows(); at < end; ++at) {
        Row row;
        row.token = text[static_cast<size_t>(at)];
        row.position = static_cast<int32_t>(at);
        row.kv = driver_.store();
        rows.push_back(row);
      }
      model.Forward(rows, nullptr, driver_.HooksFor(driver_.rows()));
      status_ = driver_.AfterRows(end, text);
    }
  }
  const Status& status() const { return status_; }
  LaneTable& lanes() { return *driver_.store(); }
  // [layer that sees everything * KV heads + head]
  std::vector<std::vector<int32_t>> Kept() {
    std::vector<std::vector<int32_t>> out;
    for (const int layer : resources_.layers) {
      for (int head = 0; head < resources_.model.spec().kv_heads; ++head) {
        const auto positions = lanes().Positions(layer, head);
        out.emplace_back(positions.begin(), positions.end());
      }
    }
    return out;
  }

 private:
  testing::ModelSession session_;
  testing::ModelSession::Run run_;
  EvictResources resources_;
  EvictDriver driver_;
  Status status_;
};

// What a method has seen at the end of each layer.
struct Seen {
  std::vector<int> layers;
  std::vector<ColumnScores> scores;
  std::vector<uint64_t> bytes;  // of the lanes, after it
};

class Recorder final : public EvictMethod {
 public:
  // Drops all but the newest entry of the layers so far; or fails at the first layer.
  enum class Act : uint8_t { kNothing, kDrop, kFail };
  Recorder(Seen* seen, int64_t rows, Act act) : seen_(seen), rows_(rows), act_(act) {}
  EvictNeeds needs() const override {
    return {.tap = ScoreTap::kLastRows, .rows = rows_, .each_layer = true, .entropies = true};
  }
  std::unique_ptr<EvictMethod> Copy() const override { return std::make_unique<Recorder>(*this); }
  Status AfterLayer(EvictView& view, int layer) override {
    seen_->layers.push_back(layer);
    for (size_t i = 0; i < view.column_scores.size(); ++i)
      EXPECT_EQ(view.column_scores[i].sums.empty(), static_cast<int>(i) != layer);
    seen_->scores.push_back(view.column_scores[static_cast<size_t>(layer)]);
    if (act_ == Act::kFail) return Fail(ErrorKind::kExhausted, "no room");
    for (const int so_far : view.layers) {
      if (act_ != Act::kDrop || so_far > layer) break;
      for (int head = 0; head < view.shape.kv_heads(); ++head) {
        const auto newest = static_cast<int32_t>(view.lanes.Length(so_far, head) - 1);
        LARDER_TRY(view.lanes.Keep(so_far, head, {&newest, 1}));
      }
    }
    seen_->bytes.push_back(view.lanes.bytes());
    return {};
  }
  Status AfterPrompt(EvictView& view) override {
    for (const ColumnScores& scores : view.column_scores) EXPECT_TRUE(scores.sums.empty());
    seen_->layers.push_back(-1);
    return {};
  }

 private:
  Seen* const seen_;
  const int64_t rows_;
  const Act act_;
};

class EvictLayers : public testing::CoreTest {
 protected:
  static Seen Watch(Model& model, const Tokens& text, Recorder::Act act, int64_t rows = 16,
                    int64_t shared = 0) {
    Seen seen;
    const Prompt prompt(model, std::make_unique<Recorder>(&seen, rows, act), text, shared);
    EXPECT_EQ(prompt.status().has_value(), act != Recorder::Act::kFail);
    return seen;
  }
  static std::vector<int> FullLayers(const Model& model) {
    std::vector<int> out;
    for (size_t i = 0; i < model.spec().layers.size(); ++i) {
      if (model.spec().layers[i].window == 0) out.push_back(static_cast<int>(i));
    }
    return out;
  }
};

TEST_P(EvictLayers, WhatThePassHasReadMayGo) {
  const auto model = Load(2);
  const Tokens text = Text(31, 700);
  const Seen all = Watch(*model, text, Recorder::Act::kNothing);
  std::vector<int> layers = FullLayers(*model);
  layers.push_back(-1);  // the prompt's end
  EXPECT_EQ(all.layers, layers);
  for (const int64_t shared : {0, 650}) {
    const Seen dropped = Watch(*model, text, Recorder::Act::kDrop, 16, shared);
    EXPECT_EQ(dropped.layers, layers);
    for (size_t i = 0; i < all.scores.size(); ++i) {
      EXPECT_EQ(dropped.scores[i].sums, all.scores[i].sums) << "layer " << layers[i];
      EXPECT_EQ(dropped.scores[i].squares, all.scores[i].squares) << "layer " << layers[i];
      EXPECT_EQ(dropped.scores[i].entropies, all.scores[i].entropies) << "layer " << layers[i];
      if (shared > 0) continue;
      // At least the lane's pages but one have come back.
      const uint64_t before = i == 0 ? all.bytes[0] : dropped.bytes[i - 1];
      const auto heads = static_cast<uint64_t>(model->spec().kv_heads);
      EXPECT_LE(dropped.bytes[i] + heads * 10 * model->kv_shape().page_bytes(), before);
    }
  }
}

TEST_P(EvictLayers, AnErrorEndsIt) {
  const auto model = Load(2);
  const Seen seen = Watch(*model, Text(32, 100), Recorder::Act::kFail);
  EXPECT_EQ(seen.layers.size(), 1u);  // neither another layer nor the prompt's end
}

// Of a single row a sum is a weight, and squares and entropies follow from it.
TEST_P(EvictLayers, SquaresAndEntropiesAreThoseOfTheWeights) {
  const auto model = Load(2);
  const Seen seen = Watch(*model, Text(33, 150), Recorder::Act::kNothing, 1);
  for (const ColumnScores& scores : seen.scores) {
    for (int head = 0; head < model->spec().heads; ++head) {
      float sum = 0;
      for (size_t i = 0; i < 150; ++i) {
        const float p = scores.Sums(head)[i];
        sum += p;
        EXPECT_EQ(scores.Squares(head)[i], p * p);
        EXPECT_NEAR(scores.Entropies(head)[i], p > 0 ? -p * std::log(p) : 0, 1e-5);
      }
      EXPECT_NEAR(sum, 1, 1e-3);
    }
  }
}

TEST_P(EvictLayers, CakeKeepsTheSameOnEveryWay) {
  const auto two = Load(2), one = Load(1);
  const auto cake = [](Model& model, const std::string& more = "") {
    return *CreateEvictMethod("cake:budget=64,window=16" + more, EvictModelOf(model));
  };
  size_t lanes = 0, equal = 0;
  for (uint32_t seed = 0; seed < 5; ++seed) {
    const Tokens text = Text(40 + seed, 300);
    const auto kept = Prompt(*two, cake(*two), text).Kept();
    int64_t entries = 0;
    for (const auto& lane : kept) entries += std::ssize(lane);
    EXPECT_LE(entries, 64 * std::ssize(kept));
    EXPECT_GE(entries, 63 * std::ssize(kept));
    EXPECT_EQ(Prompt(*one, cake(*one), text).Kept(), kept);
    for (const int64_t chunk : {1, 7, 64}) EXPECT_EQ(Prompt(*two, cake(*two), text, 0, chunk).Kept(), kept);
    for (const int64_t shared : {100, 128, 284})
      EXPECT_EQ(Prompt(*two, cake(*two), text, shared).Kept(), kept);
    const auto once = Prompt(*two, cake(*two, ",cascade=false"), text).Kept();
    for (size_t lane = 0; lane < kept.size(); ++lane) equal += kept[lane] == once[lane];
    lanes += kept.size();
  }
  EXPECT_GE(equal, lanes * 95 / 100);
}

INSTANTIATE_TEST_SUITE_P(, EvictLayers, ::testing::Values("tiny-llama6-q8_0.gguf", "tiny-gemma3.gguf"));

}  // namespace
}  // namespace larder
