#include <fmt/format.h>

#include <deque>
#include <optional>

#include "serve/chat_marks.h"
#include "serve/chat_parts.h"
#include "serve/chat_request.h"
#include "serve/endpoints.h"
#include "serve/generation.h"
#include "serve/json_writer.h"
#include "serve/logprobs.h"
#include "serve/tool_calls.h"

namespace larder {
namespace {

class ChatGeneration final : public Generation {
 public:
  ChatGeneration(ServeContext* context, ExchangePtr exchange, const ChatParams& params)
      : Generation(context, std::move(exchange), params.generation, "chatcmpl",
                   params.generation.stream ? "chat.completion.chunk" : "chat.completion"),
        logprobs_(params.logprobs),
        top_(params.top_logprobs),
        parse_tools_(!params.prompt.tools.empty()),
        choices_(static_cast<size_t>(params.generation.n)) {}

 private:
  struct Choice {
    std::string content;
    std::vector<OutputPiece> calls;
    JsonWriter logprobs;  // the entries so far
    std::vector<int32_t> tokens;
    ToolCallParser parser;
    std::string finish;
    // Streamed: what arrived before all earlier choices had begun.
    struct Event {
      std::optional<TokenOutput> token;
      ChoiceEnd end;
    };
    std::deque<Event> held;
    int64_t calls_sent = 0;
  };

  void OnToken(int64_t index, TokenOutput output) override;
  void OnEnd(int64_t index, const ChoiceEnd& end) override;
  std::string WholeBody() override;
  void BeforeStreamEnds() override;

  void Process(int64_t index, Choice::Event event);
  void ReleaseHeld();
  std::vector<OutputPiece> Pieces(Choice& choice, std::string text);
  void Keep(Choice& choice, std::vector<OutputPiece> pieces);
  void SendPieces(int64_t index, const std::vector<OutputPiece>& pieces, const TokenOutput* token);
  void SendDelta(int64_t index, const OutputPiece& piece, const TokenOutput* token);
  void SendFinish(int64_t index, bool with_larder);
  void WriteLogprobs(JsonWriter& json, std::string_view entries) const;
  void WriteMessage(JsonWriter& json, const Choice& choice) const;
  void WriteCall(JsonWriter& json, const OutputPiece& call) const;
  Choice& At(int64_t index) { return choices_[static_cast<size_t>(index)]; }

  bool logprobs_;
  int64_t top_;
  bool parse_tools_;
  std::vector<Choice> choices_;
  int64_t begun_ = 0;                   // streamed: choices [0, begun_) have sent their role
  std::vector<int64_t> kept_finishes_;  // streamed, if MayTell: sent when everything is known
};

void ChatGeneration::OnToken(int64_t index, TokenOutput output) {
  if (!stream()) {
    Choice& choice = At(index);
    if (logprobs_) WriteChatLogprob(choice.logprobs, tokenizer(), output, top_);
    choice.tokens.push_back(output.token);
    Keep(choice, Pieces(choice, std::move(output.text)));
    return;
  }
  Process(index, {.token = std::move(output), .end = {}});
}

void ChatGeneration::OnEnd(int64_t index, const ChoiceEnd& end) {
  if (!stream()) {
    Choice& choice = At(index);
    Keep(choice, Pieces(choice, end.text));
    if (parse_tools_) Keep(choice, choice.parser.Finish());
    const bool called = choice.parser.found() && end.reason == FinishReason::kStop;
    choice.finish = called ? "tool_calls" : FinishReasonText(end.reason);
    return;
  }
  Process(index, {.token = std::nullopt, .end = end});
}

// Roles go out in the order of the choices: a choice waits until all before it have begun.
void ChatGeneration::Process(int64_t index, Choice::Event event) {
  Choice& choice = At(index);
  if (index > begun_) {
    choice.held.push_back(std::move(event));
    return;
  }
  if (event.token) {
    SendPieces(index, Pieces(choice, std::move(event.token->text)), &*event.token);
  } else {
    std::vector<OutputPiece> rest = Pieces(choice, event.end.text);
    if (parse_tools_) {
      for (OutputPiece& piece : choice.parser.Finish()) rest.push_back(std::move(piece));
    }
    if (index == begun_ && rest.empty()) rest.emplace_back();  // ended without a token: the role all the same
    SendPieces(index, rest, nullptr);
    const bool called = choice.parser.found() && event.end.reason == FinishReason::kStop;
    choice.finish = called ? "tool_calls" : FinishReasonText(event.end.reason);
    if (MayTell()) {
      kept_finishes_.push_back(index);
    } else {
      SendFinish(index, false);
    }
  }
  ReleaseHeld();
}

void ChatGeneration::ReleaseHeld() {
  while (begun_ < choices() && !At(begun_).held.empty()) {
    std::deque<Choice::Event> held = std::move(At(begun_).held);
    At(begun_).held.clear();
    const int64_t index = begun_;
    for (Choice::Event& event : held) Process(index, std::move(event));
  }
}

std::vector<OutputPiece> ChatGeneration::Pieces(Choice& choice, std::string text) {
  if (parse_tools_) return choice.parser.Push(text);
  if (text.empty()) return {};
  return {{.text = std::move(text)}};
}

void ChatGeneration::Keep(Choice& choice, std::vector<OutputPiece> pieces) {
  for (OutputPiece& piece : pieces) {
    if (piece.is_call) {
      choice.calls.push_back(std::move(piece));
    } else {
      choice.content += piece.text;
    }
  }
}

// One chunk per piece; the token's log-probability and number go with the first.
void ChatGeneration::SendPieces(int64_t index, const std::vector<OutputPiece>& pieces,
                                const TokenOutput* token) {
  const bool reported =
      token != nullptr && (logprobs_ || params().return_token_ids || params().continuous_usage);
  if (pieces.empty()) {
    if (index == begun_ || reported) SendDelta(index, {}, token);
    return;
  }
  for (const OutputPiece& piece : pieces) {
    SendDelta(index, piece, token);
    token = nullptr;
  }
}

void ChatGeneration::SendDelta(int64_t index, const OutputPiece& piece, const TokenOutput* token) {
  JsonWriter json;
  WriteHead(json);
  if (params().return_token_ids && index == 0 && begun_ == 0)
    json.Field("prompt_token_ids", prompt_tokens(0));
  json.Key("choices").BeginArray().BeginObject().Field("index", index);
  json.Key("delta").BeginObject();
  if (index == begun_) {
    json.Field("role", "assistant");
    ++begun_;
  }
  if (piece.is_call) {
    json.Key("tool_calls").BeginArray().BeginObject().Field("index", At(index).calls_sent++);
    WriteCall(json, piece);
    json.EndObject().EndArray();
  } else {
    json.Field("content", piece.text);
  }
  json.EndObject();
  json.Key("logprobs");
  if (logprobs_ && token != nullptr) {
    JsonWriter entry;
    WriteChatLogprob(entry, tokenizer(), *token, top_);
    WriteLogprobs(json, entry.text());
  } else {
    json.Null();
  }
  json.Key("finish_reason").Null();
  if (params().return_token_ids) {
    json.Key("token_ids").BeginArray();
    if (token != nullptr) json.Integer(token->token);
    json.EndArray();
  }
  json.EndObject().EndArray();
  SendChunk(json);
}

void ChatGeneration::SendFinish(int64_t index, bool with_larder) {
  JsonWriter json;
  WriteHead(json);
  json.Key("choices").BeginArray().BeginObject().Field("index", index);
  json.Key("delta").BeginObject().EndObject();
  json.Key("logprobs").Null();
  json.Field("finish_reason", At(index).finish);
  json.EndObject().EndArray();
  if (with_larder) WriteLarder(json);
  SendChunk(json);
}

void ChatGeneration::BeforeStreamEnds() {
  for (size_t i = 0; i < kept_finishes_.size(); ++i)
    SendFinish(kept_finishes_[i], i + 1 == kept_finishes_.size());
}

void ChatGeneration::WriteLogprobs(JsonWriter& json, std::string_view entries) const {
  json.BeginObject().Key("content").Raw(fmt::format("[{}]", entries)).Key("refusal").Null().EndObject();
}

void ChatGeneration::WriteCall(JsonWriter& json, const OutputPiece& call) const {
  json.Field("id", NewId("call")).Field("type", "function");
  json.Key("function").BeginObject().Field("name", call.name).Field("arguments", call.arguments).EndObject();
}

void ChatGeneration::WriteMessage(JsonWriter& json, const Choice& choice) const {
  json.Key("message").BeginObject().Field("role", "assistant").Key("content");
  if (choice.content.empty() && !choice.calls.empty()) {
    json.Null();
  } else {
    json.String(choice.content);
  }
  json.Key("refusal").Null();
  if (!choice.calls.empty()) {
    json.Key("tool_calls").BeginArray();
    for (const OutputPiece& call : choice.calls) {
      json.BeginObject();
      WriteCall(json, call);
      json.EndObject();
    }
    json.EndArray();
  }
  json.EndObject();
}

std::string ChatGeneration::WholeBody() {
  JsonWriter json;
  WriteHead(json);
  json.Key("choices").BeginArray();
  for (int64_t i = 0; i < choices(); ++i) {
    const Choice& choice = At(i);
    json.BeginObject().Field("index", i);
    WriteMessage(json, choice);
    json.Key("logprobs");
    if (logprobs_) {
      WriteLogprobs(json, choice.logprobs.text());
    } else {
      json.Null();
    }
    json.Field("finish_reason", choice.finish);
    if (params().return_token_ids) json.Field("token_ids", choice.tokens);
    json.EndObject();
  }
  json.EndArray();
  if (params().return_token_ids) json.Field("prompt_token_ids", prompt_tokens(0));
  json.Key("usage");
  WriteUsage(json, usage_);
  WriteLarder(json);
  json.EndObject();
  return json.Take();
}

ApiResult<Request> PrepareChat(const ServeContext& context, const HttpRequest& http, ChatParams& params) {
  Fields fields;
  DeclareChatFields(fields, params);
  if (ApiStatus status = fields.Read(http.body); !status) return std::unexpected(status.error());
  if (ApiStatus status = CheckChat(params); !status) return std::unexpected(status.error());
  params.generation.hints.session_header = http.Header("x-session-id");
  ApiResult<Request> request = MakeRequest(context, params.generation, http.tenant, http.id);
  if (!request) return request;
  ApiResult<std::vector<int32_t>> prompt = ChatPrompt(context, params.prompt);
  if (!prompt) return std::unexpected(prompt.error());
  request->prompt = *std::move(prompt);
  const ApiResult<std::vector<Retention>> marks = ChatMarks(context, params.prompt, request->prompt);
  if (!marks) return std::unexpected(marks.error());
  std::ranges::copy(*marks, std::back_inserter(request->hints.retain));
  ApiResult<std::vector<PromptPart>> parts = ChatParts(context, params.prompt, request->prompt);
  if (!parts) return std::unexpected(parts.error());
  request->parts = *std::move(parts);
  const auto size = static_cast<int64_t>(request->prompt.size());
  if (ApiStatus status = CheckLength(context, size, request->max_tokens, request->evict); !status)
    return std::unexpected(status.error());
  if (params.logprobs) request->logprobs = static_cast<int32_t>(params.top_logprobs);
  return request;
}

}  // namespace

void HandleChatCompletions(ServeContext& context, const HttpRequest& http, const ExchangePtr& exchange) {
  ChatParams params;
  ApiResult<Request> request = PrepareChat(context, http, params);
  if (!request) {
    exchange->Post([exchange, error = request.error()] { exchange->Respond(ErrorResponse(error)); });
    return;
  }
  std::vector<Request> requests;
  requests.push_back(*std::move(request));
  std::make_shared<ChatGeneration>(&context, exchange, params)->Start(std::move(requests));
}

}  // namespace larder
