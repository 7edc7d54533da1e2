#include "serve/generation.h"

#include <fmt/format.h>

#include <chrono>
#include <utility>

#include "serve/json_writer.h"

namespace larder {

std::string_view FinishReasonText(FinishReason reason) {
  switch (reason) {
    case FinishReason::kStop:
      return "stop";
    case FinishReason::kLength:
      return "length";
    case FinishReason::kCancelled:
      return "cancelled";
    case FinishReason::kError:
      return "error";
  }
  return "";
}

// On the engine's thread: hands every event to the connection, in order.
class Generation::Sink final : public RequestSink {
 public:
  Sink(std::shared_ptr<Generation> generation, int64_t prompt)
      : generation_(std::move(generation)), prompt_(prompt) {}

  void OnPromptLogprobs(std::vector<TokenOutput> tokens) override {
    Post([prompt = prompt_, tokens = std::move(tokens)](Generation& g) {
      g.BeginStream();
      g.OnPrompt(prompt, tokens);
    });
  }
  void OnToken(TokenOutput output) override {
    Post([prompt = prompt_, output = std::move(output)](Generation& g) mutable {
      g.BeginStream();
      ++g.usage_.completion_tokens;
      const int64_t choice = prompt * g.params_.n + output.choice;
      g.OnToken(choice, std::move(output));
    });
  }
  void OnChoiceEnd(ChoiceEnd end) override {
    Post([prompt = prompt_, end = std::move(end)](Generation& g) {
      if (end.reason == FinishReason::kCancelled || end.reason == FinishReason::kError) {
        g.Fail(
            ToApiError({ErrorKind::kCancelled, "The request was cancelled before its answer was complete."},
                       g.context_->draining, 1));
        return;
      }
      g.BeginStream();
      g.OnEnd(prompt * g.params_.n + end.choice, end);
    });
  }
  void OnFinish(const Usage& usage, const CacheReport& report) override {
    Post([prompt = prompt_, usage, report](Generation& g) { g.HandleFinish(prompt, usage, report); });
  }
  void OnError(const Error& error) override {
    Post([error](Generation& g) {
      g.Fail(ToApiError(error, g.context_->draining, RetryAfterSeconds(*g.context_)));
    });
  }

 private:
  void Post(std::move_only_function<void(Generation&)> event) {
    generation_->exchange_->Post([generation = generation_, event = std::move(event)]() mutable {
      generation->Deliver(std::move(event));
    });
  }
  std::shared_ptr<Generation> generation_;
  int64_t prompt_;
};

Generation::Generation(ServeContext* context, std::shared_ptr<Exchange> exchange,
                       const GenerationParams& params, std::string_view id_prefix, std::string_view object)
    : context_(context),
      exchange_(std::move(exchange)),
      params_(params),
      id_(NewId(id_prefix)),
      object_(object) {
  created_ =
      std::chrono::duration_cast<std::chrono::seconds>(std::chrono::system_clock::now().time_since_epoch())
          .count();
}

void Generation::Start(std::vector<Request> requests) {
  unfinished_ = static_cast<int64_t>(requests.size());
  for (const Request& request : requests) {
    prompts_.push_back(request.prompt);
    reports_.push_back({.report = {}, .seed = request.sampling.seed});
    usage_.prompt_tokens += static_cast<int64_t>(request.prompt.size());
    may_be_approximate_ |= !request.reuse.empty() && request.reuse != "prefix";
  }
  exchange_->Post([self = shared_from_this()] {
    self->exchange_->OnGone([self] {
      self->done_ = true;
      self->early_.clear();
      self->CancelAll();
    });
  });
  Submit(std::move(requests));
}

// The engine may answer the first prompt while the last is still being submitted, and that one may be
// refused: nothing is sent before all are accepted.
void Generation::Deliver(std::move_only_function<void(Generation&)> event) {
  if (done_) return;
  if (accepted_) return event(*this);
  early_.push_back(std::move(event));
}

void Generation::Accept() {
  accepted_ = true;
  for (auto& event : std::exchange(early_, {})) Deliver(std::move(event));
}

void Generation::Submit(std::vector<Request> requests) {
  for (size_t i = 0; i < requests.size(); ++i) {
    auto sink = std::make_shared<Sink>(shared_from_this(), static_cast<int64_t>(i));
    const Result<uint64_t> id = context_->backend->Submit(std::move(requests[i]), std::move(sink));
    if (!id) {
      CancelAll();
      ApiError error = ToApiError(id.error(), context_->draining, RetryAfterSeconds(*context_));
      exchange_->Post([self = shared_from_this(), error = std::move(error)] { self->Fail(error); });
      return;
    }
    bool cancelled;
    {
      const std::lock_guard lock(mutex_);
      ids_.push_back(*id);
      cancelled = cancelled_;
    }
    if (cancelled) {  // the client went while we were at it
      context_->backend->Cancel(*id);
      return;
    }
  }
  exchange_->Post([self = shared_from_this()] { self->Accept(); });
}

void Generation::CancelAll() {
  std::vector<uint64_t> ids;
  {
    const std::lock_guard lock(mutex_);
    cancelled_ = true;
    ids.swap(ids_);
  }
  for (const uint64_t id : ids) context_->backend->Cancel(id);
}

void Generation::BeginStream() {
  if (!params_.stream || streaming_) return;
  streaming_ = true;
  exchange_->BeginStream();
}

void Generation::Fail(const ApiError& error) {
  if (done_) return;
  done_ = true;
  early_.clear();
  CancelAll();
  if (!streaming_) {
    exchange_->Respond(ErrorResponse(error));
    return;
  }
  exchange_->Write(fmt::format("data: {}\n\n", ErrorBody(error)));
  exchange_->Abort();
}

void Generation::HandleFinish(int64_t prompt, const Usage& usage, const CacheReport& report) {
  usage_.cached_tokens += usage.cached_tokens;
  reports_[static_cast<size_t>(prompt)].report = report;
  if (--unfinished_ == 0) Complete();
}

void Generation::Complete() {
  if (!params_.stream) {
    std::string body = WholeBody();
    done_ = true;
    exchange_->Respond({.body = std::move(body)});
    return;
  }
  BeginStream();
  BeforeStreamEnds();
  done_ = true;
  if (params_.include_usage) {
    JsonWriter json;
    WriteHead(json);
    json.Key("choices").BeginArray().EndArray();
    json.Key("usage");
    WriteUsage(json, usage_);
    json.EndObject();
    exchange_->Write(fmt::format("data: {}\n\n", json.text()));
  }
  exchange_->EndStream("data: [DONE]\n\n");
}

void Generation::WriteHead(JsonWriter& json) const {
  json.BeginObject().Field("id", id_).Field("object", object_).Field("created", created_);
  json.Field("model", context_->backend->model_id());
  json.Field("system_fingerprint", context_->backend->fingerprint());
}

void Generation::SendChunk(JsonWriter& json) {
  if (params_.continuous_usage) {
    json.Key("usage");
    WriteUsage(json, usage_);
  }
  json.EndObject();
  exchange_->Write(fmt::format("data: {}\n\n", json.text()));
}

void Generation::WriteLarder(JsonWriter& json) const {
  if (params_.explain) {
    json.Key("larder");
    WriteExplain(json, tokenizer(), reports_);
  } else if (IsApproximate(reports_)) {
    json.Key("larder").BeginObject().Field("approximate", true).EndObject();
  }
}

}  // namespace larder
