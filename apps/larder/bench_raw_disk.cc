#include "larder/bench_raw_disk.h"

#include <fmt/core.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <filesystem>
#include <mutex>
#include <thread>

#include "larder/measure.h"
#include "store/disk/io_queue.h"

namespace larder {
namespace {

constexpr uint64_t kWriteBytes = 1 << 20;

uint64_t Padded(uint64_t bytes) { return (bytes + kDirectAlign - 1) / kDirectAlign * kDirectAlign; }

// Puts a file on the disk as a store does: allocated, written, synced.
Status WriteFile(File& file, uint64_t bytes) {
  const DirectBuffer noise = NoiseBuffer(kWriteBytes);
  if (const Status allocated = file.Allocate(bytes); !allocated) {
    if (allocated.error().kind != ErrorKind::kUnsupported) return allocated;
  }
  for (uint64_t at = 0; at < bytes; at += kWriteBytes)
    LARDER_TRY(file.Write(at, noise.first(std::min(kWriteBytes, bytes - at))));
  return file.Sync();
}

}  // namespace

DirectBuffer NoiseBuffer(uint64_t bytes) {
  DirectBuffer buffer(bytes);
  uint64_t state = 88172645463325252u;
  for (size_t at = 0; at < buffer.size(); at += sizeof state) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    std::memcpy(buffer.data() + at, &state, sizeof state);
  }
  return buffer;
}

// --- one file

Result<std::unique_ptr<RawFile>> RawFile::Create(const std::string& path, uint64_t bytes) {
  (void)RealFileSystem()->Remove(path);
  auto raw = std::unique_ptr<RawFile>(new RawFile(path, Padded(bytes)));
  LARDER_ASSIGN(raw->file_, RealFileSystem()->Open(path, {.write = true, .create = true, .direct = true}));
  const Stopwatch watch;
  LARDER_TRY(WriteFile(*raw->file_, raw->bytes_));
  raw->write_seconds_ = watch.WallSeconds();
  return raw;
}

RawFile::~RawFile() { (void)RealFileSystem()->Remove(path_); }

Result<double> RawFile::Read(std::span<const RawRead> reads, size_t depth) const {
  std::unique_ptr<IoQueue> queue = MakeThreadQueue(3, depth);
  if (auto uring = MakeUringQueue(depth)) queue = *std::move(uring);
  Status status;
  const Stopwatch watch;
  for (size_t next = 0, done = 0; done < reads.size();) {
    std::vector<IoRead> batch;
    for (; next < reads.size() && next - done < depth; ++next)
      batch.push_back({file_.get(), reads[next].offset, {reads[next].to, reads[next].bytes}, next});
    queue->Start(batch);
    std::vector<IoDone> arrived;
    queue->Wait(-1, 1, arrived);
    for (const IoDone& one : arrived) {
      if (!one.bytes) status = std::unexpected(one.bytes.error());
      ++done;
    }
  }
  const double seconds = watch.WallSeconds();
  LARDER_TRY(status);
  return seconds;
}

Result<double> RawFile::ReadSingly(std::span<const RawRead> reads) const {
  const Stopwatch watch;
  for (const RawRead& read : reads) {
    LARDER_ASSIGN(const size_t got, file_->Read(read.offset, {read.to, read.bytes}));
    if (got != read.bytes) return Fail(ErrorKind::kIo, "{} is shorter than it was written", path_);
  }
  return watch.WallSeconds();
}

// --- a file for each block

std::string FilePerBlock::PathOf(size_t block) const { return fmt::format("{}/{:08}", directory_, block); }

Result<std::unique_ptr<FilePerBlock>> FilePerBlock::Create(const std::string& directory, size_t blocks,
                                                           uint64_t block_bytes) {
  LARDER_TRY(RealFileSystem()->MakeDirectory(directory));
  auto files = std::unique_ptr<FilePerBlock>(new FilePerBlock(directory, blocks, Padded(block_bytes)));
  for (size_t block = 0; block < blocks; ++block) {
    LARDER_ASSIGN(const auto file, RealFileSystem()->Open(files->PathOf(block),
                                                          {.write = true, .create = true, .direct = true}));
    LARDER_TRY(WriteFile(*file, files->block_bytes_));
  }
  return files;
}

Status FilePerBlock::ReadOne(size_t block, const DirectBuffer& buffer) const {
  LARDER_ASSIGN(const auto file, RealFileSystem()->Open(PathOf(block), {.direct = true}));
  LARDER_ASSIGN(const size_t got, file->Read(0, buffer.first(block_bytes_)));
  if (got != block_bytes_) return Fail(ErrorKind::kIo, "{} is shorter than it was written", PathOf(block));
  return {};
}

Result<double> FilePerBlock::ReadAll(int threads, std::span<const DirectBuffer> to) const {
  std::atomic<size_t> next = 0;
  std::mutex mutex;
  Status status;
  const auto work = [&] {
    for (size_t block; (block = next++) < blocks_;) {
      if (const Status read = ReadOne(block, to[block % to.size()]); !read) {
        const std::lock_guard lock(mutex);
        status = read;
      }
    }
  };
  const Stopwatch watch;
  std::vector<std::thread> pool;
  for (int i = 0; i < threads; ++i) pool.emplace_back(work);
  for (std::thread& thread : pool) thread.join();
  const double seconds = watch.WallSeconds();
  LARDER_TRY(status);
  return seconds;
}

}  // namespace larder
