// Eviction methods beside each other on the same documents: each prompt is computed once, every arm goes on
// from it, and all are held against the full cache, token by token, on the text that really follows.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "larder/scoring.h"
#include "larder/session.h"

namespace larder {

// One line of the table: a method with its budget.
struct Arm {
  std::string method;  // "snapkv", "oracle", "full"
  std::string budget;  // as it was given
  std::string spec;    // what the method is made from
};

// Every method of `methods` ("h2o,snapkv:window=16") at every budget of `budgets`; each keeps `sinks` first
// and `last` newest tokens, unless it says something else itself or knows better. "oracle" scores by the
// attention that will really come. kInvalid names what is wrong.
Result<std::vector<Arm>> PlanArms(const std::string& methods, const std::string& budgets, int64_t sinks,
                                  int64_t last, const Model& model);

// What one document did to one arm.
struct ArmDocument {
  std::vector<Divergence> tokens;  // from the full cache to the arm's, for each scored token
  uint64_t private_bytes = 0,
           peak_bytes = 0;  // after the choice; the most before it, what is shared included
  int64_t entries = 0;      // of the longest lane
  double method_ms = 0;     // choosing, and what the method computes for it
};

class ArmRunner {
 public:
  // For documents of `prompt` + `scored` + 1 tokens.
  static Result<std::unique_ptr<ArmRunner>> Create(Model& model, std::vector<Arm> arms, int64_t prompt,
                                                   int64_t scored);
  ~ArmRunner();

  const std::vector<Arm>& arms() const;
  // One entry an arm. `tokens`: prompt, scored, and one that is only predicted.
  Result<std::vector<ArmDocument>> Run(std::span<const int32_t> tokens);
  uint64_t full_bytes() const;  // of the full cache behind the prompt

 private:
  struct Impl;
  explicit ArmRunner(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace larder
