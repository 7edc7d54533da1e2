// Events of the cache's blocks, for routers that want to know where a prefix lies.
#include <charconv>
#include <optional>

#include "serve/endpoints.h"
#include "serve/errors.h"
#include "serve/json_writer.h"

namespace larder {
namespace {

constexpr int64_t kDefaultEvents = 1000, kMostEvents = 10'000;

template <class T>
std::optional<T> Number(std::string_view text, int base) {
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, base);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

// EPOCH:SEQ, and, in the middle of a snapshot, :PLACE.
std::optional<EventCursor> CursorFrom(std::string_view text) {
  const size_t colon = text.find(':');
  if (colon == std::string_view::npos) return std::nullopt;
  const size_t second = text.find(':', colon + 1);
  const auto epoch = Number<uint64_t>(text.substr(0, colon), 16);
  const auto sequence = Number<uint64_t>(text.substr(colon + 1, second - colon - 1), 10);
  const auto place = second == std::string_view::npos ? std::optional<uint64_t>(0)
                                                      : Number<uint64_t>(text.substr(second + 1), 10);
  if (!epoch || !sequence || !place) return std::nullopt;
  return EventCursor{.fresh = false, .epoch = *epoch, .sequence = *sequence, .snapshot = *place};
}

std::string CursorText(const EventCursor& cursor) {
  const std::string text = fmt::format("{:016x}:{}", cursor.epoch, cursor.sequence);
  return cursor.snapshot == 0 ? text : fmt::format("{}:{}", text, cursor.snapshot);
}

struct Query {
  EventCursor after;
  size_t limit = kDefaultEvents;
};

ApiResult<Query> ReadQuery(const HttpRequest& request) {
  Query query;
  if (const auto after = request.QueryParameter("after"); after && !after->empty()) {
    const auto cursor = CursorFrom(*after);
    if (!cursor) return BadField("after", "'after' must be what 'next' was in the last answer, or left out.");
    query.after = *cursor;
  }
  if (const auto text = request.QueryParameter("limit")) {
    const auto limit = Number<int64_t>(*text, 10);
    if (!limit || *limit < 1 || *limit > kMostEvents) {
      return BadField("limit", "'limit' must be an integer in 1..{}.", kMostEvents);
    }
    query.limit = static_cast<size_t>(*limit);
  }
  return query;
}

void WriteEvent(JsonWriter& json, const KvEvent& event, const std::vector<std::string>& kinds,
                bool with_tokens) {
  json.BeginObject().Field("type", EventTypeName(event.type)).Field("tier", EventTierName(event.tier));
  json.Field("tenant", event.tenant).Key("seq");
  if (event.sequence == 0) {  // part of a snapshot
    json.Null();
  } else {
    json.Unsigned(event.sequence);
  }
  if (event.type != EventType::kCleared) {
    json.Field("block", event.name.Hex()).Key("kinds").BeginArray();
    for (size_t kind = 0; kind < kinds.size(); ++kind) {
      if ((event.kinds >> kind & 1) != 0) json.String(kinds[kind]);
    }
    json.EndArray();
  }
  if (event.type == EventType::kStored) {
    json.Field("parent", event.parent.Hex()).Field("rows", event.rows);
    if (with_tokens) json.Field("tokens", event.tokens);
  }
  json.EndObject();
}

}  // namespace

// The operator sees the blocks of all tenants, but nobody the tokens of another.
HttpResponse HandleCacheEvents(ServeContext& context, const HttpRequest& request) {
  const ApiResult<Query> query = ReadQuery(request);
  if (!query) return ErrorResponse(query.error());
  const bool all = request.tenant == kOperatorTenant;
  const EventPage page = context.backend->Events(request.tenant, all, query->after, query->limit);
  const std::vector<std::string> kinds = context.backend->KvKinds();
  JsonWriter json;
  json.BeginObject().Field("epoch", fmt::format("{:016x}", page.next.epoch)).Field("reset", page.reset);
  json.Key("events").BeginArray();
  for (const KvEvent& event : page.events) WriteEvent(json, event, kinds, event.tenant == request.tenant);
  json.EndArray().Field("next", CursorText(page.next)).EndObject();
  return {.body = json.Take()};
}

}  // namespace larder
