// One request's life between the engine and the client: submits its prompts, brings the engine's events to
// the connection's executor, cancels when the client goes, and ends the answer. Subclasses give it its form
// (chat, text).
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "engine/request.h"
#include "serve/context.h"
#include "serve/errors.h"
#include "serve/explain.h"
#include "serve/generation_request.h"
#include "serve/http.h"

namespace larder {

class Generation : public std::enable_shared_from_this<Generation> {
 public:
  Generation(ServeContext* context, std::shared_ptr<Exchange> exchange, const GenerationParams& params,
             std::string_view id_prefix, std::string_view object);
  virtual ~Generation() = default;
  Generation(const Generation&) = delete;
  Generation& operator=(const Generation&) = delete;

  // Submits all requests (one per prompt, equal n) or, if one is refused, none. On a handler's thread, once.
  void Start(std::vector<Request> requests);

 protected:
  // Everything below runs on the connection's executor. `choice` counts over all prompts: prompt * n + i.
  virtual void OnPrompt(int64_t prompt, const std::vector<TokenOutput>& tokens) {}
  virtual void OnToken(int64_t choice, TokenOutput output) = 0;
  virtual void OnEnd(int64_t choice, const ChoiceEnd& end) = 0;
  virtual std::string WholeBody() = 0;  // not streamed: the answer, when all is done
  virtual void BeforeStreamEnds() {}    // streamed: chunks that were kept until all is done

  bool stream() const { return params_.stream; }
  const GenerationParams& params() const { return params_; }
  const Tokenizer& tokenizer() const { return context_->backend->tokenizer(); }
  const std::string& id() const { return id_; }
  const std::vector<int32_t>& prompt_tokens(int64_t prompt) const {
    return prompts_[static_cast<size_t>(prompt)];
  }
  int64_t choices() const { return static_cast<int64_t>(prompts_.size()) * params_.n; }

  // id, object, created, model, system_fingerprint: the beginning of every answer and chunk.
  void WriteHead(JsonWriter& json) const;
  // Ends and sends a chunk whose `choices` are written; adds the usage so far where the client wants it.
  void SendChunk(JsonWriter& json);
  // Whether an answer may have a "larder" object: the client asked for it, or it may be approximate, which is
  // said in any case. Streams keep their last chunks for it then.
  bool MayTell() const { return params_.explain || may_be_approximate_; }
  void WriteLarder(JsonWriter& json) const;  // "larder": {...}, if there is something to tell
  Usage usage_;  // complete when all is done; completion tokens counted as they come

 private:
  class Sink;
  void Deliver(std::move_only_function<void(Generation&)> event);
  void Accept();
  void Submit(std::vector<Request> requests);
  void CancelAll();
  void BeginStream();
  void Fail(const ApiError& error);
  void HandleFinish(int64_t prompt, const Usage& usage, const CacheReport& report);
  void Complete();

  ServeContext* context_;
  std::shared_ptr<Exchange> exchange_;
  GenerationParams params_;
  std::string id_;
  std::string_view object_;
  int64_t created_ = 0;
  std::vector<std::vector<int32_t>> prompts_;
  std::vector<PromptReport> reports_;
  int64_t unfinished_ = 0;
  bool accepted_ = false;  // all prompts are the engine's
  bool streaming_ = false, done_ = false;
  bool may_be_approximate_ = false;
  std::vector<std::move_only_function<void(Generation&)>> early_;  // events before that

  std::mutex mutex_;  // ids_ and cancelled_: submitted on one thread, cancelled on another
  std::vector<uint64_t> ids_;
  bool cancelled_ = false;
};

std::string_view FinishReasonText(FinishReason reason);

}  // namespace larder
