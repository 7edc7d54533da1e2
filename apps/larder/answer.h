// One answer of the engine, waited for by the thread that shows it.
#pragma once

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <optional>
#include <string>

#include "engine/request.h"

namespace larder {

// Collects what the engine says of a request with one choice.
class Answer final : public RequestSink {
 public:
  struct End {
    FinishReason reason = FinishReason::kStop;
    Usage usage;
    CacheReport report;
    std::optional<Error> error;
  };

  void OnPromptLogprobs(std::vector<TokenOutput>) override {}
  void OnToken(TokenOutput output) override;
  void OnChoiceEnd(ChoiceEnd end) override;
  void OnFinish(const Usage& usage, const CacheReport& report) override;
  void OnError(const Error& error) override;

  // Text that has come since the last call, at most after `wait`; empty if none has.
  std::string Take(std::chrono::milliseconds wait);
  // What there is to know once everything has come.
  std::optional<End> Ended();
  bool started();

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::string text_;  // guarded by mutex_, like all below
  bool started_ = false;
  bool ended_ = false;
  End end_;
};

}  // namespace larder
