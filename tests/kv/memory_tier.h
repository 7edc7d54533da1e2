// A tier whose records live in a map and whose answers come when the test says so, in any order, with the
// faults it asks for. Another thread may deliver them.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "base/clock.h"
#include "store/tier.h"

namespace larder {

// The records; several tiers (servers) may share them.
struct MemoryRecords {
  struct Record {
    RecordHeader header;
    std::vector<std::byte> payload;
    uint64_t number;
  };
  std::map<std::string, Record> by_name;  // by hexadecimal name
  uint64_t next = 0;
};

class MemoryTier final : public Tier {
 public:
  explicit MemoryTier(MemoryRecords* records, std::string name = "disk")
      : records_(records), name_(std::move(name)) {}
  ~MemoryTier() override { DeliverAll(); }

  // Answers what is waiting and due, in random order if a generator is given. Whether there was anything.
  bool DeliverAll(std::mt19937* random = nullptr);
  // Answers the one at this place of the queue, if there is one.
  void DeliverOne(size_t place);
  // Groups of reads that were answered so far, good or bad.
  uint64_t groups_told() const { return groups_told_; }

  // Faults: names whose reads fail with kCorrupt, in this group or their last one; all answers fail; puts are
  // refused.
  std::set<std::string> corrupt;
  uint32_t corrupt_group = UINT32_MAX;
  bool dead = false, full = false, slow = false;
  // With a clock: no answer comes before the deadline, and then it is kSlow.
  Clock* silent = nullptr;
  bool stalled = false;  // puts are not answered, unless they are given up
  uint64_t hurried = 0, dropped = 0;
  bool hanging = false;          // what was given up may still be written to: the end of a read does not come
  bool tells = true;             // what goes; set before the cache has it
  int64_t last_deadline_ns = 0;  // of a get; nothing else is done with it
  uint64_t gets = 0, read_records = 0, conflicts = 0;
  std::vector<Digest> asked;  // names of gets, in order
  std::vector<Digest> touched;

  std::string_view name() const override { return name_; }
  void Find(std::vector<Digest> names, int64_t deadline_ns, FindDone done) override;
  void Children(const Digest& parent, size_t limit, int64_t deadline_ns, ChildrenDone done) override;
  uint64_t Get(std::vector<RecordRead> items, int64_t deadline_ns, ReadPriority priority,
               GetCallbacks callbacks) override;
  void Cancel(uint64_t ticket) override;
  void Put(RecordHeader header, RecordPayload payload, std::function<void(Status)> done) override;
  void Hurry() override { ++hurried; }
  void DropPending() override;
  void Touch(std::span<const Digest> names) override {
    touched.insert(touched.end(), names.begin(), names.end());
  }
  Status Pin(const Digest& name, int64_t ttl_ms) override { return {}; }
  Status Remove(std::span<const Digest> names) override;
  Status Wipe(const SpaceId& space) override;
  std::vector<RecordHeader> List(uint64_t& cursor, size_t limit, const SpaceId* space) override;
  bool ListenForRemovals(RemovalListener listener) override {
    listener_ = std::move(listener);
    return tells;
  }
  // Goes by itself; `named`: the tier knows which record it was.
  void Evict(const Digest& name, bool named = true);
  void Flush() override { DeliverAll(); }
  TierStats stats() const override { return {}; }

 private:
  struct Reading;
  struct Waiting {
    std::function<void()> answer;
    std::function<bool()> due;       // null: always
    std::function<void()> given_up;  // of a put: the answer if it is dropped
  };
  void Later(std::function<void()> answer, std::function<bool()> due = nullptr);
  // When the deadline is over by the clock of who is silent.
  static std::function<bool()> After(Clock* clock, int64_t deadline_ns);
  bool Cancelled(uint64_t ticket);
  void ReadGroup(const std::shared_ptr<Reading>& reading, uint32_t group);
  Status CopyGroup(const Reading& reading, size_t index, uint32_t group);

  MemoryRecords* records_;
  const std::string name_;
  std::mutex mutex_;
  std::vector<Waiting> waiting_;  // guarded by mutex_
  std::set<uint64_t> cancelled_;  // guarded by mutex_
  std::atomic<uint64_t> groups_told_ = 0;
  RemovalListener listener_;
};

}  // namespace larder
