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
  WindowScoring scoring;
};

class SnapKv final : public EvictMethod {
 public:
  explicit SnapKv(SnapKvParams params) : params_(std::move(params)) {}

  std::unique_ptr<EvictMethod> Copy() const override { return std::make_unique<SnapKv>(*this); }
  EvictNeeds needs() const override { return params_.scoring.needs(); }

  Status AfterPrompt(EvictView& view) override {
    const int64_t n = view.prompt_rows, window = params_.scoring.window;
    const int64_t budget = params_.parsed.Entries(view.shape, view.lane_count(), n);
    if (n <= budget || n <= window) return {};
    const int64_t newest = n - std::max(window, params_.last);
    for (const int layer : view.layers) {
      for (int head = 0; head < view.shape.kv_heads(); ++head) {
        LARDER_TRY(
            view.lanes.Keep(layer, head,
                            KeepHighest(params_.scoring.Scores(view, layer, head),
                                        view.lanes.Positions(layer, head), budget, params_.sinks, newest)));
      }
    }
    return {};
  }

 private:
  const SnapKvParams params_;
};

Result<std::unique_ptr<EvictMethod>> Create(Params& params, std::string_view parameters, const EvictModel&) {
  SnapKvParams p;
  p.scoring.Declare(params);
  LARDER_TRY(ReadEvictParams(params, parameters, p));
  LARDER_TRY(p.scoring.Check(params));
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
