#include "serve/endpoints.h"
#include "serve/errors.h"
#include "serve/json_writer.h"
#include "serve/misses.h"
#include "serve/query.h"

namespace larder {
namespace {

constexpr int64_t kDefaultBlocks = 100, kMaxBlocks = 10000;

void WriteBlock(JsonWriter& json, const KvBlockInfo& block) {
  json.BeginObject().Field("name", block.name).Field("parent", block.parent);
  json.Field("depth", block.depth).Field("rows", block.rows).Field("sealed", block.sealed);
  json.Field("holders", block.holders).Field("children", block.children);
  json.Field("bytes", block.bytes).Field("uses", block.uses).Field("last_use", block.last_use);
  json.Key("kinds").BeginArray();
  for (const std::string& kind : block.kinds) json.String(kind);
  json.EndArray().Field("tokens", block.tokens).EndObject();
}

void WriteTier(JsonWriter& json, const TierStats& tier) {
  json.BeginObject().Field("used_bytes", tier.used_bytes).Field("limit_bytes", tier.limit_bytes);
  json.Field("pending_bytes", tier.pending_bytes).Field("records", tier.records);
  json.Field("healthy", tier.healthy);
  json.Field("hits", tier.hits).Field("misses", tier.misses);
  json.Field("read_records", tier.read_records).Field("read_bytes", tier.read_bytes);
  json.Field("written_records", tier.write_records).Field("written_bytes", tier.write_bytes);
  json.Field("dropped_writes", tier.dropped_writes).Field("evicted_records", tier.evicted_records);
  json.Field("bad_records", tier.bad_records).Field("failures", tier.failures);
  json.Field("slow_reads", tier.slow_reads);
  const auto mean_ms = [](uint64_t ns, uint64_t n) {
    return n == 0 ? 0.0 : static_cast<double>(ns) / 1e6 / static_cast<double>(n);
  };
  json.Field("read_ms_mean", mean_ms(tier.read_ns, tier.read_records));
  json.Field("write_ms_mean", mean_ms(tier.write_ns, tier.write_records)).EndObject();
}

}  // namespace

HttpResponse HandleCacheStats(ServeContext& context, const HttpRequest& request) {
  const EngineStats stats = context.backend->Stats();
  const KvStats& kv = stats.kv;
  JsonWriter json;
  json.BeginObject().Field("model", context.backend->model_id());
  json.Key("memory").BeginObject();
  json.Field("used_bytes", kv.used_bytes).Field("limit_bytes", kv.limit_bytes);
  json.Field("block_bytes", kv.block_bytes).Field("metadata_bytes", kv.metadata_bytes);
  json.Field("private_bytes", stats.private_bytes).Field("borrowed_bytes", stats.borrowed_bytes).EndObject();
  const ChunkStats& chunks = stats.chunks;
  json.Key("chunks").BeginObject().Field("count", chunks.chunks).Field("tokens", chunks.tokens);
  json.Field("bytes", chunks.bytes).Field("limit_bytes", chunks.limit_bytes);
  json.Field("below", chunks.below).Field("restored", chunks.restored);
  json.Field("stored", chunks.stored).Field("evicted", chunks.evicted);
  json.Field("matches", chunks.matches).Field("matched_tokens", chunks.matched_tokens).EndObject();
  const EvictStateStats& states = stats.states;
  json.Key("states").BeginObject().Field("count", states.states).Field("tokens", states.tokens);
  json.Field("bytes", states.bytes).Field("limit_bytes", states.limit_bytes);
  json.Field("stored", states.stored).Field("refused", states.refused).Field("evicted", states.evicted);
  json.Field("hits", states.hits).Field("hit_tokens", states.hit_tokens).EndObject();
  for (const auto& [name, tier] : stats.tiers) {
    json.Key(name);
    WriteTier(json, tier);
  }
  if (stats.keyring && SeesAll(context, request.tenant)) {
    json.Key("keyring").BeginObject().Field("tenants", stats.keyring->tenants);
    json.Field("refused_entries", stats.keyring->refused_entries);
    json.Field("local_entries", stats.keyring->local_entries).EndObject();
  }
  json.Key("requests").BeginObject();
  json.Field("running", stats.running)
      .Field("waiting", stats.waiting)
      .Field("preemptions", stats.preemptions);
  json.Field("finished", stats.requests_finished).Field("cancelled", stats.requests_cancelled);
  json.Field("failed", stats.requests_failed).EndObject();
  json.Key("tokens").BeginObject();
  json.Field("prompt", stats.prompt_tokens).Field("generated", stats.generation_tokens);
  json.Field("cached", stats.cached_tokens).EndObject();
  json.Key("blocks").BeginObject();
  json.Field("total", kv.blocks).Field("sealed", kv.sealed_blocks).Field("held", kv.held_blocks);
  json.Field("evicted", kv.evicted_blocks).Field("deduplicated", kv.deduplicated_blocks);
  json.Field("sequences", kv.sequences).Field("collisions", kv.collisions).EndObject();
  json.Key("rows").BeginObject();
  json.Field("hit", kv.hits_rows).Field("missed", kv.missed_rows).Field("copied", kv.copied_rows).EndObject();
  json.Key("leases").BeginObject();
  json.Field("count", stats.leases.leases).Field("hard", stats.leases.hard);
  json.Field("hard_bytes", stats.leases.hard_bytes).Field("hard_limit_bytes", stats.leases.hard_limit_bytes);
  json.EndObject();
  json.Key("misses").BeginObject();
  for (const auto& [reason, count] : VisibleMisses(context, request.tenant, stats)) json.Field(reason, count);
  json.EndObject().EndObject();
  return {.body = json.Take()};
}

HttpResponse HandleCacheBlocks(ServeContext& context, const HttpRequest& request) {
  const ApiResult<int64_t> limit = QueryInteger(request, "limit", kDefaultBlocks, 1, kMaxBlocks);
  if (!limit) return ErrorResponse(limit.error());
  JsonWriter json;
  json.BeginObject().Key("blocks").BeginArray();
  for (const KvBlockInfo& block : context.backend->Blocks(request.tenant, static_cast<size_t>(*limit))) {
    if (block.tenant == request.tenant) WriteBlock(json, block);
  }
  json.EndArray().EndObject();
  return {.body = json.Take()};
}

HttpResponse HandleCacheClear(ServeContext& context, const HttpRequest& request) {
  JsonWriter json;
  json.BeginObject().Field("dropped_blocks", context.backend->ClearCache(request.tenant)).EndObject();
  return {.body = json.Take()};
}

// Of the tenant who asks, and durable: see Engine::Wipe.
HttpResponse HandleCacheWipe(ServeContext& context, const HttpRequest& request) {
  if (const Status wiped = context.backend->Wipe(request.tenant); !wiped)
    return ErrorResponse(ToApiError(wiped.error(), context.draining, 1));
  JsonWriter json;
  json.BeginObject().Field("wiped", true).EndObject();
  return {.body = json.Take()};
}

}  // namespace larder
