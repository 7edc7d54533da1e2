// A tier in memory that delivers no more than so many bytes a second: what slow storage costs, measured
// without the noise of real storage. For benchmarks.
#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string_view>
#include <thread>
#include <vector>

#include "store/tier.h"

namespace larder {

// A thread that does one piece of work after the other. Ends when all is done.
class WorkQueue {
 public:
  WorkQueue() : thread_([this] { Run(); }) {}
  ~WorkQueue();
  void Post(std::function<void()> work);
  void Wait();  // until there is nothing left

 private:
  void Run();

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> queue_;  // guarded by mutex_
  bool working_ = false, stopped_ = false;   // guarded by mutex_
  std::thread thread_;                       // last: it uses everything above
};

class ThrottledTier final : public Tier {
 public:
  void SetRate(double bytes_per_second) { rate_ = bytes_per_second; }  // 0: as fast as memory
  void SetFull(bool full) { full_ = full; }                            // takes nothing more

  std::string_view name() const override { return "throttled"; }
  void Find(std::vector<Digest> names, int64_t deadline_ns, FindDone done) override;
  void Children(const Digest& parent, size_t limit, int64_t deadline_ns, ChildrenDone done) override;
  // Group by group, one get after the other, past every deadline.
  uint64_t Get(std::vector<RecordRead> items, int64_t deadline_ns, ReadPriority priority,
               GetCallbacks callbacks) override;
  void Cancel(uint64_t) override {}  // it ends by itself
  void Put(RecordHeader header, RecordPayload payload, std::function<void(Status)> done) override;
  void Touch(std::span<const Digest>) override {}
  Status Pin(const Digest&, int64_t) override { return {}; }
  Status Remove(std::span<const Digest> names) override;
  Status Wipe(const SpaceId& space) override;
  std::vector<RecordHeader> List(uint64_t& cursor, size_t limit, const SpaceId* space) override;
  void Flush() override;
  TierStats stats() const override { return {}; }

 private:
  struct Record {
    RecordHeader header;
    std::vector<std::vector<std::byte>> groups = {};
  };
  void Read(const std::vector<RecordRead>& items, const GetCallbacks& callbacks);

  std::atomic<double> rate_ = 0;
  std::atomic<bool> full_ = false;
  mutable std::mutex mutex_;
  std::map<Digest, std::shared_ptr<const Record>> records_;  // guarded by mutex_
  WorkQueue answers_, reads_;  // questions do not wait for payloads; last: they use everything above
};

}  // namespace larder
