// A log file: batches of entries, each synced before the next is written. It is never appended to after a
// failed sync and never by another process than the one that began it: then Replace writes a new one.
// Not thread-safe.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "store/disk/format.h"

namespace larder {

class DiskLog {
 public:
  // Files are called `stem`-N in `directory`.
  DiskLog(FileSystem* files, std::string directory, std::string stem, LogKind kind, const StoreId& store)
      : files_(files), directory_(std::move(directory)), stem_(std::move(stem)), header_{kind, store} {}

  // After recovery: which number was used last, of files and of batches.
  void Continue(uint64_t file_number, uint64_t batch_number) {
    header_.number = file_number;
    last_batch_ = batch_number;
  }
  // A new file that begins with what `next` gives, until it gives nothing; then the old one goes.
  // On an error the old one is still there, and usable if it was before.
  Status Replace(BatchHeader header, const std::function<std::vector<std::byte>()>& next);
  // Written and synced. kIo: nobody knows whether it is on disk; the log is broken until Replace.
  Status Append(BatchHeader header, std::span<const std::byte> body);

  bool usable() const { return file_ != nullptr; }
  uint64_t bytes() const { return bytes_ + stale_bytes_; }  // of all its files
  uint64_t last_batch() const { return last_batch_; }
  uint64_t number() const { return header_.number; }
  uint64_t syncs() const { return syncs_; }
  uint64_t replaced() const { return replaced_; }

 private:
  std::string Path(const std::string& suffix = "") const {
    return directory_ + "/" + NumberedName(stem_, header_.number) + suffix;
  }
  Status WriteNew(File* file, BatchHeader header, const std::function<std::vector<std::byte>()>& next,
                  uint64_t& end, uint64_t& batch);

  FileSystem* files_;
  std::string directory_, stem_;
  LogHeader header_;  // of the file being written
  std::unique_ptr<File> file_;
  struct Stale {
    std::string path;
    uint64_t bytes;
  };
  void RemoveStale();

  std::string path_;          // of the newest file that has its name; "" if there never was one
  std::vector<Stale> stale_;  // replaced, and not removed yet
  uint64_t bytes_ = 0, stale_bytes_ = 0, last_batch_ = 0, syncs_ = 0, replaced_ = 0;
};

}  // namespace larder
