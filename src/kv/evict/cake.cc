// CAKE (CAKE: Cascading and Adaptive KV Cache Eviction with Layer Preferences, 2025). Layers get unequal
// parts of one budget: more where the attention of the prompt's last rows is dispersed (its entropy) and
// where it shifts from row to row (its variance). Within a layer, what these rows attend to stays, as in
// SnapKV, with a bonus for attention that shifts. The parts are divided anew after each layer that the
// observation pass has read, among the layers so far, so that all of them together never hold more than the
// budget. Kept: dispersion, shift, indicator, the rule of integers, true positions, the observation window in
// the budget, nothing is dropped where the prompt is longer than the budget by no more than a window (but for
// budgets in bytes, which are limits). Differs: the prompt's layers are all read before the first choice, so
// the peak is the full cache, and falls while the pass goes on; a lane is cut again only where that frees a
// page, and at the end; the indicator is that of a KV head, the mean of its query heads before the pooling,
// which is the same; and rows behind the prompt are all kept, where the published rule drops one for each
// that comes, by the attention of that row alone.
#include <algorithm>
#include <cmath>

#include "kv/evict/select.h"

namespace larder {
namespace {

struct CakeParams : EvictCommon {
  WindowScoring scoring{.window = 32, .kernel = 5, .pooling = "avg"};
  double gamma = 200, tau1 = 1, tau2 = 1;
  bool cascade = true;
  std::string parts = "preference";
};

class Cake final : public EvictMethod {
 public:
  explicit Cake(CakeParams params) : params_(std::move(params)) {}

  std::unique_ptr<EvictMethod> Copy() const override { return std::make_unique<Cake>(*this); }
  EvictNeeds needs() const override {
    EvictNeeds needs = params_.scoring.needs();
    needs.each_layer = needs.entropies = true;
    return needs;
  }

  Status AfterLayer(EvictView& view, int layer) override {
    const int64_t n = view.prompt_rows, window = std::max(params_.scoring.window, params_.last);
    const int64_t budget = params_.parsed.Entries(view.shape, view.lane_count(), n, /*unequal=*/true);
    if (n <= budget + (params_.parsed.is_bytes() ? 0 : window) || n <= window) return {};
    preferences_.push_back(Preference(view, layer));
    StoreIndicators(view, layer);
    const bool last = layer == view.layers.back();
    return last || params_.cascade ? Cut(view, budget, n - window, last) : Status();
  }
  Status AfterPrompt(EvictView& view) override { return {}; }

 private:
  // Of a column's weights over the window's rows, unbiased.
  double Variance(float sum, float squares) const {
    const auto rows = static_cast<double>(params_.scoring.window);
    if (rows < 2) return 0;
    const auto total = static_cast<double>(sum);
    return std::max(0.0, (static_cast<double>(squares) - total * total / rows) / (rows - 1));
  }

  double Preference(const EvictView& view, int layer) const {
    if (params_.parts == "equal") return 1;
    const ColumnScores& columns = view.column_scores[static_cast<size_t>(layer)];
    double dispersion = 0, shift = 0;
    for (int head = 0; head < view.heads; ++head) {
      for (int64_t i = 0; i < view.prompt_rows - params_.scoring.window; ++i) {
        const auto at = static_cast<size_t>(i);
        dispersion += static_cast<double>(columns.Entropies(head)[at]);
        shift += Variance(columns.Sums(head)[at], columns.Squares(head)[at]);
      }
    }
    return std::pow(std::max(0.0, dispersion), 1 / params_.tau1) * std::pow(shift, 1 / params_.tau2);
  }

  // Beside the entries, which they follow from cut to cut. They are the published ones times the window's
  // rows, so that without the bonus they are SnapKV's to the last bit.
  void StoreIndicators(EvictView& view, int layer) const {
    const ColumnScores& columns = view.column_scores[static_cast<size_t>(layer)];
    const double bonus = params_.gamma * static_cast<double>(params_.scoring.window);
    ColumnScores indicators{.sums = columns.sums, .stride = columns.stride};
    for (size_t i = 0; i < indicators.sums.size(); ++i)
      indicators.sums[i] += static_cast<float>(bonus * Variance(columns.sums[i], columns.squares[i]));
    for (int head = 0; head < view.shape.kv_heads(); ++head) {
      std::ranges::copy(params_.scoring.Scores(view, indicators, head),
                        view.lanes.Scores(layer, head).begin());
    }
  }

  // Divides the budget of all layers among those so far, and keeps that much of them.
  Status Cut(EvictView& view, int64_t budget, int64_t newest, bool last) const {
    const int64_t ranked = std::max<int64_t>(0, newest - params_.sinks),
                  certain = view.prompt_rows - ranked;  // sinks and the newest
    const int64_t room = std::max<int64_t>(0, budget - certain) * std::ssize(view.layers);
    const std::vector<int64_t> parts = DivideEntries(room, preferences_, ranked);
    for (size_t i = 0; i < parts.size(); ++i) {
      const int layer = view.layers[i];
      const int64_t kept = certain + parts[i], pages = (kept + kPageTokens - 1) / kPageTokens;
      for (int head = 0; head < view.shape.kv_heads(); ++head) {
        if (!last && pages >= view.lanes.Pages(layer, head)) continue;
        LARDER_TRY(
            view.lanes.Keep(layer, head,
                            KeepHighest(view.lanes.Scores(layer, head), view.lanes.Positions(layer, head),
                                        kept, params_.sinks, newest)));
      }
    }
    return {};
  }

  const CakeParams params_;
  std::vector<double> preferences_;  // of view.layers so far
};

Result<std::unique_ptr<EvictMethod>> Create(Params& params, std::string_view parameters, const EvictModel&) {
  CakeParams p;
  p.scoring.Declare(params);
  params.Float("gamma", &p.gamma, 0, 1e6, "weight of an entry's variance beside its mean");
  params.Float("tau1", &p.tau1, 0.1, 100, "temperature of a layer's entropy");
  params.Float("tau2", &p.tau2, 0.1, 100, "temperature of a layer's variance");
  params.Choice("parts", &p.parts, {"preference", "equal"}, "how layers divide the budget");
  params.Bool("cascade", &p.cascade, "divide after each layer; false: once, after the last");
  LARDER_TRY(ReadEvictParams(params, parameters, p));
  LARDER_TRY(p.scoring.Check(params));
  return std::make_unique<Cake>(std::move(p));
}

}  // namespace

EvictMethodEntry CakeMethod() {
  return {{.name = "cake",
           .help = "SnapKV's scores and their variance, layers divide the budget by how their attention "
                   "spreads and shifts",
           .paper = "CAKE: Cascading and Adaptive KV Cache Eviction with Layer Preferences (2025)",
           .leaf = "A1 A4",
           .memory = "O(B)",
           .needs = "runs the last rows of the prompt twice"},
          Create};
}

}  // namespace larder
