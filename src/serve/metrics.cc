// Prometheus text format 0.0.4.
#include <fmt/format.h>

#include <algorithm>
#include <initializer_list>
#include <iterator>
#include <string>
#include <string_view>
#include <utility>

#include "serve/endpoints.h"
#include "serve/misses.h"

namespace larder {
namespace {

// A label's value: backslash, quote and line feed are escaped.
std::string LabelValue(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '\\' || c == '"') out += '\\';
    if (c == '\n') {
      out += "\\n";
    } else {
      out += c;
    }
  }
  return out;
}

class Page {
 public:
  void Describe(std::string_view name, std::string_view type, std::string_view help) {
    fmt::format_to(std::back_inserter(text_), "# HELP {} {}\n# TYPE {} {}\n", name, help, name, type);
  }
  template <class Number>
  void Sample(std::string_view name, std::string_view labels, Number value) {
    fmt::format_to(std::back_inserter(text_), "{}{} {}\n", name, labels, value);
  }
  template <class Number>
  void Gauge(std::string_view name, std::string_view help, Number value, std::string_view labels = "") {
    Describe(name, "gauge", help);
    Sample(name, labels, value);
  }
  template <class Number>
  void Counter(std::string_view name, std::string_view help, Number value, std::string_view labels = "") {
    Describe(name, "counter", help);
    Sample(name, labels, value);
  }
  // One counter for each thing that may become of something.
  void Changes(std::string_view name, std::string_view help,
               std::initializer_list<std::pair<std::string_view, uint64_t>> changes) {
    Describe(name, "counter", help);
    for (const auto& [change, count] : changes) Sample(name, fmt::format("{{change=\"{}\"}}", change), count);
  }
  std::string Take() { return std::move(text_); }

 private:
  std::string text_;
};

void AddRequests(Page& page, const EngineStats& stats) {
  page.Gauge("larder_requests_running", "Sequences that get rows in the engine's steps.", stats.running);
  page.Gauge("larder_requests_waiting", "Sequences in the queue.", stats.waiting);
  page.Counter("larder_preemptions_total", "Sequences that gave up their place for others.",
               stats.preemptions);
  page.Describe("larder_requests_total", "counter", "Requests that have ended, by outcome.");
  page.Sample("larder_requests_total", "{outcome=\"finished\"}", stats.requests_finished);
  page.Sample("larder_requests_total", "{outcome=\"cancelled\"}", stats.requests_cancelled);
  page.Sample("larder_requests_total", "{outcome=\"failed\"}", stats.requests_failed);
  page.Counter("larder_prompt_tokens_total", "Tokens of prompts.", stats.prompt_tokens);
  page.Counter("larder_generated_tokens_total", "Tokens generated.", stats.generation_tokens);
  page.Counter("larder_cached_tokens_total", "Tokens of prompts that were not computed again.",
               stats.cached_tokens);
  page.Counter("larder_steps_total", "Steps of the engine.", stats.steps);
  page.Describe("larder_time_to_first_token_seconds", "summary", "From arrival to the first token.");
  page.Sample("larder_time_to_first_token_seconds_sum", "", stats.ttft_ms_sum / 1000);
  page.Sample("larder_time_to_first_token_seconds_count", "", stats.requests_finished);
  page.Gauge("larder_scheduling_seconds", "Time of the last step outside the model.",
             stats.scheduling_us_last / 1e6);
}

void AddCache(Page& page, const ServeContext& context, const std::string& tenant, const EngineStats& stats) {
  const KvStats& kv = stats.kv;
  page.Gauge("larder_kv_used_bytes", "Bytes of the KV cache in memory, metadata included.", kv.used_bytes);
  page.Gauge("larder_kv_limit_bytes", "The limit that is never exceeded.", kv.limit_bytes);
  page.Gauge("larder_kv_metadata_bytes", "Bytes of nodes, index and tables.", kv.metadata_bytes);
  page.Gauge("larder_kv_blocks", "Blocks in memory.", kv.blocks);
  page.Gauge("larder_kv_blocks_held", "Blocks that running sequences hold.", kv.held_blocks);
  page.Counter("larder_kv_evicted_blocks_total", "Blocks evicted.", kv.evicted_blocks);
  page.Counter("larder_kv_deduplicated_blocks_total", "Blocks dropped because an equal one existed.",
               kv.deduplicated_blocks);
  page.Counter("larder_kv_collisions_total", "Names that matched while the tokens did not.", kv.collisions);
  page.Describe("larder_kv_rows_total", "counter", "Rows looked up, by outcome.");
  page.Sample("larder_kv_rows_total", "{outcome=\"hit\"}", kv.hits_rows);
  page.Sample("larder_kv_rows_total", "{outcome=\"missed\"}", kv.missed_rows);
  page.Counter("larder_kv_copied_rows_total", "Rows copied because a block was shared in part.",
               kv.copied_rows);
  page.Counter("larder_attention_pages_read_total", "Pages of keys and values read.",
               stats.attention_pages_read);
  page.Describe("larder_kv_misses_total", "counter", "Look-ups that did not find everything, by reason.");
  for (const auto& [reason, count] : VisibleMisses(context, tenant, stats)) {
    page.Sample("larder_kv_misses_total", fmt::format("{{reason=\"{}\"}}", LabelValue(reason)), count);
  }
}

void AddTiers(Page& page, const EngineStats& stats) {
  const auto each = [&](std::string_view name, std::string_view type, std::string_view help, auto figure) {
    page.Describe(name, type, help);
    for (const auto& [tier, figures] : stats.tiers) {
      page.Sample(name, fmt::format("{{tier=\"{}\"}}", tier), figure(figures));
    }
  };
  if (stats.tiers.empty()) return;
  using S = const TierStats&;
  each("larder_tier_healthy", "gauge", "1: the tier answers.", [](S s) { return s.healthy ? 1 : 0; });
  each("larder_tier_used_bytes", "gauge", "Bytes in use there.", [](S s) { return s.used_bytes; });
  each("larder_tier_limit_bytes", "gauge", "Its limit; 0: not known.", [](S s) { return s.limit_bytes; });
  each("larder_tier_pending_bytes", "gauge", "Bytes that wait to be written.",
       [](S s) { return s.pending_bytes; });
  each("larder_tier_records", "gauge", "Records there; 0: not known.", [](S s) { return s.records; });
  each("larder_tier_hits_total", "counter", "Names looked for and found.", [](S s) { return s.hits; });
  each("larder_tier_misses_total", "counter", "Names looked for and not found.",
       [](S s) { return s.misses; });
  each("larder_tier_read_bytes_total", "counter", "Bytes delivered.", [](S s) { return s.read_bytes; });
  each("larder_tier_written_bytes_total", "counter", "Bytes written.", [](S s) { return s.write_bytes; });
  each("larder_tier_dropped_writes_total", "counter", "Writes given up.",
       [](S s) { return s.dropped_writes; });
  each("larder_tier_evicted_records_total", "counter", "Records evicted.",
       [](S s) { return s.evicted_records; });
  each("larder_tier_bad_records_total", "counter", "Damaged records found.",
       [](S s) { return s.bad_records; });
  each("larder_tier_failures_total", "counter", "Calls that failed.", [](S s) { return s.failures; });
  each("larder_tier_slow_reads_total", "counter", "Reads past their deadline.",
       [](S s) { return s.slow_reads; });
  each("larder_tier_read_seconds_total", "counter", "Latencies of the records read, added up.",
       [](S s) { return static_cast<double>(s.read_ns) / 1e9; });
  each("larder_tier_write_seconds_total", "counter", "Latencies of the records written, added up.",
       [](S s) { return static_cast<double>(s.write_ns) / 1e9; });
}

void AddKeyring(Page& page, const ServeContext& context, const std::string& tenant,
                const EngineStats& stats) {
  if (!stats.keyring || !SeesAll(context, tenant)) return;
  page.Gauge("larder_keyring_tenants", "Tenants whose ids and keys are known here.", stats.keyring->tenants);
  page.Counter("larder_keyring_refused_entries_total",
               "Entries in Redis that were refused: cut, forged, or of another store key.",
               stats.keyring->refused_entries);
  page.Counter("larder_keyring_local_entries_total",
               "Ids made without Redis, which did not answer; blocks under them are not shared.",
               stats.keyring->local_entries);
}

void AddLeases(Page& page, const EngineStats& stats) {
  const KvLeaseStats& leases = stats.leases;
  page.Gauge("larder_kv_leases", "Leases on texts in memory.", leases.leases);
  page.Gauge("larder_kv_leases_hard", "Those whose blocks are not evicted.", leases.hard);
  page.Gauge("larder_kv_lease_bytes", "Bytes that hard leases hold.", leases.hard_bytes);
  page.Gauge("larder_kv_lease_limit_bytes", "What they may hold together.", leases.hard_limit_bytes);
  page.Changes("larder_kv_lease_changes_total", "What became of leases.",
               {{"granted", leases.granted},
                {"clipped", leases.clipped},
                {"refused", leases.refused},
                {"expired", leases.expired},
                {"superseded", leases.superseded},
                {"broken", leases.broken},
                {"evicted", leases.evicted}});
  page.Counter("larder_kv_events_total", "Events of blocks, of all tenants.", stats.events);
}

void AddChunks(Page& page, const ChunkStats& chunks) {
  page.Gauge("larder_kv_chunks", "Stored chunks, those that are below memory only included.", chunks.chunks);
  page.Gauge("larder_kv_chunks_below", "Those that are not in memory.", chunks.below);
  page.Gauge("larder_kv_chunk_tokens", "Tokens of all of them.", chunks.tokens);
  page.Gauge("larder_kv_chunk_bytes", "Bytes of their rows in memory.", chunks.bytes);
  page.Gauge("larder_kv_chunk_limit_bytes", "What chunks and states may take together.", chunks.limit_bytes);
  page.Changes("larder_kv_chunk_changes_total", "What became of chunks in memory.",
               {{"stored", chunks.stored}, {"restored", chunks.restored}, {"evicted", chunks.evicted}});
  page.Counter("larder_kv_chunk_matches_total", "Chunks found in prompts.", chunks.matches);
  page.Counter("larder_kv_chunk_matched_tokens_total", "Tokens of prompts that were found in them.",
               chunks.matched_tokens);
}

void AddStates(Page& page, const EvictStateStats& states) {
  page.Gauge("larder_kv_states", "Compressed states.", states.states);
  page.Gauge("larder_kv_state_tokens", "Tokens that they stand for.", states.tokens);
  page.Gauge("larder_kv_state_bytes", "Bytes of their pages and tables.", states.bytes);
  page.Gauge("larder_kv_state_limit_bytes", "What chunks and states may take together.", states.limit_bytes);
  page.Changes("larder_kv_state_changes_total", "What became of states.",
               {{"stored", states.stored}, {"refused", states.refused}, {"evicted", states.evicted}});
  page.Counter("larder_kv_state_hits_total", "Requests that went on from one.", states.hits);
  page.Counter("larder_kv_state_hit_tokens_total", "Tokens of their prompts that it stood for.",
               states.hit_tokens);
}

void AddHttp(Page& page, const ServeContext& context) {
  page.Gauge("larder_http_connections", "Open connections.", context.connections_open.load());
  page.Counter("larder_http_connections_total", "Connections accepted.", context.connections_accepted.load());
  page.Counter("larder_http_clients_gone_total", "Clients that left before their answer was complete.",
               context.clients_gone.load());
  page.Describe("larder_http_responses_total", "counter", "Answers, by the first digit of the status.");
  for (size_t digit = 2; digit < context.responses.size(); ++digit) {
    page.Sample("larder_http_responses_total", fmt::format("{{status=\"{}xx\"}}", digit),
                context.responses[digit].load());
  }
}

// The names that existing dashboards look for.
void AddFamiliarNames(Page& page, const ServeContext& context, const EngineStats& stats) {
  const std::string labels = fmt::format("{{model_name=\"{}\"}}", LabelValue(context.backend->model_id()));
  const double used = static_cast<double>(stats.kv.used_bytes);
  const double usage = used / static_cast<double>(std::max<uint64_t>(1, stats.kv.limit_bytes));
  page.Gauge("vllm:num_requests_running", "As larder_requests_running.", stats.running, labels);
  page.Gauge("vllm:num_requests_waiting", "As larder_requests_waiting.", stats.waiting, labels);
  page.Gauge("vllm:kv_cache_usage_perc", "Share of the KV cache's limit in use, 0 to 1.", usage, labels);
  page.Counter("vllm:prompt_tokens_total", "As larder_prompt_tokens_total.", stats.prompt_tokens, labels);
  page.Counter("vllm:generation_tokens_total", "As larder_generated_tokens_total.", stats.generation_tokens,
               labels);
}

}  // namespace

HttpResponse HandleMetrics(ServeContext& context, const HttpRequest& request) {
  const EngineStats stats = context.backend->Stats();
  Page page;
  AddRequests(page, stats);
  AddCache(page, context, request.tenant, stats);
  AddTiers(page, stats);
  AddKeyring(page, context, request.tenant, stats);
  AddLeases(page, stats);
  AddChunks(page, stats.chunks);
  AddStates(page, stats.states);
  AddHttp(page, context);
  AddFamiliarNames(page, context, stats);
  return {.content_type = "text/plain; version=0.0.4; charset=utf-8", .body = page.Take()};
}

}  // namespace larder
