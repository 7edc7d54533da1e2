// From logits to a token. Pure functions of (logits, parameters, history, position): no state, no global
// randomness.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/request.h"

namespace larder {

// Working memory of Sample, kept between calls so that a step takes none.
struct SampleScratch {
  struct Candidate {
    float x;       // (logit - largest) / temperature, at most 0
    float weight;  // exp(x)
    int32_t token;
  };
  std::vector<Candidate> candidates;
};

// Tokens of a sequence that penalties look at, counted incrementally.
class TokenHistory {
 public:
  void AddPrompt(std::span<const int32_t> tokens);
  void AddOutput(int32_t token);
  // Room for `more` new tokens, so that adding them takes no memory.
  void Reserve(int64_t more) { counts_.reserve(counts_.size() + static_cast<size_t>(more)); }

 private:
  friend int32_t Sample(std::span<float> logits, const SamplingParams& params, const TokenHistory& history,
                        uint64_t position, uint32_t choice, std::span<const int32_t> banned,
                        SampleScratch* scratch);
  struct Count {
    int32_t token;
    int32_t in_prompt, in_output;
  };
  std::vector<Count> counts_;  // sorted by token
};

// logits [vocabulary] is scratch: it may be changed. Order, as vLLM and OpenAI define it: bias, repetition
// penalty, presence and frequency penalties, banned tokens to -inf, temperature, top-k, top-p, min-p, then
// one draw by inverse CDF in order of falling probability (ties: lower token first) from the noise of (seed,
// choice, position). temperature 0: arg max, ties to the lower token. Not-a-number logits never win.
int32_t Sample(std::span<float> logits, const SamplingParams& params, const TokenHistory& history,
               uint64_t position, uint32_t choice, std::span<const int32_t> banned,
               SampleScratch* scratch = nullptr);

// In [0, 1), 53 bits, from a counter-based generator (Philox 4x32-10).
double CounterUniform(uint64_t seed, uint32_t stream, uint64_t position);

// Log-probabilities of the raw logits (no penalties, temperature 1): the chosen token's and the `top` best.
struct Logprobs {
  float chosen;
  std::vector<TokenLogprob> top;  // best first, ties to the lower token
};
Logprobs ComputeLogprobs(std::span<const float> logits, int32_t chosen, int32_t top);

}  // namespace larder
