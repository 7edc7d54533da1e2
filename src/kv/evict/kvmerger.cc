// KVMerger (Model Tells You Where to Merge: Adaptive KV Cache Merging for LLMs on Long-Context Tasks, 2024).
// What the budget has no room for is not dropped: runs of neighbouring tokens whose keys are alike become one
// entry each, once, at the end of the prompt; tokens behind it stay single. The newest and those that most
// attention went to are protected. A run's keys and values are averaged with Gaussian weights by distance to
// its pivot, the key that most attention went to; its position is its newest token's, so that a mask never
// shows a part of it. Kept: runs of each head by the cosine of neighbours alone, the first two layers and the
// last whole, values weighted as keys. Differs: a budget is met exactly, since as many of the most similar
// pairs are joined as leave so many entries, instead of those above a threshold; the Gaussian is as wide as
// the run (the published width is circular, and one-hot where keys are large); a merged entry's score grows
// by the logarithm of its tokens, which otherwise would share the weight of one; the first tokens are
// protected. Whole layers count in the budget: where they would leave the others less than half of it, all
// layers merge.
#include <algorithm>
#include <cmath>
#include <utility>

#include "kv/evict/select.h"

namespace larder {
namespace {

struct KvMergerParams : EvictCommon {
  std::string attention = "all", runs = "similar";
  int64_t window = 32, first_layers = 2, last_layers = 1;
  double recent = 0.34, heavy = 0.24, eps = 0, sigma = 0;
  bool merge = true, bias = true;
};

// The keys of a lane, in text order.
struct Keys {
  Keys(const LaneTable& lanes, int layer, int head, int head_dim)
      : dim(static_cast<size_t>(head_dim)), length(lanes.Length(layer, head)) {
    all.resize(static_cast<size_t>(length) * dim);
    std::vector<float> value(dim);
    for (int64_t i = 0; i < length; ++i)
      lanes.Load(layer, head, i, all.data() + static_cast<size_t>(i) * dim, value.data());
  }
  std::span<const float> Of(int64_t entry) const {
    return {all.data() + static_cast<size_t>(entry) * dim, dim};
  }

  size_t dim;
  int64_t length;
  std::vector<float> all;
};

// What is not defined counts as opposite.
double Cosine(std::span<const float> a, std::span<const float> b) {
  double dot = 0, of_a = 0, of_b = 0;
  for (size_t d = 0; d < a.size(); ++d) {
    const double x = static_cast<double>(a[d]), y = static_cast<double>(b[d]);
    dot += x * y, of_a += x * x, of_b += y * y;
  }
  const double cosine = dot / std::sqrt(of_a * of_b);
  return std::isfinite(cosine) ? cosine : -1;
}

double SquaredDistance(std::span<const float> a, std::span<const float> b) {
  double sum = 0;
  for (size_t d = 0; d < a.size(); ++d) {
    const double difference = static_cast<double>(a[d]) - static_cast<double>(b[d]);
    sum += difference * difference;
  }
  return sum;
}

// The fewest entries of a lane in which these are single: what lies between them becomes one each.
int64_t FewestEntries(std::span<const int32_t> single, int64_t length) {
  int64_t entries = std::ssize(single), next = 0;
  for (const int32_t entry : single) {
    entries += entry > next;
    next = entry + 1;
  }
  return entries + (next < length);
}

// The same lengths in another order, between the same protected entries.
void ShuffleLengths(std::span<MergedRun> runs, const std::vector<bool>& single, uint64_t lane) {
  for (size_t begin = 0; begin < runs.size(); ++begin) {
    size_t end = begin;
    while (end < runs.size() && !single[static_cast<size_t>(runs[end].first)]) ++end;
    for (size_t i = end; i > begin + 1; --i) {
      const double noise = Noise(lane << 32 ^ static_cast<uint32_t>(runs[i - 1].first));
      std::swap(runs[i - 1].count,
                runs[begin + static_cast<size_t>(noise * static_cast<double>(i - begin))].count);
    }
    for (size_t i = begin + 1; i < end; ++i) runs[i].first = runs[i - 1].first + runs[i - 1].count;
    begin = end;
  }
}

class KvMerger final : public EvictMethod {
 public:
  explicit KvMerger(KvMergerParams params) : params_(std::move(params)) {}

  std::unique_ptr<EvictMethod> Copy() const override { return std::make_unique<KvMerger>(*this); }
  EvictNeeds needs() const override {
    if (params_.attention == "all") return {.tap = ScoreTap::kAllRows};
    if (params_.attention == "last") return {.tap = ScoreTap::kLastRows, .rows = params_.window};
    return {};
  }

  Status AfterPrompt(EvictView& view) override {
    const int64_t n = view.prompt_rows;
    const int64_t budget = params_.parsed.Entries(view.shape, view.lane_count(), n, /*unequal=*/true);
    if (n <= budget) return {};
    const auto [layers, room] = Share(view, budget);
    for (const int layer : layers) {
      for (int head = 0; head < view.shape.kv_heads(); ++head) LARDER_TRY(MergeLane(view, layer, head, room));
    }
    return {};
  }

 private:
  // The layers that merge, and the entries of each of their lanes.
  std::pair<std::vector<int>, int64_t> Share(const EvictView& view, int64_t budget) const {
    std::vector<int> merging;
    for (const int layer : view.layers) {
      if (layer >= params_.first_layers && layer < view.shape.layers() - params_.last_layers)
        merging.push_back(layer);
    }
    const int64_t all = std::ssize(view.layers), some = std::ssize(merging);
    const int64_t left = all * budget - (all - some) * view.prompt_rows;
    if (some == 0 || 2 * left < some * budget) return {{view.layers.begin(), view.layers.end()}, budget};
    return {std::move(merging), left / some};
  }

  Status MergeLane(EvictView& view, int layer, int head, int64_t room) const {
    LaneTable& lanes = view.lanes;
    const std::vector<float> attention = Attention(view, layer, head);
    const std::vector<int32_t> entries = Protected(attention, lanes.Positions(layer, head), room);
    if (!params_.merge) return lanes.Keep(layer, head, entries);
    const Keys keys(lanes, layer, head, view.shape.head_dim());
    std::vector<bool> single(attention.size());
    for (const int32_t entry : entries) single[static_cast<size_t>(entry)] = true;
    std::vector<MergedRun> runs = Runs(keys, single, room);
    const bool random = params_.runs == "random";
    if (random) ShuffleLengths(runs, single, static_cast<uint64_t>(layer * view.shape.kv_heads() + head));
    std::vector<float> weights(attention.size());
    for (MergedRun& run : runs) {
      const auto count = static_cast<float>(run.count);
      if (params_.bias) run.logit_bias = std::log(count);
      if (random) {
        std::fill_n(weights.begin() + run.first, run.count, 1 / count);
      } else if (run.count > 1) {
        Weigh(keys, attention, run, weights);
      }
    }
    return lanes.Merge(layer, head, runs, weights);
  }

  // What each entry got of attention; zeros where nobody asks for it.
  std::vector<float> Attention(const EvictView& view, int layer, int head) const {
    const int64_t length = view.lanes.Length(layer, head);
    if (params_.attention == "all") {
      const std::span<const float> sums = view.lanes.Scores(layer, head);
      return {sums.begin(), sums.end()};
    }
    if (params_.attention == "none") return std::vector<float>(static_cast<size_t>(length));
    const int queries = view.heads / view.shape.kv_heads();
    return ReduceGroup(view.column_scores[static_cast<size_t>(layer)], head * queries, queries, length,
                       "mean");
  }

  // Entries that stay single. Fewer heavy ones, then fewer recent ones, where nothing would be left for what
  // lies between them.
  std::vector<int32_t> Protected(std::span<const float> attention, std::span<const int32_t> positions,
                                 int64_t room) const {
    const auto share = [&](double of) { return static_cast<int64_t>(of * static_cast<double>(room)); };
    const int64_t length = std::ssize(positions);
    int64_t recent = std::max(params_.last, share(params_.recent));
    // The last rows that score have seen each other less than all others.
    if (params_.attention == "last") recent = std::max(recent, params_.window);
    recent = std::min(recent, std::max({int64_t{0}, params_.last, room - params_.sinks - 1}));
    const auto with = [&](int64_t heavy) {
      return KeepHighest(attention, positions, recent + heavy, params_.sinks, length - recent);
    };
    int64_t heavy = params_.attention == "none" ? 0 : share(params_.heavy);
    if (FewestEntries(with(heavy), length) <= room) return with(heavy);
    int64_t fits = 0;
    while (heavy - fits > 1) {
      const int64_t middle = (fits + heavy) / 2;
      (FewestEntries(with(middle), length) <= room ? fits : heavy) = middle;
    }
    return with(fits);
  }

  // All entries, those of a run together: as many pairs of neighbours are joined, the most similar first, as
  // leaves `room` entries; or all that are similar enough.
  std::vector<MergedRun> Runs(const Keys& keys, const std::vector<bool>& single, int64_t room) const {
    std::vector<std::pair<double, int32_t>> pairs;  // opposite of the cosine, so that of equal ones the first
    for (int32_t i = 0; i + 1 < keys.length; ++i) {
      if (!single[static_cast<size_t>(i)] && !single[static_cast<size_t>(i) + 1])
        pairs.emplace_back(-Cosine(keys.Of(i), keys.Of(i + 1)), i);
    }
    std::ranges::sort(pairs);
    auto joined = std::min(static_cast<size_t>(keys.length - room), pairs.size());
    if (params_.eps > 0) {
      joined = 0;
      while (params_.eps < 1 && joined < pairs.size() && -pairs[joined].first >= params_.eps) ++joined;
    }
    std::vector<bool> with_next(single.size());
    for (size_t i = 0; i < joined; ++i) with_next[static_cast<size_t>(pairs[i].second)] = true;
    std::vector<MergedRun> runs;
    for (int32_t i = 0; i < keys.length; ++i) {
      if (i > 0 && with_next[static_cast<size_t>(i) - 1]) {
        ++runs.back().count;
      } else {
        runs.push_back({.first = i});
      }
    }
    return runs;
  }

  // Of equal ones the first; in the middle, if attention is not asked for.
  int32_t Pivot(std::span<const float> attention, const MergedRun& run) const {
    if (params_.attention == "none") return run.first + (run.count - 1) / 2;
    const auto begin = attention.begin() + run.first;
    return static_cast<int32_t>(std::max_element(begin, begin + run.count) - attention.begin());
  }

  void Weigh(const Keys& keys, std::span<const float> attention, const MergedRun& run,
             std::span<float> weights) const {
    const std::span<const float> pivot = keys.Of(Pivot(attention, run));
    std::vector<double> distances, gauss;
    double square = 0, sum = 0;
    for (int32_t i = 0; i < run.count; ++i) {
      distances.push_back(SquaredDistance(pivot, keys.Of(run.first + i)));
      square += distances.back() / run.count;
    }
    if (params_.sigma > 0) square = params_.sigma * params_.sigma;
    for (const double distance : distances) {
      gauss.push_back(std::exp(-distance / (2 * std::max(square, 1e-12))));
      sum += gauss.back();
    }
    for (int32_t i = 0; i < run.count; ++i)
      weights[static_cast<size_t>(run.first + i)] = static_cast<float>(gauss[static_cast<size_t>(i)] / sum);
  }

  const KvMergerParams params_;
};

Result<std::unique_ptr<EvictMethod>> Create(Params& params, std::string_view parameters, const EvictModel&) {
  KvMergerParams p;
  p.budget = "0.5";
  p.sinks = 4;
  params.Choice("attention", &p.attention, {"all", "last", "none"},
                "whose attention makes heavy entries and pivots: every row's, the last ones', nobody's (the "
                "middle is the pivot)");
  params.Int("window", &p.window, 1, 4096, "rows of attention=last");
  params.Float("recent", &p.recent, 0, 1, "share of the budget for the newest entries, not merged");
  params.Float("heavy", &p.heavy, 0, 1, "share of the budget for the most attended entries, not merged");
  params.Float("eps", &p.eps, 0, 1,
               "neighbours as similar as this are merged, whatever that leaves; 0: what meets the budget");
  params.Float("sigma", &p.sigma, 0, 1e6, "width of the Gaussian; 0: the run's own");
  params.Bool("bias", &p.bias, "a merged entry has the weight of all its tokens");
  params.Int("first-layers", &p.first_layers, 0, 1024, "of the model, not merged");
  params.Int("last-layers", &p.last_layers, 0, 1024, "of the model, not merged");
  params.Choice("runs", &p.runs, {"similar", "random"},
                "random: plain means of as many and as long runs elsewhere, a baseline");
  params.Bool("merge", &p.merge, "false: what is not protected is dropped, a baseline");
  LARDER_TRY(ReadEvictParams(params, parameters, p));
  if (p.eps > 0 && p.parsed.is_bytes()) {
    return Fail(ErrorKind::kInvalid,
                "kvmerger with eps leaves as many entries as keys differ, which no budget in bytes bounds; "
                "take eps=0");
  }
  return std::make_unique<KvMerger>(std::move(p));
}

}  // namespace

EvictMethodEntry KvMergerMethod() {
  return {
      {.name = "kvmerger",
       .help = "neighbours with similar keys become one entry, once at the end of the prompt",
       .paper = "Model Tells You Where to Merge: Adaptive KV Cache Merging for LLMs on Long-Context Tasks "
                "(2024)",
       .leaf = "A6",
       .memory = "O(B)",
       .needs = "every row of the prompt, or the last ones twice (attention=last), or nothing "
                "(attention=none)"},
      Create};
}

}  // namespace larder
