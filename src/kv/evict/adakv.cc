// Ada-KV (Ada-KV: Optimizing KV Cache Eviction by Adaptive Budget Allocation, 2024) over SnapKV's scores.
// Heads whose attention is spread need more entries than heads that look at a few: the entries of all heads
// of a layer compete for the layer's room, behind a share of it that each head has for certain. Kept: the
// room of a layer is that of SnapKV, the certain share is a fifth. Differs: KV heads compete, not query
// heads, so a cache is as small as it says; and heads are lanes of different lengths, which hold no more
// pages than they need.
#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <utility>

#include "kv/evict/select.h"

namespace larder {
namespace {

struct AdaKvParams : EvictCommon {
  WindowScoring scoring;
  double floor = 0.2;
};

class AdaKv final : public EvictMethod {
 public:
  explicit AdaKv(AdaKvParams params) : params_(std::move(params)) {}

  std::unique_ptr<EvictMethod> Copy() const override { return std::make_unique<AdaKv>(*this); }
  EvictNeeds needs() const override { return params_.scoring.needs(); }

  Status AfterPrompt(EvictView& view) override {
    const int64_t n = view.prompt_rows, window = params_.scoring.window;
    const int64_t budget = params_.parsed.Entries(view.shape, view.lane_count(), n, /*unequal=*/true);
    if (n <= budget || n <= window) return {};
    const int64_t newest = std::max<int64_t>(0, n - std::max(window, params_.last));
    for (const int layer : view.layers) {
      std::vector<std::vector<float>> scores;
      for (int head = 0; head < view.shape.kv_heads(); ++head)
        scores.push_back(params_.scoring.Scores(view, layer, head));
      const std::vector<int64_t> budgets = Budgets(scores, budget, newest);
      for (int head = 0; head < view.shape.kv_heads(); ++head) {
        const auto at = static_cast<size_t>(head);
        LARDER_TRY(view.lanes.Keep(
            layer, head,
            KeepHighest(scores[at], view.lanes.Positions(layer, head), budgets[at], params_.sinks, newest)));
      }
    }
    return {};
  }

 private:
  // Entries of each head; their sum is heads * budget. Entry i of a lane has position i when the prompt ends.
  std::vector<int64_t> Budgets(const std::vector<std::vector<float>>& scores, int64_t budget,
                               int64_t newest) const {
    const auto heads = static_cast<int64_t>(scores.size());
    const auto n = static_cast<int64_t>(scores[0].size());
    const int64_t first = std::min(params_.sinks, newest), ranked = newest - first;
    const int64_t room = std::max<int64_t>(0, budget - (n - ranked));
    const auto certain = static_cast<int64_t>(params_.floor * static_cast<double>(room));
    std::vector<std::pair<float, int64_t>> all;  // score, head: what lies behind a head's certain entries
    for (int64_t head = 0; head < heads; ++head) {
      const auto begin = scores[static_cast<size_t>(head)].begin();
      std::vector<float> own(begin + first, begin + newest);
      for (float& score : own)
        if (std::isnan(score)) score = -std::numeric_limits<float>::infinity();
      std::ranges::sort(own, std::greater());
      for (int64_t i = certain; i < ranked; ++i) all.emplace_back(own[static_cast<size_t>(i)], head);
    }
    // Of equal scores the lower head's come first.
    std::ranges::stable_sort(all, [](const auto& a, const auto& b) { return a.first > b.first; });
    std::vector<int64_t> budgets(scores.size(), n - ranked + certain);
    for (int64_t i = 0; i < heads * (room - certain); ++i) ++budgets[static_cast<size_t>(all[i].second)];
    return budgets;
  }

  const AdaKvParams params_;
};

Result<std::unique_ptr<EvictMethod>> Create(Params& params, std::string_view parameters, const EvictModel&) {
  AdaKvParams p;
  p.scoring.Declare(params);
  params.Float("floor", &p.floor, 0, 1, "share of an even split that every head has for certain");
  LARDER_TRY(ReadEvictParams(params, parameters, p));
  LARDER_TRY(p.scoring.Check(params));
  return std::make_unique<AdaKv>(std::move(p));
}

}  // namespace

EvictMethodEntry AdaKvMethod() {
  return {{.name = "adakv",
           .help = "SnapKV's scores, heads of a layer compete for its entries",
           .paper = "Ada-KV: Optimizing KV Cache Eviction by Adaptive Budget Allocation (2024)",
           .leaf = "A5",
           .memory = "O(B)",
           .needs = "runs the last rows of the prompt twice"},
          Create};
}

}  // namespace larder
