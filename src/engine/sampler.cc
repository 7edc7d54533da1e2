#include "engine/sampler.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "base/result.h"
#include "compute/ops.h"

namespace larder {
namespace {

constexpr float kNever = -std::numeric_limits<float>::infinity();
// Sums of float weights are good to about 1e-6; a nucleus that reaches top_p up to that is complete.
constexpr double kMassSlack = 4e-6;
// What clients get for a token that cannot happen: JSON has no infinity.
constexpr float kLowestLogprob = -9999.0f;

using Candidate = SampleScratch::Candidate;

// Falling probability, the lower token first among equals.
bool Before(const Candidate& a, const Candidate& b) { return a.x != b.x ? a.x > b.x : a.token < b.token; }

double Mass(std::span<const Candidate> candidates) {
  double sum = 0;
  for (const Candidate& c : candidates) sum += c.weight;
  return sum;
}

// The `k` largest of x in falling order, NaN left out. One pass; a heap of k keeps the best so far with the
// worst on top, and a later token replaces it only if it is strictly larger, so ties go to the lower token.
void Largest(std::span<const float> x, size_t k, std::vector<Candidate>& best) {
  best.clear();
  if (k == 0) return;
  best.reserve(std::min(k, x.size()));
  for (size_t i = 0; i < x.size(); ++i) {
    if (best.size() == k && !(x[i] > best.front().x)) continue;
    if (std::isnan(x[i])) continue;
    if (best.size() == k) {
      std::pop_heap(best.begin(), best.end(), Before);
      best.pop_back();
    }
    best.push_back({x[i], 0, static_cast<int32_t>(i)});
    std::push_heap(best.begin(), best.end(), Before);
  }
  std::sort(best.begin(), best.end(), Before);
}

// Drops what cannot be drawn, so that the last candidate is always a possible one.
void FillWeights(std::vector<Candidate>& candidates) {
  for (Candidate& c : candidates) c.weight = reference::Exp(c.x);
  std::erase_if(candidates, [](const Candidate& c) { return !(c.weight > 0); });
}

void Above(std::span<const float> x, float threshold, std::vector<Candidate>& out) {
  out.clear();
  for (size_t i = 0; i < x.size(); ++i)
    if (x[i] > threshold) out.push_back({x[i], 0, static_cast<int32_t>(i)});
  FillWeights(out);
}

// The most probable tokens, enough of them to weigh `mass`: almost always a few thousand of a large
// vocabulary.
void Gather(std::span<const float> x, double mass, std::vector<Candidate>& out) {
  for (const float threshold : {-8.0f, -16.0f, kNever}) {
    Above(x, threshold, out);
    if (Mass(out) >= mass) return;
  }
}

// How many candidates, taken in falling order, weigh at least `mass` (at least one, at most all). Reorders
// them so that these come first, the last of them in its place. Halves the range in question instead of
// sorting: linear in its length. REQUIRES: not empty.
size_t PrefixOfMass(std::vector<Candidate>& candidates, double mass) {
  constexpr size_t kSortBelow = 32;
  size_t low = 0, high = candidates.size();
  double before = 0;
  const auto at = [&](size_t i) { return candidates.begin() + static_cast<ptrdiff_t>(i); };
  while (high - low > kSortBelow) {
    const size_t middle = low + (high - low) / 2;
    std::nth_element(at(low), at(middle), at(high), Before);
    const double upper = Mass(std::span(candidates).subspan(low, middle - low));
    if (before + upper >= mass) {
      high = middle;
    } else {
      before += upper;
      low = middle;
    }
  }
  std::sort(at(low), at(high), Before);
  for (; low < high; ++low) {
    before += candidates[low].weight;
    if (before >= mass) return low + 1;
  }
  return high;
}

// The token at which the summed weight, in falling order, first exceeds `mass`.
int32_t TokenAt(std::vector<Candidate>& candidates, double mass) {
  const double more = std::nextafter(mass, std::numeric_limits<double>::infinity());
  return candidates[PrefixOfMass(candidates, more) - 1].token;
}

void ApplyPenalty(float& logit, const SamplingParams& params, int32_t in_output) {
  if (params.repetition_penalty != 1.0f)
    logit = logit > 0 ? logit / params.repetition_penalty : logit * params.repetition_penalty;
  if (in_output > 0)
    logit -= params.presence_penalty + params.frequency_penalty * static_cast<float>(in_output);
}

// Logits that broken weights could produce, made harmless: NaN never wins, infinity is the largest finite
// number.
void Sanitize(std::span<float> logits) {
  // Looking is cheaper than writing, and there is nearly never anything to do. -inf counts, too: it does no
  // harm.
  constexpr uint32_t kExponent = 0x7F800000;
  uint32_t special = 0;
  for (const float l : logits) special |= (std::bit_cast<uint32_t>(l) & kExponent) == kExponent ? 1u : 0u;
  if (special == 0) return;
  constexpr float kMax = std::numeric_limits<float>::max();
  for (float& l : logits) {
    l = l > kMax ? kMax : l;
    l = l == l ? l : kNever;
  }
}

// In place: (logit - largest) / temperature. Differences first, so that no temperature overflows.
void ScaleToLargest(std::span<float> logits, float largest, float temperature) {
  const float inverse = 1.0f / std::min(temperature, 1e6f);
  if (std::isfinite(inverse)) {
    for (float& l : logits) l = (l - largest) * inverse;
  } else {
    for (float& l : logits) l = l == largest ? 0.0f : kNever;
  }
}

struct Philox {
  uint32_t counter[4];
  uint32_t key[2];

  void Round() {
    const uint64_t a = uint64_t{0xD2511F53} * counter[0];
    const uint64_t b = uint64_t{0xCD9E8D57} * counter[2];
    const uint32_t next[4] = {static_cast<uint32_t>(b >> 32) ^ counter[1] ^ key[0], static_cast<uint32_t>(b),
                              static_cast<uint32_t>(a >> 32) ^ counter[3] ^ key[1], static_cast<uint32_t>(a)};
    std::copy(next, next + 4, counter);
    key[0] += 0x9E3779B9;
    key[1] += 0xBB67AE85;
  }
};

}  // namespace

void TokenHistory::AddPrompt(std::span<const int32_t> tokens) {
  for (int32_t token : tokens) counts_.push_back({token, 1, 0});
  std::sort(counts_.begin(), counts_.end(), [](const Count& a, const Count& b) { return a.token < b.token; });
  size_t kept = 0;
  for (size_t i = 0; i < counts_.size(); ++i) {
    if (kept > 0 && counts_[kept - 1].token == counts_[i].token) {
      counts_[kept - 1].in_prompt += counts_[i].in_prompt;
      counts_[kept - 1].in_output += counts_[i].in_output;
    } else {
      counts_[kept++] = counts_[i];
    }
  }
  counts_.resize(kept);
}

void TokenHistory::AddOutput(int32_t token) {
  auto at = std::lower_bound(counts_.begin(), counts_.end(), token,
                             [](const Count& count, int32_t t) { return count.token < t; });
  if (at == counts_.end() || at->token != token) at = counts_.insert(at, {token, 0, 0});
  ++at->in_output;
}

double CounterUniform(uint64_t seed, uint32_t stream, uint64_t position) {
  Philox philox{{static_cast<uint32_t>(position), static_cast<uint32_t>(position >> 32), stream, 0},
                {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)}};
  for (int round = 0; round < 10; ++round) philox.Round();
  const uint64_t bits = (uint64_t{philox.counter[1]} << 32) | philox.counter[0];
  return static_cast<double>(bits >> 11) * 0x1p-53;
}

int32_t Sample(std::span<float> logits, const SamplingParams& params, const TokenHistory& history,
               uint64_t position, uint32_t choice, std::span<const int32_t> banned, SampleScratch* scratch) {
  LARDER_CHECK(!logits.empty());
  const auto known = [&](int32_t token) { return token >= 0 && static_cast<size_t>(token) < logits.size(); };
  for (const auto& [token, bias] : params.logit_bias)
    if (known(token)) logits[static_cast<size_t>(token)] += bias;
  for (const TokenHistory::Count& count : history.counts_)
    if (known(count.token)) ApplyPenalty(logits[static_cast<size_t>(count.token)], params, count.in_output);
  for (int32_t token : banned)
    if (known(token)) logits[static_cast<size_t>(token)] = kNever;
  Sanitize(logits);

  const auto best = static_cast<int32_t>(ArgMax(logits.data(), static_cast<int64_t>(logits.size())));
  const float largest = logits[static_cast<size_t>(best)];
  if (!(params.temperature > 0) || largest == kNever) return best;
  ScaleToLargest(logits, largest, params.temperature);

  const double u = CounterUniform(params.seed, choice, position);
  const bool cut_k = params.top_k > 0 && static_cast<size_t>(params.top_k) < logits.size();
  const bool cut_p = params.top_p < 1.0f;
  SampleScratch own;
  std::vector<Candidate>& candidates = scratch != nullptr ? scratch->candidates : own.candidates;
  double total = 0;
  if (cut_k) {
    Largest(logits, static_cast<size_t>(params.top_k), candidates);
    FillWeights(candidates);
    total = Mass(candidates);
  } else {
    total = std::exp(static_cast<double>(LogSumExp(logits.data(), static_cast<int64_t>(logits.size()))));
    if (!cut_p && params.min_p <= 0) {
      Gather(logits, u * total, candidates);
      return TokenAt(candidates, u * total);
    }
    // Without top-p nothing below min_p matters, and the largest weight is 1.
    if (cut_p) {
      Gather(logits, params.top_p * total, candidates);
    } else {
      Above(logits, std::log(std::min(params.min_p, 1.0f)) - 1e-3f, candidates);
    }
  }
  if (cut_p) candidates.resize(PrefixOfMass(candidates, params.top_p * total * (1 - kMassSlack)));
  if (params.min_p > 0) {
    const float floor = std::min(params.min_p, 1.0f);
    std::erase_if(candidates, [floor](const Candidate& c) { return c.weight < floor; });
  }
  return TokenAt(candidates, u * Mass(candidates));
}

Logprobs ComputeLogprobs(std::span<const float> logits, int32_t chosen, int32_t top) {
  float log_sum = LogSumExp(logits.data(), static_cast<int64_t>(logits.size()));
  std::vector<float> copy;
  if (!std::isfinite(log_sum)) {
    copy.assign(logits.begin(), logits.end());
    Sanitize(copy);
    logits = copy;
    log_sum = LogSumExp(copy.data(), static_cast<int64_t>(copy.size()));
  }
  const auto logprob = [&](float logit) {
    const float value = logit - log_sum;
    return value >= kLowestLogprob ? std::min(value, 0.0f) : kLowestLogprob;
  };
  Logprobs out;
  const bool known = chosen >= 0 && static_cast<size_t>(chosen) < logits.size();
  out.chosen = known ? logprob(logits[static_cast<size_t>(chosen)]) : kLowestLogprob;
  std::vector<Candidate> best;
  Largest(logits, static_cast<size_t>(std::max(top, 0)), best);
  for (const Candidate& c : best) out.top.push_back({c.token, logprob(c.x)});
  return out;
}

}  // namespace larder
