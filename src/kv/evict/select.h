// What selectors share: from scores to kept entries.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "kv/evict/method.h"

namespace larder {

// The entries to keep, ascending: those at positions below `sinks` or at and above `newest`, and of the
// others those with the highest score until there are `budget` in all. Equal scores: the lower position. The
// protected ones are kept also if they are more than the budget. A score that is not a number counts as the
// lowest.
std::vector<int32_t> KeepHighest(std::span<const float> scores, std::span<const int32_t> positions,
                                 int64_t budget, int64_t sinks, int64_t newest);

// Scores of a KV head from those of its query heads: their "mean", "max" or "sum".
std::vector<float> ReduceGroup(const ColumnScores& scores, int first_head, int heads, int64_t entries,
                               const std::string& how);

// SnapKV's scores: what the last rows of the prompt attend to, summed over these rows, reduced over the query
// heads of a group, and smoothed along the text so that spans survive.
struct WindowScoring {
  int64_t window = 32, kernel = 7;
  std::string pooling = "max", group = "mean";

  void Declare(Params& params);
  Status Check(const Params& params) const;
  EvictNeeds needs() const { return {.tap = ScoreTap::kLastRows, .rows = window}; }
  // Of a lane's entries at the end of the prompt, all of them there; zero for the window's own, which are
  // never ranked. The prompt is longer than the window.
  std::vector<float> Scores(const EvictView& view, int layer, int kv_head) const {
    return Scores(view, view.column_scores[static_cast<size_t>(layer)], kv_head);
  }
  // From these columns' `sums`, whatever they are.
  std::vector<float> Scores(const EvictView& view, const ColumnScores& columns, int kv_head) const;
};

// Divides `total` entries in proportion to the weights, at most `cap` each, by CAKE's rule: shares are cut to
// integers; what the cap cuts off goes in equal parts to those below it, the first ones getting the
// remainder, and then what the cut to integers has left goes the same way. All of it is given, as far as the
// caps allow. Weights whose sum is 0 or not a number count as equal.
std::vector<int64_t> DivideEntries(int64_t total, std::span<const double> weights, int64_t cap);

// Each score becomes the mean or the maximum of the `width` (odd) around it. Over the borders the mean counts
// zeros, the maximum nothing.
std::vector<float> PoolMean(std::span<const float> scores, int64_t width);
std::vector<float> PoolMax(std::span<const float> scores, int64_t width);

// A random number in [0, 1) that the key decides.
float Noise(uint64_t key);

}  // namespace larder
