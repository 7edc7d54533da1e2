// What a tenant may see of counts that concern several tenants.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "serve/context.h"

namespace larder {

// The operator, and whoever asks a server without keys.
bool SeesAll(const ServeContext& context, const std::string& tenant);

// Names with '_' for spaces. Misses whose text another tenant has are counted as "other_tenant" for the
// operator and for servers without keys; with keys, other tenants see them as "never_seen": watching the
// count while sending a prompt would tell them whether a stranger sent it.
std::vector<std::pair<std::string, uint64_t>> VisibleMisses(const ServeContext& context,
                                                            const std::string& tenant,
                                                            const EngineStats& stats);

}  // namespace larder
