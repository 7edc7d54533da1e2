// What a storage engine needs of files, and no more, so that a test can put another file system in its place:
// one that crashes, tears writes, is full, slow or read-only.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"

namespace larder {

// What direct I/O wants addresses, offsets and lengths to be multiples of.
inline constexpr size_t kDirectAlign = 4096;

// An open file. Reads and writes may come from several threads at once. Closed when destroyed.
class File {
 public:
  virtual ~File() = default;
  // Bytes read: fewer than asked only at the end of the file. kIo.
  virtual Result<size_t> Read(uint64_t offset, std::span<std::byte> to) = 0;
  // All of it. kIo, kExhausted (disk or quota full). After an error the range holds anything.
  virtual Status Write(uint64_t offset, std::span<const std::byte> from) = 0;
  // Data and size are on the medium. After an error nothing is known about what was written since the last
  // success, and trying again proves nothing: the kernel may have marked the pages clean.
  virtual Status Sync() = 0;
  virtual Result<uint64_t> Size() = 0;
  virtual Status Truncate(uint64_t size) = 0;
  // Grows the file to `size`, with space on the disk behind it. kExhausted; kUnsupported where the file
  // system cannot.
  virtual Status Allocate(uint64_t size) = 0;
  virtual bool direct() const = 0;           // past the page cache: everything in units of kDirectAlign
  virtual int handle() const { return -1; }  // of the operating system, for io_uring; -1: there is none
};

// Held until destroyed, at the latest until the process ends, however it ends.
class FileLock {
 public:
  virtual ~FileLock() = default;
};

struct OpenFlags {
  bool write = false;
  bool create = false;  // kConflict if it is there
  bool direct = false;  // falls back to the page cache where the file system refuses; see File::direct
};

class FileSystem {
 public:
  virtual ~FileSystem() = default;
  // kNotFound, kConflict, kExhausted, kIo.
  virtual Result<std::unique_ptr<File>> Open(const std::string& path, OpenFlags flags) = 0;
  virtual Status Rename(const std::string& from, const std::string& to) = 0;  // replaces `to`, atomically
  virtual Status Remove(const std::string& path) = 0;
  virtual Result<std::vector<std::string>> List(
      const std::string& directory) = 0;                      // names, sorted; kNotFound
  virtual Status MakeDirectory(const std::string& path) = 0;  // also its parents
  virtual Status SyncDirectory(const std::string& path) = 0;  // names in it are on the medium
  // An exclusive lock on `path`, which is made if it is not there and then holds this process's id.
  // kConflict: another one has it; the message names its id if it is known.
  virtual Result<std::unique_ptr<FileLock>> Lock(const std::string& path) = 0;
};

// The operating system's. Lives as long as the program.
FileSystem* RealFileSystem();

// A whole small file. kNotFound, kIo, kCorrupt if there is more than `max_bytes`.
Result<std::vector<std::byte>> ReadWhole(FileSystem* files, const std::string& path, uint64_t max_bytes);

}  // namespace larder
