// GET /v1/cache/chunks and /v1/cache/states, DELETE /v1/cache/chunks/ID: what a tenant has beside the blocks,
// under names of its own.
#include <algorithm>
#include <optional>
#include <string>

#include "serve/endpoints.h"
#include "serve/errors.h"
#include "serve/json_writer.h"
#include "serve/query.h"

namespace larder {
namespace {

constexpr int64_t kDefaultListed = 100, kMostListed = 10'000;

// Lists are by name, so that what stays is seen once by who reads page after page, whatever comes and goes
// meanwhile.
struct ListQuery {
  std::optional<Digest> after;
  size_t limit = 0;
};

ApiResult<ListQuery> ReadListQuery(const HttpRequest& request) {
  ListQuery query;
  if (const auto after = request.QueryParameter("after"); after && !after->empty()) {
    query.after = DigestFrom(*after);
    if (!query.after)
      return BadField("after", "'after' must be what 'next' was in the last answer, or left out.");
  }
  const ApiResult<int64_t> limit = QueryInteger(request, "limit", kDefaultListed, 1, kMostListed);
  if (!limit) return std::unexpected(limit.error());
  query.limit = static_cast<size_t>(*limit);
  return query;
}

// The name that the next page begins behind; null with the last one. `listed` has one more than the page.
template <class Listing>
void EndPage(JsonWriter& json, const std::vector<Listing>& listed, size_t limit) {
  json.EndArray().Key("next");
  if (listed.size() > limit) {
    json.String(listed[limit - 1].name.Hex());
  } else {
    json.Null();
  }
}

}  // namespace

HttpResponse HandleCacheChunks(ServeContext& context, const HttpRequest& request) {
  const ApiResult<ListQuery> query = ReadListQuery(request);
  if (!query) return ErrorResponse(query.error());
  const ChunkPage page = context.backend->Chunks(request.tenant, query->after, query->limit + 1);
  JsonWriter json;
  json.BeginObject().Field("object", "list").Key("data").BeginArray();
  for (size_t i = 0; i < std::min(query->limit, page.chunks.size()); ++i) {
    const ChunkListing& chunk = page.chunks[i];
    json.BeginObject().Field("id", chunk.name.Hex()).Field("object", "cache.chunk");
    json.Field("tokens", chunk.tokens).Field("prefix_tokens", chunk.prefix_tokens);
    json.Field("bytes", chunk.bytes).Field("in_memory", chunk.in_memory).Field("below", chunk.below);
    json.Field("held", chunk.held).EndObject();
  }
  EndPage(json, page.chunks, query->limit);
  json.Field("pending", page.pending).EndObject();
  return {.body = json.Take()};
}

HttpResponse HandleRemoveChunk(ServeContext& context, const HttpRequest& request, std::string_view id) {
  const std::optional<Digest> name = DigestFrom(id);
  if (!name) {
    return ErrorResponse({.status = 400,
                          .message = "A chunk's id has 64 hexadecimal digits, as /v1/cache/chunks lists it.",
                          .param = "id"});
  }
  if (const Status removed = context.backend->RemoveChunk(request.tenant, *name); !removed)
    return ErrorResponse(ToApiError(removed.error(), context.draining, 1));
  JsonWriter json;
  json.BeginObject().Field("id", name->Hex()).Field("object", "cache.chunk").Field("deleted", true);
  json.EndObject();
  return {.body = json.Take()};
}

HttpResponse HandleCacheStates(ServeContext& context, const HttpRequest& request) {
  const ApiResult<ListQuery> query = ReadListQuery(request);
  if (!query) return ErrorResponse(query.error());
  const auto states = context.backend->States(request.tenant, query->after, query->limit + 1);
  JsonWriter json;
  json.BeginObject().Field("object", "list").Key("data").BeginArray();
  for (size_t i = 0; i < std::min(query->limit, states.size()); ++i) {
    const EvictStateListing& state = states[i];
    json.BeginObject().Field("id", state.name.Hex()).Field("object", "cache.state");
    json.Field("method", state.method).Field("tokens", state.tokens).Field("bytes", state.bytes);
    json.Field("held", state.held).EndObject();
  }
  EndPage(json, states, query->limit);
  json.EndObject();
  return {.body = json.Take()};
}

}  // namespace larder
