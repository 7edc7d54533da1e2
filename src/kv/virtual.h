// Keys and values of a sequence in one contiguous range of addresses, behind the same interface as the paged
// cache. The memory-management unit does the paging: a sequence reserves addresses for its longest length,
// and granules of a common memory file are mapped into it as rows come. A shared prefix is the same granules
// mapped into several ranges.
//
// Source: vAttention (arXiv 2405.04437; allocator read from microsoft/vattention), as its backend B for
// Linux: memfd and MAP_FIXED instead of a GPU driver's handles. Kept: reservation, a pool of physical units,
// best fit among idle slots, unmapping deferred until units run short. Different: the sliced layout
// throughout, since a range for each layer would need a mapping for each layer; sharing of prefixes, which
// the original only hints at; mapping for a block of tokens at once, which makes a background thread
// unnecessary (docs/memory.md); no memory is an answer. Rows of a sliding window stay mapped until their
// sequence ends.
//
// Layout: a range for each kind of layer; block b of it at b * BlockBytes(kind), inside as in the paged cache
// (kv/shape.h). Granules pay no heed to blocks: of a shared prefix, the bytes behind the last whole granule
// are copied, less than one granule, and the rows of a partly filled block.
//
// One thread at a time, as KvCache. Attention reads pages concurrently, but only between two calls.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/pool/free_list.h"
#include "base/result.h"
#include "kv/row_store.h"
#include "kv/shape.h"

namespace larder {

struct VirtualKvOptions {
  uint64_t limit_bytes = 1ull << 30;  // of granules; tables come on top (stats)
  int64_t max_rows = 8192;            // of a sequence: addresses are reserved for so many
  uint64_t granule_bytes = 64 << 10;  // a power of two, 4 KiB to 1 GiB; from 2 MiB on large pages are used
  // Mappings that this may have, since the operating system limits those of a process; 0: a fifth of that.
  int64_t max_mappings = 0;
  bool poison = false;  // rows of closed sequences become NaN, so that a test sees who still reads them
};

struct VirtualKvStats {
  uint64_t used_bytes, limit_bytes;  // granules that have memory: mapped by somebody, idle, or kept for reuse
  uint64_t active_bytes;             // those that running sequences reach, shared ones once
  uint64_t table_bytes, reserved_bytes;  // of this object; of addresses
  uint64_t map_calls, unmap_calls, mapped_granules, copied_bytes, slots, mappings;
};

class VirtualKv;

// Made by VirtualKv::Open or Fork; closes itself if nobody did. VirtualKv outlives it.
class VirtualSequence final : public RowStore {
 public:
  ~VirtualSequence() override;

  int64_t length() const { return length_; }      // rows present: [0, length)
  int64_t capacity() const { return capacity_; }  // rows that may be written: [length, capacity)

  int64_t Entries(int /*layer*/, int /*kv_head*/) const override { return capacity_; }
  KvPage Page(int layer, int kv_head, int64_t page, std::byte* scratch) const override;
  std::byte* WritablePage(int layer, int kv_head, int64_t position) override;

 private:
  friend class VirtualKv;
  VirtualSequence(VirtualKv* owner, size_t slot) : owner_(owner), slot_(slot) {}
  std::byte* At(int layer, int kv_head, int64_t page) const;

  VirtualKv* owner_;
  size_t slot_;
  std::array<std::byte*, kMaxKvKinds> base_{};
  int64_t length_ = 0, capacity_ = 0;
};

class VirtualKv {
 public:
  // kInvalid: sizes that cannot be; kExhausted, kUnsupported: what the operating system refuses.
  static Result<std::unique_ptr<VirtualKv>> Create(KvShape shape, VirtualKvOptions options);
  ~VirtualKv();  // REQUIRES: every sequence was closed
  VirtualKv(const VirtualKv&) = delete;
  VirtualKv& operator=(const VirtualKv&) = delete;

  // An empty sequence that will have about `expected_rows`: a range that an ended one left mapped is reused,
  // best the smallest that is large enough. kExhausted without address space or mappings.
  Result<std::unique_ptr<VirtualSequence>> Open(int64_t expected_rows);
  // Another sequence over the first `rows` rows, which it shares. REQUIRES: rows <= sequence.length().
  // kExhausted: no memory for what has to be copied.
  Result<std::unique_ptr<VirtualSequence>> Fork(const VirtualSequence& sequence, int64_t rows);
  // Makes rows [length, length + rows) writable. kExhausted: no memory or no mappings while others run; the
  // sequence is unchanged. kInvalid beyond max_rows.
  Status Reserve(VirtualSequence& sequence, int64_t rows);
  // The next `rows` rows have been written. REQUIRES: within capacity.
  void Publish(VirtualSequence& sequence, int64_t rows);
  // Its range stays mapped until it is reused or its granules are wanted.
  void Close(std::unique_ptr<VirtualSequence> sequence);
  // Unmaps what no running sequence reaches and gives its memory back to the operating system.
  void Trim();

  const KvShape& shape() const { return shape_; }
  VirtualKvStats stats() const;
  uint64_t PhysicalBytes() const;  // of the memory file, as the operating system counts them

 private:
  friend class VirtualSequence;
  struct Slot {
    std::byte* base = nullptr;
    bool active = false;
    int64_t rows = 0;  // that must stay mapped while active
    std::array<std::vector<uint32_t>, kMaxKvKinds>
        granules;  // by kind: what is mapped, from its first byte on
    int64_t mappings = 0;
    size_t mapped() const {
      size_t n = 0;
      for (const auto& list : granules) n += list.size();
      return n;
    }
  };
  using Counts = std::array<size_t, kMaxKvKinds>;

  VirtualKv(KvShape shape, VirtualKvOptions options) : shape_(std::move(shape)), options_(options) {}

  Counts GranulesFor(int64_t rows) const;
  std::byte* KindBase(const Slot& slot, int kind) const;
  Result<size_t> NewSlot();
  Result<size_t> EmptySlot();
  std::unique_ptr<VirtualSequence> Start(size_t slot);
  bool Shares(const Slot& slot) const;
  Result<std::vector<uint32_t>> TakeGranules(size_t count);
  void GiveBack(std::span<const uint32_t> granules);
  Status Grow(Slot& slot, const Counts& wanted);
  void Populate(std::byte* at, size_t size);
  Status Map(Slot& slot, int kind, std::span<const uint32_t> granules);
  void Unmap(Slot& slot, const Counts& keep);
  bool ReclaimOne();
  void CopyBehind(const VirtualSequence& from, const Slot& slot, const Counts& shared, int64_t rows);
  void Release(VirtualSequence& sequence);

  const KvShape shape_;
  const VirtualKvOptions options_;
  int fd_ = -1;
  size_t slot_bytes_ = 0;
  std::array<size_t, kMaxKvKinds> kind_offset_{};
  std::unique_ptr<LockFreeList<>> free_;  // granules that nobody maps
  std::vector<uint32_t> refs_;            // by granule: slots that map it
  std::vector<bool> touched_;             // by granule: has memory
  std::vector<Slot> slots_;
  size_t touched_count_ = 0;
  int64_t mappings_ = 0, max_mappings_ = 0;
  uint64_t map_calls_ = 0, unmap_calls_ = 0, mapped_granules_ = 0, copied_bytes_ = 0;
};

}  // namespace larder
