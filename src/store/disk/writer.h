// The thread that writes and cleans up. Puts wait here, at most for the delay of the options, and become
// valid in groups: one sync of the payloads, one of the catalog, however many records there are.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <unordered_map>
#include <vector>

#include "store/disk/core.h"

namespace larder {

class DiskWriter {
 public:
  explicit DiskWriter(DiskCore& core);
  ~DiskWriter();  // what waits is written first

  void Put(RecordHeader header, RecordPayload payload, std::function<void(Status)> done);
  void Hurry();
  // What waits is given up and told by `tell`, from a thread that no write holds up. What is being written is
  // given up record by record as its turn comes.
  void DropPending(const std::function<void(std::function<void()>)>& tell);
  void Flush();
  void Poke();  // there may be something to clean
  uint64_t pending_bytes() const;
  // Without a thread: does what is due; whether there was anything.
  bool Step();

 private:
  struct Pending {
    RecordHeader header;
    RecordPayload payload;
    std::function<void(Status)> done;
    uint64_t born = 0, bytes = 0;
    int64_t arrived_ns = 0;
    Status status;          // the outcome; refused ones have it from the start
    size_t record = kNone;  // its place among the batch's new records
  };
  static constexpr size_t kNone = SIZE_MAX;
  using Written = std::unordered_map<RecordKey, size_t, RecordKeyHash>;  // places of a batch's new records

  bool Due() const;        // REQUIRES mutex_
  int64_t WaitNs() const;  // REQUIRES mutex_
  void Loop();
  std::vector<Pending> TakeBatch();
  bool GivenUp(const Pending& put);
  bool WriteBatch();
  void WriteRecords(std::vector<Pending>& batch, std::vector<NewRecord>& records);
  Status WriteRecord(Pending& put, std::vector<NewRecord>& records, Written& written);
  Status Encode(RecordHead& head, const Pending& put, NewRecord& record);
  void RecheckKnown(std::vector<Pending>& batch);
  void Finish(std::vector<Pending>& batch, const std::vector<NewRecord>& records);
  bool Maintain();

  DiskCore& core_;
  DirectBuffer buffer_;  // of the writing thread
  int64_t checkpoint_ns_ = 0;

  mutable std::mutex mutex_;
  std::condition_variable wake_, idle_;
  std::deque<Pending> pending_;  // guarded by mutex_, as all below
  uint64_t pending_bytes_ = 0;   // also of what is being written
  uint64_t dropped_born_ = 0;    // puts up to this one are given up if they are not written yet
  bool stopping_ = false, busy_ = false, poked_ = false, hurried_ = false;
  int flushing_ = 0;
  std::thread thread_;
};

}  // namespace larder
