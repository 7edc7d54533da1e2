// SnapKV (SnapKV: LLM Knows What You are Looking for Before Generation, 2024). What each head will look at
// while it answers is what it looks at from the last rows of the prompt: earlier entries are scored by the
// attention of these rows, smoothed along the text so that spans survive, and the highest stay, once, at the
// end of the prompt. Kept: cut before pooling, the budget includes the window, true positions, the prompt's
// own attention is full. Differs: one choice for each KV head, from the mean of its query heads; the
// published code stores repeated KV heads instead, so that its cache is several times as large as it says.
#include "kv/evict/select.h"

namespace larder {
namespace {

struct SnapKvParams : EvictCommon {
  int64_t window = 32, kernel = 7;
  std::string pooling = "max", group = "mean";
};

class SnapKv final : public EvictMethod {
 public:
  explicit SnapKv(SnapKvParams params) : params_(std::move(params)) {}

  std::unique_ptr<EvictMethod> Copy() const override { return std::make_unique<SnapKv>(*this); }
  EvictNeeds needs() const override { return {.tap = ScoreTap::kLastRows, .rows = params_.window}; }

  Status AfterPrompt(EvictView& view) override {
    const int64_t n = view.prompt_rows;
    const int64_t budget = params_.parsed.Entries(view.shape, view.lane_count(), n);
    if (n <= budget || n <= params_.window) return {};
    const int group = view.heads / view.shape.kv_heads();
    for (const int layer : view.layers) {
      const ColumnScores& columns = view.column_scores[static_cast<size_t>(layer)];
      for (int head = 0; head < view.shape.kv_heads(); ++head) {
        const std::vector<float> summed =
            ReduceGroup(columns, head * group, group, n - params_.window, params_.group);
        std::vector<float> scores =
            params_.pooling == "max" ? PoolMax(summed, params_.kernel) : PoolMean(summed, params_.kernel);
        scores.resize(static_cast<size_t>(n));  // the window's own columns are never ranked
        const int64_t newest = n - std::max(params_.window, params_.last);
        LARDER_TRY(view.lanes.Keep(
            layer, head,
            KeepHighest(scores, view.lanes.Positions(layer, head), budget, params_.sinks, newest)));
      }
    }
    return {};
  }

 private:
  const SnapKvParams params_;
};

Result<std::unique_ptr<EvictMethod>> Create(Params& params, std::string_view parameters, const EvictModel&) {
  SnapKvParams p;
  params.Int("window", &p.window, 1, 4096, "rows at the end of the prompt that score, and stay");
  params.Int("kernel", &p.kernel, 1, 255, "width of the pooling, odd");
  params.Choice("pooling", &p.pooling, {"max", "avg"}, "how scores are smoothed along the text");
  params.Choice("group", &p.group, {"mean", "max", "sum"}, "from a group's query heads to their KV head");
  LARDER_TRY(ReadEvictParams(params, parameters, p));
  if (p.kernel % 2 == 0) return Fail(ErrorKind::kInvalid, "snapkv: kernel is {}; it must be odd", p.kernel);
  return std::make_unique<SnapKv>(std::move(p));
}

}  // namespace

EvictMethodEntry SnapKvMethod() {
  return {{.name = "snapkv",
           .help = "what the last rows of the prompt attend to, pooled, once at the end of the prompt",
           .paper = "SnapKV: LLM Knows What You are Looking for Before Generation (2024)",
           .leaf = "A1",
           .memory = "O(B)",
           .needs = "runs the last rows of the prompt twice"},
          Create};
}

}  // namespace larder
