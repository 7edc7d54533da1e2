// Usage and the "larder" object: what the cache did for a request.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/request.h"
#include "model/tokenizer.h"
#include "serve/json_writer.h"

namespace larder {

void WriteUsage(JsonWriter& json, const Usage& usage);

struct PromptReport {
  CacheReport report;
  uint64_t seed = 0;
};
// One report per prompt. What concerns another tenant is told as never seen: that a stranger sent the same
// text is not for this client to know.
// Whether rows of stored chunks shaped any of the answers.
bool IsApproximate(const std::vector<PromptReport>& reports);
void WriteExplain(JsonWriter& json, const Tokenizer& tokenizer, const std::vector<PromptReport>& reports);

}  // namespace larder
