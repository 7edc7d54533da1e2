#include "store/redis/put.h"

#include <algorithm>
#include <boost/asio/post.hpp>
#include <utility>

#include "base/log.h"
#include "store/redis/put_op.h"

namespace larder {

void RedisWriter::Submit(RecordHeader header, RecordPayload payload, std::function<void(Status)> done) {
  waiting_.push_back(
      std::make_shared<RedisPut>(core_, std::move(header), std::move(payload), std::move(done)));
  Pump();
}

void RedisWriter::Pump() {
  while (!waiting_.empty()) {
    const uint64_t bytes = waiting_.front()->header().payload_bytes();
    if (!active_.empty() && active_bytes_ + bytes > core_.options.max_in_flight_bytes) return;
    const std::shared_ptr<RedisPut> put = waiting_.front();
    waiting_.pop_front();
    active_.push_back(put);
    active_bytes_ += bytes;
    put->Start([this, weak = std::weak_ptr(put)] {
      if (const auto ended = weak.lock()) Ended(ended);
    });
  }
}

void RedisWriter::Ended(const std::shared_ptr<RedisPut>& put) {
  active_bytes_ -= put->header().payload_bytes();
  std::erase(active_, put);
  CheckWaiters();
  // Not from here: a run of puts that fail at once would nest as deep as it is long.
  boost::asio::post(core_.io, [this] { Pump(); });
}

void RedisWriter::Drop(const Matches& matches, std::function<void()> then) {
  std::vector<std::shared_ptr<RedisPut>> dropped;
  for (const auto& put : waiting_) {
    if (matches(put->header())) dropped.push_back(put);
  }
  for (const auto& put : dropped) {
    std::erase(waiting_, put);
    put->End(Fail(ErrorKind::kCancelled, "the record was removed before it was written"));
  }
  std::vector<std::weak_ptr<RedisPut>> running;
  for (const auto& put : active_) {
    if (matches(put->header())) running.emplace_back(put);
  }
  Wait(std::move(running), std::move(then));
}

// A put that is on its way may still arrive; like one that was too slow.
void RedisWriter::GiveUpAll() {
  std::vector<std::shared_ptr<RedisPut>> all(active_.begin(), active_.end());
  all.insert(all.end(), waiting_.begin(), waiting_.end());
  if (all.empty()) return;
  LogWarn("{} writes to Redis are dropped: memory is wanted before they are done", all.size());
  waiting_.clear();
  for (const auto& put : all)
    put->End(Fail(ErrorKind::kExhausted, "its memory is wanted before it could be written"));
}

void RedisWriter::WhenDone(std::function<void()> then) {
  std::vector<std::weak_ptr<RedisPut>> all(active_.begin(), active_.end());
  all.insert(all.end(), waiting_.begin(), waiting_.end());
  Wait(std::move(all), std::move(then));
}

void RedisWriter::Wait(std::vector<std::weak_ptr<RedisPut>> puts, std::function<void()> then) {
  waiters_.push_back({.puts = std::move(puts), .then = std::move(then)});
  CheckWaiters();
}

void RedisWriter::CheckWaiters() {
  std::vector<std::function<void()>> ready;
  std::erase_if(waiters_, [&](Waiter& waiter) {
    std::erase_if(waiter.puts, [](const auto& weak) {
      const auto put = weak.lock();
      return !put || put->ended();
    });
    if (!waiter.puts.empty()) return false;
    ready.push_back(std::move(waiter.then));
    return true;
  });
  for (const auto& then : ready) then();
}

}  // namespace larder
