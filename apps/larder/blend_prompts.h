// Prompts made of chunks for `larder eval blend`.
#pragma once

#include <cstdint>
#include <random>
#include <span>
#include <vector>

#include "base/result.h"
#include "model/tokenizer.h"

namespace larder {

struct BlendPrompt {
  std::vector<std::vector<int32_t>> chunks;  // as they stand in the prompt
  std::vector<int32_t> tail, answer;         // behind them
};

struct BlendPromptShape {
  int64_t chunks, chunk_tokens, tail_tokens, answer_tokens;
  int64_t tokens() const { return chunks * chunk_tokens + tail_tokens + answer_tokens; }
};

// Neighbouring pieces of `text` (shape.tokens() of it) as chunks in random order; the tail and the answer are
// what follows them.
BlendPrompt PromptOfText(const BlendPromptShape& shape, std::span<const int32_t> text, std::mt19937& random);

// Chunks of such a text with four sentences in the middle of four of them: two say which name somebody goes
// by, two what the code of somebody of that name is. The tail asks for the code of one by the other name: an
// answer that needs two chunks, and a row of one that has seen the other. kInvalid: chunks are too short or
// too few.
Result<BlendPrompt> PromptOfAliases(const BlendPromptShape& shape, std::span<const int32_t> text,
                                    const Tokenizer& tokenizer, std::mt19937& random);

}  // namespace larder
