// The ways to choose what is written. One line each.
#include <array>

#include "store/admit/policy.h"

namespace larder {

Result<std::unique_ptr<AdmitPolicy>> CreateAdmitAll(std::string_view parameters);
Result<std::unique_ptr<AdmitPolicy>> CreateAdmitHits(std::string_view parameters);
Result<std::unique_ptr<AdmitPolicy>> CreateAdmitReuse(std::string_view parameters);

namespace {

constexpr std::array kPolicies = {
    AdmitPolicyEntry{"all", "every block", &CreateAdmitAll},
    AdmitPolicyEntry{"hits", "what was asked for again", &CreateAdmitHits},
    AdmitPolicyEntry{"reuse", "what is like blocks that were asked for again", &CreateAdmitReuse},
};

}  // namespace

std::span<const AdmitPolicyEntry> AdmitPolicies() { return kPolicies; }

std::string AdmitPolicyNames() {
  std::string names;
  for (const AdmitPolicyEntry& entry : kPolicies)
    names += (names.empty() ? "" : ", ") + std::string(entry.name);
  return names;
}

Result<std::unique_ptr<AdmitPolicy>> CreateAdmitPolicy(std::string_view spec) {
  const size_t colon = spec.find(':');
  for (const AdmitPolicyEntry& entry : kPolicies) {
    if (entry.name != spec.substr(0, colon)) continue;
    return entry.create(colon == std::string_view::npos ? "" : spec.substr(colon + 1));
  }
  return Fail(ErrorKind::kInvalid, "unknown admission \"{}\"; known are {}", spec.substr(0, colon),
              AdmitPolicyNames());
}

}  // namespace larder
