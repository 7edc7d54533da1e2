// larder eval methods: eviction methods against the full cache and against each other. The text is cut into
// documents of prompt and continuation; every arm continues every document, on the tokens that are really
// there, and is scored from the first row that reads its own cache. Documents are what is drawn again for the
// error: all arms together, so that differences between arms are judged on the same texts.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/params.h"
#include "larder/method_arms.h"

namespace larder {

class MethodsEval {
 public:
  void Declare(Params& params);
  // `json`: "" a table, "-" one object on standard output, else a file.
  Status Run(Model& model, const std::string& text_path, int64_t max_tokens, const std::string& json);

 private:
  std::string methods_ =
      "random,streaming:sinks=0,streaming,keynorm,h2o:decode=false,h2o,snapkv,lacache,oracle";
  std::string budgets_ = "0.5,0.25,0.125", report_;
  int64_t prompt_tokens_ = 1024, scored_tokens_ = 128, documents_ = 32, sinks_ = 4, last_ = 32;
};

// An arm over all documents.
struct ArmSummary {
  Arm arm;
  double kl_mean = 0, kl_low = 0, kl_high = 0;  // 95 % of the draws
  double kl_median = 0, kl_99 = 0, same_top = 0, perplexity_ratio = 0;
  double private_bytes = 0, peak_bytes = 0, entries = 0, method_ms = 0;  // means over documents
};
struct MethodsResult {
  std::string model, weights, text, command;
  int64_t documents = 0, prompt_tokens = 0, scored_tokens = 0, sinks = 0, last = 0;
  uint64_t full_bytes = 0;
  std::vector<ArmSummary> arms;
};

// documents[document][arm].
std::vector<ArmSummary> Summarise(const std::vector<Arm>& arms,
                                  const std::vector<std::vector<ArmDocument>>& documents);

// Text to standard output ("-") or into a file.
Status WriteText(const std::string& where, const std::string& text);

std::string MethodsJson(const MethodsResult& result);
// A page that needs nothing else: what was done, a plot of quality against bytes with a line a method, the
// table.
std::string MethodsHtml(const MethodsResult& result);

}  // namespace larder
