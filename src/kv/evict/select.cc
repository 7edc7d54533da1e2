#include "kv/evict/select.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

namespace larder {

std::vector<int32_t> KeepHighest(std::span<const float> scores, std::span<const int32_t> positions,
                                 int64_t budget, int64_t sinks, int64_t newest) {
  std::vector<int32_t> kept, others;
  for (size_t i = 0; i < positions.size(); ++i) {
    const bool is_protected = positions[i] < sinks || positions[i] >= newest;
    (is_protected ? kept : others).push_back(static_cast<int32_t>(i));
  }
  const auto room = static_cast<size_t>(std::clamp<int64_t>(budget - static_cast<int64_t>(kept.size()), 0,
                                                            static_cast<int64_t>(others.size())));
  const auto score = [&](int32_t i) {
    const float s = scores[static_cast<size_t>(i)];
    return std::isnan(s) ? -std::numeric_limits<float>::infinity() : s;
  };
  const auto before = [&](int32_t a, int32_t b) {
    if (score(a) != score(b)) return score(a) > score(b);
    return positions[static_cast<size_t>(a)] < positions[static_cast<size_t>(b)];
  };
  std::nth_element(others.begin(), others.begin() + static_cast<int64_t>(room), others.end(), before);
  kept.insert(kept.end(), others.begin(), others.begin() + static_cast<int64_t>(room));
  std::ranges::sort(kept);
  return kept;
}

std::vector<float> ReduceGroup(const ColumnScores& scores, int first_head, int heads, int64_t entries,
                               const std::string& how) {
  std::vector<float> out(static_cast<size_t>(entries));
  for (int h = 0; h < heads; ++h) {
    const std::span<const float> sums = scores.Sums(first_head + h);
    for (size_t i = 0; i < out.size(); ++i)
      out[i] = h == 0 ? sums[i] : how == "max" ? std::max(out[i], sums[i]) : out[i] + sums[i];
  }
  if (how == "mean") {
    for (float& value : out) value /= static_cast<float>(heads);
  }
  return out;
}

void WindowScoring::Declare(Params& params) {
  params.Int("window", &window, 1, 4096, "rows at the end of the prompt that score, and stay");
  params.Int("kernel", &kernel, 1, 255, "width of the pooling, odd");
  params.Choice("pooling", &pooling, {"max", "avg"}, "how scores are smoothed along the text");
  params.Choice("group", &group, {"mean", "max", "sum"}, "from a group's query heads to their KV head");
}

Status WindowScoring::Check(const Params& params) const {
  if (kernel % 2 != 0) return {};
  return Fail(ErrorKind::kInvalid, "{}: kernel is {}; it must be odd", params.owner(), kernel);
}

std::vector<float> WindowScoring::Scores(const EvictView& view, const ColumnScores& columns,
                                         int kv_head) const {
  const int queries = view.heads / view.shape.kv_heads();
  const std::vector<float> summed =
      ReduceGroup(columns, kv_head * queries, queries, view.prompt_rows - window, group);
  std::vector<float> scores = pooling == "max" ? PoolMax(summed, kernel) : PoolMean(summed, kernel);
  scores.resize(static_cast<size_t>(view.prompt_rows));
  return scores;
}

std::vector<int64_t> DivideEntries(int64_t total, std::span<const double> weights, int64_t cap) {
  const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
  const bool proportional = std::isfinite(sum) && sum > 0;
  std::vector<int64_t> shares;
  int64_t capped = 0, left = total;
  for (const double weight : weights) {
    const double part = proportional ? weight / sum : 1 / static_cast<double>(weights.size());
    const auto share = static_cast<int64_t>(part * static_cast<double>(total));
    left -= share;
    capped += std::max<int64_t>(0, share - cap);
    shares.push_back(std::min(share, cap));
  }
  const auto spread = [&](int64_t more) {
    while (more > 0) {
      const auto open = std::ranges::count_if(shares, [&](int64_t share) { return share < cap; });
      if (open == 0) return;
      const int64_t each = more / open;
      int64_t remainder = more % open;
      for (int64_t& share : shares) {
        if (share >= cap) continue;
        const int64_t added = std::min(cap - share, each + (remainder-- > 0 ? 1 : 0));
        share += added;
        more -= added;
      }
    }
  };
  spread(capped);
  spread(left);
  return shares;
}

std::vector<float> PoolMean(std::span<const float> scores, int64_t width) {
  const auto n = static_cast<int64_t>(scores.size());
  std::vector<float> out(scores.size());
  for (int64_t i = 0; i < n; ++i) {
    float sum = 0;
    for (int64_t j = std::max<int64_t>(0, i - width / 2); j <= std::min(n - 1, i + width / 2); ++j)
      sum += scores[static_cast<size_t>(j)];
    out[static_cast<size_t>(i)] = sum / static_cast<float>(width);
  }
  return out;
}

std::vector<float> PoolMax(std::span<const float> scores, int64_t width) {
  const auto n = static_cast<int64_t>(scores.size());
  std::vector<float> out(scores.size());
  for (int64_t i = 0; i < n; ++i) {
    float largest = -std::numeric_limits<float>::infinity();
    for (int64_t j = std::max<int64_t>(0, i - width / 2); j <= std::min(n - 1, i + width / 2); ++j)
      largest = std::max(largest, scores[static_cast<size_t>(j)]);
    out[static_cast<size_t>(i)] = largest;
  }
  return out;
}

// SplitMix64 (Steele, Lea, Flood 2014).
float Noise(uint64_t key) {
  key += 0x9E3779B97F4A7C15u;
  key = (key ^ (key >> 30)) * 0xBF58476D1CE4E5B9u;
  key = (key ^ (key >> 27)) * 0x94D049BB133111EBu;
  return static_cast<float>((key ^ (key >> 31)) >> 40) * 0x1p-24f;
}

}  // namespace larder
