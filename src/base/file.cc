#include "base/file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fstream>

#include "base/memory.h"

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

uint64_t MappedFile::LargePageBytes() const {
  std::ifstream maps("/proc/self/smaps");
  const std::string first = fmt::format("{:x}-", reinterpret_cast<uintptr_t>(bytes_.data()));
  constexpr std::string_view kCount = "FilePmdMapped:";
  std::string line;
  while (std::getline(maps, line) && !line.starts_with(first)) {
  }
  while (std::getline(maps, line) && !line.starts_with("VmFlags:")) {
    if (line.starts_with(kCount)) return std::strtoull(line.c_str() + kCount.size(), nullptr, 10) << 10;
  }
  return 0;
}

void MappedFile::PreferLargePages() const {
  const size_t pages = bytes_.size() / kLargePageBytes;
  std::byte* const data = const_cast<std::byte*>(bytes_.data());
  if (pages == 0 || madvise(data, bytes_.size(), MADV_HUGEPAGE) != 0) return;
  const Fd file{open(path_.c_str(), O_RDONLY | O_CLOEXEC)};
  struct stat info{};
  if (file.fd < 0 || fstat(file.fd, &info) != 0 || IdentityOfStat(info) != identity_) return;
  const auto touch = [&](size_t page) {
    static_cast<void>(*static_cast<const volatile std::byte*>(data + page * kLargePageBytes));
  };
  // Only what nobody maps can leave the cache.
  const auto read_anew = [&](size_t size) {
    madvise(data, size, MADV_DONTNEED);
    posix_fadvise(file.fd, 0, static_cast<off_t>(size), POSIX_FADV_DONTNEED);
  };
  const size_t samples = std::min(pages, size_t{8});
  for (size_t i = 0; i < samples; ++i) touch(i * pages / samples);
  if (LargePageBytes() * 2 >= samples * kLargePageBytes) return;
  read_anew(bytes_.size() < 2 * kLargePageBytes ? bytes_.size() : kLargePageBytes);
  const uint64_t before = LargePageBytes();
  touch(0);
  if (LargePageBytes() > before) read_anew(bytes_.size());
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
