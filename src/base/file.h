// Files, behind one small interface so that a test can inject what disks do.
#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "base/result.h"

namespace larder {

// What the operating system says of a file without reading it. While nothing of this changes, neither do the
// bytes: every write and every replacement changes the time of the last change, which no program can set
// back. Within the granularity of that time, up to two seconds, this is not so. The device is left out:
// overlay and network file systems get another number with every mount.
struct FileIdentity {
  uint64_t inode = 0, size = 0;
  int64_t modified_ns = 0, changed_ns = 0;  // since 1970
  auto operator<=>(const FileIdentity&) const = default;
};
Result<FileIdentity> IdentityOf(const std::string& path);  // kNotFound, kIo

// A whole file mapped read-only. The bytes live as long as this object.
class MappedFile {
 public:
  static Result<std::unique_ptr<MappedFile>> Open(const std::string& path);  // kNotFound, kIo
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::span<const std::byte> bytes() const { return bytes_; }
  const std::string& path() const { return path_; }
  const FileIdentity& identity() const { return identity_; }  // when it was mapped
  uint32_t owner() const { return owner_; }                   // user id

  // Asks for large memory pages, where the file system has them. What lies in the system's cache in small
  // ones, because it was copied there piece by piece, is read from the disk anew if that brings large ones
  // and nobody else maps it. A refusal changes nothing.
  void PreferLargePages() const;
  uint64_t LargePageBytes() const;  // of what was touched; 0 where the operating system does not say

 private:
  MappedFile() = default;
  std::string path_;
  std::span<const std::byte> bytes_;
  FileIdentity identity_;
  uint32_t owner_ = 0;
};

Result<std::string> ReadFile(const std::string& path, size_t max_bytes = 64u << 20);
Status WriteFileAtomically(const std::string& path,
                           std::string_view content);  // temporary file, sync, rename

}  // namespace larder
