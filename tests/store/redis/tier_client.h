// A tier's calls, waited for, and a clock that tests move.
#pragma once

#include <atomic>
#include <future>
#include <limits>
#include <vector>

#include "base/clock.h"
#include "store/redis/redis_tier.h"
#include "tests/store/store_fixture.h"

namespace larder {

// Moves by hand on top of real time, so that back-offs pass when a test wants it.
class TestClock final : public Clock {
 public:
  int64_t NowNs() override { return system_.NowNs() + offset_ns_; }
  int64_t WallMs() override { return system_.WallMs() + offset_ns_ / 1'000'000; }
  void Advance(int64_t ms) { offset_ns_ += ms * 1'000'000; }

 private:
  SystemClock system_;
  std::atomic<int64_t> offset_ns_ = 0;
};

inline constexpr int64_t kNoDeadline = std::numeric_limits<int64_t>::max();

struct GetOutcome {
  std::vector<std::vector<Status>> groups;  // in the order of group_done: statuses of the items
  std::vector<uint32_t> order;              // which groups
  std::vector<std::vector<std::byte>> bytes;

  // Of an item: the first error, or ok.
  Status status(size_t item = 0) const {
    for (const auto& group : groups) {
      if (!group[item]) return group[item];
    }
    return {};
  }
};

class TierClient {
 public:
  explicit TierClient(Tier& tier) : tier_(tier) {}

  Status Put(const TestRecord& record) {
    std::promise<Status> promise;
    tier_.Put(record.header, record.payload(), [&](Status status) { promise.set_value(std::move(status)); });
    return promise.get_future().get();
  }
  Result<std::vector<bool>> Find(std::vector<Digest> names, int64_t deadline_ns = kNoDeadline) {
    std::promise<Result<std::vector<bool>>> promise;
    tier_.Find(std::move(names), deadline_ns, [&](auto found) { promise.set_value(std::move(found)); });
    return promise.get_future().get();
  }
  Result<std::vector<RecordHeader>> Children(const Digest& parent, size_t limit = 100,
                                             int64_t deadline_ns = kNoDeadline) {
    std::promise<Result<std::vector<RecordHeader>>> promise;
    tier_.Children(parent, limit, deadline_ns,
                   [&](auto children) { promise.set_value(std::move(children)); });
    return promise.get_future().get();
  }
  GetOutcome Get(std::vector<RecordRead> items, const std::vector<size_t>& sizes,
                 int64_t deadline_ns = kNoDeadline,
                 std::function<Status(size_t, const RecordHeader&)> accept = nullptr, bool cancel = false) {
    GetOutcome out;
    for (size_t i = 0; i < items.size(); ++i) out.bytes.emplace_back(sizes[i]);
    for (size_t i = 0; i < items.size(); ++i) items[i].destination = out.bytes[i];
    std::promise<void> promise;
    const uint64_t ticket = tier_.Get(std::move(items), deadline_ns, ReadPriority::kRequest,
                                      {.accept = std::move(accept),
                                       .group_done =
                                           [&](uint32_t group, std::span<const Status> statuses) {
                                             out.order.push_back(group);
                                             out.groups.emplace_back(statuses.begin(), statuses.end());
                                           },
                                       .done = [&] { promise.set_value(); }});
    if (cancel) tier_.Cancel(ticket);
    promise.get_future().get();
    return out;
  }
  // One record as a whole, by a caller who knows it.
  GetOutcome Get(const TestRecord& record, int64_t deadline_ns = kNoDeadline) {
    return Get({{.name = record.header.name, .end_group = static_cast<uint32_t>(record.groups.size())}},
               {record.header.payload_bytes()}, deadline_ns);
  }
  // True if it is there, with the right bytes.
  bool Has(const TestRecord& record) {
    const GetOutcome outcome = Get(record);
    std::vector<std::byte> wanted;
    for (const auto& group : record.groups) wanted.insert(wanted.end(), group.begin(), group.end());
    return outcome.status() && outcome.bytes[0] == wanted;
  }

 private:
  Tier& tier_;
};

}  // namespace larder
