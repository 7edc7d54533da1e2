// Strict priority, lower numbers first; among equals first come, first served. The running sequence with the
// largest (priority, arrival) is preempted first, but never for a sequence that matters less.
#include <algorithm>
#include <tuple>

#include "base/params.h"
#include "engine/scheduler.h"

namespace larder {
namespace {

bool Before(const ScheduledSequence* a, const ScheduledSequence* b) {
  return std::tie(a->priority, a->arrival_ns, a->id) < std::tie(b->priority, b->arrival_ns, b->id);
}

class Priority final : public SchedulePolicy {
 public:
  std::string_view name() const override { return "priority"; }
  ScheduledSequence* Head(std::span<ScheduledSequence* const> waiting, int64_t) override {
    return waiting.empty() ? nullptr : *std::min_element(waiting.begin(), waiting.end(), Before);
  }
  ScheduledSequence* Victim(std::span<ScheduledSequence* const> running, const ScheduledSequence&) override {
    // The needy sequence runs too, so the last in order is never before it.
    return running.empty() ? nullptr : *std::max_element(running.begin(), running.end(), Before);
  }
};

}  // namespace

Result<std::unique_ptr<SchedulePolicy>> CreatePriority(std::string_view parameters) {
  Params params("priority");
  LARDER_TRY(params.ParseList(parameters));
  return std::make_unique<Priority>();
}

}  // namespace larder
