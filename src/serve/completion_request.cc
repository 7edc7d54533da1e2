#include "serve/completion_request.h"

namespace larder {
namespace {

constexpr int64_t kMaxPrompts = 1024;  // times n

}  // namespace

void DeclareCompletionFields(Fields& fields, CompletionParams& params) {
  DeclareGenerationFields(fields, params.generation);
  fields.Prompt("prompt", &params.prompt, "text or tokens, one or several");
  fields.Int("logprobs", &params.logprobs, 0, 20,
             "report each token's probability and this many alternatives");
  fields.Bool("echo", &params.echo, "begin the answer with the prompt; with logprobs, score it");
  fields.Bool("add_special_tokens", &params.add_special_tokens,
              "begin text prompts with BOS where the model wants it");
  fields.Int("best_of", &params.best_of, 1, 128, "only n itself");
  fields.String("suffix", &params.suffix, "not supported");
}

ApiStatus CheckCompletion(const CompletionParams& params) {
  if (params.prompt.empty()) return BadField("prompt", "'prompt' is missing; send text or tokens.");
  if (static_cast<int64_t>(params.prompt.size()) * params.generation.n > kMaxPrompts) {
    return BadField("prompt", "{} prompts times n = {} is above {} answers; send several requests.",
                    params.prompt.size(), params.generation.n, kMaxPrompts);
  }
  if (!params.suffix.empty()) {
    return BadField("suffix", "This server cannot fill in before a suffix; leave 'suffix' out.");
  }
  if (params.best_of && *params.best_of != params.generation.n) {
    return BadField("best_of",
                    "'best_of' is {}, but only its value n = {} is supported; ask for n choices and choose.",
                    *params.best_of, params.generation.n);
  }
  return {};
}

ApiResult<std::vector<int32_t>> PromptTokens(const ServeContext& context, const PromptItem& item,
                                             bool add_special) {
  if (!item.is_text) {
    if (item.tokens.empty())
      return BadField("prompt", "'prompt' holds an empty list of tokens; give at least one.");
    if (ApiStatus status = CheckTokens(context, item.tokens, "prompt"); !status)
      return std::unexpected(status.error());
    return item.tokens;
  }
  if (ApiStatus status = CheckTextLength(context, item.text.size()); !status)
    return std::unexpected(status.error());
  const Tokenizer& tokenizer = context.backend->tokenizer();
  std::vector<int32_t> tokens =
      tokenizer.Encode(item.text, {.add_special = add_special, .parse_special = true});
  if (tokenizer.add_eos() && tokens.size() > 1 && tokens.back() == tokenizer.eos()) tokens.pop_back();
  if (tokens.empty() && tokenizer.bos() != kNoToken)
    tokens.push_back(tokenizer.bos());  // as for an empty page
  if (tokens.empty()) return BadField("prompt", "'prompt' is empty; give at least one character.");
  return tokens;
}

}  // namespace larder
