// Runs the windows of a text through one model, or through two in step, and collects the scores.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "engine/evict_driver.h"
#include "larder/scoring.h"
#include "larder/session.h"

namespace larder {

// One setting under evaluation: a loaded model and what it cost.
class Subject {
 public:
  // window: the most tokens of one pass.
  static Result<Subject> Create(std::string label, std::unique_ptr<Model> model, int64_t window);
  // From now on windows go through an eviction method ("snapkv:budget=0.25"): the rows before the first one
  // that is asked for are the prompt, and the others read what the method has left. With a codec, that is
  // rounded to codes first: what both lose together, though a method's own pages are rows when serving. What
  // cannot be is refused.
  Status Evict(const std::string& spec);

  // Hidden states of rows [first_row, tokens.size()) of a window: [rows, width]. The cache is empty again
  // afterwards.
  Result<std::vector<float>> Hidden(std::span<const int32_t> tokens, int64_t first_row);
  void Logits(const float* hidden, int rows, float* logits);

  const std::string& label() const { return label_; }
  Model& model() { return *model_; }
  uint64_t kv_bytes() const {
    return kv_bytes_;
  }  // of blocks or private pages, at the end of the longest window
  double tokens_per_s() const { return seconds_ > 0 ? static_cast<double>(tokens_) / seconds_ : 0; }

 private:
  Result<std::vector<float>> HiddenBehindMethod(std::span<const int32_t> tokens, int64_t first_row);

  std::string label_, evict_;
  std::unique_ptr<Model> model_;
  std::unique_ptr<Session> session_;
  std::unique_ptr<EvictResources> evict_resources_;  // with evict_
  uint64_t kv_bytes_ = 0;
  int64_t tokens_ = 0;
  double seconds_ = 0;  // passes and heads; not the comparison
};

// A text as tokens, and its windows.
struct EvaluationText {
  std::vector<int32_t> tokens;
  std::vector<TextWindow> windows;
  bool bos = false;  // every window begins with the model's BOS token, which is not scored
  int64_t scored() const;
};
// kInvalid where nothing can be scored.
Result<EvaluationText> ReadEvaluationText(const std::string& path, const Tokenizer& tokenizer, int64_t window,
                                          int64_t stride, int64_t max_tokens);

// One number per scored token: its negative log-likelihood.
Result<std::vector<double>> ScoreText(Subject& subject, const EvaluationText& text,
                                      const std::function<void(double)>& progress);

struct ScoredToken {
  int64_t position;  // in the text's tokens
  Divergence divergence;
};
Result<std::vector<ScoredToken>> CompareOnText(Subject& base, Subject& candidate, const EvaluationText& text,
                                               const std::function<void(double)>& progress);

}  // namespace larder
