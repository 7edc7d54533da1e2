// POST /v1/cache/chunks: texts that are computed once, alone behind a declared prefix, and stand in for rows
// of prompts that have them anywhere (larder.reuse blend).
#include <nlohmann/json.hpp>

#include "serve/chat_request.h"
#include "serve/completion_request.h"
#include "serve/endpoints.h"
#include "serve/errors.h"
#include "serve/json_writer.h"

namespace larder {
namespace {

constexpr size_t kMostChunks = 256;

struct ChunksCall {
  std::string model, prefix;
  std::vector<PromptItem> chunks, text;
  std::vector<int32_t> tokens;
};

void DeclareChunksCall(Fields& fields, ChunksCall& call) {
  fields.String("model", &call.model, "one process serves one model");
  fields.Prompt("text", &call.text, "one chunk as text");
  fields.Tokens("tokens", &call.tokens, "one chunk as token numbers");
  fields.Prompt("chunks", &call.chunks, "several, each text or token numbers");
  fields.Any("prefix", &call.prefix,
             "what the chunks are run behind: text, tokens, or messages; BOS where absent");
}

// The declared prefix as tokens.
ApiResult<std::vector<int32_t>> PrefixTokens(const ServeContext& context, const std::string& json) {
  const Tokenizer& tokenizer = context.backend->tokenizer();
  if (json.empty()) {
    if (tokenizer.add_bos() && tokenizer.bos() != kNoToken) return std::vector<int32_t>{tokenizer.bos()};
    return std::vector<int32_t>();
  }
  const auto prefix = nlohmann::ordered_json::parse(json);
  if (prefix.is_string() && prefix.get<std::string>().empty()) return std::vector<int32_t>();
  if (prefix.is_string()) return PromptTokens(context, {.text = prefix.get<std::string>()}, true);
  if (prefix.is_array() && prefix.empty()) return std::vector<int32_t>();
  if (prefix.is_array() && prefix.front().is_object())
    return ChatPrompt(context, {.messages = json, .add_generation_prompt = false});
  Fields fields;
  std::vector<int32_t> tokens;
  fields.Tokens("prefix", &tokens, "");
  if (ApiStatus status = fields.Read(fmt::format("{{\"prefix\":{}}}", json)); !status)
    return BadField("prefix", "'prefix' must be a text, a list of token numbers, or a list of messages.");
  if (ApiStatus status = CheckTokens(context, tokens, "prefix"); !status)
    return std::unexpected(status.error());
  return tokens;
}

ApiResult<std::vector<Request>> ReadChunks(const ServeContext& context, const HttpRequest& http) {
  ChunksCall call;
  Fields fields;
  DeclareChunksCall(fields, call);
  if (ApiStatus status = fields.Read(http.body); !status) return std::unexpected(status.error());
  const int given = fields.Has("text") + fields.Has("tokens") + fields.Has("chunks");
  if (given != 1) return BadField("chunks", "Exactly one of 'text', 'tokens' and 'chunks' must be given.");
  if (fields.Has("tokens")) call.chunks.push_back({.is_text = false, .text = "", .tokens = call.tokens});
  if (fields.Has("text")) call.chunks = call.text;
  if (call.chunks.empty()) return BadField("chunks", "There is no chunk; give at least one.");
  if (call.chunks.size() > kMostChunks) {
    return BadField("chunks", "There are {} chunks, more than {}; send several requests.", call.chunks.size(),
                    kMostChunks);
  }
  const ApiResult<std::vector<int32_t>> prefix = PrefixTokens(context, call.prefix);
  if (!prefix) return std::unexpected(prefix.error());
  std::vector<Request> requests;
  for (const PromptItem& item : call.chunks) {
    ApiResult<std::vector<int32_t>> tokens = PromptTokens(context, item, false);
    if (!tokens) return std::unexpected(tokens.error());
    Request request;
    request.id = http.id;
    request.tenant = http.tenant;
    request.prompt = *prefix;
    request.prompt.insert(request.prompt.end(), tokens->begin(), tokens->end());
    request.chunk_from = std::ssize(*prefix);
    request.max_tokens = 0;
    request.evict = "none";
    request.reuse = "prefix";
    requests.push_back(std::move(request));
  }
  return requests;
}

// One call's life: everything runs on the connection's executor, but Start.
class ChunkStoring : public std::enable_shared_from_this<ChunkStoring> {
 public:
  ChunkStoring(ServeContext* context, ExchangePtr exchange)
      : context_(context), exchange_(std::move(exchange)) {}

  // On a handler's thread, once.
  void Start(std::vector<Request> requests) {
    stored_.resize(requests.size());
    for (size_t i = 0; i < requests.size(); ++i) {
      stored_[i].tokens = std::ssize(requests[i].prompt) - requests[i].chunk_from;
      if (const auto here = context_->backend->FindChunk(requests[i])) {
        stored_[i].info = *here;
        stored_[i].present = true;
        continue;
      }
      ++unfinished_;
      const Result<uint64_t> id =
          context_->backend->Submit(std::move(requests[i]), std::make_shared<Sink>(shared_from_this(), i));
      if (id) continue;
      // What was submitted before is stored all the same, and found when the client tries again.
      const ApiError error = ToApiError(id.error(), context_->draining, RetryAfterSeconds(*context_));
      return exchange_->Post([self = shared_from_this(), error] { self->Fail(error); });
    }
    exchange_->Post([self = shared_from_this()] {
      self->submitted_ = true;
      self->AnswerIfDone();
    });
  }

 private:
  struct Stored {
    ChunkInfo info;
    int64_t tokens = 0;
    bool present = false;  // it was here already
  };

  class Sink final : public RequestSink {
   public:
    Sink(std::shared_ptr<ChunkStoring> owner, size_t index) : owner_(std::move(owner)), index_(index) {}
    void OnPromptLogprobs(std::vector<TokenOutput>) override {}
    void OnToken(TokenOutput) override {}
    void OnChoiceEnd(ChoiceEnd) override {}
    void OnFinish(const Usage&, const CacheReport& report) override {
      owner_->exchange_->Post([owner = owner_, index = index_, info = report.chunk] {
        owner->stored_[index].info = info;
        ++owner->finished_;
        owner->AnswerIfDone();
      });
    }
    void OnError(const Error& error) override {
      owner_->exchange_->Post([owner = owner_, error] {
        owner->Fail(ToApiError(error, owner->context_->draining, RetryAfterSeconds(*owner->context_)));
      });
    }

   private:
    std::shared_ptr<ChunkStoring> owner_;
    size_t index_;
  };

  void Fail(const ApiError& error) {
    if (std::exchange(answered_, true)) return;
    exchange_->Respond(ErrorResponse(error));
  }

  void AnswerIfDone() {
    if (!submitted_ || finished_ < unfinished_ || std::exchange(answered_, true)) return;
    JsonWriter json;
    json.BeginObject().Field("object", "list").Key("data").BeginArray();
    for (const Stored& stored : stored_) {
      json.BeginObject().Field("id", stored.info.name).Field("object", "cache.chunk");
      json.Field("tokens", stored.tokens).Field("bytes", stored.info.bytes);
      json.Field("state", stored.present ? "present" : "stored").EndObject();
    }
    json.EndArray().EndObject();
    exchange_->Respond({.body = json.Take()});
  }

  ServeContext* context_;
  ExchangePtr exchange_;
  std::vector<Stored> stored_;
  size_t unfinished_ = 0, finished_ = 0;
  bool submitted_ = false, answered_ = false;
};

}  // namespace

void HandleStoreChunks(ServeContext& context, const HttpRequest& http, const ExchangePtr& exchange) {
  ApiResult<std::vector<Request>> requests = ReadChunks(context, http);
  if (!requests) {
    exchange->Post([exchange, error = requests.error()] { exchange->Respond(ErrorResponse(error)); });
    return;
  }
  std::make_shared<ChunkStoring>(&context, exchange)->Start(*std::move(requests));
}

}  // namespace larder
