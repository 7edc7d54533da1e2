// Methods beside each other on the same texts: each prompt is computed once, every arm goes on from it, and
// all are held against the full cache, token by token, on tokens that are given.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "larder/arm.h"
#include "larder/scoring.h"
#include "larder/session.h"

namespace larder {

// What one text did to one arm.
struct ArmDocument {
  std::vector<Divergence> tokens;  // from the full cache to the arm's, for each scored token
  uint64_t private_bytes = 0;      // after the choice
  // When scoring begins: with what is read of the full cache, and room for the next token. Of codecs, and of
  // the full cache itself, at the prompt's end.
  uint64_t resident_bytes = 0;
  int64_t entries = 0;                // of the longest lane
  std::vector<double> layer_entries;  // of each layer that methods work on, the mean of its lanes
  double method_ms = 0;  // choosing, and what the method computes for it; of a codec, its whole prompt
};

// An arm by itself: it computes its prompt and goes on token by token, sharing nothing.
struct ArmAlone {
  uint64_t peak_bytes = 0;  // the most that it holds until the text's end
  double prompt_ms = 0;     // with the choice
  double tokens_per_s = 0;  // of the tokens behind it, each with its logits
};

class ArmRunner {
 public:
  // `codecs`: the model once more for each of CodecsOf(arms). Texts have at most `rows` tokens.
  static Result<std::unique_ptr<ArmRunner>> Create(Model& model, std::vector<Arm> arms,
                                                   std::vector<std::unique_ptr<Model>> codecs, int64_t rows);
  ~ArmRunner();

  const std::vector<Arm>& arms() const;
  // What the following texts begin with. At least one token.
  Status Read(std::span<const int32_t> context);
  // What the full cache chooses behind it, up to where the text ends by itself.
  Result<std::vector<int32_t>> Greedy(int64_t tokens);
  // Context and `rest` are a text, whose prompt ends behind the first `prompt` tokens of the rest; there the
  // methods choose. `targets` are the scored tokens of the rest, by index, ascending: at least 1, because the
  // context's last row is shared, and at least `prompt`. The one right behind the prompt is predicted by the
  // prompt's last row, which is run again on what the choice has left. One entry an arm.
  Result<std::vector<ArmDocument>> Run(std::span<const int32_t> rest, int64_t prompt,
                                       std::span<const int64_t> targets);
  // Of arms whose pages would be more than their nominal entries fill, with room for one more token, lowers
  // the budget to the largest that needs no more than these: then all arms of a nominal budget have equally
  // many pages. Judged on the context as a prompt.
  Status EqualisePages();
  // The context as a prompt, and `rest` behind it. What the oracle knows is from the last Run.
  Result<ArmAlone> Alone(size_t arm, std::span<const int32_t> rest);
  uint64_t full_bytes() const;  // of the full cache at the end of the last prompt

 private:
  struct Impl;
  explicit ArmRunner(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace larder
