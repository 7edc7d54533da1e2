// The calls of LMCache's controller that were answered, by the event id in the answer, for who asks later
// what became of them.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <mutex>
#include <optional>
#include <string>

namespace larder {

// Thread-safe. Remembers the last few thousand.
class LmcacheCalls {
 public:
  // `ticket`: of a prefetch that is under way (Engine::Fetching); 0: the call had done its work.
  void Remember(const std::string& event_id, const std::string& tenant, uint64_t ticket);
  // The ticket of the tenant's call; nothing: there was none, or it is forgotten.
  std::optional<uint64_t> Find(const std::string& event_id, const std::string& tenant) const;

 private:
  struct Known {
    std::string tenant;
    uint64_t ticket;
  };
  mutable std::mutex mutex_;
  std::map<std::string, Known> calls_;
  std::deque<std::string> order_;
};

}  // namespace larder
