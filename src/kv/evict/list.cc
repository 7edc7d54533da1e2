// The eviction policies. One line each.
#include <array>

#include "kv/policy.h"

namespace larder {

Result<std::unique_ptr<EvictPolicy>> CreateLru(std::string_view parameters);
Result<std::unique_ptr<EvictPolicy>> CreateLfu(std::string_view parameters);

namespace {

constexpr std::array kPolicies = {
    EvictPolicyEntry{"lru", "least recently used goes first", &CreateLru},
    EvictPolicyEntry{"lfu", "least often used goes first, then least recently", &CreateLfu},
};

}  // namespace

std::span<const EvictPolicyEntry> EvictPolicies() { return kPolicies; }

Result<std::unique_ptr<EvictPolicy>> CreateEvictPolicy(std::string_view spec) {
  const size_t colon = spec.find(':');
  const std::string_view name = spec.substr(0, colon);
  const std::string_view parameters = colon == std::string_view::npos ? "" : spec.substr(colon + 1);
  std::string known;
  for (const EvictPolicyEntry& entry : kPolicies) {
    if (entry.name == name) return entry.create(parameters);
    if (!known.empty()) known += ", ";
    known += entry.name;
  }
  return Fail(ErrorKind::kInvalid, "unknown eviction policy \"{}\"; known are {}", name, known);
}

}  // namespace larder
