// Leases across a restart: a file beside the disk tier, docs/formats/leases.md. It is written by a thread of
// its own, whole and atomically, at most once a second. A file that cannot be read or written costs the
// leases and nothing else.
#pragma once

#include <condition_variable>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "base/clock.h"
#include "kv/leases.h"

namespace larder {

class LeaseFile {
 public:
  LeaseFile(std::string path, Clock* clock);
  ~LeaseFile();  // writes what is left to write
  LeaseFile(const LeaseFile&) = delete;
  LeaseFile& operator=(const LeaseFile&) = delete;

  // What was written last, with the time that is left by both clocks: what the wall clock says has passed,
  // and never more than when it was written. Empty where there is no file.
  std::vector<SavedLease> Load() const;
  // Returns at once.
  void Save(std::vector<SavedLease> leases);

  static std::string Encode(const std::vector<SavedLease>& leases, int64_t now_wall_ms);
  static Result<std::vector<SavedLease>> Decode(std::string_view text, int64_t now_wall_ms);  // kCorrupt

 private:
  void Write();

  const std::string path_;
  Clock* const clock_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::optional<std::vector<SavedLease>> next_;  // guarded by mutex_: not written yet
  bool stopping_ = false;                        // guarded by mutex_
  std::jthread thread_;
};

}  // namespace larder
