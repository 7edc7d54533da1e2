// larder eval attention: how much of attention goes to how few tokens, which is what eviction lives on.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "larder/evaluation.h"
#include "larder/model_flags.h"

namespace larder {

// The part of a sum that its largest `share` of entries have, at least one of them.
double TopShare(std::vector<float> sums, double share);
// For each layer, the mean over texts and KV heads of the part of all rows' attention that the heaviest
// `share` of tokens get: a token's weight is summed over the rows that see it, as H2O does.
Result<std::vector<double>> AttentionShares(Model& model, const EvaluationText& text, double share);

class AttentionEval {
 public:
  void Declare(Params& params);
  // Over windows of the text. `json`: "" a table, "-" one object on standard output, else a file.
  Status Run(const ModelFlags& flags, const std::string& text_path, int64_t window, int64_t max_tokens,
             const std::string& json);

 private:
  double share_ = 0.1;
};

}  // namespace larder
