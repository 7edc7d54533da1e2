// The scheduling policies: one line each. The line declares the function of engine/schedule/<name>.cc and
// lists it.
#include <array>

#include "engine/scheduler.h"

#define LARDER_SCHEDULE_POLICIES(X)                 \
  X("fcfs", CreateFcfs, "first come, first served") \
  X("priority", CreatePriority, "lower request priority numbers first, then fcfs")

namespace larder {

#define LARDER_DECLARE(name, create, help) \
  Result<std::unique_ptr<SchedulePolicy>> create(std::string_view parameters);
LARDER_SCHEDULE_POLICIES(LARDER_DECLARE)
#undef LARDER_DECLARE

std::span<const SchedulePolicyEntry> SchedulePolicies() {
#define LARDER_LIST(name, create, help) SchedulePolicyEntry{name, help, &create},
  static constexpr std::array kEntries = {LARDER_SCHEDULE_POLICIES(LARDER_LIST)};
#undef LARDER_LIST
  return kEntries;
}

namespace {

Result<std::unique_ptr<SchedulePolicy>> CreateOne(std::string_view spec) {
  const size_t colon = spec.find(':');
  const std::string_view name = spec.substr(0, colon);
  std::string known;
  for (const SchedulePolicyEntry& entry : SchedulePolicies()) {
    if (entry.name == name)
      return entry.create(colon == spec.npos ? std::string_view() : spec.substr(colon + 1));
    known += known.empty() ? "" : ", ";
    known += entry.name;
  }
  return Fail(ErrorKind::kInvalid, "unknown scheduling policy '{}'; known are {}", name, known);
}

}  // namespace

// Policies are separated by '+', so that parameters may contain commas: "priority+fcfs".
Result<std::vector<std::unique_ptr<SchedulePolicy>>> CreateSchedulePolicies(std::string_view spec) {
  std::vector<std::unique_ptr<SchedulePolicy>> out;
  for (size_t begin = 0; begin <= spec.size();) {
    const size_t end = std::min(spec.find('+', begin), spec.size());
    LARDER_ASSIGN(auto policy, CreateOne(spec.substr(begin, end - begin)));
    out.push_back(std::move(policy));
    begin = end + 1;
  }
  return out;
}

}  // namespace larder
