// The calls of LMCache's controller, for this one instance: the same bodies and answers, below
// /v1/cache/lmcache. What is different: an instance answers for itself, so lookups never name another one; a
// pin ends after an hour unless it says otherwise, because LMCache has no call that ends it; answers have a
// `reason` where they did less than was asked.
#include <nlohmann/json.hpp>
#include <optional>

#include "serve/completion_request.h"
#include "serve/endpoints.h"
#include "serve/errors.h"
#include "serve/fields.h"
#include "serve/generation_request.h"
#include "serve/json_writer.h"

namespace larder {
namespace {

using Json = nlohmann::json;

constexpr std::string_view kInstance = "larder";
constexpr std::string_view kDefaultInstance = "lmcache_default_instance";
constexpr int64_t kPinMs = 3'600'000;

struct Call {
  std::string event_id, instance_id, location, method, ip, old_position, new_position;
  std::vector<int32_t> tokens;
  bool copy = false;
  int64_t ttl_ms = kPinMs;
};

ApiStatus CheckInstance(std::string_view id, const std::string& param) {
  if (id == kInstance || id == kDefaultInstance) return {};
  return std::unexpected(ApiError{.status = 404,
                                  .message = fmt::format("There is no instance '{}' here; this one is '{}'.",
                                                         id.substr(0, 64), kInstance),
                                  .param = param,
                                  .code = "not_found"});
}

// LMCache's names of places and ours.
ApiResult<std::string> TierOf(const std::string& location, const std::string& param) {
  if (location == "LocalCPUBackend" || location == "memory") return std::string("memory");
  if (location == "LocalDiskBackend" || location == "disk") return std::string("disk");
  if (location == "RemoteBackend" || location == "redis") return std::string("redis");
  return BadField(param, "'{}' must be LocalCPUBackend, LocalDiskBackend or RemoteBackend.", param);
}
std::string_view LocationOf(std::string_view tier) {
  if (tier == "disk") return "LocalDiskBackend";
  return tier == "redis" ? "RemoteBackend" : "LocalCPUBackend";
}

ApiResult<std::string> TierAt(const std::string& position, const std::string& param) {
  const Json pair = position.empty() ? Json() : Json::parse(position);
  if (!pair.is_array() || pair.size() != 2 || !pair[0].is_string() || !pair[1].is_string()) {
    return BadField(param, "'{}' must be a list of an instance and a location.", param);
  }
  if (ApiStatus status = CheckInstance(pair[0].get<std::string>(), param); !status) {
    return std::unexpected(status.error());
  }
  return TierOf(pair[1].get<std::string>(), param);
}

ApiResult<Call> ReadCall(const ServeContext& context, const HttpRequest& request, bool wants_tokens) {
  Call call;
  Fields fields;
  fields.String("event_id", &call.event_id, "of the call that is asked about");
  fields.String("instance_id", &call.instance_id, "this server's: larder");
  fields.String("location", &call.location, "LocalCPUBackend, LocalDiskBackend or RemoteBackend");
  fields.String("method", &call.method, "of compression");
  fields.String("ip", &call.ip, "whose instance is wanted");
  fields.AnyArray("old_position", &call.old_position, "instance and location to move from");
  fields.AnyArray("new_position", &call.new_position, "instance and location to move to");
  fields.Tokens("tokens", &call.tokens, "token numbers");
  fields.Bool("copy", &call.copy, "leave the old place as it is");
  fields.Int("ttl_ms", &call.ttl_ms, 1, kMostLeaseMs, "how long a pin holds");
  if (ApiStatus status = fields.Read(request.body); !status) return std::unexpected(status.error());
  if (wants_tokens && call.tokens.empty()) {
    return BadField("tokens", "'tokens' is missing; give the text's token numbers (POST /v1/tokenize).");
  }
  if (ApiStatus status = CheckTokens(context, call.tokens, "tokens"); !status)
    return std::unexpected(status.error());
  return call;
}

// The id under which check_finish knows the call.
std::string Begun(ServeContext& context, const HttpRequest& request, std::string_view call,
                  uint64_t ticket = 0) {
  std::string id = NewId(call);
  context.lmcache_calls.Remember(id, request.tenant, ticket);
  return id;
}

HttpResponse Affected(const std::string& event_id, int64_t tokens, std::string_view reason = "") {
  JsonWriter json;
  json.BeginObject().Field("event_id", event_id).Field("num_tokens", tokens);
  if (!reason.empty()) json.Field("reason", reason);
  json.EndObject();
  return {.body = json.Take()};
}

HttpResponse Unsupported(std::string_view what) {
  return ErrorResponse({.status = 501, .message = std::string(what), .code = "unsupported"});
}

int64_t TokensIn(ServeContext& context, const std::string& tenant, const std::vector<int32_t>& tokens,
                 std::string_view tier) {
  for (const auto& [name, found] : context.backend->Lookup(tenant, tokens)) {
    if (name == tier) return found;
  }
  return 0;
}

Hint HintAbout(HintAction action, const HttpRequest& request, std::vector<int32_t> tokens) {
  Hint hint;
  hint.action = action;
  hint.tenant = request.tenant;
  hint.target.tokens = std::move(tokens);
  return hint;
}

HttpResponse Apply(ServeContext& context, const HttpRequest& request, std::string_view call, Hint hint) {
  const HintAnswer answer = context.backend->Apply(std::move(hint));
  return Affected(Begun(context, request, call, answer.ticket), answer.tokens, answer.reason);
}

HttpResponse Move(ServeContext& context, const HttpRequest& request, Call call, const std::string& from,
                  const std::string& to) {
  const auto there = [&](const std::string& tier) {
    return Affected(Begun(context, request, "Move"), TokensIn(context, request.tenant, call.tokens, tier));
  };
  if (from == to) return there(from);
  if (from == "memory") {
    // Everything in memory was written below when it was sealed: a copy is there already.
    if (call.copy) return there(to);
    return Apply(context, request, "Move", HintAbout(HintAction::kDemote, request, std::move(call.tokens)));
  }
  if (to == "memory" && call.copy) {
    return Apply(context, request, "Move", HintAbout(HintAction::kPrefetch, request, std::move(call.tokens)));
  }
  return Unsupported(
      "Blocks move between memory and the tiers below it; upwards they are copied (\"copy\": true).");
}

}  // namespace

HttpResponse HandleLmcacheQueryInstance(ServeContext& context, const HttpRequest& request) {
  const ApiResult<Call> call = ReadCall(context, request, false);
  if (!call) return ErrorResponse(call.error());
  JsonWriter json;
  json.BeginObject()
      .Field("event_id", Begun(context, request, "QueryInst"))
      .Field("res", kInstance)
      .EndObject();
  return {.body = json.Take()};
}

HttpResponse HandleLmcacheLookup(ServeContext& context, const HttpRequest& request) {
  ApiResult<Call> call = ReadCall(context, request, true);
  if (!call) return ErrorResponse(call.error());
  // The place that has most of it; of equal ones the fastest.
  std::pair<std::string, int64_t> best;
  for (auto& found : context.backend->Lookup(request.tenant, std::move(call->tokens))) {
    if (found.second > best.second) best = std::move(found);
  }
  JsonWriter json;
  json.BeginObject().Field("event_id", Begun(context, request, "Lookup")).Key("layout_info").BeginObject();
  if (best.second > 0) {
    json.Key(kInstance).BeginArray().String(LocationOf(best.first)).Integer(best.second).EndArray();
  }
  json.EndObject().EndObject();
  return {.body = json.Take()};
}

HttpResponse HandleLmcachePin(ServeContext& context, const HttpRequest& request) {
  ApiResult<Call> call = ReadCall(context, request, true);
  if (!call) return ErrorResponse(call.error());
  if (ApiStatus status = CheckInstance(call->instance_id, "instance_id"); !status)
    return ErrorResponse(status.error());
  const ApiResult<std::string> tier = TierOf(call->location, "location");
  if (!tier) return ErrorResponse(tier.error());
  if (*tier != "memory") return Unsupported("Only blocks in memory (LocalCPUBackend) can be pinned.");
  Hint pin = HintAbout(HintAction::kPin, request, std::move(call->tokens));
  pin.holder = "lmcache";
  pin.ttl_ms = call->ttl_ms;
  return Apply(context, request, "Pin", std::move(pin));
}

HttpResponse HandleLmcacheClear(ServeContext& context, const HttpRequest& request) {
  ApiResult<Call> call = ReadCall(context, request, false);
  if (!call) return ErrorResponse(call.error());
  if (ApiStatus status = CheckInstance(call->instance_id, "instance_id"); !status)
    return ErrorResponse(status.error());
  const ApiResult<std::string> tier = TierOf(call->location, "location");
  if (!tier) return ErrorResponse(tier.error());
  if (*tier != "memory") {
    return Unsupported(
        "Only memory (LocalCPUBackend) can be cleared; POST /v1/cache/wipe forgets everything below, too.");
  }
  if (!call->tokens.empty()) {
    return Apply(context, request, "Clear", HintAbout(HintAction::kEvict, request, std::move(call->tokens)));
  }
  const int64_t before = context.backend->CachedRows(request.tenant);
  context.backend->ClearCache(request.tenant);
  return Affected(Begun(context, request, "Clear"),
                  std::max<int64_t>(0, before - context.backend->CachedRows(request.tenant)));
}

HttpResponse HandleLmcacheMove(ServeContext& context, const HttpRequest& request) {
  ApiResult<Call> call = ReadCall(context, request, true);
  if (!call) return ErrorResponse(call.error());
  const ApiResult<std::string> from = TierAt(call->old_position, "old_position");
  if (!from) return ErrorResponse(from.error());
  const ApiResult<std::string> to = TierAt(call->new_position, "new_position");
  if (!to) return ErrorResponse(to.error());
  return Move(context, request, *std::move(call), *from, *to);
}

HttpResponse HandleLmcacheCompress(ServeContext& context, const HttpRequest& request) {
  const ApiResult<Call> call = ReadCall(context, request, false);
  if (!call) return ErrorResponse(call.error());
  return Unsupported(
      "The codec is part of a block's name: compressed later it would be another block. To keep blocks "
      "compressed, start the server with --kv-type.");
}

HttpResponse HandleLmcacheHealth(ServeContext& context, const HttpRequest& request) {
  const ApiResult<Call> call = ReadCall(context, request, false);
  if (!call) return ErrorResponse(call.error());
  if (ApiStatus status = CheckInstance(call->instance_id, "instance_id"); !status)
    return ErrorResponse(status.error());
  const int code = context.draining ? 1 : 0;
  JsonWriter json;
  // Older releases read error_code, newer ones a code for each worker; there is one.
  json.BeginObject().Field("event_id", Begun(context, request, "Health")).Field("error_code", code);
  json.Key("error_codes").BeginObject().Field("0", code).EndObject().EndObject();
  return {.body = json.Take()};
}

// Only a move up may still be under way when it is answered. "finished" says that it is over, not that
// everything was found below: lookup tells what is where.
HttpResponse HandleLmcacheCheckFinish(ServeContext& context, const HttpRequest& request) {
  const ApiResult<Call> call = ReadCall(context, request, false);
  if (!call) return ErrorResponse(call.error());
  const std::optional<uint64_t> ticket = context.lmcache_calls.Find(call->event_id, request.tenant);
  if (!ticket) {
    return ErrorResponse({.status = 404,
                          .message =
                              "No call of this tenant was answered with this event id since the start, "
                              "or it is long ago.",
                          .param = "event_id",
                          .code = "not_found"});
  }
  const bool under_way = *ticket != 0 && context.backend->Fetching(*ticket);
  JsonWriter json;
  json.BeginObject().Field("status", under_way ? "in_progress" : "finished").EndObject();
  return {.body = json.Take()};
}

}  // namespace larder
