// Memory of a pool of equal objects: reserved address space, of which slabs (one object, or a few small ones)
// are given memory when they are wanted and lose it when they are not. What a slab costs is known and counted
// before its memory is touched.
//
// Large pages never make more resident than is counted: a page of 2 MiB is used only once all slabs that lie
// in it have memory. The slab that completes it asks the kernel to merge what is there (MADV_COLLAPSE, Linux
// 6.1; elsewhere the kernel's own daemon does it later). A refusal changes the speed and nothing else.
//
// Source: the region of TurboMem (arXiv 2603.18690). There a region is advised as a whole and filled by first
// touch; here merging follows the commits, so that a byte limit holds. NUMA nodes are not told apart.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "base/pool/free_list.h"
#include "base/result.h"

namespace larder {

struct PoolOptions {
  size_t object_bytes = 0;
  uint32_t max_objects = 0;  // rounded up to whole slabs
  // Objects that get and lose their memory together: a power of two; 0: so many that they fill 64 KiB.
  uint32_t slab_objects = 0;
  LargePages pages = LargePages::kYes;
};

// All calls from any thread, except where said.
class PoolArena {
 public:
  PoolArena() = default;
  ~PoolArena();
  PoolArena(const PoolArena&) = delete;
  PoolArena& operator=(const PoolArena&) = delete;

  Status Init(const PoolOptions& options);  // once, before anything else; kInvalid, kExhausted

  // kExhausted when the operating system refuses. REQUIRES: the slab is the caller's and has no memory.
  Status Commit(uint32_t slab);
  // Gives the memory of a slab back. Its address stays reserved: touching it ends the program.
  void Decommit(uint32_t slab);

  std::byte* At(uint32_t object) const {
    const uint32_t slab = object >> slab_shift_;
    return chunk_[slab >> chunk_shift_].load(std::memory_order_acquire) +
           size_t{slab & ((1u << chunk_shift_) - 1)} * slab_bytes_ +
           size_t{object & ((1u << slab_shift_) - 1)} * object_stride_;
  }
  // The object that an address lies in, and how far from its start. REQUIRES: it lies in one. Takes a step
  // for each 64 MiB, or each larger slab, of the pool.
  struct Place {
    uint32_t object;
    size_t offset;
  };
  Place Find(const std::byte* address) const;

  uint32_t slabs() const { return slabs_; }
  uint32_t slab_shift() const { return slab_shift_; }  // log2 of the objects of a slab
  size_t slab_bytes() const { return slab_bytes_; }    // of address space and, with memory, of that
  uint64_t committed_bytes() const {
    return uint64_t{slab_bytes_} * committed_.load(std::memory_order_relaxed);
  }
  uint64_t table_bytes() const { return chunk_.bytes() + filled_.bytes(); }
  // Of the committed bytes, how many lie in large pages now. Reads the kernel's list of mappings.
  uint64_t LargePageBytes() const;

 private:
  // Neighbouring slabs in one reservation.
  uint32_t chunk_slabs() const { return 1u << chunk_shift_; }
  size_t chunk_bytes() const { return size_t{chunk_slabs()} * slab_bytes_; }
  Result<std::byte*> Chunk(uint32_t index);
  template <class Visit>
  void VisitLargePages(uint32_t slab, const Visit& visit);

  size_t object_stride_ = 0, slab_bytes_ = 0, pages_per_chunk_ = 0;
  uint32_t slab_shift_ = 0, chunk_shift_ = 0, slabs_ = 0, chunks_ = 0;
  LargePages pages_ = LargePages::kNo;
  mutable FlatArray<std::atomic<std::byte*>> chunk_;
  FlatArray<std::atomic<uint32_t>> filled_;  // by large page: slabs in it that have memory
  std::atomic<uint32_t> committed_{0};
};

}  // namespace larder
