#include "serve/hint_target.h"

#include "serve/completion_request.h"
#include "serve/hint_fields.h"
#include "serve/query.h"

namespace larder {
namespace {

ApiResult<std::vector<int32_t>> TargetTokens(const ServeContext& context, const TargetParams& params) {
  if (!params.chat.messages.empty()) return ChatPrompt(context, params.chat);
  if (params.prompt.empty()) return PromptTokens(context, {.is_text = false, .tokens = params.tokens}, true);
  return PromptTokens(context, {.text = params.prompt}, true);
}

}  // namespace

void DeclareTarget(Fields& target, TargetParams& params) {
  // Where an answer would begin is not part of what has been said.
  params.chat.add_generation_prompt = false;
  target.String("prompt", &params.prompt, "text, as in /v1/completions");
  DeclareChatPromptFields(target, params.chat);
  target.Tokens("tokens", &params.tokens, "token numbers");
  target.String("block", &params.block, "the name of a full block, as in /v1/cache/blocks");
  target.String("program_id", &params.program_id, "wherever this holder has leases");
}

ApiResult<KvTarget> ReadTarget(const ServeContext& context, const TargetParams& params) {
  const int given = !params.prompt.empty() + !params.tokens.empty() + !params.chat.messages.empty() +
                    !params.block.empty() + !params.program_id.empty();
  if (given != 1) {
    return BadField("target",
                    "'target' must have exactly one of prompt, messages, tokens, block and program_id.");
  }
  KvTarget target;
  if (!params.block.empty()) {
    target.block = DigestFrom(params.block);
    if (!target.block) {
      return BadField("target.block", "'target.block' must be the 64 hexadecimal digits of a block's name.");
    }
    return target;
  }
  if (!params.program_id.empty()) {
    if (ApiStatus status = CheckHolder(params.program_id, "target.program_id"); !status) {
      return std::unexpected(status.error());
    }
    target.holder = params.program_id;
    return target;
  }
  ApiResult<std::vector<int32_t>> tokens = TargetTokens(context, params);
  if (!tokens) return std::unexpected(tokens.error());
  target.tokens = *std::move(tokens);
  return target;
}

}  // namespace larder
