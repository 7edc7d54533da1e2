// A file system in memory that knows what has been synced, so that a crash can take away the rest: single
// sectors of writes, truncations, names in the directory. And one whose operations can be made to fail.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "base/file_system.h"

namespace larder {

enum class SimOp {
  kOpen,
  kCreate,
  kRead,
  kWrite,
  kSync,
  kTruncate,
  kAllocate,
  kRename,
  kRemove,
  kSyncDirectory
};

class SimFiles final : public FileSystem {
 public:
  // Asked before each operation; an error is its outcome. A failed sync leaves the data visible, and lost at
  // the next crash, as kernels do.
  using Hook = std::function<Status(SimOp, const std::string& path)>;

  Result<std::unique_ptr<File>> Open(const std::string& path, OpenFlags flags) override;
  Status Rename(const std::string& from, const std::string& to) override;
  Status Remove(const std::string& path) override;
  Result<std::vector<std::string>> List(const std::string& directory) override;
  Status MakeDirectory(const std::string& path) override { return {}; }
  Status SyncDirectory(const std::string& path) override;
  Result<std::unique_ptr<FileLock>> Lock(const std::string& path) override;

  void SetHook(Hook hook);
  // All changes after the next `count` fail, and so does everything else.
  void CrashAfter(uint64_t count);
  uint64_t changes() const { return changes_; }  // writes, syncs, and changes of names so far
  bool crashed() const { return crashed_; }
  // What a restart finds: what was synced, and a part of the rest chosen by `seed`.
  void Restart(uint64_t seed);

  void SetCapacity(uint64_t bytes);                               // of the disk
  uint64_t BytesOf(const std::string& stem) const;                // sizes of the files whose name begins so
  std::vector<std::string> Names(const std::string& stem) const;  // full paths
  std::vector<std::byte>& Data(const std::string& path);          // to damage; nobody may be using it
  uint64_t unaligned() const { return unaligned_; }               // direct operations off the grid

 private:
  friend class SimFile;
  struct Change {  // of a file's content, not synced
    uint64_t offset = 0;
    std::vector<std::byte> bytes;
    bool truncate = false;  // to `offset`
  };
  struct Inode {
    std::vector<std::byte> data, durable;
    std::vector<Change> pending;
  };
  struct NameChange {  // of the directory, not synced
    std::string remove, add;
    std::shared_ptr<Inode> inode;
  };
  using Names_ = std::map<std::string, std::shared_ptr<Inode>>;

  // REQUIRE mutex_.
  Status Enter(SimOp op, const std::string& path, bool change, std::unique_lock<std::mutex>& lock);
  Status Grow(Inode& inode, uint64_t size);
  static void Apply(std::vector<std::byte>& to, const Change& change);
  static void ApplySectors(std::vector<std::byte>& to, const Change& change, uint64_t& random);

  mutable std::mutex mutex_;
  Hook hook_;
  Names_ names_, durable_names_;
  std::vector<NameChange> pending_names_;
  std::set<std::string> locks_;
  uint64_t changes_ = 0, crash_at_ = UINT64_MAX, capacity_ = UINT64_MAX, unaligned_ = 0;
  bool crashed_ = false;
};

}  // namespace larder
