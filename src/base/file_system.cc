#include "base/file_system.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <string_view>

namespace larder {
namespace {

ErrorKind KindOf(int code) {
  switch (code) {
    case ENOENT:
      return ErrorKind::kNotFound;
    case EEXIST:
      return ErrorKind::kConflict;
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
    case EMFILE:
    case ENFILE:
      return ErrorKind::kExhausted;
    default:
      return ErrorKind::kIo;
  }
}

std::unexpected<Error> OsError(const char* verb, const std::string& path) {
  const int code = errno;
  return Fail(KindOf(code), "cannot {} {}: {}", verb, path, std::strerror(code));
}

class RealFile final : public File {
 public:
  RealFile(std::string path, int fd, bool direct) : path_(std::move(path)), fd_(fd), direct_(direct) {}
  ~RealFile() override { close(fd_); }

  Result<size_t> Read(uint64_t offset, std::span<std::byte> to) override {
    size_t done = 0;
    while (done < to.size()) {
      const ssize_t n = pread(fd_, to.data() + done, to.size() - done, static_cast<off_t>(offset + done));
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) return OsError("read", path_);
      done += static_cast<size_t>(n);
      // A direct read that ends off the grid has met the end of the file.
      if (n == 0 || (direct_ && n % kDirectAlign != 0)) break;
    }
    return done;
  }

  Status Write(uint64_t offset, std::span<const std::byte> from) override {
    size_t done = 0;
    while (done < from.size()) {
      const ssize_t n =
          pwrite(fd_, from.data() + done, from.size() - done, static_cast<off_t>(offset + done));
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) return OsError("write", path_);
      if (n == 0) return Fail(ErrorKind::kIo, "cannot write {}: nothing was taken", path_);
      done += static_cast<size_t>(n);
    }
    return {};
  }

  Status Sync() override {
    if (fdatasync(fd_) != 0) return OsError("sync", path_);
    return {};
  }

  Result<uint64_t> Size() override {
    struct stat info{};
    if (fstat(fd_, &info) != 0) return OsError("stat", path_);
    return static_cast<uint64_t>(info.st_size);
  }

  Status Truncate(uint64_t size) override {
    if (ftruncate(fd_, static_cast<off_t>(size)) != 0) return OsError("truncate", path_);
    return {};
  }

  Status Allocate(uint64_t size) override {
    if (fallocate(fd_, 0, 0, static_cast<off_t>(size)) == 0) return {};
    if (errno == EOPNOTSUPP || errno == ENOSYS) {
      return Fail(ErrorKind::kUnsupported, "the file system of {} does not allocate ahead", path_);
    }
    return OsError("allocate space for", path_);
  }

  bool direct() const override { return direct_; }
  int handle() const override { return fd_; }

 private:
  std::string path_;
  int fd_;
  bool direct_;
};

class RealLock final : public FileLock {
 public:
  explicit RealLock(int fd) : fd_(fd) {}
  ~RealLock() override { close(fd_); }

 private:
  int fd_;
};

std::string HolderOf(int fd) {
  char text[24] = {};
  const ssize_t n = pread(fd, text, sizeof text - 1, 0);
  const std::string_view digits(text, n > 0 ? static_cast<size_t>(n) : 0);
  const size_t end = digits.find_first_not_of("0123456789");
  const std::string_view pid = digits.substr(0, end);
  return pid.empty() ? "another process" : fmt::format("process {}", pid);
}

class Real final : public FileSystem {
 public:
  Result<std::unique_ptr<File>> Open(const std::string& path, OpenFlags flags) override {
    int mode = O_CLOEXEC | (flags.write ? O_RDWR : O_RDONLY);
    if (flags.create) mode |= O_CREAT | O_EXCL;
    int fd = open(path.c_str(), mode | (flags.direct ? O_DIRECT : 0), 0600);
    const bool refused = fd < 0 && errno == EINVAL && flags.direct;
    if (refused) {
      // Where O_DIRECT is refused, O_CREAT has made the file all the same.
      fd = open(path.c_str(), mode & ~O_EXCL, 0600);
    }
    if (fd < 0) return OsError(flags.create ? "create" : "open", path);
    return std::make_unique<RealFile>(path, fd, flags.direct && !refused);
  }

  Status Rename(const std::string& from, const std::string& to) override {
    if (rename(from.c_str(), to.c_str()) != 0) return OsError("rename to its name", to);
    return {};
  }

  Status Remove(const std::string& path) override {
    if (unlink(path.c_str()) != 0) return OsError("remove", path);
    return {};
  }

  Result<std::vector<std::string>> List(const std::string& directory) override {
    DIR* dir = opendir(directory.c_str());
    if (dir == nullptr) return OsError("list", directory);
    std::vector<std::string> names;
    errno = 0;
    while (const dirent* entry = readdir(dir)) {
      const std::string_view name = entry->d_name;
      if (name != "." && name != "..") names.emplace_back(name);
    }
    const int code = errno;
    closedir(dir);
    if (code != 0) return Fail(ErrorKind::kIo, "cannot list {}: {}", directory, std::strerror(code));
    std::sort(names.begin(), names.end());
    return names;
  }

  Status MakeDirectory(const std::string& path) override {
    std::error_code code;
    std::filesystem::create_directories(path, code);
    if (code) return Fail(KindOf(code.value()), "cannot make the directory {}: {}", path, code.message());
    return {};
  }

  Status SyncDirectory(const std::string& path) override {
    const int fd = open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return OsError("open", path);
    const bool synced = fsync(fd) == 0;
    Status status;
    if (!synced) status = OsError("sync", path);
    close(fd);
    return status;
  }

  Result<std::unique_ptr<FileLock>> Lock(const std::string& path) override {
    int fd = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    // On a read-only disk the file of earlier days will do.
    if (fd < 0 && errno == EROFS) fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (fd < 0) return OsError("open", path);
    auto lock = std::make_unique<RealLock>(fd);
    if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
      if (errno != EWOULDBLOCK) return OsError("lock", path);
      return Fail(ErrorKind::kConflict, "{} is held by {}; stop it or use another directory", path,
                  HolderOf(fd));
    }
    // The id is for people; a lock without it is as good.
    const std::string pid = fmt::format("{}\n", getpid());
    if (ftruncate(fd, 0) == 0) (void)!pwrite(fd, pid.data(), pid.size(), 0);
    return lock;
  }
};

}  // namespace

FileSystem* RealFileSystem() {
  static Real real;
  return &real;
}

Result<std::vector<std::byte>> ReadWhole(FileSystem* files, const std::string& path, uint64_t max_bytes) {
  LARDER_ASSIGN(const auto file, files->Open(path, {}));
  LARDER_ASSIGN(const uint64_t size, file->Size());
  if (size > max_bytes) {
    return Fail(ErrorKind::kCorrupt, "{} has {} bytes; at most {} are expected", path, size, max_bytes);
  }
  std::vector<std::byte> bytes(size);
  LARDER_ASSIGN(const size_t got, file->Read(0, bytes));
  bytes.resize(got);
  return bytes;
}

}  // namespace larder
