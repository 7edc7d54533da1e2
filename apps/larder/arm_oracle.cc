#include "larder/arm_oracle.h"

#include "kv/evict/select.h"
#include "model/attention_shape.h"

namespace larder {
namespace {

class Oracle final : public EvictMethod {
 public:
  Oracle(EvictCommon common, const FutureAttention& future) : common_(std::move(common)), future_(future) {}
  EvictNeeds needs() const override { return {}; }
  std::unique_ptr<EvictMethod> Copy() const override { return std::make_unique<Oracle>(*this); }
  Status AfterPrompt(EvictView& view) override {
    const int64_t budget = common_.parsed.Entries(view.shape, view.lane_count(), view.prompt_rows);
    for (const int layer : view.layers) {
      for (int head = 0; head < view.shape.kv_heads(); ++head) {
        if (view.lanes.Length(layer, head) <= budget) continue;
        LARDER_TRY(view.lanes.Keep(layer, head,
                                   KeepHighest(future_.Of(layer, head), view.lanes.Positions(layer, head),
                                               budget, common_.sinks, view.rows - common_.last)));
      }
    }
    return {};
  }

 private:
  const EvictCommon common_;
  const FutureAttention& future_;
};

}  // namespace

void FutureAttention::Reset(const ModelSpec& spec, int64_t entries) {
  const auto padded = static_cast<size_t>((entries + kPageTokens) / kPageTokens * kPageTokens);
  sums_.assign(spec.layers.size(), std::vector<std::vector<float>>(static_cast<size_t>(spec.kv_heads),
                                                                   std::vector<float>(padded)));
}

void FutureAttention::Capture::AfterAttention(int layer, std::span<const Row> rows, const float* lse) {
  const ModelSpec& spec = model_.spec();
  std::vector<TapRow> taps;
  for (size_t r = 0; r < rows.size(); ++r) {
    if (rows[r].position < from_) continue;
    taps.push_back({q_ + r * static_cast<size_t>(spec.heads * spec.head_dim),
                    lse + r * static_cast<size_t>(spec.heads), rows[r].position});
  }
  std::vector<float*> sums;
  for (auto& head : future_.sums_[static_cast<size_t>(layer)]) sums.push_back(head.data());
  ColumnSums(model_.pool(), scratch_, AttentionShapeOf(spec, layer, model_.kv_shape().type()), full_, taps,
             {sums, {}});
}

Result<std::unique_ptr<EvictMethod>> CreateOracle(std::string_view parameters,
                                                  const FutureAttention& future) {
  EvictCommon common;
  Params params("oracle");
  LARDER_TRY(ReadEvictParams(params, parameters, common));
  return std::make_unique<Oracle>(std::move(common), future);
}

}  // namespace larder
