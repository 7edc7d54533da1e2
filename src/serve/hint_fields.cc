#include "serve/hint_fields.h"

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>

namespace larder {
namespace {

using Json = nlohmann::json;

constexpr int64_t kMinuteMs = 60'000, kHourMs = 60 * kMinuteMs;
constexpr size_t kMostRanges = 64;

// An integer of a range's object; absent: `otherwise`.
ApiResult<int64_t> RangeInt(const Json& range, const char* key, int64_t min, int64_t max,
                            std::optional<int64_t> otherwise, const std::string& where) {
  const std::string name = where + "." + key;
  const auto found = range.find(key);
  if (found == range.end() || found->is_null()) {
    if (otherwise) return *otherwise;
    return BadField(name, "'{}' is missing; a range has start and end.", name);
  }
  const bool fits = found->is_number_integer() && *found >= min && *found <= max;
  if (!fits) return BadField(name, "'{}' must be an integer in {}..{}.", name, min, max);
  return found->get<int64_t>();
}

// Rows before a range stay as long as it does: a text is kept from its beginning on.
ApiStatus ReadRanges(const HintParams& params, const Retention& usual, std::vector<Retention>& out) {
  constexpr int64_t kMostRows = std::numeric_limits<int32_t>::max();
  const std::string list = "larder.cache_control.ranges";
  const Json ranges = Json::parse(params.ranges);
  if (ranges.size() > kMostRanges) {
    return BadField(list, "'{}' holds {} ranges; at most {} are taken.", list, ranges.size(), kMostRanges);
  }
  for (size_t i = 0; i < ranges.size(); ++i) {
    const std::string where = fmt::format("{}[{}]", list, i);
    if (!ranges[i].is_object()) return BadField(where, "'{}' must be an object with start and end.", where);
    const auto start = RangeInt(ranges[i], "start", 0, kMostRows, std::nullopt, where);
    if (!start) return std::unexpected(start.error());
    const auto end = RangeInt(ranges[i], "end", *start + 1, kMostRows, std::nullopt, where);
    if (!end) return std::unexpected(end.error());
    const auto ttl_ms = RangeInt(ranges[i], "ttl_ms", 1, kMostLeaseMs, usual.ttl_ms, where);
    if (!ttl_ms) return std::unexpected(ttl_ms.error());
    const auto priority = RangeInt(ranges[i], "priority", 0, kMostLeasePriority, usual.priority, where);
    if (!priority) return std::unexpected(priority.error());
    out.push_back({*end, *ttl_ms, static_cast<int32_t>(*priority)});
  }
  return {};
}

// Continuum's clients number their jobs or name them.
ApiResult<std::string> JobId(const std::string& json) {
  if (json.empty()) return std::string();
  const Json id = Json::parse(json);
  if (id.is_string()) return id.get<std::string>();
  if (id.is_number_integer()) return id.dump();
  return BadField("job_id", "'job_id' must be a string or an integer.");
}

}  // namespace

void DeclareHintFields(Fields& fields, Fields& larder, HintParams& params) {
  using Type = FieldSpec::Type;
  fields.String("prompt_cache_key", &params.prompt_cache_key,
                "whose texts these are: holder of what is retained");
  fields.String("prompt_cache_retention", &params.prompt_cache_retention,
                "in_memory: keep the text for 5 minutes; 24h: for a day");
  fields.AnyObject("cache_control", &params.cache_control,
                   "{\"type\": \"ephemeral\", \"ttl\": \"5m\" or \"1h\"}: keep the text so long");
  fields.Any("job_id", &params.job_id, "as larder.program_id");
  fields.Bool("is_last_step", &params.other_last_step, "as larder.is_last_step");
  for (const char* name : {"last_func_call", "this_func_call", "agent_id", "nvext"}) {
    fields.Hint(name, Type::kAny, "hint of other servers' clients; accepted");
  }
  Fields& agent = fields.Object("agent_hint", "the same of a session");
  agent.String("session_id", &params.session_id, "as larder.program_id");
  agent.Hint("parent_session_id", Type::kString, "as larder.parent_program_id");
  agent.AnyObject("cache_control", &params.session_cache_control,
                  "as cache_control; ttl also in seconds, 0..3600");

  larder.String("program_id", &params.program_id,
                "one run of an agent: the end of a turn stays for its next one");
  larder.Bool("is_last_step", &params.is_last_step, "no further turn will come");
  Fields& control = larder.Object("cache_control", "how long to keep the text, and how important it is");
  control.Int("ttl_ms", &params.ttl_ms, 1, kMostLeaseMs, "for so long");
  control.Int("priority", &params.priority, 0, kMostLeasePriority, "higher stays longer under pressure");
  control.AnyArray("ranges", &params.ranges,
                   "parts of the prompt with terms of their own: {start, end, priority, ttl_ms}, in tokens");
  for (const char* name :
       {"parent_program_id", "this_tool", "last_tool", "workflow_id", "agent", "batch_id", "adapter"})
    larder.Hint(name, Type::kString, "hint for scheduling and retention; accepted");
  for (const char* name : {"step", "fixed_prefix_tokens", "expected_output_tokens"})
    larder.Hint(name, Type::kInt, "hint for scheduling and retention; accepted");
  larder.Hint("last_tool_ms", Type::kFloat, "time the last tool took; accepted");
  larder.Hint("steps_to_execution", Type::kAnyObject, "plan of the workflow: agent -> steps; accepted");
  larder.Hint("slo", Type::kAnyObject, "wanted latencies; accepted");
  larder.Hint("context", Type::kAnyArray, "features for choosing an adapter; accepted");
}

ApiStatus CheckHolder(std::string_view id, const std::string& param) {
  if (id.size() <= kMostHolderBytes) return {};
  return BadField(param, "'{}' has {} bytes; at most {} are taken.", param, id.size(), kMostHolderBytes);
}

ApiResult<int64_t> EphemeralMs(std::string_view text, const std::string& where) {
  const Json json = Json::parse(text);
  const auto type = json.find("type");
  if (!json.is_object() || (type != json.end() && *type != "ephemeral")) {
    return BadField(where, "'{}' must be {{\"type\": \"ephemeral\"}}, with a ttl if wanted.", where);
  }
  const auto ttl = json.find("ttl");
  if (ttl == json.end() || ttl->is_null() || *ttl == "5m") return 5 * kMinuteMs;
  if (*ttl == "1h") return kHourMs;
  if (ttl->is_number_integer() && *ttl >= 0 && *ttl <= 3600) return ttl->get<int64_t>() * 1000;
  return BadField(where + ".ttl", "'{}.ttl' must be \"5m\", \"1h\", or seconds in 0..3600.", where);
}

ApiResult<CacheHints> MakeHints(const HintParams& params) {
  const ApiResult<std::string> job = JobId(params.job_id);
  if (!job) return std::unexpected(job.error());
  const std::pair<std::string_view, const char*> programs[] = {{params.program_id, "larder.program_id"},
                                                               {params.session_id, "agent_hint.session_id"},
                                                               {*job, "job_id"},
                                                               {params.session_header, "x-session-id"}};
  CacheHints hints;
  for (const auto& [id, param] : programs) {
    if (ApiStatus status = CheckHolder(id, param); !status) return std::unexpected(status.error());
    if (hints.program.empty()) hints.program = id;
  }
  if (ApiStatus status = CheckHolder(params.prompt_cache_key, "prompt_cache_key"); !status) {
    return std::unexpected(status.error());
  }
  hints.key = params.prompt_cache_key;
  hints.last_step = params.is_last_step || params.other_last_step;

  Retention usual;
  bool asked = params.ttl_ms || params.priority;
  if (!params.session_cache_control.empty()) {
    const auto ttl_ms = EphemeralMs(params.session_cache_control, "agent_hint.cache_control");
    if (!ttl_ms) return std::unexpected(ttl_ms.error());
    usual.ttl_ms = *ttl_ms;
    asked = *ttl_ms > 0;
    if (*ttl_ms == 0) hints.last_step = true;  // nothing is to stay for a next turn
  }
  usual.ttl_ms = params.ttl_ms.value_or(usual.ttl_ms);
  usual.priority = static_cast<int32_t>(params.priority.value_or(usual.priority));
  hints.turn = usual;
  if (asked && hints.program.empty()) hints.retain.push_back(usual);
  if (!params.cache_control.empty()) {
    const auto ttl_ms = EphemeralMs(params.cache_control, "cache_control");
    if (!ttl_ms) return std::unexpected(ttl_ms.error());
    if (*ttl_ms > 0) hints.retain.push_back({.ttl_ms = *ttl_ms, .priority = usual.priority});
  }
  const std::string& retention = params.prompt_cache_retention;
  if (retention == "in_memory" || retention == "in-memory") {
    hints.retain.push_back({.ttl_ms = 5 * kMinuteMs, .priority = usual.priority});
  } else if (retention == "24h") {
    hints.retain.push_back({.ttl_ms = 24 * kHourMs, .priority = usual.priority});
  } else if (!retention.empty()) {
    return BadField("prompt_cache_retention",
                    "'prompt_cache_retention' must be 'in_memory' or '24h', not '{}'.",
                    retention.substr(0, 64));
  }
  if (!params.ranges.empty()) {
    if (ApiStatus status = ReadRanges(params, usual, hints.retain); !status)
      return std::unexpected(status.error());
  }
  return hints;
}

}  // namespace larder
