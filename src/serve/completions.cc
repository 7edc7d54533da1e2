#include <fmt/format.h>

#include <memory>
#include <utility>

#include "serve/completion_request.h"
#include "serve/endpoints.h"
#include "serve/generation.h"
#include "serve/json_writer.h"
#include "serve/logprobs.h"

namespace larder {
namespace {

class TextGeneration final : public Generation {
 public:
  TextGeneration(ServeContext* context, ExchangePtr exchange, const CompletionParams& params)
      : Generation(context, std::move(exchange), params.generation, "cmpl", "text_completion"),
        logprobs_(params.logprobs.has_value()),
        echo_(params.echo),
        prompt_only_(
            params.generation.max_completion_tokens.value_or(params.generation.max_tokens.value_or(-1)) == 0),
        items_(params.prompt) {
    const size_t count = items_.size() * static_cast<size_t>(params.generation.n);
    for (size_t i = 0; i < count; ++i) choices_.emplace_back(&tokenizer(), params.logprobs.value_or(0));
  }

 private:
  struct Choice {
    Choice(const Tokenizer* tokenizer, int64_t top) : logprobs(tokenizer, top) {}
    std::string text;
    CompletionLogprobs logprobs;
    std::vector<int32_t> tokens;
    std::string_view finish;
    bool begun = false;        // the prompt was echoed
    bool scored = false;       // its probabilities are in the lists
    bool prompt_told = false;  // its token numbers were
  };

  void OnPrompt(int64_t prompt, const std::vector<TokenOutput>& tokens) override;
  void OnToken(int64_t index, TokenOutput output) override;
  void OnEnd(int64_t index, const ChoiceEnd& end) override;
  std::string WholeBody() override;
  void BeforeStreamEnds() override;

  void Begin(int64_t index);
  void AddUnscoredPrompt(int64_t index);
  bool KeepsFinishes() const { return MayTell() || prompt_only_; }
  std::string PromptText(int64_t prompt) const;
  void WriteChoice(JsonWriter& json, int64_t index, std::string_view text, const std::vector<int32_t>& tokens,
                   std::string_view finish);
  void Send(int64_t index, std::string_view text, const std::vector<int32_t>& tokens, std::string_view finish,
            bool with_larder);
  Choice& At(int64_t index) { return choices_[static_cast<size_t>(index)]; }

  bool logprobs_, echo_;
  bool prompt_only_;  // max_tokens 0: the prompt's scores arrive after the choices' ends
  std::vector<PromptItem> items_;
  std::vector<Choice> choices_;
  std::vector<int64_t> kept_finishes_;  // streamed with explain: sent when everything is known
};

// The engine reports the prompt's probabilities before the first token: they come first in every choice's
// lists.
void TextGeneration::OnPrompt(int64_t prompt, const std::vector<TokenOutput>& tokens) {
  if (!logprobs_ || !echo_) return;
  for (int64_t i = prompt * params().n; i < (prompt + 1) * params().n; ++i) {
    At(i).scored = true;
    for (size_t t = 0; t < tokens.size(); ++t) At(i).logprobs.Add(tokens[t], t > 0);
  }
}

// A prompt of a single token has no probabilities, so the engine reports none; its entry is due all the same.
void TextGeneration::AddUnscoredPrompt(int64_t index) {
  Choice& choice = At(index);
  if (!logprobs_ || !echo_ || std::exchange(choice.scored, true)) return;
  for (const int32_t token : prompt_tokens(index / params().n))
    choice.logprobs.Add({.token = token, .text = {}, .top = {}}, false);
}

std::string TextGeneration::PromptText(int64_t prompt) const {
  const PromptItem& item = items_[static_cast<size_t>(prompt)];
  return item.is_text ? item.text : tokenizer().Decode(item.tokens, true);
}

// The prompt's text stands before whatever comes first of a choice.
void TextGeneration::Begin(int64_t index) {
  Choice& choice = At(index);
  if (choice.begun) return;
  choice.begun = true;
  if (!echo_) return;
  AddUnscoredPrompt(index);
  if (stream()) {
    Send(index, PromptText(index / params().n), {}, "", false);
  } else {
    choice.text = PromptText(index / params().n);
  }
}

void TextGeneration::OnToken(int64_t index, TokenOutput output) {
  Begin(index);
  Choice& choice = At(index);
  if (logprobs_) choice.logprobs.Add(output, true);
  if (!stream()) {
    choice.text += output.text;
    choice.tokens.push_back(output.token);
    return;
  }
  const bool reported = logprobs_ || params().return_token_ids || params().continuous_usage;
  if (!output.text.empty() || reported) Send(index, output.text, {output.token}, "", false);
}

void TextGeneration::OnEnd(int64_t index, const ChoiceEnd& end) {
  Choice& choice = At(index);
  choice.finish = FinishReasonText(end.reason);
  if (stream() && KeepsFinishes()) kept_finishes_.push_back(index);
  if (prompt_only_) return;
  Begin(index);
  if (!stream()) {
    choice.text += end.text;
    return;
  }
  if (!end.text.empty()) Send(index, end.text, {}, "", false);
  if (!KeepsFinishes()) Send(index, "", {}, choice.finish, false);
}

void TextGeneration::BeforeStreamEnds() {
  for (size_t i = 0; i < kept_finishes_.size(); ++i) {
    Begin(kept_finishes_[i]);
    Send(kept_finishes_[i], "", {}, At(kept_finishes_[i]).finish, i + 1 == kept_finishes_.size());
  }
}

void TextGeneration::WriteChoice(JsonWriter& json, int64_t index, std::string_view text,
                                 const std::vector<int32_t>& tokens, std::string_view finish) {
  Choice& choice = At(index);
  json.BeginObject().Field("index", index).Field("text", text);
  json.Key("logprobs");
  if (logprobs_ && (!stream() || !choice.logprobs.empty())) {
    choice.logprobs.Write(json);
  } else {
    json.Null();
  }
  json.Key("finish_reason");
  if (finish.empty()) {
    json.Null();
  } else {
    json.String(finish);
  }
  if (params().return_token_ids) {
    json.Field("token_ids", tokens);
    if (!choice.prompt_told) json.Field("prompt_token_ids", prompt_tokens(index / params().n));
    choice.prompt_told = true;
  }
  json.EndObject();
}

void TextGeneration::Send(int64_t index, std::string_view text, const std::vector<int32_t>& tokens,
                          std::string_view finish, bool with_larder) {
  JsonWriter json;
  WriteHead(json);
  json.Key("choices").BeginArray();
  WriteChoice(json, index, text, tokens, finish);
  json.EndArray();
  if (with_larder) WriteLarder(json);
  SendChunk(json);
}

std::string TextGeneration::WholeBody() {
  JsonWriter json;
  WriteHead(json);
  json.Key("choices").BeginArray();
  for (int64_t i = 0; i < choices(); ++i) {
    Begin(i);
    WriteChoice(json, i, At(i).text, At(i).tokens, At(i).finish);
  }
  json.EndArray();
  json.Key("usage");
  WriteUsage(json, usage_);
  WriteLarder(json);
  json.EndObject();
  return json.Take();
}

constexpr int64_t kDefaultMaxTokens = 16;  // as OpenAI's completions

ApiResult<std::vector<Request>> PrepareCompletion(const ServeContext& context, const HttpRequest& http,
                                                  CompletionParams& params) {
  Fields fields;
  DeclareCompletionFields(fields, params);
  if (ApiStatus status = fields.Read(http.body); !status) return std::unexpected(status.error());
  if (ApiStatus status = CheckCompletion(params); !status) return std::unexpected(status.error());
  GenerationParams& generation = params.generation;
  const bool replay = !generation.forced_output.empty();
  if (!generation.max_tokens && !generation.max_completion_tokens && !replay)
    generation.max_tokens = kDefaultMaxTokens;
  generation.hints.session_header = http.Header("x-session-id");
  ApiResult<Request> pattern = MakeRequest(context, generation, http.tenant, http.id);
  if (!pattern) return std::unexpected(pattern.error());
  if (params.logprobs) pattern->logprobs = static_cast<int32_t>(*params.logprobs);
  if (params.logprobs && params.echo) pattern->prompt_logprobs = static_cast<int32_t>(*params.logprobs);

  std::vector<Request> requests;
  for (const PromptItem& item : params.prompt) {
    ApiResult<std::vector<int32_t>> prompt = PromptTokens(context, item, params.add_special_tokens);
    if (!prompt) return std::unexpected(prompt.error());
    const auto size = static_cast<int64_t>(prompt->size());
    if (ApiStatus status = CheckLength(context, size, pattern->max_tokens, pattern->evict); !status) {
      return std::unexpected(status.error());
    }
    requests.push_back(*pattern);
    requests.back().prompt = *std::move(prompt);
  }
  return requests;
}

}  // namespace

void HandleCompletions(ServeContext& context, const HttpRequest& http, const ExchangePtr& exchange) {
  CompletionParams params;
  ApiResult<std::vector<Request>> requests = PrepareCompletion(context, http, params);
  if (!requests) {
    exchange->Post([exchange, error = requests.error()] { exchange->Respond(ErrorResponse(error)); });
    return;
  }
  std::make_shared<TextGeneration>(&context, exchange, params)->Start(*std::move(requests));
}

}  // namespace larder
