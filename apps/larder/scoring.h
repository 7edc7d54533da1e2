// How well logits predict a text, and how far two sets of logits are apart.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace larder {

// A window of a text: tokens [begin, end), of which those from `score_from` on are scored. Each scored token
// is scored once; those before give it context.
struct TextWindow {
  int64_t begin, end, score_from;
};
// Windows of at most `window` tokens whose starts are `stride` apart; each scores its last `stride` tokens,
// the first one too, so that every scored token has at least window - stride tokens before it. A text shorter
// than a window is one window that scores all but its first token.
std::vector<TextWindow> PlanWindows(int64_t tokens, int64_t window, int64_t stride);

// -log p(target), in double.
double NegativeLogLikelihood(std::span<const float> logits, int32_t target);

struct Divergence {
  double kl = 0;  // KL(base || candidate), nats
  double base_nll = 0, candidate_nll = 0;
  bool same_top = false;                             // both would choose the same token
  bool base_right = false, candidate_right = false;  // and it would be the target
};
Divergence Compare(std::span<const float> base, std::span<const float> candidate, int32_t target);

struct MeanError {
  double mean = 0, standard_error = 0;
};
MeanError MeanOf(std::span<const double> values);
// The value that a share q of the values does not exceed, by linear interpolation. At least one value.
double Quantile(std::vector<double> values, double q);

}  // namespace larder
