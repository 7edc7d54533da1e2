#include "serve/generation_request.h"

#include <limits>
#include <random>

#include "serve/chat_request.h"
#include "serve/completion_request.h"
#include "serve/tokenize_request.h"

namespace larder {
namespace {

constexpr int64_t kMaxChoices = 128;
constexpr int64_t kMaxTokens = std::numeric_limits<int32_t>::max();

void DeclareSampling(Fields& fields, GenerationParams& params) {
  fields.Float("temperature", &params.temperature, 0, 100, "0 takes the likeliest token always");
  fields.Float("top_p", &params.top_p, 0, 1,
               "draw from the likeliest tokens that together have this probability");
  fields.Int("top_k", &params.top_k, -1, kMaxTokens, "draw from this many likeliest tokens; 0 or -1: all");
  fields.Float("min_p", &params.min_p, 0, 1,
               "drop tokens below this share of the likeliest one's probability");
  fields.Float("repetition_penalty", &params.repetition_penalty, 0.01, 100,
               "over prompt and answer; 1: none");
  fields.Float("presence_penalty", &params.presence_penalty, -2, 2, "for tokens that the answer has already");
  fields.Float("frequency_penalty", &params.frequency_penalty, -2, 2, "the same, for each time");
  fields.Biases("logit_bias", &params.logit_bias, "added to the logits of tokens, -100..100");
  fields.Int("seed", &params.seed, std::numeric_limits<int64_t>::min(), std::numeric_limits<int64_t>::max(),
             "equal seeds give equal answers; drawn at random where absent");
}

void DeclareLength(Fields& fields, GenerationParams& params) {
  fields.Int("max_completion_tokens", &params.max_completion_tokens, 0, kMaxTokens, "as max_tokens");
  fields.Int("max_tokens", &params.max_tokens, 0, kMaxTokens, "longest answer");
  fields.Int("min_tokens", &params.min_tokens, 0, kMaxTokens,
             "end tokens and stop strings do not count before");
  fields.Bool("ignore_eos", &params.ignore_eos, "go on after the model's end token");
  fields.Strings("stop", &params.stop, "end before any of these");
  fields.Tokens("stop_token_ids", &params.stop_token_ids, "end at any of these tokens");
}

}  // namespace

void DeclareGenerationFields(Fields& fields, GenerationParams& params) {
  fields.String("model", &params.model, "one process serves one model; the answer names it");
  DeclareSampling(fields, params);
  DeclareLength(fields, params);
  fields.Int("n", &params.n, 1, kMaxChoices, "choices for each prompt");
  fields.Int("priority", &params.priority, std::numeric_limits<int32_t>::min(),
             std::numeric_limits<int32_t>::max(), "lower runs first, if the server's policy looks at it");
  fields.Bool("stream", &params.stream, "send the answer as it is made");
  Fields& stream = fields.Object("stream_options", "what a stream tells besides the answer");
  stream.Bool("include_usage", &params.include_usage, "a last chunk with the usage");
  stream.Bool("continuous_usage_stats", &params.continuous_usage, "the usage so far in every chunk");
  fields.Bool("return_token_ids", &params.return_token_ids, "answer with token numbers too");
  fields.Bool("skip_special_tokens", &params.skip_special_tokens, "control tokens give no text");
  Fields& larder = fields.Object("larder", "this server's own fields");
  larder.Bool("explain", &params.explain, "tell what the cache did");
  larder.Bool("read_cache", &params.read_cache, "false: compute everything again");
  larder.String("evict", &params.evict,
                "drop part of this request's cache: a method and its parameters, snapkv:budget=0.25; none");
  larder.Bool("keep_state", &params.keep_state,
              "with evict: keep what the method leaves, and go on from what a request with this field left");
  larder.String("reuse", &params.reuse,
                "what stands in for computed rows: prefix (exact), or blend:ratio=0.15 (stored chunks)");
  larder.Tokens("forced_output", &params.forced_output,
                "replay: these tokens come out whatever the model says");
  DeclareHintFields(fields, larder, params.hints);
}

ApiStatus CheckTokens(const ServeContext& context, const std::vector<int32_t>& tokens,
                      const std::string& param) {
  const int32_t size = context.backend->tokenizer().size();
  for (const int32_t token : tokens) {
    if (token < 0 || token >= size) {
      return BadField(param, "'{}' holds the token {}; this model's vocabulary has 0..{}.", param, token,
                      size - 1);
    }
  }
  return {};
}

ApiStatus CheckTextLength(const ServeContext& context, size_t bytes) {
  constexpr int64_t kShrink =
      4;  // some tokenizers normalise the text before; it hardly gets shorter than this
  const int64_t limit = context.backend->context();
  const int64_t shortest = static_cast<int64_t>(bytes) / (kShrink * context.longest_token_bytes);
  if (shortest <= limit) return {};
  return std::unexpected(ApiError{
      .status = 400,
      .message = fmt::format(
          "This model's maximum context length is {} tokens. However, your prompt has {} bytes, which "
          "are more than {} tokens. Please shorten it.",
          limit, bytes, shortest),
      .code = "context_length_exceeded"});
}

ApiStatus CheckLength(const ServeContext& context, int64_t prompt_tokens, int64_t max_tokens,
                      const std::string& evict) {
  if (!evict.empty() && evict != "none") return {};
  const int64_t limit = context.backend->context();
  ApiError error{.status = 400, .code = "context_length_exceeded"};
  if (prompt_tokens > limit || (prompt_tokens == limit && max_tokens != 0)) {
    error.message = fmt::format(
        "This model's maximum context length is {} tokens. However, your prompt has {} tokens, which leaves "
        "no room for "
        "an answer. Please shorten it.",
        limit, prompt_tokens);
    return std::unexpected(std::move(error));
  }
  if (max_tokens > limit - prompt_tokens) {
    error.message = fmt::format(
        "This model's maximum context length is {} tokens. However, you requested {} tokens ({} in the "
        "prompt, {} for the "
        "answer). Please shorten the prompt or lower max_tokens.",
        limit, prompt_tokens + max_tokens, prompt_tokens, max_tokens);
    return std::unexpected(std::move(error));
  }
  return {};
}

ApiResult<Request> MakeRequest(const ServeContext& context, const GenerationParams& params,
                               std::string tenant, std::string id) {
  Request request;
  request.id = std::move(id);
  request.tenant = std::move(tenant);
  SamplingParams& sampling = request.sampling;
  sampling.temperature = params.temperature;
  sampling.top_k = static_cast<int32_t>(std::max<int64_t>(0, params.top_k));
  sampling.top_p = params.top_p;
  sampling.min_p = params.min_p;
  sampling.repetition_penalty = params.repetition_penalty;
  sampling.presence_penalty = params.presence_penalty;
  sampling.frequency_penalty = params.frequency_penalty;
  sampling.logit_bias = params.logit_bias;
  for (const auto& [token, bias] : params.logit_bias) {
    if (ApiStatus status = CheckTokens(context, {token}, "logit_bias"); !status)
      return std::unexpected(status.error());
  }
  for (const auto& [tokens, param] : {std::pair(&params.stop_token_ids, "stop_token_ids"),
                                      std::pair(&params.forced_output, "larder.forced_output")}) {
    if (ApiStatus status = CheckTokens(context, *tokens, param); !status)
      return std::unexpected(status.error());
  }
  for (const std::string& stop : params.stop) {
    if (stop.empty())
      return BadField("stop", "'stop' holds an empty string, which would end every answer; leave it out.");
  }
  std::random_device random;
  sampling.seed =
      params.seed ? static_cast<uint64_t>(*params.seed) : (static_cast<uint64_t>(random()) << 32) | random();
  request.n = static_cast<int32_t>(params.n);
  request.max_tokens = params.max_completion_tokens.value_or(params.max_tokens.value_or(-1));
  request.min_tokens = params.min_tokens.value_or(0);
  if (request.max_tokens >= 0 && request.min_tokens > request.max_tokens) {
    return BadField("min_tokens", "'min_tokens' is {}, above 'max_tokens' {}.", request.min_tokens,
                    request.max_tokens);
  }
  request.ignore_eos = params.ignore_eos;
  request.stop = params.stop;
  request.stop_tokens = params.stop_token_ids;
  request.skip_special = params.skip_special_tokens;
  request.priority = static_cast<int32_t>(params.priority);
  request.explain = params.explain;
  request.read_cache = params.read_cache;
  request.evict = params.evict;
  request.keep_state = params.keep_state;
  request.reuse = params.reuse.empty() ? context.options.reuse : params.reuse;
  request.forced_output = params.forced_output;
  ApiResult<CacheHints> hints = MakeHints(params.hints);
  if (!hints) return std::unexpected(hints.error());
  request.hints = *std::move(hints);
  return request;
}

std::vector<FieldSpec> DescribeRequest(std::string_view kind) {
  Fields fields;
  ChatParams chat;
  CompletionParams completion;
  TokenizeParams tokenize;
  if (kind == "chat") DeclareChatFields(fields, chat);
  if (kind == "completions") DeclareCompletionFields(fields, completion);
  if (kind == "tokenize") DeclareTokenizeFields(fields, tokenize);
  if (kind == "detokenize") DeclareDetokenizeFields(fields, tokenize);
  return fields.Describe();
}

}  // namespace larder
