// Tier::Put over Redis, in the order of calls, as many at a time as fit in flight.
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <vector>

#include "store/redis/core.h"

namespace larder {

class RedisPut;

class RedisWriter {
 public:
  using Matches = std::function<bool(const RecordHeader&)>;

  explicit RedisWriter(RedisCore& core) : core_(core) {}
  RedisWriter(const RedisWriter&) = delete;
  RedisWriter& operator=(const RedisWriter&) = delete;

  // `done` exactly once.
  void Submit(RecordHeader header, RecordPayload payload, std::function<void(Status)> done);
  // Drops what waits (kCancelled) and calls `then` when what is being written has ended, of what matches: so
  // that a removal is not undone by a write that was asked for before it.
  void Drop(const Matches& matches, std::function<void()> then);
  void GiveUpAll();  // with kExhausted
  // Calls `then` when everything submitted before has ended.
  void WhenDone(std::function<void()> then);

 private:
  struct Waiter {
    std::vector<std::weak_ptr<RedisPut>> puts;
    std::function<void()> then;
  };

  void Pump();
  void Ended(const std::shared_ptr<RedisPut>& put);
  void Wait(std::vector<std::weak_ptr<RedisPut>> puts, std::function<void()> then);
  void CheckWaiters();

  RedisCore& core_;
  std::deque<std::shared_ptr<RedisPut>> waiting_;
  std::vector<std::shared_ptr<RedisPut>> active_;
  std::vector<Waiter> waiters_;
  uint64_t active_bytes_ = 0;
};

}  // namespace larder
