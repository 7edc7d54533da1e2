// The body of /v1/chat/completions, and the prompt that the model's chat template makes of it.
#pragma once

#include <string>
#include <vector>

#include "serve/generation_request.h"

namespace larder {

struct ChatPromptParams {
  std::string messages;              // JSON, a list
  std::string tools;                 // JSON, a list, or ""
  std::string chat_template_kwargs;  // JSON, an object, or "": further variables of the template
  bool add_generation_prompt = true;
  bool continue_final_message = false;
};
void DeclareChatPromptFields(Fields& fields, ChatPromptParams& params);

struct ChatParams {
  GenerationParams generation;
  ChatPromptParams prompt;
  bool logprobs = false;
  int64_t top_logprobs = 0;
  std::string tool_choice;      // JSON or ""
  std::string response_format;  // JSON or ""
};
void DeclareChatFields(Fields& fields, ChatParams& params);
// Checks across fields. After it `prompt.tools` is empty where tools must not be used.
ApiStatus CheckChat(ChatParams& params);

// The conversation as text, by the chat template.
ApiResult<std::string> RenderConversation(const ServeContext& context, const ChatPromptParams& params);
// The conversation as tokens. Control tokens in the rendered text are recognised; BOS comes once.
ApiResult<std::vector<int32_t>> ChatPrompt(const ServeContext& context, const ChatPromptParams& params);

}  // namespace larder
