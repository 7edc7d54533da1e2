// A file that appears whole or not at all: bytes go to a temporary file beside it, which Commit syncs and
// renames.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "base/result.h"

namespace larder {

class FileWriter {
 public:
  static Result<std::unique_ptr<FileWriter>> Create(const std::string& path);  // kNotFound (folder), kIo
  ~FileWriter();  // without Commit nothing remains
  FileWriter(const FileWriter&) = delete;
  FileWriter& operator=(const FileWriter&) = delete;

  Status Write(std::span<const std::byte> bytes);  // kIo, kExhausted where the disk is full
  Status Commit();                                 // once, last
  uint64_t written() const { return written_; }

 private:
  FileWriter(std::string path, std::string temporary, int fd)
      : path_(std::move(path)), temporary_(std::move(temporary)), fd_(fd) {}
  std::string path_, temporary_;
  int fd_;
  uint64_t written_ = 0;
};

}  // namespace larder
