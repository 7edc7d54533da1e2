// Key norm (A Simple and Effective L2 Norm-Based Strategy for KV Cache Compression, 2024): entries whose keys
// are short get much attention, so those stay. Once, at the end of the prompt; no attention is looked at.
// Differs: the paper leaves the first two layers alone, here every layer is cut.
#include "compute/attention.h"
#include "kv/evict/select.h"

namespace larder {
namespace {

class KeyNorm final : public EvictMethod {
 public:
  explicit KeyNorm(EvictCommon params) : params_(std::move(params)) {}

  std::unique_ptr<EvictMethod> Copy() const override { return std::make_unique<KeyNorm>(*this); }
  EvictNeeds needs() const override { return {}; }

  Status AfterPrompt(EvictView& view) override {
    const int64_t budget = params_.parsed.Entries(view.shape, view.lane_count(), view.prompt_rows);
    for (const int layer : view.layers) {
      for (int head = 0; head < view.shape.kv_heads(); ++head) {
        const std::span<const int32_t> positions = view.lanes.Positions(layer, head);
        if (static_cast<int64_t>(positions.size()) <= budget) continue;
        std::vector<float> scores;
        for (size_t i = 0; i < positions.size(); ++i)
          scores.push_back(-SquaredNorm(view, layer, head, static_cast<int64_t>(i)));
        LARDER_TRY(view.lanes.Keep(
            layer, head, KeepHighest(scores, positions, budget, params_.sinks, view.rows - params_.last)));
      }
    }
    return {};
  }

 private:
  static float SquaredNorm(const EvictView& view, int layer, int head, int64_t entry) {
    float k[kMaxHeadDim], v[kMaxHeadDim];
    view.lanes.Load(layer, head, entry, k, v);
    float sum = 0;
    for (int d = 0; d < view.shape.head_dim(); ++d) sum += k[d] * k[d];
    return sum;
  }

  const EvictCommon params_;
};

Result<std::unique_ptr<EvictMethod>> Create(Params& params, std::string_view parameters, const EvictModel&) {
  EvictCommon p;
  LARDER_TRY(ReadEvictParams(params, parameters, p));
  return std::make_unique<KeyNorm>(std::move(p));
}

}  // namespace

EvictMethodEntry KeyNormMethod() {
  return {{.name = "keynorm",
           .help = "entries with short keys, once at the end of the prompt",
           .paper = "A Simple and Effective L2 Norm-Based Strategy for KV Cache Compression (2024)",
           .leaf = "A1",
           .memory = "O(B)",
           .needs = ""},
          Create};
}

}  // namespace larder
