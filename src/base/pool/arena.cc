#include "base/pool/arena.h"

#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <cinttypes>
#include <cstdio>
#include <fstream>
#include <limits>
#include <string>

namespace larder {
namespace {

constexpr size_t kSystemPage = 4096;
constexpr size_t kSlabBytes = 64 << 10;   // of small objects
constexpr size_t kChunkBytes = 64 << 20;  // of address space reserved at a time, or one slab

size_t RoundUp(size_t size, size_t unit) { return (size + unit - 1) / unit * unit; }

// Address space without memory, at a multiple of a large page; null if refused.
std::byte* ReserveAligned(size_t size) {
  const size_t whole = size + kLargePageBytes;
  void* p = mmap(nullptr, whole, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) return nullptr;
  auto* first = static_cast<std::byte*>(p);
  const size_t before =
      RoundUp(reinterpret_cast<uintptr_t>(p), kLargePageBytes) - reinterpret_cast<uintptr_t>(p);
  if (before > 0) munmap(first, before);
  if (before + size < whole) munmap(first + before + size, whole - before - size);
  return first + before;
}

}  // namespace

PoolArena::~PoolArena() {
  for (uint32_t i = 0; i < chunks_; ++i) {
    std::byte* base = chunk_[i].load(std::memory_order_relaxed);
    if (base != nullptr) munmap(base, chunk_bytes());
  }
}

Status PoolArena::Init(const PoolOptions& options) {
  constexpr size_t kLargestObject = size_t{1} << 40;
  if (options.object_bytes == 0 || options.object_bytes > kLargestObject || options.max_objects == 0 ||
      options.max_objects == std::numeric_limits<uint32_t>::max())
    return Fail(ErrorKind::kInvalid, "a pool of {} objects of {} bytes is not possible", options.max_objects,
                options.object_bytes);
  object_stride_ = RoundUp(options.object_bytes, kVectorAlign);
  uint32_t together = options.slab_objects;
  if (together == 0)
    together = static_cast<uint32_t>(
        std::bit_ceil(std::max<size_t>(1, (kSlabBytes + object_stride_ - 1) / object_stride_)));
  if (!std::has_single_bit(together))
    return Fail(ErrorKind::kInvalid, "{} objects in a slab: only powers of two can be", together);
  slab_shift_ = static_cast<uint32_t>(std::countr_zero(together));
  slab_bytes_ = RoundUp(object_stride_ * together, kSystemPage);
  slabs_ = (options.max_objects - 1) / together + 1;
  const size_t neighbours = std::bit_ceil(std::max<size_t>(1, kChunkBytes / slab_bytes_));
  chunk_shift_ =
      static_cast<uint32_t>(std::countr_zero(std::min<size_t>(neighbours, std::bit_ceil(size_t{slabs_}))));
  const auto chunks = static_cast<uint32_t>((slabs_ - 1) / chunk_slabs() + 1);
  pages_ = options.pages;
  pages_per_chunk_ = chunk_bytes() / kLargePageBytes;  // the rest of a chunk never fills one
  LARDER_ASSIGN(chunk_, FlatArray<std::atomic<std::byte*>>::Create(chunks));
  LARDER_ASSIGN(filled_, FlatArray<std::atomic<uint32_t>>::Create(chunks * pages_per_chunk_));
  chunks_ = chunks;
  return {};
}

Result<std::byte*> PoolArena::Chunk(uint32_t index) {
  std::byte* base = chunk_[index].load(std::memory_order_acquire);
  if (base != nullptr) return base;
  std::byte* made = ReserveAligned(chunk_bytes());
  if (made == nullptr)
    return Fail(ErrorKind::kExhausted, "cannot reserve {} bytes of address space", chunk_bytes());
  madvise(made, chunk_bytes(), pages_ == LargePages::kYes ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
  if (chunk_[index].compare_exchange_strong(base, made, std::memory_order_acq_rel)) return made;
  munmap(made, chunk_bytes());  // another thread was faster
  return base;
}

// visit(first byte, count of slabs that have memory, slabs that lie in it) for each large page that a slab
// touches.
template <class Visit>
void PoolArena::VisitLargePages(uint32_t slab, const Visit& visit) {
  if (pages_ == LargePages::kNo) return;
  const uint32_t chunk = slab >> chunk_shift_;
  const size_t first_byte = size_t{slab & (chunk_slabs() - 1)} * slab_bytes_;
  const size_t last = std::min(pages_per_chunk_, (first_byte + slab_bytes_ - 1) / kLargePageBytes + 1);
  for (size_t page = first_byte / kLargePageBytes; page < last; ++page) {
    const size_t first_slab = page * kLargePageBytes / slab_bytes_;
    const size_t last_slab = ((page + 1) * kLargePageBytes - 1) / slab_bytes_;
    visit(page * kLargePageBytes, filled_[chunk * pages_per_chunk_ + page],
          static_cast<uint32_t>(last_slab - first_slab + 1));
  }
}

Status PoolArena::Commit(uint32_t slab) {
  LARDER_ASSIGN(std::byte* const base, Chunk(slab >> chunk_shift_));
  std::byte* const first = base + size_t{slab & (chunk_slabs() - 1)} * slab_bytes_;
  if (mprotect(first, slab_bytes_, PROT_READ | PROT_WRITE) != 0)
    return Fail(ErrorKind::kExhausted, "cannot allocate {} bytes of memory", slab_bytes_);
  committed_.fetch_add(1, std::memory_order_relaxed);
  VisitLargePages(slab, [&](size_t offset, std::atomic<uint32_t>& filled, uint32_t slabs) {
    if (filled.fetch_add(1, std::memory_order_relaxed) + 1 == slabs)
      MergeIntoLargePages(base + offset, kLargePageBytes);
  });
  return {};
}

void PoolArena::Decommit(uint32_t slab) {
  std::byte* const first = At(slab << slab_shift_);
  VisitLargePages(slab, [](size_t, std::atomic<uint32_t>& filled, uint32_t) {
    filled.fetch_sub(1, std::memory_order_relaxed);
  });
  madvise(first, slab_bytes_, MADV_DONTNEED);
  mprotect(first, slab_bytes_, PROT_NONE);
  committed_.fetch_sub(1, std::memory_order_relaxed);
}

PoolArena::Place PoolArena::Find(const std::byte* address) const {
  for (uint32_t chunk = 0; chunk < chunks_; ++chunk) {
    const std::byte* base = chunk_[chunk].load(std::memory_order_acquire);
    if (base == nullptr || address < base || address >= base + chunk_bytes()) continue;
    const auto offset = static_cast<size_t>(address - base);
    const auto slab = static_cast<uint32_t>((size_t{chunk} << chunk_shift_) + offset / slab_bytes_);
    const size_t in_slab = offset % slab_bytes_, in_object = in_slab % object_stride_;
    return {(slab << slab_shift_) + static_cast<uint32_t>(in_slab / object_stride_), in_object};
  }
  LARDER_CHECK(false && "an address outside the pool");
  return {};
}

uint64_t PoolArena::LargePageBytes() const {
  std::ifstream in("/proc/self/smaps");
  uint64_t sum = 0;
  bool ours = false;
  for (std::string line; std::getline(in, line);) {
    uint64_t from = 0, to = 0, kib = 0;
    if (std::sscanf(line.c_str(), "%" SCNx64 "-%" SCNx64 " ", &from, &to) == 2) {
      ours = false;
      for (uint32_t i = 0; i < chunks_ && !ours; ++i) {
        const auto base = reinterpret_cast<uint64_t>(chunk_[i].load(std::memory_order_acquire));
        ours = base != 0 && from < base + chunk_bytes() && to > base;
      }
    } else if (ours && std::sscanf(line.c_str(), "AnonHugePages: %" SCNu64 " kB", &kib) == 1) {
      sum += kib * 1024;
    }
  }
  return sum;
}

}  // namespace larder
