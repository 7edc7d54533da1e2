// larder eval methods: eviction methods and codecs against the full cache and against each other. The text is
// cut into documents of prompt and continuation; every arm continues every document and is scored from the
// first row that reads its own cache: on the tokens that are really there, and on those that the full cache
// would choose, cut where they begin to repeat themselves. Documents are what is drawn again for the error:
// all arms together, so that differences between arms are judged on the same texts. Speed and the most memory
// are those of each arm by itself, on the first document.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "larder/bench_form.h"
#include "larder/method_arms.h"

namespace larder {

// How much more an arm diverges than another one of the same budget, document by document.
struct KlDifference {
  std::string base;  // the other one's method, or kParts
  Estimate kl;       // the arm's less the other one's
};
// How near an arm comes to the full cache on one kind of continuation.
struct Fidelity {
  double kl_mean = 0, kl_low = 0, kl_high = 0;  // 95 % of the draws
  double kl_median = 0, kl_99 = 0, same_top = 0, perplexity_ratio = 0;
  std::vector<double> kl_documents;  // the mean of each
  std::vector<KlDifference> differences;
};
// What is left of a layer, the mean of its lanes, over all documents.
struct LayerEntries {
  double mean = 0, variation = 0;  // standard deviation, divided by the mean
};
// An arm over all documents.
struct ArmSummary {
  Arm arm;
  Fidelity text, greedy;
  double private_bytes = 0, resident_bytes = 0, entries = 0, method_ms = 0;  // means over documents
  std::vector<LayerEntries> layers;                                          // that methods work on
  ArmAlone alone;
};
struct MethodsResult {
  std::string model, weights, text, form, command;
  std::vector<std::string> bases;  // methods that others are held against
  Refusals refused;
  // Of the model, and how many of its layers see everything: methods drop from these alone. What they hold of
  // the full cache.
  int64_t layers = 0, evicting_layers = 0;
  uint64_t evicting_bytes = 0;
  int64_t documents = 0, prompt_tokens = 0, scored_tokens = 0, sinks = 0, last = 0;
  int64_t greedy_documents = 0;  // of which anything was left
  double greedy_tokens = 0;      // scored of each of these
  uint64_t full_bytes = 0;
  double seconds = 0;
  std::vector<ArmSummary> arms;
};

// documents[document][arm]; no documents: zeros.
Fidelity FidelityOf(const std::vector<std::vector<ArmDocument>>& documents, size_t arm);
std::vector<ArmSummary> Summarise(const std::vector<Arm>& arms,
                                  const std::vector<std::vector<ArmDocument>>& text,
                                  const std::vector<std::vector<ArmDocument>>& greedy);

// The base of a method together with a codec: the sum of what each of them loses alone.
inline constexpr const char* kParts = "its parts";
// Fills the differences to arms of these methods, where they have the same budget, and those to parts.
void CompareWith(const std::vector<std::string>& bases, std::vector<ArmSummary>& arms);

// How many tokens there are before `gram` of them repeat others that stood there before.
int64_t BeforeRepetition(std::span<const int32_t> tokens, int64_t gram);

class MethodsEval {
 public:
  void Declare(Params& params);
  // `json`: "" a table, "-" one object on standard output, else a file.
  Status Run(const ModelFlags& model, const BenchFlags& bench, const std::string& text_path,
             int64_t max_tokens, const std::string& json);

 private:
  Status Measure(ArmRunner& runner, const std::vector<std::vector<int32_t>>& documents, MethodsResult& out);
  Result<std::vector<std::string>> Bases(const std::vector<Arm>& arms) const;
  int64_t prompt_tokens_ = 0, scored_tokens_ = 0, documents_ = 0;
  std::string bases_;
  bool nominal_ = false;
};

// Of a model with windows: how much of the cache methods work on.
std::string WindowsNote(const MethodsResult& result);
std::string MethodsJson(const MethodsResult& result);
// A page that needs nothing else: what was done, plots of quality against bytes with a line a method, the
// table.
std::string MethodsHtml(const MethodsResult& result);

}  // namespace larder
