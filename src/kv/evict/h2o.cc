// H2O (H2O: Heavy-Hitter Oracle for Efficient Generative Inference of Large Language Models, 2023). Each head
// keeps the newest entries and those whose attention, summed over all queries so far, is largest; at the end
// of the prompt all others go, and from then on one goes for each token that comes. An evicted entry never
// returns, and its sum is forgotten. Kept: raw sums by default, the victim takes part in the step that drops
// it, true positions, the prompt's own attention is full. Differs: one choice for each KV head, from the mean
// of its query heads (equal to their sum, up to scale).
#include <algorithm>

#include "kv/evict/select.h"

namespace larder {
namespace {

struct H2oParams : EvictCommon {
  double recent = 0.5;
  bool normalise = false, decode = true;
};

class H2o final : public EvictMethod {
 public:
  explicit H2o(H2oParams params) : params_(std::move(params)) {}

  std::unique_ptr<EvictMethod> Copy() const override { return std::make_unique<H2o>(*this); }
  EvictNeeds needs() const override { return {.tap = ScoreTap::kAllRows, .every_token = params_.decode}; }

  Status AfterPrompt(EvictView& view) override {
    budget_ = params_.parsed.Entries(view.shape, view.lane_count(), view.prompt_rows);
    // With nothing recent at all, the newcomer would have to compete with a sum of nothing.
    recent_ = std::max<int64_t>(
        {1, params_.last, static_cast<int64_t>(params_.recent * static_cast<double>(budget_))});
    for (const int layer : view.layers) {
      for (int head = 0; head < view.shape.kv_heads(); ++head) {
        if (view.lanes.Length(layer, head) <= budget_) continue;
        const std::span<const int32_t> positions = view.lanes.Positions(layer, head);
        const std::span<const float> sums = view.lanes.Scores(layer, head);
        std::vector<float> scores(sums.begin(), sums.end());
        for (size_t i = 0; params_.normalise && i < scores.size(); ++i)
          scores[i] /= static_cast<float>(view.rows - positions[i]);  // the queries that could see it
        LARDER_TRY(view.lanes.Keep(
            layer, head, KeepHighest(scores, positions, budget_, params_.sinks, view.rows - recent_)));
      }
    }
    return {};
  }

  Status AfterToken(EvictView& view) override {
    view.lanes.KeepRoom(budget_ + 1);  // for the newcomer
    for (const int layer : view.layers) {
      for (int head = 0; head < view.shape.kv_heads(); ++head) {
        while (view.lanes.Length(layer, head) > budget_) {
          const int64_t victim = Lightest(view, layer, head);
          if (victim < 0) break;
          LARDER_TRY(view.lanes.Remove(layer, head, victim));
        }
      }
    }
    return {};
  }

 private:
  // Among entries that are neither sinks nor recent; of equal ones the later position. -1: there is none.
  int64_t Lightest(EvictView& view, int layer, int head) const {
    const std::span<const int32_t> positions = view.lanes.Positions(layer, head);
    const std::span<const float> sums = view.lanes.Scores(layer, head);
    int64_t victim = -1;
    for (size_t i = 0; i < positions.size(); ++i) {
      if (positions[i] < params_.sinks || positions[i] >= view.rows - recent_) continue;
      const auto at = static_cast<size_t>(victim);
      if (victim < 0 || sums[i] < sums[at] || (sums[i] == sums[at] && positions[i] > positions[at]))
        victim = static_cast<int64_t>(i);
    }
    return victim;
  }

  const H2oParams params_;
  int64_t budget_ = 0, recent_ = 0;
};

Result<std::unique_ptr<EvictMethod>> Create(Params& params, std::string_view parameters, const EvictModel&) {
  H2oParams p;
  p.budget = "0.2";
  params.Float("recent", &p.recent, 0, 1, "share of the budget for the newest entries");
  params.Bool("normalise", &p.normalise,
              "divide sums by how many queries could see the entry, when the prompt ends");
  params.Bool("decode", &p.decode, "evict for every token; false: once at the end of the prompt");
  LARDER_TRY(ReadEvictParams(params, parameters, p));
  return std::make_unique<H2o>(std::move(p));
}

}  // namespace

EvictMethodEntry H2oMethod() {
  return {
      {.name = "h2o",
       .help = "heavy hitters by attention summed over all queries, and the newest",
       .paper = "H2O: Heavy-Hitter Oracle for Efficient Generative Inference of Large Language Models (2023)",
       .leaf = "A2",
       .memory = "O(B)",
       .needs = "every row of the prompt: nothing is read from the cache"},
      Create};
}

}  // namespace larder
