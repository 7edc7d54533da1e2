#include "tests/store/disk/sim_files.h"

#include <algorithm>
#include <cstring>

namespace larder {
namespace {

constexpr size_t kSector = 512;

uint64_t Draw(uint64_t& state) {
  state = state * 6364136223846793005u + 1442695040888963407u;
  return state >> 33;
}

std::unexpected<Error> Crashed() { return Fail(ErrorKind::kIo, "the simulated machine is down"); }

}  // namespace

class SimFile final : public File {
 public:
  SimFile(SimFiles* files, std::string path, std::shared_ptr<SimFiles::Inode> inode, bool direct)
      : files_(files), path_(std::move(path)), inode_(std::move(inode)), direct_(direct) {}

  Result<size_t> Read(uint64_t offset, std::span<std::byte> to) override {
    Grid(offset, to.data(), to.size());
    std::unique_lock lock(files_->mutex_);
    LARDER_TRY(files_->Enter(SimOp::kRead, path_, false, lock));
    const auto& data = inode_->data;
    if (offset >= data.size()) return 0;
    const size_t count = std::min<size_t>(to.size(), data.size() - offset);
    std::copy_n(data.begin() + static_cast<ptrdiff_t>(offset), count, to.begin());
    return count;
  }

  Status Write(uint64_t offset, std::span<const std::byte> from) override {
    Grid(offset, from.data(), from.size());
    std::unique_lock lock(files_->mutex_);
    const bool before = files_->crashed_;
    const Status entered = files_->Enter(SimOp::kWrite, path_, true, lock);
    SimFiles::Change change{offset, {from.begin(), from.end()}};
    // The write during which the machine goes down may be on the disk in part.
    if (!entered && !before && files_->crashed_) inode_->pending.push_back(change);
    LARDER_TRY(entered);
    LARDER_TRY(files_->Grow(*inode_, offset + from.size()));
    SimFiles::Apply(inode_->data, change);
    inode_->pending.push_back(std::move(change));
    return {};
  }

  Status Sync() override {
    std::unique_lock lock(files_->mutex_);
    const Status entered = files_->Enter(SimOp::kSync, path_, true, lock);
    if (!entered) {
      if (!files_->crashed_) inode_->pending.clear();
      return entered;
    }
    inode_->durable = inode_->data;
    inode_->pending.clear();
    return {};
  }

  Result<uint64_t> Size() override {
    std::lock_guard lock(files_->mutex_);
    return inode_->data.size();
  }

  Status Truncate(uint64_t size) override { return Resize(SimOp::kTruncate, size); }
  Status Allocate(uint64_t size) override { return Resize(SimOp::kAllocate, size); }
  bool direct() const override { return direct_; }

 private:
  void Grid(uint64_t offset, const void* data, size_t size) {
    if (!direct_) return;
    if (offset % kDirectAlign == 0 && size % kDirectAlign == 0 &&
        reinterpret_cast<uintptr_t>(data) % kDirectAlign == 0)
      return;
    std::lock_guard lock(files_->mutex_);
    ++files_->unaligned_;
  }

  Status Resize(SimOp op, uint64_t size) {
    std::unique_lock lock(files_->mutex_);
    LARDER_TRY(files_->Enter(op, path_, true, lock));
    LARDER_TRY(files_->Grow(*inode_, size));
    SimFiles::Change change{.offset = size, .truncate = true};
    SimFiles::Apply(inode_->data, change);
    inode_->pending.push_back(std::move(change));
    return {};
  }

  SimFiles* files_;
  std::string path_;
  std::shared_ptr<SimFiles::Inode> inode_;
  bool direct_;
};

Status SimFiles::Enter(SimOp op, const std::string& path, bool change, std::unique_lock<std::mutex>& lock) {
  if (crashed_) return Crashed();
  if (change && changes_++ >= crash_at_) {
    crashed_ = true;
    return Crashed();
  }
  if (!hook_) return {};
  const Hook hook = hook_;
  lock.unlock();
  Status status = hook(op, path);
  lock.lock();
  return status;
}

Status SimFiles::Grow(Inode& inode, uint64_t size) {
  if (size <= inode.data.size()) return {};
  uint64_t used = size - inode.data.size();
  for (const auto& [path, other] : names_) used += other->data.size();
  if (used > capacity_) return Fail(ErrorKind::kExhausted, "the simulated disk is full");
  return {};
}

void SimFiles::Apply(std::vector<std::byte>& to, const Change& change) {
  if (change.truncate) {
    to.resize(change.offset);
    return;
  }
  to.resize(std::max(to.size(), static_cast<size_t>(change.offset) + change.bytes.size()));
  std::copy(change.bytes.begin(), change.bytes.end(), to.begin() + static_cast<ptrdiff_t>(change.offset));
}

void SimFiles::ApplySectors(std::vector<std::byte>& to, const Change& change, uint64_t& random) {
  const uint64_t fate = Draw(random) % 4;  // whole, not at all, sector by sector
  if (fate == 1) return;
  if (fate == 0 || change.truncate) return Apply(to, change);
  for (size_t at = 0; at < change.bytes.size(); at += kSector) {
    if (Draw(random) % 2 == 0) continue;
    const size_t end = std::min(at + kSector, change.bytes.size());
    Change sector{change.offset + at,
                  {change.bytes.begin() + static_cast<ptrdiff_t>(at),
                   change.bytes.begin() + static_cast<ptrdiff_t>(end)}};
    Apply(to, sector);
  }
}

Result<std::unique_ptr<File>> SimFiles::Open(const std::string& path, OpenFlags flags) {
  std::unique_lock lock(mutex_);
  LARDER_TRY(Enter(flags.create  ? SimOp::kCreate
                   : flags.write ? SimOp::kOpen
                                 : SimOp::kRead,
                   path, flags.create, lock));
  auto found = names_.find(path);
  if (flags.create) {
    if (found != names_.end()) return Fail(ErrorKind::kConflict, "{} is there", path);
    found = names_.emplace(path, std::make_shared<Inode>()).first;
    pending_names_.push_back({"", path, found->second});
  }
  if (found == names_.end()) return Fail(ErrorKind::kNotFound, "there is no {}", path);
  return std::make_unique<SimFile>(this, path, found->second, flags.direct);
}

Status SimFiles::Rename(const std::string& from, const std::string& to) {
  std::unique_lock lock(mutex_);
  LARDER_TRY(Enter(SimOp::kRename, from, true, lock));
  const auto found = names_.find(from);
  if (found == names_.end()) return Fail(ErrorKind::kNotFound, "there is no {}", from);
  const auto inode = found->second;
  names_.erase(found);
  names_[to] = inode;
  pending_names_.push_back({from, to, inode});
  return {};
}

Status SimFiles::Remove(const std::string& path) {
  std::unique_lock lock(mutex_);
  if (!names_.contains(path)) return Fail(ErrorKind::kNotFound, "there is no {}", path);
  LARDER_TRY(Enter(SimOp::kRemove, path, true, lock));
  names_.erase(path);
  pending_names_.push_back({path, "", nullptr});
  return {};
}

Result<std::vector<std::string>> SimFiles::List(const std::string& directory) {
  std::lock_guard lock(mutex_);
  if (crashed_) return Crashed();
  std::vector<std::string> names;
  for (const auto& [path, inode] : names_) {
    if (path.starts_with(directory + "/")) names.push_back(path.substr(directory.size() + 1));
  }
  return names;
}

Status SimFiles::SyncDirectory(const std::string& path) {
  std::unique_lock lock(mutex_);
  LARDER_TRY(Enter(SimOp::kSyncDirectory, path, true, lock));
  durable_names_ = names_;
  pending_names_.clear();
  return {};
}

namespace {

class SimLock final : public FileLock {
 public:
  explicit SimLock(std::function<void()> release) : release_(std::move(release)) {}
  ~SimLock() override { release_(); }

 private:
  std::function<void()> release_;
};

}  // namespace

Result<std::unique_ptr<FileLock>> SimFiles::Lock(const std::string& path) {
  std::lock_guard lock(mutex_);
  if (crashed_) return Crashed();
  if (!locks_.insert(path).second) return Fail(ErrorKind::kConflict, "{} is held by process 7", path);
  return std::make_unique<SimLock>([this, path] {
    std::lock_guard release(mutex_);
    locks_.erase(path);
  });
}

void SimFiles::SetHook(Hook hook) {
  std::lock_guard lock(mutex_);
  hook_ = std::move(hook);
}

void SimFiles::SetCapacity(uint64_t bytes) {
  std::lock_guard lock(mutex_);
  capacity_ = bytes;
}

void SimFiles::CrashAfter(uint64_t count) {
  std::lock_guard lock(mutex_);
  crash_at_ = count == UINT64_MAX ? count : changes_ + count;
}

void SimFiles::Restart(uint64_t seed) {
  std::lock_guard lock(mutex_);
  uint64_t random = seed * 2 + 1;
  for (const NameChange& change : pending_names_) {
    if (Draw(random) % 2 == 0) continue;
    if (!change.remove.empty()) durable_names_.erase(change.remove);
    if (!change.add.empty()) durable_names_[change.add] = change.inode;
  }
  pending_names_.clear();
  std::set<Inode*> seen;
  for (const auto& [path, inode] : durable_names_) {
    if (!seen.insert(inode.get()).second) continue;
    for (const Change& change : inode->pending) ApplySectors(inode->durable, change, random);
    inode->pending.clear();
    inode->data = inode->durable;
  }
  names_ = durable_names_;
  crashed_ = false;
  crash_at_ = UINT64_MAX;
  hook_ = nullptr;
  locks_.clear();
}

uint64_t SimFiles::BytesOf(const std::string& stem) const {
  std::lock_guard lock(mutex_);
  uint64_t bytes = 0;
  for (const auto& [path, inode] : names_) {
    if (path.substr(path.rfind('/') + 1).starts_with(stem)) bytes += inode->data.size();
  }
  return bytes;
}

std::vector<std::string> SimFiles::Names(const std::string& stem) const {
  std::lock_guard lock(mutex_);
  std::vector<std::string> paths;
  for (const auto& [path, inode] : names_) {
    if (path.substr(path.rfind('/') + 1).starts_with(stem)) paths.push_back(path);
  }
  return paths;
}

std::vector<std::byte>& SimFiles::Data(const std::string& path) {
  std::lock_guard lock(mutex_);
  return names_.at(path)->data;
}

}  // namespace larder
