#include "engine/hints.h"

#include <utility>

#include "kv/cache.h"

namespace larder {
namespace {

LeaseReport Report(const Retention& wanted, LeaseGrant grant) {
  return {grant.rows, wanted.ttl_ms, wanted.priority, std::move(grant.reason)};
}

HintAnswer Answer(int64_t rows, std::string reason) {
  if (rows == 0) return {HintStatus::kRejected, 0, std::move(reason)};
  return {reason.empty() ? HintStatus::kAccepted : HintStatus::kClipped, rows, std::move(reason)};
}

HintAnswer Pin(KvCache& cache, const Hint& hint) {
  const LeaseTerms terms{.holder = hint.target.holder.empty() ? hint.holder : hint.target.holder,
                         .kind = LeaseKind::kPinned,
                         .ttl_ms = hint.ttl_ms,
                         .priority = hint.priority,
                         .hard = hint.hard};
  LeaseGrant grant = cache.leases().Take(hint.tenant, hint.target, terms);
  return Answer(grant.rows, std::move(grant.reason));
}

// What no tier below memory has would be lost, and is kept: of a tenant without a space, what the tiers or
// their admission refused, what is still being written.
HintAnswer Demote(KvCache& cache, const Hint& hint) {
  const KvLeases::Demoted demoted = cache.leases().Demote(hint.tenant, hint.target);
  const auto asked = static_cast<int64_t>(hint.target.tokens.size());
  if (demoted.rows == 0 && demoted.waits)
    return {HintStatus::kDeferred, 0, "it is being written to the tiers and stays in memory; ask again"};
  if (demoted.rows == 0) {
    return Answer(
        0,
        "nothing of it is in memory that a tier has and no other text, lease or request needs; what no "
        "tier has was offered to them again");
  }
  if (demoted.rows < asked || demoted.waits) {
    return Answer(demoted.rows,
                  "the rest is in no tier yet, not in memory, or other texts, leases or requests need it");
  }
  return Answer(demoted.rows, "");
}

HintAnswer Drop(KvCache& cache, const Hint& hint) {
  const int64_t rows = cache.leases().Drop(hint.tenant, hint.target);
  const auto asked = static_cast<int64_t>(hint.target.tokens.size());
  if (rows == 0) return Answer(0, "nothing of it is in memory that no other text, lease or request needs");
  if (rows < asked)
    return Answer(rows, "the rest is not in memory, or other texts, leases or requests need it");
  return Answer(rows, "");
}

}  // namespace

std::string_view HintStatusName(HintStatus status) {
  switch (status) {
    case HintStatus::kAccepted:
      return "accepted";
    case HintStatus::kClipped:
      return "clipped";
    case HintStatus::kDeferred:
      return "deferred";
    case HintStatus::kRejected:
      return "rejected";
  }
  return "unknown";
}

void FollowHints(KvCache& cache, const std::string& tenant, const CacheHints& hints,
                 std::span<const int32_t> prompt) {
  if (!hints.program.empty()) cache.leases().Follow(tenant, hints.program, prompt);
}

std::vector<LeaseReport> RetainByHints(KvCache& cache, const KvSequence& sequence, const CacheHints& hints,
                                       bool first) {
  std::vector<LeaseReport> reports;
  const std::string& holder = hints.program.empty() ? hints.key : hints.program;
  const auto take = [&](LeaseKind kind, const Retention& wanted) {
    const int64_t rows = wanted.rows < 0 ? sequence.length() : wanted.rows;
    reports.push_back(Report(
        wanted, cache.leases().Take(
                    sequence, rows,
                    {.holder = holder, .kind = kind, .ttl_ms = wanted.ttl_ms, .priority = wanted.priority})));
  };
  if (hints.last_step && !hints.program.empty()) cache.leases().Finish(sequence.tenant(), hints.program);
  if (!hints.program.empty() && !hints.last_step) take(LeaseKind::kTurn, hints.turn);
  for (const Retention& wanted : hints.retain) {
    // Beginnings are the same in all choices. The end of the last turn is of no use to anybody.
    if (wanted.rows < 0 ? !hints.last_step : first) take(LeaseKind::kRetained, wanted);
  }
  return reports;
}

HintAnswer ApplyHint(KvCache& cache, bool tiers, const Hint& hint) {
  switch (hint.action) {
    case HintAction::kPin:
      return Pin(cache, hint);
    case HintAction::kUnpin: {
      const int64_t rows = cache.leases().End(hint.tenant, hint.target);
      return Answer(rows, rows > 0 ? "" : "there is no lease");
    }
    case HintAction::kPrefetch:
      return Answer(0, "not for memory alone");
    case HintAction::kDemote:
      // What is sealed was written below when it was; leaving memory is what is left to do.
      return tiers ? Demote(cache, hint) : Answer(0, "no tier below memory");
    case HintAction::kEvict:
      return Drop(cache, hint);
  }
  return Answer(0, "unknown");
}

}  // namespace larder
