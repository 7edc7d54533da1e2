#include "serve/lmcache_calls.h"

namespace larder {
namespace {

constexpr size_t kMostCalls = 8192;

}  // namespace

void LmcacheCalls::Remember(const std::string& event_id, const std::string& tenant, uint64_t ticket) {
  const std::lock_guard lock(mutex_);
  calls_.insert_or_assign(event_id, Known{tenant, ticket});
  order_.push_back(event_id);
  if (order_.size() <= kMostCalls) return;
  calls_.erase(order_.front());
  order_.pop_front();
}

std::optional<uint64_t> LmcacheCalls::Find(const std::string& event_id, const std::string& tenant) const {
  const std::lock_guard lock(mutex_);
  const auto call = calls_.find(event_id);
  if (call == calls_.end() || call->second.tenant != tenant) return std::nullopt;
  return call->second.ticket;
}

}  // namespace larder
