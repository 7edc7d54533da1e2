// Files, behind one small interface so that a test can inject what disks do.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>

#include "base/result.h"

namespace larder {

// A whole file mapped read-only. The bytes live as long as this object.
class MappedFile {
 public:
  static Result<std::unique_ptr<MappedFile>> Open(const std::string& path);  // kNotFound, kIo
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::span<const std::byte> bytes() const { return bytes_; }
  const std::string& path() const { return path_; }

 private:
  MappedFile(std::string path, std::span<const std::byte> bytes) : path_(std::move(path)), bytes_(bytes) {}
  std::string path_;
  std::span<const std::byte> bytes_;
};

Result<std::string> ReadFile(const std::string& path, size_t max_bytes = 64u << 20);
Status WriteFileAtomically(const std::string& path,
                           std::string_view content);  // temporary file, sync, rename

}  // namespace larder
