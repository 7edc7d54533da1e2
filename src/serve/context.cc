#include "serve/context.h"

#include <fmt/format.h>

#include <algorithm>
#include <random>

namespace larder {

int RetryAfterSeconds(const ServeContext& context) {
  const EngineStats stats = context.backend->Stats();
  const int64_t rounds = stats.waiting / std::max<int64_t>(1, stats.running);
  return static_cast<int>(std::clamp<int64_t>(1 + rounds, 1, 60));
}

std::string NewId(std::string_view prefix) {
  std::random_device random;
  return fmt::format("{}-{:08x}{:08x}{:08x}", prefix, random(), random(), random());
}

}  // namespace larder
