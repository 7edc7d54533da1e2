// What a control call is about: a text, given as prompt, conversation or tokens, a block, or a program.
#pragma once

#include <string>
#include <vector>

#include "kv/leases.h"
#include "serve/chat_request.h"
#include "serve/context.h"
#include "serve/errors.h"
#include "serve/fields.h"

namespace larder {

struct TargetParams {
  std::string prompt, block, program_id;
  std::vector<int32_t> tokens;
  ChatPromptParams chat;
};
void DeclareTarget(Fields& target, TargetParams& params);  // `params` outlives `target`

// Exactly one of them must be given.
ApiResult<KvTarget> ReadTarget(const ServeContext& context, const TargetParams& params);

}  // namespace larder
