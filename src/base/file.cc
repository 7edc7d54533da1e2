#include "base/file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace larder {
namespace {

struct Fd {
  int fd;
  ~Fd() {
    if (fd >= 0) close(fd);
  }
};

std::unexpected<Error> OsError(const char* verb, const std::string& path) {
  const int code = errno;
  return Fail(code == ENOENT ? ErrorKind::kNotFound : ErrorKind::kIo, "cannot {} {}: {}", verb, path,
              std::strerror(code));
}

Result<struct stat> RegularFile(int fd, const std::string& path) {
  struct stat info{};
  if (fstat(fd, &info) != 0) return OsError("stat", path);
  if (!S_ISREG(info.st_mode)) return Fail(ErrorKind::kInvalid, "{} is not a regular file", path);
  return info;
}

int64_t Nanoseconds(const timespec& time) { return int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec; }

FileIdentity IdentityOfStat(const struct stat& info) {
  return {.inode = info.st_ino,
          .size = static_cast<uint64_t>(info.st_size),
          .modified_ns = Nanoseconds(info.st_mtim),
          .changed_ns = Nanoseconds(info.st_ctim)};
}

}  // namespace

Result<FileIdentity> IdentityOf(const std::string& path) {
  struct stat info{};
  if (stat(path.c_str(), &info) != 0) return OsError("stat", path);
  return IdentityOfStat(info);
}

Result<std::unique_ptr<MappedFile>> MappedFile::Open(const std::string& path) {
  Fd file{open(path.c_str(), O_RDONLY | O_CLOEXEC)};
  if (file.fd < 0) return OsError("open", path);
  LARDER_ASSIGN(const struct stat info, RegularFile(file.fd, path));
  std::unique_ptr<MappedFile> out(new MappedFile);
  out->path_ = path;
  out->identity_ = IdentityOfStat(info);
  out->owner_ = info.st_uid;
  if (const auto size = static_cast<size_t>(info.st_size); size > 0) {
    void* p = mmap(nullptr, size, PROT_READ, MAP_SHARED, file.fd, 0);
    if (p == MAP_FAILED) return OsError("map", path);
    out->bytes_ = {static_cast<const std::byte*>(p), size};
  }
  return out;
}

void MappedFile::PreferLargePages() const {
  if (!bytes_.empty()) madvise(const_cast<std::byte*>(bytes_.data()), bytes_.size(), MADV_HUGEPAGE);
}

MappedFile::~MappedFile() {
  if (!bytes_.empty()) munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
}

Result<std::string> ReadFile(const std::string& path, size_t max_bytes) {
  Fd file{open(path.c_str(), O_RDONLY | O_CLOEXEC)};
  if (file.fd < 0) return OsError("open", path);
  LARDER_ASSIGN(const struct stat info, RegularFile(file.fd, path));
  const auto size = static_cast<size_t>(info.st_size);
  if (size > max_bytes)
    return Fail(ErrorKind::kInvalid, "{} has {} bytes; at most {} are read", path, size, max_bytes);
  std::string out(size, '\0');
  size_t done = 0;
  while (done < size) {
    const ssize_t n = read(file.fd, out.data() + done, size - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return OsError("read", path);
    if (n == 0) break;
    done += static_cast<size_t>(n);
  }
  out.resize(done);
  return out;
}

namespace {

Status WriteAndSync(const std::string& path, std::string_view content) {
  // What is written so is somebody's state (ids, wrapped keys, leases) and nobody else's business.
  Fd file{open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600)};
  if (file.fd < 0) return OsError("create", path);
  size_t done = 0;
  while (done < content.size()) {
    const ssize_t n = write(file.fd, content.data() + done, content.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return OsError("write", path);
    done += static_cast<size_t>(n);
  }
  if (fsync(file.fd) != 0) return OsError("sync", path);
  return {};
}

// Without this a crash can bring the file before back.
Status SyncFolderOf(const std::string& path) {
  const size_t slash = path.rfind('/');
  const std::string folder = slash == std::string::npos ? "." : path.substr(0, slash + 1);
  Fd file{open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
  if (file.fd < 0) return OsError("open", folder);
  if (fsync(file.fd) != 0) return OsError("sync", folder);
  return {};
}

}  // namespace

Status WriteFileAtomically(const std::string& path, std::string_view content) {
  const std::string temporary = fmt::format("{}.tmp.{}", path, getpid());
  Status status = WriteAndSync(temporary, content);
  if (status && rename(temporary.c_str(), path.c_str()) != 0) status = OsError("rename", temporary);
  if (!status) unlink(temporary.c_str());
  return status ? SyncFolderOf(path) : status;
}

}  // namespace larder
