// The eviction policies. One line each.
#include <array>

#include "store/evict/policy.h"

namespace larder {

Result<std::unique_ptr<EvictPolicy>> CreateLru(std::string_view parameters);
Result<std::unique_ptr<EvictPolicy>> CreateLfu(std::string_view parameters);
Result<std::unique_ptr<EvictPolicy>> CreateFifo(std::string_view parameters);
Result<std::unique_ptr<EvictPolicy>> CreateSlru(std::string_view parameters);
Result<std::unique_ptr<EvictPolicy>> CreateS3Fifo(std::string_view parameters);
Result<std::unique_ptr<EvictPolicy>> CreateCost(std::string_view parameters);

namespace {

constexpr std::array kPolicies = {
    EvictPolicyEntry{"lru", "least recently used goes first", &CreateLru},
    EvictPolicyEntry{"lfu", "least often used goes first, then least recently", &CreateLfu},
    EvictPolicyEntry{"fifo", "oldest goes first, used or not", &CreateFifo},
    EvictPolicyEntry{"slru", "what was used once goes before what was used again", &CreateSlru},
    EvictPolicyEntry{"s3-fifo", "new blocks pass through a small queue, used ones stay in the main one",
                     &CreateS3Fifo},
    EvictPolicyEntry{"cost", "cheap to compute again, large and rarely used goes first", &CreateCost},
};

}  // namespace

std::span<const EvictPolicyEntry> EvictPolicies() { return kPolicies; }

std::string EvictPolicyNames() {
  std::string names;
  for (const EvictPolicyEntry& entry : kPolicies) {
    if (!names.empty()) names += ", ";
    names += entry.name;
  }
  return names;
}

Result<std::unique_ptr<EvictPolicy>> CreateEvictPolicy(std::string_view spec) {
  const size_t colon = spec.find(':');
  const std::string_view name = spec.substr(0, colon);
  const std::string_view parameters = colon == std::string_view::npos ? "" : spec.substr(colon + 1);
  for (const EvictPolicyEntry& entry : kPolicies) {
    if (entry.name == name) return entry.create(parameters);
  }
  return Fail(ErrorKind::kInvalid, "unknown eviction policy \"{}\"; known are {}", name, EvictPolicyNames());
}

}  // namespace larder
