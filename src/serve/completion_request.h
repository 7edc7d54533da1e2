// The body of /v1/completions, and its prompts as tokens.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "serve/generation_request.h"

namespace larder {

struct CompletionParams {
  GenerationParams generation;
  std::vector<PromptItem> prompt;
  std::optional<int64_t> logprobs;
  bool echo = false;
  bool add_special_tokens = true;
  std::optional<int64_t> best_of;
  std::string suffix;
};
void DeclareCompletionFields(Fields& fields, CompletionParams& params);
ApiStatus CheckCompletion(const CompletionParams& params);

// Text is encoded (with BOS where the model wants it); tokens are taken as they are.
ApiResult<std::vector<int32_t>> PromptTokens(const ServeContext& context, const PromptItem& item,
                                             bool add_special);

}  // namespace larder
