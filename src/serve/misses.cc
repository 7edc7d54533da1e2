#include "serve/misses.h"

#include <algorithm>

namespace larder {

bool SeesAll(const ServeContext& context, const std::string& tenant) {
  return context.keys.empty() || tenant == kOperatorTenant;
}

std::vector<std::pair<std::string, uint64_t>> VisibleMisses(const ServeContext& context,
                                                            const std::string& tenant,
                                                            const EngineStats& stats) {
  const bool sees_all = SeesAll(context, tenant);
  std::vector<std::pair<std::string, uint64_t>> misses;
  for (const auto& [reason, count] : stats.misses) {
    if (reason == MissReasonName(MissReason::kNone)) continue;
    std::string name(reason);
    std::replace(name.begin(), name.end(), ' ', '_');
    if (name == "other_tenant" && !sees_all) name = "never_seen";
    const auto same =
        std::find_if(misses.begin(), misses.end(), [&](const auto& entry) { return entry.first == name; });
    if (same == misses.end()) {
      misses.emplace_back(std::move(name), count);
    } else {
      same->second += count;
    }
  }
  return misses;
}

}  // namespace larder
