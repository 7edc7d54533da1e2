#include "base/memory.h"

#include <malloc.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <limits>
#include <string>

namespace larder {
namespace {

// From here on a buffer is its own mapping.
constexpr size_t kMapThreshold = 64 * 1024;

#ifdef MADV_COLLAPSE
constexpr int kCollapse = MADV_COLLAPSE;
#else
constexpr int kCollapse = 25;  // since Linux 6.1, not yet in the library's header
#endif

uint64_t ReadNumber(const char* path) {
  std::ifstream in(path);
  uint64_t value = 0;
  return in >> value ? value : std::numeric_limits<uint64_t>::max();
}

}  // namespace

void MergeIntoLargePages(std::byte* data, size_t size) { madvise(data, size, kCollapse); }

Result<AlignedBuffer> AlignedBuffer::Allocate(size_t size, LargePages pages) {
  AlignedBuffer out;
  if (size == 0) return out;
  if (size >= kMapThreshold) {
    void* p = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) return Fail(ErrorKind::kExhausted, "cannot allocate {} bytes of memory", size);
    // Neighbouring mappings become one for the kernel, so small buffers share large pages, too. Without them
    // a weight matrix or a block costs an address translation every 4 KiB. A refusal changes nothing.
    if (pages == LargePages::kYes) madvise(p, size, MADV_HUGEPAGE);
    out.data_ = static_cast<std::byte*>(p);
  } else {
    const size_t rounded = (size + kVectorAlign - 1) / kVectorAlign * kVectorAlign;
    void* p = std::aligned_alloc(kVectorAlign, rounded);
    if (p == nullptr) return Fail(ErrorKind::kExhausted, "cannot allocate {} bytes of memory", size);
    std::memset(p, 0, rounded);
    out.data_ = static_cast<std::byte*>(p);
  }
  out.size_ = size;
  return out;
}

AlignedBuffer AlignedBuffer::OfPool(std::byte* data, size_t size) {
  AlignedBuffer out;
  out.data_ = data;
  out.size_ = size;
  out.of_pool_ = true;
  return out;
}

void AlignedBuffer::Reset() {
  if (data_ == nullptr) return;
  if (of_pool_) {
    of_pool_ = false;
  } else if (size_ >= kMapThreshold) {
    munmap(data_, size_);
  } else {
    std::free(data_);
  }
  data_ = nullptr;
  size_ = 0;
}

uint64_t ResidentBytes() {
  std::ifstream in("/proc/self/statm");
  uint64_t total = 0, resident = 0;
  if (!(in >> total >> resident)) return 0;
  return resident * static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
}

uint64_t AllocatedBytes() {
  const struct mallinfo2 info = mallinfo2();
  return info.uordblks + info.hblkhd;
}

uint64_t AvailableBytes() {
  uint64_t available = std::numeric_limits<uint64_t>::max();
  std::ifstream in("/proc/meminfo");
  for (std::string key, unit; in >> key;) {
    uint64_t value = 0;
    if (!(in >> value)) break;
    std::getline(in, unit);
    if (key == "MemAvailable:") available = value * 1024;
  }
  const uint64_t limit = ReadNumber("/sys/fs/cgroup/memory.max");
  const uint64_t used = ReadNumber("/sys/fs/cgroup/memory.current");
  if (limit != std::numeric_limits<uint64_t>::max() && used <= limit)
    available = std::min(available, limit - used);
  return available;
}

}  // namespace larder
