// Control calls for the cache: hints about texts, and the leases that come of them.
#include <nlohmann/json.hpp>
#include <optional>

#include "serve/chat_request.h"
#include "serve/completion_request.h"
#include "serve/endpoints.h"
#include "serve/errors.h"
#include "serve/hint_fields.h"
#include "serve/hint_target.h"
#include "serve/json_writer.h"

namespace larder {
namespace {

constexpr size_t kMostListed = 10'000;

struct HintCall {
  std::string action, strength = "hard";
  TargetParams target;
  std::string program_id;
  int64_t ttl_ms = kDefaultLeaseMs, priority = kDefaultLeasePriority;
};

void DeclareHintCall(Fields& fields, HintCall& call) {
  fields.String("action", &call.action, "pin, unpin, prefetch, demote or evict");
  DeclareTarget(fields.Object("target", "one of prompt, messages, tokens, block, program_id"), call.target);
  fields.String("program_id", &call.program_id, "the pin's holder, to unpin it by");
  fields.Int("ttl_ms", &call.ttl_ms, 1, kMostLeaseMs, "how long a pin holds");
  fields.Int("priority", &call.priority, 0, kMostLeasePriority, "higher gives way later");
  fields.String("strength", &call.strength, "hard: not evicted; soft: evicted after what is not pinned");
}

std::optional<HintAction> ActionFrom(std::string_view name) {
  if (name == "pin") return HintAction::kPin;
  if (name == "unpin") return HintAction::kUnpin;
  if (name == "prefetch") return HintAction::kPrefetch;
  if (name == "demote") return HintAction::kDemote;
  if (name == "evict") return HintAction::kEvict;
  return std::nullopt;
}

ApiResult<Hint> ReadHint(const ServeContext& context, const HttpRequest& request) {
  HintCall call;
  Fields fields;
  DeclareHintCall(fields, call);
  if (ApiStatus status = fields.Read(request.body); !status) return std::unexpected(status.error());
  const auto action = ActionFrom(call.action);
  if (!action) return BadField("action", "'action' must be pin, unpin, prefetch, demote or evict.");
  if (call.strength != "hard" && call.strength != "soft") {
    return BadField("strength", "'strength' must be 'hard' or 'soft'.");
  }
  if (ApiStatus status = CheckHolder(call.program_id, "program_id"); !status)
    return std::unexpected(status.error());
  ApiResult<KvTarget> target = ReadTarget(context, call.target);
  if (!target) return std::unexpected(target.error());
  return Hint{.action = *action,
              .tenant = request.tenant,
              .target = *std::move(target),
              .holder = call.program_id,
              .ttl_ms = call.ttl_ms,
              .priority = static_cast<int32_t>(call.priority),
              .hard = call.strength == "hard"};
}

}  // namespace

HttpResponse HandleCacheHints(ServeContext& context, const HttpRequest& request) {
  ApiResult<Hint> hint = ReadHint(context, request);
  if (!hint) return ErrorResponse(hint.error());
  const HintAnswer answer = context.backend->Apply(*std::move(hint));
  JsonWriter json;
  json.BeginObject()
      .Field("status", HintStatusName(answer.status))
      .Field("tokens", answer.tokens)
      .Key("reason");
  if (answer.reason.empty()) {
    json.Null();
  } else {
    json.String(answer.reason);
  }
  json.EndObject();
  return {.body = json.Take()};
}

HttpResponse HandleCacheLeases(ServeContext& context, const HttpRequest& request) {
  JsonWriter json;
  json.BeginObject().Key("leases").BeginArray();
  for (const KvLeaseInfo& lease : context.backend->Leases(request.tenant, kMostListed)) {
    json.BeginObject().Field("holder", lease.holder).Field("kind", LeaseKindName(lease.kind));
    json.Field("strength", lease.hard ? "hard" : "soft").Field("priority", lease.priority);
    json.Field("tokens", lease.rows).Field("ttl_ms", lease.ttl_ms).EndObject();
  }
  json.EndArray().EndObject();
  return {.body = json.Take()};
}

}  // namespace larder
