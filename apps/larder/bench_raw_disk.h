// What a disk gives without a store: the yardstick, and how caches without one use it. Everything goes past
// the page cache where the file system allows it.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/file_system.h"
#include "base/result.h"
#include "store/disk/buffer.h"

namespace larder {

struct RawRead {
  uint64_t offset = 0, bytes = 0;  // multiples of kDirectAlign
  std::byte* to = nullptr;         // likewise
};

// A file of bytes without meaning.
class RawFile {
 public:
  // Written anew, in requests of 1 MiB, then synced. kIo, kExhausted.
  static Result<std::unique_ptr<RawFile>> Create(const std::string& path, uint64_t bytes);
  ~RawFile();

  bool direct() const { return file_->direct(); }
  uint64_t bytes() const { return bytes_; }
  double write_seconds() const { return write_seconds_; }
  // Seconds for all of them, at most `depth` at once. kIo.
  Result<double> Read(std::span<const RawRead> reads, size_t depth) const;
  // The same as code without a store or a queue does it: this thread reads one after the other.
  Result<double> ReadSingly(std::span<const RawRead> reads) const;

 private:
  RawFile(std::string path, uint64_t bytes) : path_(std::move(path)), bytes_(bytes) {}
  const std::string path_;
  const uint64_t bytes_;
  std::unique_ptr<File> file_;
  double write_seconds_ = 0;
};

// One file for each block, as caches without a store of their own keep them.
class FilePerBlock {
 public:
  static Result<std::unique_ptr<FilePerBlock>> Create(const std::string& directory, size_t blocks,
                                                      uint64_t block_bytes);
  // Seconds to open, read and close all of them with `threads` threads, into one buffer after the other; more
  // blocks than buffers begin again with the first.
  Result<double> ReadAll(int threads, std::span<const DirectBuffer> to) const;

 private:
  FilePerBlock(std::string directory, size_t blocks, uint64_t block_bytes)
      : directory_(std::move(directory)), blocks_(blocks), block_bytes_(block_bytes) {}
  std::string PathOf(size_t block) const;
  Status ReadOne(size_t block, const DirectBuffer& buffer) const;

  const std::string directory_;
  const size_t blocks_;
  const uint64_t block_bytes_;
};

// Bytes that do not compress, the same every time.
DirectBuffer NoiseBuffer(uint64_t bytes);

}  // namespace larder
