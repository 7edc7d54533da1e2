// Anthropic-style cache_control in a conversation: on a message, on a part of its content, or on a tool.
#pragma once

#include <vector>

#include "engine/hints.h"
#include "serve/chat_request.h"

namespace larder {

inline constexpr size_t kMostMarks = 4;  // as Anthropic takes

// For each mark the rows of `prompt` up to its end, and how long they are to stay. A tool's mark, since tools
// stand in the head of a prompt, counts for the end of the system message, if there is one. Marks that the
// chat template gives no place are left out; malformed ones are errors.
ApiResult<std::vector<Retention>> ChatMarks(const ServeContext& context, const ChatPromptParams& params,
                                            const std::vector<int32_t>& prompt);

}  // namespace larder
