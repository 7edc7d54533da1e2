// Events of the cache's blocks, for routers that want to know where a prefix lies.
#include <array>
#include <charconv>
#include <optional>
#include <utility>

#include "serve/endpoints.h"
#include "serve/errors.h"
#include "serve/event_waits.h"
#include "serve/json_writer.h"
#include "serve/query.h"

namespace larder {
namespace {

constexpr int64_t kDefaultEvents = 1000, kMostEvents = 10'000;
constexpr int64_t kLongestWaitMs = 30'000;

template <class T>
std::optional<T> Number(std::string_view text, int base) {
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, base);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

// EPOCH:SEQ, and, in the middle of a snapshot, :PLACE:TIER.
std::optional<EventCursor> CursorFrom(std::string_view text) {
  std::array<uint64_t, 4> numbers{};
  size_t count = 0;
  for (bool more = true; more; ++count) {
    const size_t colon = text.find(':');
    const auto number = Number<uint64_t>(text.substr(0, colon), count == 0 ? 16 : 10);
    if (!number || count == numbers.size()) return std::nullopt;
    numbers[count] = *number;
    more = colon != std::string_view::npos;
    if (more) text.remove_prefix(colon + 1);
  }
  if (count != 2 && count != 4) return std::nullopt;
  return EventCursor{.fresh = false,
                     .epoch = numbers[0],
                     .sequence = numbers[1],
                     .snapshot = numbers[2],
                     .tier = numbers[3]};
}

std::string CursorText(const EventCursor& cursor) {
  std::string text = fmt::format("{:016x}:{}", cursor.epoch, cursor.sequence);
  if (cursor.snapshot == 0 && cursor.tier == 0) return text;
  return fmt::format("{}:{}:{}", text, cursor.snapshot, cursor.tier);
}

struct Query {
  EventCursor after;
  size_t limit = 0;
  int64_t wait_ms = 0;
};

ApiResult<Query> ReadQuery(const HttpRequest& request) {
  Query query;
  if (const auto after = request.QueryParameter("after"); after && !after->empty()) {
    const auto cursor = CursorFrom(*after);
    if (!cursor) return BadField("after", "'after' must be what 'next' was in the last answer, or left out.");
    query.after = *cursor;
  }
  const ApiResult<int64_t> limit = QueryInteger(request, "limit", kDefaultEvents, 1, kMostEvents);
  if (!limit) return std::unexpected(limit.error());
  query.limit = static_cast<size_t>(*limit);
  const ApiResult<int64_t> wait = QueryInteger(request, "wait_ms", 0, 0, kLongestWaitMs);
  if (!wait) return std::unexpected(wait.error());
  query.wait_ms = *wait;
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

HttpResponse PageResponse(const EventPage& page, const std::vector<std::string>& kinds,
                          const std::string& tenant) {
  JsonWriter json;
  json.BeginObject().Field("epoch", fmt::format("{:016x}", page.next.epoch)).Field("reset", page.reset);
  json.Key("events").BeginArray();
  for (const KvEvent& event : page.events) WriteEvent(json, event, kinds, event.tenant == tenant);
  json.EndArray().Field("next", CursorText(page.next)).EndObject();
  return {.body = json.Take()};
}

// Whether a reader knows everything with this page.
bool UpToDate(const EventPage& page) {
  return !page.reset && page.events.empty() && page.next.snapshot == 0 && page.next.tier == 0;
}

}  // namespace

// The operator sees the blocks of all tenants, but nobody the tokens of another.
void HandleCacheEvents(ServeContext& context, const HttpRequest& request, const ExchangePtr& exchange) {
  const auto respond = [&](HttpResponse response) {
    exchange->Post(
        [exchange, response = std::move(response)]() mutable { exchange->Respond(std::move(response)); });
  };
  const ApiResult<Query> query = ReadQuery(request);
  if (!query) return respond(ErrorResponse(query.error()));
  const bool all = request.tenant == kOperatorTenant;
  const auto answer = [kinds = context.backend->KvKinds(), tenant = request.tenant](const EventPage& page) {
    return PageResponse(page, kinds, tenant);
  };
  const EventPage page = context.backend->Events(request.tenant, all, query->after, query->limit);
  if (query->wait_ms == 0 || !UpToDate(page)) return respond(answer(page));
  context.waits->Add({.tenant = request.tenant,
                      .all = all,
                      .after = page.next,
                      .limit = query->limit,
                      .wait_ms = query->wait_ms,
                      .exchange = exchange,
                      .answer = answer});
}

}  // namespace larder
