// First come, first served: the oldest waiting sequence is admitted next, the youngest running one is
// preempted first. A preempted sequence keeps its arrival time, so the two rules agree and nobody is thrown
// out right after being chosen.
#include <algorithm>

#include "base/params.h"
#include "engine/scheduler.h"

namespace larder {
namespace {

bool Older(const ScheduledSequence* a, const ScheduledSequence* b) {
  return a->arrival_ns != b->arrival_ns ? a->arrival_ns < b->arrival_ns : a->id < b->id;
}

class Fcfs final : public SchedulePolicy {
 public:
  std::string_view name() const override { return "fcfs"; }
  ScheduledSequence* Head(std::span<ScheduledSequence* const> waiting, int64_t) override {
    return waiting.empty() ? nullptr : *std::min_element(waiting.begin(), waiting.end(), Older);
  }
  ScheduledSequence* Victim(std::span<ScheduledSequence* const> running, const ScheduledSequence&) override {
    return running.empty() ? nullptr : *std::max_element(running.begin(), running.end(), Older);
  }
};

}  // namespace

Result<std::unique_ptr<SchedulePolicy>> CreateFcfs(std::string_view parameters) {
  Params params("fcfs");
  LARDER_TRY(params.ParseList(parameters));
  return std::make_unique<Fcfs>();
}

}  // namespace larder
