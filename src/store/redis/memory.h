// How full the servers are, fetched in the background.
#pragma once

#include <atomic>

#include "store/redis/core.h"

namespace larder {

class RedisMemory {
 public:
  explicit RedisMemory(RedisCore& core) : core_(core) {}
  // From any thread: asks all masters, if it has not in the last second, and puts the sums into the counters.
  void Refresh();

 private:
  void Ask();

  RedisCore& core_;
  std::atomic<int64_t> next_ns_ = INT64_MIN;
};

}  // namespace larder
