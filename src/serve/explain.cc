#include "serve/explain.h"

#include <algorithm>

namespace larder {
namespace {

void WriteMiss(JsonWriter& json, const Tokenizer& tokenizer, const CacheOutcome& outcome) {
  json.Key("miss");
  if (outcome.reason == MissReason::kNone) {
    json.Null();
    return;
  }
  const MissReason reason =
      outcome.reason == MissReason::kOtherTenant ? MissReason::kNeverSeen : outcome.reason;
  json.BeginObject().Field("reason", MissReasonName(reason)).Field("token", outcome.token);
  if (reason == MissReason::kDiverged) {
    json.Field("cached", tokenizer.Decode(outcome.cached, true));
    json.Field("requested", tokenizer.Decode(outcome.requested, true));
  }
  if (reason == MissReason::kEvicted) {
    json.Field("policy", outcome.policy).Field("evicted_unix_ms", outcome.evicted_wall_ms);
  }
  json.EndObject();
}

void WriteBlend(JsonWriter& json, const CacheReport& report) {
  const BlendReport& blend = report.blend;
  if (blend.method.empty()) return;
  json.Key("blend").BeginObject().Field("method", blend.method).Field("approximate", true);
  json.Field("tokens_from_chunks", blend.covered).Field("recomputed_in_chunks", blend.again);
  json.Field("ratio", blend.covered == 0
                          ? 0.0
                          : static_cast<double>(blend.again) / static_cast<double>(blend.covered));
  json.Field("fresh", blend.fresh).Field("stored_for_it", blend.stored);
  json.Key("chunks").BeginArray();
  for (const BlendReport::Use& use : blend.uses) {
    json.BeginObject().Field("id", use.chunk).Field("begin", use.begin).Field("tokens", use.rows).EndObject();
  }
  json.EndArray().EndObject();
}

void WriteCache(JsonWriter& json, const Tokenizer& tokenizer, const CacheReport& report) {
  json.Key("cache").BeginObject();
  json.Key("read").BeginObject().Field("memory", report.read_memory);
  for (const auto& [tier, rows] : report.read_tiers) json.Field(tier, rows);
  if (!report.state.name.empty()) json.Field("states", report.state.rows);
  if (!report.blend.method.empty()) json.Field("chunks", report.read_chunks);
  json.EndObject();
  json.Field("recomputed", report.recomputed).Field("written", report.written);
  WriteMiss(json, tokenizer, report.outcome);
  json.Key("held").BeginObject();
  json.Field("private_bytes", report.held.private_bytes);
  json.Field("peak_private_bytes", report.held.peak_private_bytes);
  json.Field("shared_bytes", report.held.shared_bytes);
  json.Field("reclaimable_bytes", report.held.reclaimable_bytes);
  json.Field("entries", report.held.entries).EndObject();
  if (!report.evict.empty()) json.Field("evict", report.evict);
  if (!report.state.name.empty()) {
    json.Key("state").BeginObject().Field("id", report.state.name).Field("tokens", report.state.rows);
    json.Field("entries", report.state.entries).EndObject();
  }
  WriteBlend(json, report);
  json.EndObject();
}

// The leases that the request took, and those that it was refused.
void WriteLeases(JsonWriter& json, const std::vector<LeaseReport>& leases) {
  if (leases.empty()) return;
  json.Key("lease").BeginArray();
  for (const LeaseReport& lease : leases) {
    const std::string_view status = lease.rows == 0        ? "rejected"
                                    : lease.reason.empty() ? "accepted"
                                                           : "clipped";
    json.BeginObject().Field("status", status).Field("tokens", lease.rows);
    json.Field("ttl_ms", lease.ttl_ms).Field("priority", lease.priority);
    if (!lease.reason.empty()) json.Field("reason", lease.reason);
    json.EndObject();
  }
  json.EndArray();
}

void WritePrompt(JsonWriter& json, const Tokenizer& tokenizer, const PromptReport& prompt) {
  WriteCache(json, tokenizer, prompt.report);
  json.Field("queue_ms", prompt.report.queue_ms).Field("prefill_ms", prompt.report.prefill_ms);
  json.Field("preemptions", prompt.report.preemptions);
  json.Field("seed", prompt.seed);
  WriteLeases(json, prompt.report.leases);
}

// The first miss stands for all in the sum; each prompt has its own beside it.
PromptReport Sum(const std::vector<PromptReport>& reports) {
  PromptReport sum = reports.front();
  for (size_t i = 1; i < reports.size(); ++i) {
    const CacheReport& report = reports[i].report;
    sum.report.read_memory += report.read_memory;
    for (size_t tier = 0; tier < report.read_tiers.size(); ++tier)
      sum.report.read_tiers[tier].second += report.read_tiers[tier].second;
    sum.report.recomputed += report.recomputed;
    sum.report.read_chunks += report.read_chunks;
    if (sum.report.state.name.empty()) sum.report.state = report.state;
    if (sum.report.blend.method.empty()) sum.report.blend = report.blend;
    sum.report.written += report.written;
    sum.report.preemptions += report.preemptions;
    sum.report.queue_ms += report.queue_ms;
    sum.report.prefill_ms += report.prefill_ms;
    sum.report.leases.insert(sum.report.leases.end(), report.leases.begin(), report.leases.end());
    if (sum.report.outcome.reason == MissReason::kNone) sum.report.outcome = report.outcome;
  }
  return sum;
}

}  // namespace

void WriteUsage(JsonWriter& json, const Usage& usage) {
  json.BeginObject();
  json.Field("prompt_tokens", usage.prompt_tokens).Field("completion_tokens", usage.completion_tokens);
  json.Field("total_tokens", usage.prompt_tokens + usage.completion_tokens);
  json.Key("prompt_tokens_details").BeginObject().Field("cached_tokens", usage.cached_tokens).EndObject();
  json.EndObject();
}

bool IsApproximate(const std::vector<PromptReport>& reports) {
  return std::ranges::any_of(reports,
                             [](const PromptReport& prompt) { return !prompt.report.blend.method.empty(); });
}

void WriteExplain(JsonWriter& json, const Tokenizer& tokenizer, const std::vector<PromptReport>& reports) {
  json.BeginObject();
  if (IsApproximate(reports)) json.Field("approximate", true);
  WritePrompt(json, tokenizer, reports.size() == 1 ? reports.front() : Sum(reports));
  if (reports.size() > 1) {
    json.Key("prompts").BeginArray();
    for (const PromptReport& report : reports) {
      json.BeginObject();
      WritePrompt(json, tokenizer, report);
      json.EndObject();
    }
    json.EndArray();
  }
  json.EndObject();
}

}  // namespace larder
