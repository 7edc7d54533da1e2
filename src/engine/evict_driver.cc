#include "engine/evict_driver.h"

#include <algorithm>

namespace larder {
namespace {

std::vector<int> LayersThatSeeEverything(const ModelSpec& spec) {
  std::vector<int> layers;
  for (size_t i = 0; i < spec.layers.size(); ++i) {
    if (spec.layers[i].window == 0) layers.push_back(static_cast<int>(i));
  }
  return layers;
}

}  // namespace

// Attention of the sequence's rows among those of a step.
class EvictDriver::AllRows final : public ForwardHooks {
 public:
  explicit AllRows(EvictDriver& driver) : driver_(driver) {}

  bool WantsLse(int) const override { return true; }
  void AfterQkv(int, std::span<const Row>, float* q, float*, float*) override { q_ = q; }
  void AfterAttention(int layer, std::span<const Row> rows, const float* lse) override {
    const ModelSpec& spec = driver_.model_.spec();
    rows_.clear();
    for (size_t r = 0; r < rows.size(); ++r) {
      if (rows[r].kv != driver_.store()) continue;
      rows_.push_back({q_ + r * static_cast<size_t>(spec.heads * spec.head_dim),
                       lse + r * static_cast<size_t>(spec.heads), rows[r].position});
    }
    driver_.Tap(layer, rows_);
  }

 private:
  EvictDriver& driver_;
  std::vector<TapRow> rows_;
  const float* q_ = nullptr;
};

// The last rows of the prompt, run again over the finished cache. What is behind in the pass is not read any
// more, and the method may drop of it.
class EvictDriver::LastRows final : public ForwardHooks {
 public:
  LastRows(EvictDriver& driver, EvictView& view) : driver_(driver), view_(view) {}
  const Status& status() const { return status_; }

  bool WantsLse(int layer) const override { return Wanted(layer); }
  void AfterQkv(int, std::span<const Row>, float* q, float*, float*) override { q_ = q; }
  void AfterAttention(int layer, std::span<const Row> rows, const float* lse) override {
    if (!Wanted(layer) || !status_) return;
    const ModelSpec& spec = driver_.model_.spec();
    std::vector<TapRow> taps;
    for (size_t r = 0; r < rows.size(); ++r) {
      taps.push_back({q_ + r * static_cast<size_t>(spec.heads * spec.head_dim),
                      lse + r * static_cast<size_t>(spec.heads), rows[r].position});
    }
    ColumnScores& scores = driver_.scores_[static_cast<size_t>(layer)];
    int64_t entries = 0;
    for (int head = 0; head < spec.kv_heads; ++head)
      entries = std::max(entries, driver_.lanes_.Entries(layer, head));
    scores.stride = (entries + kPageTokens - 1) / kPageTokens * kPageTokens;
    const auto columns = [&](std::vector<float>& numbers) {
      numbers.assign(static_cast<size_t>(spec.heads * scores.stride), 0);
      std::vector<float*> heads;
      for (int head = 0; head < spec.heads; ++head) heads.push_back(numbers.data() + head * scores.stride);
      return heads;
    };
    const std::vector<float*> sums = columns(scores.sums), squares = columns(scores.squares);
    const std::vector<float*> entropies =
        driver_.needs_.entropies ? columns(scores.entropies) : std::vector<float*>();
    ColumnSums(driver_.model_.pool(), driver_.resources_.scratch, driver_.ShapeOf(layer), driver_.lanes_,
               taps, {sums, squares, entropies});
    if (!driver_.needs_.each_layer) return;
    status_ = driver_.method_->AfterLayer(view_, layer);
    driver_.NotePeak();
    scores = {};
  }

 private:
  bool Wanted(int layer) const { return std::ranges::binary_search(driver_.layers_, layer); }
  EvictDriver& driver_;
  EvictView& view_;
  Status status_;
  const float* q_ = nullptr;
};

EvictModel EvictModelOf(const Model& model) {
  const auto& layers = model.spec().layers;
  return {.layers = static_cast<int>(layers.size()),
          .windows = std::ranges::any_of(layers, [](const LayerSpec& layer) { return layer.window > 0; }),
          .transformed_keys = model.kv_shape().codec() != nullptr,
          .head_dim = model.spec().head_dim,
          .kv_type = model.kv_shape().type()};
}

EvictResources::EvictResources(Model& m, std::unique_ptr<PageSource> page_source)
    : model(m),
      pages(std::move(page_source)),
      layers(LayersThatSeeEverything(m.spec())),
      rope(m.spec().ropes[static_cast<size_t>(m.spec().layers[0].rope)], m.spec().rotary_dim) {}

LaneTable::RopeTables EvictResources::Ropes() {
  rope.Grow(model.spec().context);
  return {rope.Cosines(0), rope.Sines(0), model.spec().context, model.spec().rotary_dim};
}

EvictDriver::EvictDriver(EvictResources& resources, std::unique_ptr<EvictMethod> method, int64_t prompt_rows,
                         std::shared_ptr<const EvictState> state)
    : PrivateRows(
          resources.model, *resources.pages, method->needs().positions,
          method->needs().positions == PositionMode::kKeep ? LaneTable::RopeTables{} : resources.Ropes()),
      resources_(resources),
      method_(std::move(method)),
      needs_(method_->needs()),
      becomes_codes_(model_.kv_shape().codec() != nullptr && needs_.BecomesCodes()),
      state_(std::move(state)),
      prompt_rows_(state_ != nullptr && needs_.chunk == 0 ? state_->rows() : prompt_rows),
      layers_(resources.layers) {
  if (state_ != nullptr) prompts_ = state_->prompts();
  if (state_ == nullptr || needs_.chunk > 0) prompts_.push_back(static_cast<int32_t>(prompt_rows_));
  if (needs_.tap == ScoreTap::kAllRows) all_rows_ = std::make_unique<AllRows>(*this);
}

EvictDriver::~EvictDriver() = default;

ForwardHooks* EvictDriver::HooksFor(int64_t) { return all_rows_.get(); }

Status EvictDriver::Begin(const TileProvider* prefix, int64_t rows) {
  if (state_ == nullptr) return PrivateRows::Begin(prefix, rows);
  LARDER_CHECK(rows == 0);
  LARDER_TRY(lanes_.CopyFrom(state_->lanes()));
  rows_ = state_->rows();
  NotePeak();
  state_ = nullptr;
  return {};
}

EvictLeft EvictDriver::Leave() { return {std::move(method_), std::move(lanes_), std::move(prompts_)}; }

int64_t EvictDriver::ReadableRows() const {
  if (state_ != nullptr) return 0;
  if (needs_.tap == ScoreTap::kAllRows || needs_.positions == PositionMode::kCompact) return 0;
  // Rows behind a chunk that was compacted have seen less than those of the cache.
  if (needs_.chunk > 0) return 0;
  // What a method chooses from are rows, and codes are not turned back into rows.
  if (model_.kv_shape().codec() != nullptr) return 0;
  // A window layer of the cache holds the rows that the next one needs, not those of rows that are run again.
  const bool windows = layers_.size() < model_.spec().layers.size();
  return windows ? std::max<int64_t>(0, prompt_rows_ - needs_.rows) : prompt_rows_;
}

int32_t EvictDriver::PositionOf(int64_t row) const {
  if (needs_.positions == PositionMode::kKeep) return static_cast<int32_t>(row);
  return static_cast<int32_t>(lanes_.Length(0, 0) + row - rows_);
}

int64_t EvictDriver::ChunkEnd(int64_t computed) const {
  if (computed >= prompt_rows_) {
    if (becomes_codes_) return (computed / kPageTokens + 1) * kPageTokens;
    return needs_.every_token ? computed + 1 : 0;
  }
  const int64_t chunk = needs_.chunk > 0 ? (computed / needs_.chunk + 1) * needs_.chunk : prompt_rows_;
  return std::min(chunk, prompt_rows_);
}

// Attention of rows of this sequence, in order, while their queries and keys are there.
void EvictDriver::Tap(int layer, std::span<const TapRow> rows) {
  if (!std::ranges::binary_search(layers_, layer)) return;
  sums_.clear();
  for (int head = 0; head < model_.spec().kv_heads; ++head)
    sums_.push_back(lanes_.Scores(layer, head).data());
  ColumnSums(model_.pool(), resources_.scratch, ShapeOf(layer), lanes_, rows, {sums_, {}});
}

Status EvictDriver::RunLastRows(std::span<const int32_t> tokens, EvictView& view) {
  std::vector<Row> rows;
  for (int64_t at = std::max<int64_t>(0, prompt_rows_ - needs_.rows); at < prompt_rows_; ++at) {
    Row row;
    row.token = tokens[static_cast<size_t>(at)];
    row.position = static_cast<int32_t>(at);
    row.kv = &lanes_;
    row.writes_kv = false;
    rows.push_back(row);
  }
  scores_.resize(model_.spec().layers.size());
  view.column_scores = scores_;
  LastRows hooks(*this, view);
  model_.Forward(rows, nullptr, &hooks);
  return hooks.status();
}

Status EvictDriver::AfterRows(int64_t end, std::span<const int32_t> tokens) {
  TakeRows(end);
  EvictView view{model_.kv_shape(), model_.spec().heads, layers_, prompt_rows_, end, lanes_, scores_};
  if (end < prompt_rows_) {
    if (needs_.chunk > 0 && end % needs_.chunk == 0) LARDER_TRY(method_->AfterChunk(view));
  } else if (end == prompt_rows_) {
    if (needs_.tap == ScoreTap::kLastRows) LARDER_TRY(RunLastRows(tokens, view));
    LARDER_TRY(method_->AfterPrompt(view));
    scores_ = {};
  } else if (needs_.every_token) {
    LARDER_TRY(method_->AfterToken(view));
  }
  // Copies of what is kept of a shared prefix come on top of it.
  NotePeak();
  // Rows that are run again at the prompt's end look back as far as they did the first time.
  if (needs_.positions == PositionMode::kKeep) DropWindows(end, end < prompt_rows_ ? needs_.rows : 0);
  // At the same rows however they were cut into steps.
  const bool full = end == prompt_rows_ || (end > prompt_rows_ && end % kPageTokens == 0);
  return becomes_codes_ && full ? lanes_.DemoteFullPages() : Status();
}

}  // namespace larder
