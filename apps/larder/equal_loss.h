// Methods at the same loss: with what share of the full cache's bytes each of them diverges no further than
// this from the full cache, between the budgets that were measured.
#pragma once

#include <string>
#include <vector>

#include "larder/eval_methods.h"

namespace larder {

inline constexpr double kEqualKl = 0.05;  // mean over tokens, in nats

struct EqualLoss {
  enum class Reach : uint8_t {
    kBetween,  // two budgets, one within the loss and one beyond it
    kAtMost,   // the smallest budget is within the loss: less was not tried
    kNot       // the largest budget is beyond it
  };
  std::string method;
  std::string leaf, memory;  // of the survey, as methods name theirs; "": of the oracle and the full cache
  Reach reach = Reach::kNot;
  double bytes = 0;         // share of the full cache; kNot: of the largest budget
  double kl = 0;            // at `bytes`: the loss itself, or what was measured there
  double ms_per_token = 0;  // of the smallest budget within the loss, or of the largest
};

// A line a method, in the arms' order. Between two budgets both bytes and divergence are taken as logarithms.
std::vector<EqualLoss> AtEqualLoss(const MethodsResult& result, double kl);

// "31 %", "at most 16 %", "not reached: 0.0912 with 53 %".
std::string ShownBytes(const EqualLoss& at);

}  // namespace larder
