// Parts of a conversation that a client marks as chunks worth storing:
// {"type": "text", "text": ..., "larder": {"chunk": true}}.
#pragma once

#include <string_view>
#include <vector>

#include "engine/request.h"
#include "serve/chat_request.h"

namespace larder {

// Tokens of `prompt` whose text lies within bytes [begin, end) of the rendered conversation that it encodes.
PromptPart RowsBetween(const Tokenizer& tokenizer, const std::vector<int32_t>& prompt, std::string_view text,
                       size_t begin, size_t end);

// The marked parts, as they stand in the prompt. Those that the chat template does not print as they are are
// left out; malformed marks are errors.
ApiResult<std::vector<PromptPart>> ChatParts(const ServeContext& context, const ChatPromptParams& params,
                                             const std::vector<int32_t>& prompt);

}  // namespace larder
