// The bodies of /tokenize and /detokenize, in both dialects: `prompt` (vLLM) and `content` (llama.cpp).
#pragma once

#include <string>
#include <vector>

#include "serve/chat_request.h"
#include "serve/fields.h"

namespace larder {

struct TokenizeParams {
  std::string model;
  std::string prompt, content;
  ChatPromptParams chat;  // with `messages`: the tokens of the prompt a chat would have
  bool add_special_tokens = true, add_special = false, parse_special = true, with_pieces = false;
  bool return_token_strs = false;
  std::vector<int32_t> tokens;  // detokenize
};
void DeclareTokenizeFields(Fields& fields, TokenizeParams& params);
void DeclareDetokenizeFields(Fields& fields, TokenizeParams& params);

}  // namespace larder
