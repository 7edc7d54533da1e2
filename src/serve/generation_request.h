// What chat and text completions have in common: the fields of the request, their checks, and the engine's
// request that comes out.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "engine/request.h"
#include "serve/context.h"
#include "serve/errors.h"
#include "serve/fields.h"
#include "serve/hint_fields.h"

namespace larder {

struct GenerationParams {
  std::string model;
  std::optional<int64_t> max_tokens, max_completion_tokens;
  std::optional<int64_t> min_tokens;
  float temperature = 1.0f, top_p = 1.0f, min_p = 0.0f;
  float repetition_penalty = 1.0f, presence_penalty = 0.0f, frequency_penalty = 0.0f;
  int64_t top_k = 0;
  std::optional<int64_t> seed;
  std::vector<std::pair<int32_t, float>> logit_bias;
  int64_t n = 1;
  std::vector<std::string> stop;
  std::vector<int32_t> stop_token_ids;
  bool ignore_eos = false, skip_special_tokens = true;
  int64_t priority = 0;
  bool stream = false, include_usage = false, continuous_usage = false;
  bool return_token_ids = false;
  bool explain = false, read_cache = true;
  std::string evict, reuse;
  bool keep_state = false;
  std::vector<int32_t> forced_output;
  HintParams hints;
};

// Declares them all; `params` must outlive `fields`.
void DeclareGenerationFields(Fields& fields, GenerationParams& params);

// Checks that go across fields and need the model; fills everything of the engine's request but prompt, n's
// prompt index and logprobs. The seed is drawn here if the client gave none.
ApiResult<Request> MakeRequest(const ServeContext& context, const GenerationParams& params,
                               std::string tenant, std::string id);

// The prompt must fit, together with max_tokens where the client gave one (-1: none).
// The engine judges requests with an eviction method: some have no longest text.
ApiStatus CheckLength(const ServeContext& context, int64_t prompt_tokens, int64_t max_tokens,
                      const std::string& evict);
// Text that cannot fit however it is encoded, refused before the work of encoding it.
ApiStatus CheckTextLength(const ServeContext& context, size_t bytes);
// Every token must be in the vocabulary.
ApiStatus CheckTokens(const ServeContext& context, const std::vector<int32_t>& tokens,
                      const std::string& param);

// The declared fields of a request body, for documentation and tests: "chat", "completions", "tokenize",
// "detokenize".
std::vector<FieldSpec> DescribeRequest(std::string_view kind);

}  // namespace larder
