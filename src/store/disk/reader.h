// The thread that reads: gets, children and the answers of finds. A get is a job: first the heads of all its
// records, then their groups, layer by layer over all records, in pieces of at most 1 MiB. Reads of requests
// go first. What lies right in the destination is read straight into it, the rest through a few staging
// buffers.
//
// A system call waits for as many answers as it takes to have something to tell, while there is more to issue
// at most for half of those that are on their way: the disk has work while they are verified.
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "store/disk/core.h"
#include "store/disk/io_queue.h"
#include "store/disk/read_job.h"

namespace larder {

class DiskReader {
 public:
  // `freed` is called when a segment may have lost its last reader.
  DiskReader(DiskCore& core, std::unique_ptr<IoQueue> queue, std::function<void()> freed);
  ~DiskReader();  // what has not arrived is cancelled

  void Find(std::vector<bool> here, int64_t deadline_ns, Tier::FindDone done);
  void Run(std::function<void()> work);  // soon, on the thread that answers
  void Children(const Digest& parent, size_t limit, int64_t deadline_ns, Tier::ChildrenDone done);
  uint64_t Get(std::vector<RecordRead> items, int64_t deadline_ns, ReadPriority priority,
               GetCallbacks callbacks);
  void Cancel(uint64_t ticket);

  // Without a thread: one round; whether there was anything to do.
  bool Step();

 private:
  static constexpr size_t kDepth = 32, kStagingBuffers = 8;
  static constexpr size_t kNone = SIZE_MAX;
  struct Operation {
    ReadJob* job = nullptr;
    size_t head = kNone, piece = kNone;  // one of them: an item's head, or one of the job's pieces
    size_t staging = kNone;
    std::span<std::byte> to;
  };

  void Post(std::unique_ptr<ReadJob> job);
  void Loop();
  bool TakeInbox();
  void Expire();
  void Issue();
  void IssueJob(ReadJob& job, std::vector<IoRead>& reads);
  bool IssuePiece(ReadJob& job, std::vector<IoRead>& reads);
  void AddRead(File* file, uint64_t offset, Operation operation, std::vector<IoRead>& reads);
  int64_t TimeoutNs();
  size_t AnswersToWaitFor() const;
  void Handle(IoDone& done);
  Status Complete(const Operation& operation, File* file, uint64_t offset, uint64_t needed, IoDone& done);
  void Round(int64_t timeout_ns);
  void DropFinished();

  DiskCore& core_;
  std::unique_ptr<IoQueue> queue_;
  std::function<void()> freed_;

  std::mutex mutex_;
  std::vector<std::unique_ptr<ReadJob>> inbox_;  // guarded by mutex_
  std::vector<uint64_t> cancels_;                // guarded by mutex_
  uint64_t last_ticket_ = 0;                     // guarded by mutex_
  bool stopping_ = false;                        // guarded by mutex_

  // The thread's own.
  std::deque<std::unique_ptr<ReadJob>> jobs_;
  std::vector<Operation> operations_;
  std::vector<size_t> free_operations_, free_staging_;
  std::vector<DirectBuffer> staging_;
  bool ending_ = false;
  std::thread thread_;
};

}  // namespace larder
