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

// Each score becomes the mean or the maximum of the `width` (odd) around it. Over the borders the mean counts
// zeros, the maximum nothing.
std::vector<float> PoolMean(std::span<const float> scores, int64_t width);
std::vector<float> PoolMax(std::span<const float> scores, int64_t width);

}  // namespace larder
