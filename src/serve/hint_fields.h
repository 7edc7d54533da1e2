// The fields of a request that say something about the future of its text: for whom, how long and how much it
// is worth keeping. Hints: none changes the answer. docs/cache-control.md lists them.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "engine/hints.h"
#include "serve/errors.h"
#include "serve/fields.h"

namespace larder {

struct HintParams {
  std::string prompt_cache_key, prompt_cache_retention;
  std::string cache_control;  // JSON or "": Anthropic's, on the whole request
  // larder
  std::string program_id, ranges;  // ranges: JSON or ""
  bool is_last_step = false;
  std::optional<int64_t> ttl_ms, priority;
  // the same under the names of other servers
  std::string job_id;  // JSON or ""
  bool other_last_step = false;
  std::string session_id, session_cache_control;  // the latter JSON or ""
  std::string session_header;                     // X-Session-Id; the handler sets it
};
// Fields at the top of the body and inside its "larder" object; `params` outlives them.
void DeclareHintFields(Fields& fields, Fields& larder, HintParams& params);

ApiResult<CacheHints> MakeHints(const HintParams& params);

// {"type": "ephemeral", "ttl": "5m" | "1h" | seconds} at `where` (for the error): how long, in milliseconds.
ApiResult<int64_t> EphemeralMs(std::string_view json, const std::string& where);

inline constexpr size_t kMostHolderBytes = 256;
ApiStatus CheckHolder(std::string_view id, const std::string& param);

}  // namespace larder
