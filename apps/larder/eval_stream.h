// larder eval stream: a text that is read in one go with a cache that does not grow, beyond the context that
// the model was trained on. Methods that compact while they read, each at each budget, and beside them
// windows of as many tokens that begin anew: what one would do without a method. Where the model's context
// has room for all of the text, the full cache too: what a bounded cache costs beyond it.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "larder/bench_form.h"
#include "larder/copy_probe.h"
#include "larder/evaluation.h"

namespace larder {

// One way through the stream.
struct StreamPass {
  std::string method, budget;
  int64_t first = 0;                       // the token of the text that nll begins with
  std::vector<double> nll;                 // of each token from there on
  uint64_t bytes_low = 0, bytes_high = 0;  // held after a piece, in the stream's second half
  uint64_t peak_bytes = 0;
  double seconds = 0;
};

// A method over the whole text. kInvalid, kUnsupported: it would have to keep all of it.
Result<StreamPass> RunStream(Model& model, Session& session, const Arm& arm, const EvaluationText& text);
inline constexpr const char *kWindowsPass = "windows", *kFullPass = "full";
// Windows of `tokens`, each beginning in the middle of the one before.
Result<StreamPass> RunWindows(Subject& subject, const EvaluationText& text, int64_t tokens);
// The whole text in one window, which the subject has room for. It has no budget.
Result<StreamPass> RunFull(Subject& subject, const EvaluationText& text);

struct StreamLine {
  StreamPass pass;
  double perplexity = 0;                  // over the tokens that all passes score
  std::vector<double> parts;              // of the eighths of these
  double less = 0, low = 0, high = 0;     // log-perplexity below the first pass of the same budget, 95 %
  std::optional<Estimate> below_windows;  // the same below windows of the same budget
  // Log-perplexity above the full cache's, as a share of what the first pass of the same budget is above it.
  std::optional<Estimate> excess;
  // With copies: the mean log-probability of their first time, and the second one's beside the first pass of
  // the same budget.
  double copies_first = 0;
  std::vector<CopyScore> copies;
};
struct StreamResult {
  std::string model, weights, text, form, command;
  int64_t tokens = 0, first = 0;  // scored from this one on
  Refusals refused;
  std::vector<StreamLine> lines;
};
std::vector<StreamLine> SummariseStream(std::vector<StreamPass> passes, std::vector<Copy> copies = {});
std::string StreamJson(const StreamResult& result);

class StreamEval {
 public:
  void Declare(Params& params);
  Status Run(const ModelFlags& model, const BenchFlags& bench, const std::string& text_path,
             int64_t max_tokens, const std::string& json);

 private:
  Result<std::vector<Copy>> Plant(std::vector<int32_t>& tokens) const;
  std::string copy_gaps_;
};

}  // namespace larder
