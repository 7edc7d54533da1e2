// StreamingLLM (Efficient Streaming Language Models with Attention Sinks, 2023): the first tokens, which all
// attention leans on, and the newest. Here with true positions, so that it is the plain baseline of
// everything that scores; sinks=0 is recency alone. With positions=rank as published: streams without end.
#include <algorithm>

#include "kv/evict/method.h"

namespace larder {
namespace {

struct StreamingParams : EvictCommon {
  std::string positions = "true";
  int64_t chunk = 0;
};

class Streaming final : public EvictMethod {
 public:
  explicit Streaming(StreamingParams params) : params_(std::move(params)) {}

  std::unique_ptr<EvictMethod> Copy() const override { return std::make_unique<Streaming>(*this); }
  EvictNeeds needs() const override {
    return {.positions = params_.positions == "rank" ? PositionMode::kCompact : PositionMode::kKeep,
            .every_token = true,
            .chunk = params_.chunk};
  }
  Status AfterChunk(EvictView& view) override { return AfterPrompt(view); }

  Status AfterPrompt(EvictView& view) override {
    budget_ = params_.parsed.Entries(view.shape, view.lane_count(), view.prompt_rows);
    return Trim(view);
  }
  Status AfterToken(EvictView& view) override {
    view.lanes.KeepRoom(budget_ + 1);  // for the newcomer
    return Trim(view);
  }

 private:
  Status Trim(EvictView& view) {
    for (const int layer : view.layers) {
      for (int head = 0; head < view.shape.kv_heads(); ++head) {
        if (view.lanes.Length(layer, head) <= budget_) continue;
        Choose(view.lanes.Positions(layer, head), view.rows);
        LARDER_TRY(view.lanes.Keep(layer, head, keep_));
      }
    }
    return {};
  }

  // Entries lie in the order of their positions, because nothing else is ever removed from a lane.
  void Choose(std::span<const int32_t> positions, int64_t rows) {
    const auto below = [&](int64_t position) {
      return std::ranges::lower_bound(positions, position) - positions.begin();
    };
    const int64_t length = std::ssize(positions), sinks = below(params_.sinks),
                  last = std::min(length - below(rows - params_.last), length - sinks);
    keep_.clear();
    for (int64_t i = 0; i < sinks; ++i) keep_.push_back(static_cast<int32_t>(i));
    for (int64_t i = length - std::max(budget_ - sinks, last); i < length; ++i)
      keep_.push_back(static_cast<int32_t>(i));
  }

  const StreamingParams params_;
  int64_t budget_ = 0;
  std::vector<int32_t> keep_;  // scratch, kept from token to token
};

Result<std::unique_ptr<EvictMethod>> Create(Params& params, std::string_view parameters,
                                            const EvictModel& model) {
  StreamingParams p;
  p.sinks = 4;
  params.Choice("positions", &p.positions, {"true", "rank"}, "rank: those within the cache, as published");
  params.Int("chunk", &p.chunk, 0, 1 << 20,
             "trim the prompt at every multiple of this many rows; 0: at its end");
  LARDER_TRY(ReadEvictParams(params, parameters, p));
  if (p.positions == "rank" && (model.windows || model.transformed_keys)) {
    return Fail(
        ErrorKind::kUnsupported,
        "streaming with positions=rank needs a model without window layers and a cache without a codec; "
        "take positions=true");
  }
  return std::make_unique<Streaming>(std::move(p));
}

}  // namespace

EvictMethodEntry StreamingMethod() {
  return {{.name = "streaming",
           .help = "sinks and the newest tokens",
           .paper = "Efficient Streaming Language Models with Attention Sinks (2023)",
           .leaf = "A2",
           .memory = "O(B)",
           .needs = ""},
          Create};
}

}  // namespace larder
