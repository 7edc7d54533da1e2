#include "larder/scoring.h"

#include <algorithm>
#include <cmath>

#include "base/result.h"

namespace larder {

std::vector<TextWindow> PlanWindows(int64_t tokens, int64_t window, int64_t stride) {
  if (tokens < 2) return {};
  if (tokens <= window) return {{0, tokens, 1}};
  std::vector<TextWindow> out;
  for (int64_t begin = 0; begin + window <= tokens; begin += stride)
    out.push_back({begin, begin + window, std::max<int64_t>(begin + window - stride, begin + 1)});
  return out;
}

double NegativeLogLikelihood(std::span<const float> logits, int32_t target) {
  const double largest = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (float l : logits) sum += std::exp(l - largest);
  return std::log(sum) + largest - logits[static_cast<size_t>(target)];
}

Divergence Compare(std::span<const float> base, std::span<const float> candidate, int32_t target) {
  LARDER_CHECK(base.size() == candidate.size());
  const auto base_top = std::max_element(base.begin(), base.end());
  const auto candidate_top = std::max_element(candidate.begin(), candidate.end());
  const double a_max = *base_top, b_max = *candidate_top;
  // With a and b the distances to the largest: KL = sum(e^a (a - b)) / sum(e^a) - log sum(e^a) + log
  // sum(e^b).
  double a_sum = 0, b_sum = 0, weighted = 0;
  for (size_t i = 0; i < base.size(); ++i) {
    const double a = base[i] - a_max, b = candidate[i] - b_max;
    const double weight = std::exp(a);
    a_sum += weight;
    b_sum += std::exp(b);
    if (weight > 0) weighted += weight * (a - b);
  }
  Divergence out;
  out.kl = std::max(0.0, weighted / a_sum - std::log(a_sum) + std::log(b_sum));
  out.base_nll = std::log(a_sum) + a_max - base[static_cast<size_t>(target)];
  out.candidate_nll = std::log(b_sum) + b_max - candidate[static_cast<size_t>(target)];
  out.same_top = base_top - base.begin() == candidate_top - candidate.begin();
  out.base_right = base_top - base.begin() == target;
  out.candidate_right = candidate_top - candidate.begin() == target;
  return out;
}

MeanError MeanOf(std::span<const double> values) {
  if (values.empty()) return {};
  const auto n = static_cast<double>(values.size());
  double sum = 0, squares = 0;
  for (double v : values) sum += v;
  const double mean = sum / n;
  for (double v : values) squares += (v - mean) * (v - mean);
  return {mean, n > 1 ? std::sqrt(squares / (n - 1) / n) : 0};
}

double Quantile(std::vector<double> values, double q) {
  LARDER_CHECK(!values.empty());
  std::sort(values.begin(), values.end());
  const double at = q * static_cast<double>(values.size() - 1);
  const auto low = static_cast<size_t>(at);
  const size_t high = std::min(low + 1, values.size() - 1);
  return values[low] + (at - static_cast<double>(low)) * (values[high] - values[low]);
}

}  // namespace larder
