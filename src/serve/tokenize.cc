#include "serve/endpoints.h"
#include "serve/errors.h"
#include "serve/json_writer.h"
#include "serve/tokenize_request.h"

namespace larder {

void DeclareTokenizeFields(Fields& fields, TokenizeParams& params) {
  fields.String("model", &params.model, "one process serves one model");
  fields.String("prompt", &params.prompt, "text; answered with tokens, count and max_model_len");
  fields.String("content", &params.content, "text; answered with tokens alone");
  DeclareChatPromptFields(fields, params.chat);
  fields.Bool("add_special_tokens", &params.add_special_tokens,
              "begin with BOS where the model wants it (with prompt)");
  fields.Bool("add_special", &params.add_special, "the same (with content)");
  fields.Bool("parse_special", &params.parse_special, "control tokens in the text are recognised");
  fields.Bool("with_pieces", &params.with_pieces, "tokens as objects with id and piece");
  fields.Bool("return_token_strs", &params.return_token_strs, "answer with the tokens' texts too");
}

void DeclareDetokenizeFields(Fields& fields, TokenizeParams& params) {
  fields.String("model", &params.model, "one process serves one model");
  fields.Tokens("tokens", &params.tokens, "token numbers");
}

namespace {

void WritePieces(JsonWriter& json, const Tokenizer& tokenizer, const std::vector<int32_t>& tokens) {
  json.Key("tokens").BeginArray();
  for (const int32_t token : tokens) {
    const std::string piece = tokenizer.TokenBytes(token, true);
    json.BeginObject().Field("id", token).Key("piece");
    if (IsValidUtf8(piece)) {
      json.String(piece);
    } else {  // a part of a character: its bytes
      json.BeginArray();
      for (const char byte : piece) json.Integer(static_cast<uint8_t>(byte));
      json.EndArray();
    }
    json.EndObject();
  }
  json.EndArray();
}

ApiResult<std::vector<int32_t>> TokenizeText(const ServeContext& context, const Fields& fields,
                                             const TokenizeParams& params) {
  if (fields.Has("messages")) return ChatPrompt(context, params.chat);
  const bool is_content = fields.Has("content");
  if (!is_content && !fields.Has("prompt")) {
    return BadField("prompt", "Give the text as 'prompt' or 'content', or a conversation as 'messages'.");
  }
  // Each dialect has its name for the option and its default; either name is taken.
  bool add_special = is_content ? params.add_special : params.add_special_tokens;
  if (fields.Has("add_special")) add_special = params.add_special;
  if (fields.Has("add_special_tokens")) add_special = params.add_special_tokens;
  return context.backend->tokenizer().Encode(
      is_content ? params.content : params.prompt,
      {.add_special = add_special, .parse_special = params.parse_special});
}

}  // namespace

HttpResponse HandleTokenize(ServeContext& context, const HttpRequest& request) {
  TokenizeParams params;
  Fields fields;
  DeclareTokenizeFields(fields, params);
  if (ApiStatus status = fields.Read(request.body); !status) return ErrorResponse(status.error());
  const ApiResult<std::vector<int32_t>> tokens = TokenizeText(context, fields, params);
  if (!tokens) return ErrorResponse(tokens.error());

  const Tokenizer& tokenizer = context.backend->tokenizer();
  JsonWriter json;
  json.BeginObject();
  if (params.with_pieces) {
    WritePieces(json, tokenizer, *tokens);
  } else {
    json.Field("tokens", *tokens);
  }
  if (!fields.Has("content")) {
    json.Field("count", tokens->size()).Field("max_model_len", context.backend->context());
    json.Key("token_strs");
    if (params.return_token_strs) {
      json.BeginArray();
      for (const int32_t token : *tokens) json.String(tokenizer.TokenBytes(token, true));
      json.EndArray();
    } else {
      json.Null();
    }
  }
  json.EndObject();
  return {.body = json.Take()};
}

HttpResponse HandleDetokenize(ServeContext& context, const HttpRequest& request) {
  TokenizeParams params;
  Fields fields;
  DeclareDetokenizeFields(fields, params);
  if (ApiStatus status = fields.Read(request.body); !status) return ErrorResponse(status.error());
  if (!fields.Has("tokens")) {
    return ErrorResponse(
        {.message = "'tokens' is missing; send a list of token numbers.", .param = "tokens"});
  }
  if (ApiStatus status = CheckTokens(context, params.tokens, "tokens"); !status)
    return ErrorResponse(status.error());
  const std::string text = context.backend->tokenizer().Decode(params.tokens, true);
  JsonWriter json;
  json.BeginObject().Field("prompt", text).Field("content", text).EndObject();
  return {.body = json.Take()};
}

HttpResponse HandleTokenizerInfo(ServeContext& context, const HttpRequest& request) {
  const Tokenizer& tokenizer = context.backend->tokenizer();
  const auto token_field = [&](JsonWriter& json, std::string_view key, int32_t token) {
    json.Key(key);
    if (token == kNoToken) {
      json.Null();
    } else {
      json.String(tokenizer.TokenBytes(token, true));
    }
  };
  std::string_view name = "PreTrainedTokenizerFast";
  if (tokenizer.model() == "gpt2") name = "GPT2TokenizerFast";
  if (tokenizer.model() == "llama") name = "LlamaTokenizerFast";
  if (tokenizer.model() == "t5") name = "T5TokenizerFast";

  JsonWriter json;
  json.BeginObject().Field("tokenizer_class", name);
  token_field(json, "bos_token", tokenizer.bos());
  token_field(json, "eos_token", tokenizer.eos());
  json.Field("add_bos_token", tokenizer.add_bos()).Field("add_eos_token", tokenizer.add_eos());
  json.Field("vocab_size", tokenizer.size()).Field("model_max_length", context.backend->context());
  json.Key("chat_template");
  if (context.backend->chat_template().empty()) {
    json.Null();
  } else {
    json.String(context.backend->chat_template());
  }
  json.EndObject();
  return {.body = json.Take()};
}

}  // namespace larder
