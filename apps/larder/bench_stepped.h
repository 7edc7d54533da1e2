// An engine without a thread that a benchmark steps itself, one request after the other. Several of them can
// share a model and take turns.
#pragma once

#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "engine/core.h"

namespace larder {

struct SteppedAnswer {
  double first_s = 0;  // from the request to its first token
  std::vector<int32_t> tokens;
  CacheReport report;

  int64_t rows_from_tiers() const;
};

class SteppedEngine {
 public:
  // The model and options.tiers outlive it.
  static Result<std::unique_ptr<SteppedEngine>> Create(Model& model, const EngineOptions& options);

  // A greedy answer of exactly `max_tokens` for the one tenant there is.
  static Request RequestOf(std::vector<int32_t> prompt, int64_t max_tokens);
  // Until it has ended. kUnavailable: it ended with an error.
  Result<SteppedAnswer> Run(Request request);
  // Rows in memory, but for those that a tier is still writing.
  void ForgetMemory();

  EngineCore& core() { return *core_; }

 private:
  SteppedEngine() = default;
  SystemClock clock_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool called_ = false;  // by a tier; guarded by mutex_
  uint64_t next_ = 1;
  std::unique_ptr<EngineCore> core_;  // last: tiers call until it is gone
};

}  // namespace larder
