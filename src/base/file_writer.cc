#include "base/file_writer.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <random>

namespace larder {
namespace {

std::unexpected<Error> OsError(const char* verb, const std::string& path) {
  const int code = errno;
  const ErrorKind kind = code == ENOENT                     ? ErrorKind::kNotFound
                         : code == ENOSPC || code == EDQUOT ? ErrorKind::kExhausted
                                                            : ErrorKind::kIo;
  return Fail(kind, "cannot {} {}: {}", verb, path, std::strerror(code));
}

// The rename itself is on disk only once the folder is.
Status SyncFolderOf(const std::string& path) {
  const size_t slash = path.find_last_of('/');
  const std::string folder = slash == std::string::npos ? "." : path.substr(0, slash + 1);
  const int fd = open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return OsError("open", folder);
  const int failed = fsync(fd);
  close(fd);
  if (failed != 0) return OsError("sync", folder);
  return {};
}

}  // namespace

Result<std::unique_ptr<FileWriter>> FileWriter::Create(const std::string& path) {
  // A name of its own, also beside another thread, process or container that writes the same file.
  std::string temporary = fmt::format("{}.{:08x}.part", path, std::random_device()());
  const int fd = open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
  if (fd < 0) return OsError("create", temporary);
  return std::unique_ptr<FileWriter>(new FileWriter(path, std::move(temporary), fd));
}

FileWriter::~FileWriter() {
  if (fd_ < 0) return;
  close(fd_);
  unlink(temporary_.c_str());
}

Status FileWriter::Write(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t n = write(fd_, bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return OsError("write", temporary_);
    bytes = bytes.subspan(static_cast<size_t>(n));
    written_ += static_cast<uint64_t>(n);
  }
  return {};
}

Status FileWriter::Commit() {
  if (fsync(fd_) != 0) return OsError("sync", temporary_);
  if (rename(temporary_.c_str(), path_.c_str()) != 0) return OsError("rename to its name", path_);
  close(fd_);
  fd_ = -1;
  return SyncFolderOf(path_);
}

}  // namespace larder
