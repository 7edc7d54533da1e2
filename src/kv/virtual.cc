#include "kv/virtual.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <utility>

#include "base/params.h"

namespace larder {
namespace {

constexpr int64_t kDefaultMapLimit = 65530;  // of a process, unless the operating system says otherwise

int64_t SystemMapLimit() {
  std::ifstream in("/proc/sys/vm/max_map_count");
  int64_t limit = 0;
  return in >> limit ? limit : kDefaultMapLimit;
}

int64_t BlocksFor(int64_t rows) { return (rows + kPageTokens - 1) / kPageTokens; }

// visit(first, count) for each run of consecutive numbers.
template <class Visit>
Status VisitRuns(std::span<const uint32_t> items, const Visit& visit) {
  for (size_t i = 0; i < items.size();) {
    size_t end = i + 1;
    while (end < items.size() && items[end] == items[end - 1] + 1) ++end;
    LARDER_TRY(visit(i, end - i));
    i = end;
  }
  return {};
}

int64_t RunsOf(std::span<const uint32_t> items) {
  int64_t runs = 0;
  for (size_t i = 0; i < items.size(); ++i) runs += i == 0 || items[i] != items[i - 1] + 1;
  return runs;
}

}  // namespace

VirtualSequence::~VirtualSequence() {
  if (owner_ != nullptr) owner_->Release(*this);
}

std::byte* VirtualSequence::At(int layer, int kv_head, int64_t page) const {
  const KvShape& shape = owner_->shape_;
  const int kind = shape.KindOf(layer);
  return base_[static_cast<size_t>(kind)] + static_cast<size_t>(page) * shape.BlockBytes(kind) +
         shape.LaneOffset(layer, kv_head);
}

KvPage VirtualSequence::Page(int layer, int kv_head, int64_t page, std::byte* /*scratch*/) const {
  KvPage out = StoredPage(owner_->shape_.type(), owner_->shape_.head_dim(), At(layer, kv_head, page));
  out.first_position = static_cast<int32_t>(page * kPageTokens);
  out.entries = static_cast<int32_t>(std::min<int64_t>(kPageTokens, capacity_ - page * kPageTokens));
  return out;
}

std::byte* VirtualSequence::WritablePage(int layer, int kv_head, int64_t position) {
  LARDER_CHECK(position >= length_ && position < capacity_);
  return At(layer, kv_head, position / kPageTokens);
}

Result<std::unique_ptr<VirtualKv>> VirtualKv::Create(KvShape shape, VirtualKvOptions options) {
  constexpr uint64_t kSmallest = 4096, kLargest = 1 << 30;
  constexpr int64_t kMostRows = 1 << 30;
  const uint64_t unit = options.granule_bytes;
  if (!std::has_single_bit(unit) || unit < kSmallest || unit > kLargest)
    return Fail(ErrorKind::kInvalid,
                "granules of {} bytes cannot be; take a power of two from 4 KiB to 1 GiB", unit);
  if (options.max_rows < 1 || options.max_rows > kMostRows)
    return Fail(ErrorKind::kInvalid, "sequences of {} rows cannot be; take 1 to {}", options.max_rows,
                kMostRows);
  const uint64_t granules = options.limit_bytes / unit;
  if (granules == 0 || granules > uint64_t{1} << 31)
    return Fail(ErrorKind::kInvalid, "a limit of {} is no number of granules of {}",
                FormatSize(options.limit_bytes), FormatSize(unit));
  auto kv = std::unique_ptr<VirtualKv>(new VirtualKv(std::move(shape), options));
  for (size_t kind = 0; kind < kv->shape_.kinds().size(); ++kind) {
    kv->kind_offset_[kind] = kv->slot_bytes_;
    const uint64_t bytes =
        kv->shape_.BlockBytes(static_cast<int>(kind)) * static_cast<uint64_t>(BlocksFor(options.max_rows));
    const uint64_t aligned = std::max(unit, kLargePageBytes);
    kv->slot_bytes_ += (bytes + aligned - 1) / aligned * aligned;
  }
  kv->max_mappings_ = options.max_mappings > 0 ? options.max_mappings : SystemMapLimit() / 5;
  kv->fd_ = memfd_create("larder-kv", MFD_CLOEXEC);
  if (kv->fd_ < 0 || ftruncate(kv->fd_, static_cast<off_t>(granules * unit)) != 0)
    return Fail(ErrorKind::kUnsupported, "no memory file of {}: {}", FormatSize(granules * unit),
                std::strerror(errno));
  LARDER_ASSIGN(kv->free_, LockFreeList<>::Create(static_cast<uint32_t>(granules)));
  // Taken in order: neighbours in the file that become neighbours in a range are one mapping.
  std::vector<uint32_t> all(granules);
  for (uint32_t i = 0; i < granules; ++i) all[i] = static_cast<uint32_t>(granules) - 1 - i;
  kv->free_->Push(all);
  kv->refs_.resize(granules);
  kv->touched_.resize(granules);
  return kv;
}

VirtualKv::~VirtualKv() {
  for (const Slot& slot : slots_) {
    LARDER_CHECK(!slot.active);
    munmap(slot.base, slot_bytes_);
  }
  if (fd_ >= 0) close(fd_);
}

VirtualKv::Counts VirtualKv::GranulesFor(int64_t rows) const {
  Counts counts{};
  for (size_t kind = 0; kind < shape_.kinds().size(); ++kind) {
    const uint64_t bytes = shape_.BlockBytes(static_cast<int>(kind)) * static_cast<uint64_t>(BlocksFor(rows));
    counts[kind] = (bytes + options_.granule_bytes - 1) / options_.granule_bytes;
  }
  return counts;
}

std::byte* VirtualKv::KindBase(const Slot& slot, int kind) const {
  return slot.base + kind_offset_[static_cast<size_t>(kind)];
}

Result<size_t> VirtualKv::NewSlot() {
  // Aligned to the granules, so that large pages of file and range coincide.
  const size_t unit = std::max<size_t>(options_.granule_bytes, kLargePageBytes);
  void* p = mmap(nullptr, slot_bytes_ + unit, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED)
    return Fail(ErrorKind::kExhausted, "no {} of addresses for another sequence; lower the longest context",
                FormatSize(slot_bytes_));
  auto* first = static_cast<std::byte*>(p);
  const size_t before = (unit - reinterpret_cast<uintptr_t>(p) % unit) % unit;
  if (before > 0) munmap(first, before);
  munmap(first + before + slot_bytes_, unit - before);
  Slot slot;
  slot.base = first + before;
  slot.mappings = 1;
  ++mappings_;
  slots_.push_back(std::move(slot));
  return slots_.size() - 1;
}

// Whether another slot maps some of its granules. They are always its first ones.
bool VirtualKv::Shares(const Slot& slot) const {
  return std::ranges::any_of(slot.granules,
                             [&](const auto& list) { return !list.empty() && refs_[list.front()] > 1; });
}

Result<size_t> VirtualKv::EmptySlot() {
  size_t best = slots_.size();
  for (size_t i = 0; i < slots_.size(); ++i) {
    if (!slots_[i].active && (best == slots_.size() || slots_[i].mapped() < slots_[best].mapped())) best = i;
  }
  if (best == slots_.size()) return NewSlot();
  Unmap(slots_[best], Counts{});
  return best;
}

std::unique_ptr<VirtualSequence> VirtualKv::Start(size_t index) {
  auto sequence = std::unique_ptr<VirtualSequence>(new VirtualSequence(this, index));
  slots_[index].active = true;
  slots_[index].rows = 0;
  for (size_t kind = 0; kind < shape_.kinds().size(); ++kind)
    sequence->base_[kind] = KindBase(slots_[index], static_cast<int>(kind));
  return sequence;
}

Result<std::unique_ptr<VirtualSequence>> VirtualKv::Open(int64_t expected_rows) {
  size_t need = 0;
  for (const size_t n : GranulesFor(std::clamp<int64_t>(expected_rows, 0, options_.max_rows))) need += n;
  const Slot* best = nullptr;
  for (const Slot& slot : slots_) {
    if (slot.active || slot.mapped() == 0 || Shares(slot)) continue;
    const bool fits = slot.mapped() >= need, best_fits = best != nullptr && best->mapped() >= need;
    if (best == nullptr || (fits && (!best_fits || slot.mapped() < best->mapped())) ||
        (!fits && !best_fits && slot.mapped() > best->mapped()))
      best = &slot;
  }
  if (best != nullptr) return Start(static_cast<size_t>(best - slots_.data()));
  LARDER_ASSIGN(const size_t index, EmptySlot());
  return Start(index);
}

Result<std::vector<uint32_t>> VirtualKv::TakeGranules(size_t count) {
  std::vector<uint32_t> taken(count);
  size_t n = free_->Pop(taken);
  while (n < count && ReclaimOne()) n += free_->Pop(std::span(taken).subspan(n));
  if (n < count) {
    if (n > 0) free_->Push(std::span(taken).first(n));
    return Fail(
        ErrorKind::kExhausted,
        "{} of KV memory are needed, but only {} of the {} allowed are not in use by running sequences; "
        "wait for one to end, or raise the limit",
        FormatSize(count * options_.granule_bytes), FormatSize(n * options_.granule_bytes),
        FormatSize(options_.limit_bytes));
  }
  std::ranges::sort(taken);
  return taken;
}

void VirtualKv::GiveBack(std::span<const uint32_t> granules) {
  std::vector<uint32_t> gone;
  for (const uint32_t granule : granules)
    if (--refs_[granule] == 0) gone.push_back(granule);
  std::ranges::reverse(gone);
  if (!gone.empty()) free_->Push(gone);
}

// Page tables now rather than one by one while the model computes. A refusal leaves them for then.
void VirtualKv::Populate(std::byte* at, size_t size) {
  // A memory file gets large pages by merging even where faults do not give them. A first byte must be there.
  if (options_.granule_bytes >= kLargePageBytes) {
    madvise(at, size, MADV_HUGEPAGE);
    for (size_t i = 0; i < size; i += kLargePageBytes) (void)static_cast<const volatile std::byte*>(at)[i];
    MergeIntoLargePages(at, size);
  }
  madvise(at, size, MADV_POPULATE_WRITE);
}

// Maps granules behind those of this kind. What was mapped when a later run fails stays; the caller unmaps
// it.
Status VirtualKv::Map(Slot& slot, int kind, std::span<const uint32_t> granules) {
  const size_t unit = options_.granule_bytes;
  auto& list = slot.granules[static_cast<size_t>(kind)];
  return VisitRuns(granules, [&](size_t first, size_t count) -> Status {
    const bool follows = !list.empty() && granules[first] == list.back() + 1;
    if (!follows && mappings_ >= max_mappings_)
      return Fail(ErrorKind::kExhausted,
                  "all {} memory mappings that the cache may have are in use; raise "
                  "vm.max_map_count, or take larger granules",
                  max_mappings_);
    std::byte* const at = KindBase(slot, kind) + list.size() * unit;
    void* p = mmap(at, count * unit, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd_,
                   static_cast<off_t>(granules[first] * unit));
    if (p == MAP_FAILED) {
      const int error = errno;
      // The addresses may be free now; they must not become somebody else's.
      (void)mmap(at, count * unit, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
      return Fail(ErrorKind::kExhausted, "cannot map {} of KV memory: {}", FormatSize(count * unit),
                  std::strerror(error));
    }
    ++map_calls_;
    mapped_granules_ += count;
    slot.mappings += !follows;
    mappings_ += !follows;
    for (const uint32_t granule : granules.subspan(first, count)) {
      ++refs_[granule];
      touched_count_ += !touched_[granule];
      touched_[granule] = true;
    }
    list.insert(list.end(), granules.begin() + static_cast<ptrdiff_t>(first),
                granules.begin() + static_cast<ptrdiff_t>(first + count));
    Populate(at, count * unit);
    return {};
  });
}

// Leaves the first keep[kind] granules of each kind.
void VirtualKv::Unmap(Slot& slot, const Counts& keep) {
  const size_t unit = options_.granule_bytes;
  int64_t mappings = 1;
  for (size_t kind = 0; kind < shape_.kinds().size(); ++kind) {
    auto& list = slot.granules[kind];
    if (list.size() > keep[kind]) {
      void* p =
          mmap(KindBase(slot, static_cast<int>(kind)) + keep[kind] * unit, (list.size() - keep[kind]) * unit,
               PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
      LARDER_CHECK(p != MAP_FAILED);  // fewer mappings than before
      ++unmap_calls_;
      GiveBack(std::span(list).subspan(keep[kind]));
      list.resize(keep[kind]);
    }
    mappings += RunsOf(list);
  }
  mappings_ += mappings - slot.mappings;
  slot.mappings = mappings;
}

// Unmaps the last idle slot that has something mapped, else what a running sequence has beyond its rows.
bool VirtualKv::ReclaimOne() {
  for (const bool active : {false, true}) {
    for (size_t i = slots_.size(); i-- > 0;) {
      Slot& slot = slots_[i];
      if (slot.active != active) continue;
      const Counts keep = active ? GranulesFor(slot.rows) : Counts{};
      bool more = false;
      for (size_t kind = 0; kind < keep.size(); ++kind) more |= slot.granules[kind].size() > keep[kind];
      if (!more) continue;
      Unmap(slot, keep);
      return true;
    }
  }
  return false;
}

// More granules until each kind has what is wanted; all or none.
Status VirtualKv::Grow(Slot& slot, const Counts& wanted) {
  Counts had{};
  size_t missing = 0;
  for (size_t kind = 0; kind < wanted.size(); ++kind) {
    had[kind] = slot.granules[kind].size();
    missing += wanted[kind] > had[kind] ? wanted[kind] - had[kind] : 0;
  }
  if (missing == 0) return {};
  LARDER_ASSIGN(const auto taken, TakeGranules(missing));
  auto rest = std::span(taken);
  for (size_t kind = 0; kind < wanted.size(); ++kind) {
    if (wanted[kind] <= had[kind]) continue;
    const auto part = rest.first(wanted[kind] - had[kind]);
    Status status = Map(slot, static_cast<int>(kind), part);
    while (!status && ReclaimOne())
      status = Map(slot, static_cast<int>(kind), part.subspan(slot.granules[kind].size() - had[kind]));
    if (!status) {
      const auto unmapped = rest.subspan(slot.granules[kind].size() - had[kind]);
      std::vector<uint32_t> back(unmapped.rbegin(), unmapped.rend());
      Unmap(slot, had);
      free_->Push(back);
      return status;
    }
    rest = rest.subspan(part.size());
  }
  return {};
}

Status VirtualKv::Reserve(VirtualSequence& sequence, int64_t rows) {
  if (rows < 0 || rows > options_.max_rows - sequence.length_)
    return Fail(ErrorKind::kInvalid, "{} rows behind {} are more than the {} that a sequence may have", rows,
                sequence.length_, options_.max_rows);
  Slot& slot = slots_[sequence.slot_];
  slot.rows = sequence.length_ + rows;
  if (auto grown = Grow(slot, GranulesFor(slot.rows)); !grown) {
    slot.rows = sequence.capacity_;
    return grown;
  }
  sequence.capacity_ = slot.rows;
  return {};
}

void VirtualKv::Publish(VirtualSequence& sequence, int64_t rows) {
  LARDER_CHECK(rows >= 0 && rows <= sequence.capacity_ - sequence.length_);
  sequence.length_ += rows;
}

Result<std::unique_ptr<VirtualSequence>> VirtualKv::Fork(const VirtualSequence& sequence, int64_t rows) {
  LARDER_CHECK(rows >= 0 && rows <= sequence.length_);
  LARDER_ASSIGN(const size_t index, EmptySlot());
  auto fork = Start(index);  // if something fails, it closes with what is mapped by then
  slots_[index].rows = rows;
  const int64_t full_blocks = rows / kPageTokens;
  Counts shared{};
  for (size_t kind = 0; kind < shape_.kinds().size(); ++kind) {
    shared[kind] = shape_.BlockBytes(static_cast<int>(kind)) * static_cast<uint64_t>(full_blocks) /
                   options_.granule_bytes;
    const auto granules = std::span(slots_[sequence.slot_].granules[kind]).first(shared[kind]);
    LARDER_TRY(Map(slots_[index], static_cast<int>(kind), granules));
  }
  LARDER_TRY(Grow(slots_[index], GranulesFor(rows)));
  CopyBehind(sequence, slots_[index], shared, rows);
  fork->length_ = fork->capacity_ = rows;
  return fork;
}

// What a fork does not share: whole blocks behind the last shared granule, and the rows of a partly filled
// block, behind which the original may go on writing.
void VirtualKv::CopyBehind(const VirtualSequence& from, const Slot& slot, const Counts& shared,
                           int64_t rows) {
  const int64_t full_blocks = rows / kPageTokens;
  const int tail_rows = static_cast<int>(rows % kPageTokens);
  for (size_t k = 0; k < shape_.kinds().size(); ++k) {
    const int kind = static_cast<int>(k);
    const size_t begin = shared[k] * options_.granule_bytes;
    const size_t end = shape_.BlockBytes(kind) * static_cast<size_t>(full_blocks);
    std::byte* const to = KindBase(slot, kind);
    if (end > begin) std::memcpy(to + begin, from.base_[k] + begin, end - begin);
    copied_bytes_ += end > begin ? end - begin : 0;
    if (tail_rows == 0) continue;
    for (size_t at = end; at < end + shape_.BlockBytes(kind); at += shape_.page_bytes())
      CopyKvRows(shape_.type(), shape_.head_dim(), from.base_[k] + at, 0, to + at, 0, tail_rows);
    copied_bytes_ += shape_.BlockBytes(kind) * static_cast<uint64_t>(tail_rows) / kPageTokens;
  }
}

void VirtualKv::Close(std::unique_ptr<VirtualSequence> sequence) {
  if (sequence != nullptr) Release(*sequence);
}

void VirtualKv::Release(VirtualSequence& sequence) {
  Slot& slot = slots_[sequence.slot_];
  slot.active = false;
  sequence.owner_ = nullptr;
  if (!options_.poison) return;
  const size_t unit = options_.granule_bytes;
  for (size_t kind = 0; kind < shape_.kinds().size(); ++kind) {
    const auto& list = slot.granules[kind];
    for (size_t i = 0; i < list.size(); ++i)
      if (refs_[list[i]] == 1) std::memset(KindBase(slot, static_cast<int>(kind)) + i * unit, 0xff, unit);
  }
}

void VirtualKv::Trim() {
  while (ReclaimOne()) continue;
  std::vector<uint32_t> idle(refs_.size());
  size_t n = 0;
  while (const size_t more = free_->Pop(std::span(idle).subspan(n))) n += more;
  idle.resize(n);
  std::ranges::sort(idle);
  const uint64_t unit = options_.granule_bytes;
  (void)VisitRuns(idle, [&](size_t first, size_t count) -> Status {
    if (fallocate(fd_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(idle[first] * unit),
                  static_cast<off_t>(count * unit)) != 0)
      return {};  // it stays counted
    for (size_t i = first; i < first + count; ++i) {
      touched_count_ -= touched_[idle[i]];
      touched_[idle[i]] = false;
    }
    return {};
  });
  std::ranges::reverse(idle);
  if (!idle.empty()) free_->Push(idle);
}

VirtualKvStats VirtualKv::stats() const {
  std::vector<bool> active(refs_.size());
  uint64_t tables =
      sizeof(*this) + free_->bytes() + refs_.capacity() * sizeof(uint32_t) + touched_.capacity() / 8;
  for (const Slot& slot : slots_) {
    tables += sizeof(Slot);
    for (const auto& list : slot.granules) {
      tables += list.capacity() * sizeof(uint32_t);
      if (slot.active)
        for (const uint32_t granule : list) active[granule] = true;
    }
  }
  VirtualKvStats stats{};
  stats.used_bytes = touched_count_ * options_.granule_bytes;
  stats.limit_bytes = options_.limit_bytes;
  stats.active_bytes = static_cast<uint64_t>(std::ranges::count(active, true)) * options_.granule_bytes;
  stats.table_bytes = tables;
  stats.reserved_bytes = slots_.size() * slot_bytes_;
  stats.map_calls = map_calls_;
  stats.unmap_calls = unmap_calls_;
  stats.mapped_granules = mapped_granules_;
  stats.copied_bytes = copied_bytes_;
  stats.slots = slots_.size();
  stats.mappings = static_cast<uint64_t>(mappings_);
  return stats;
}

uint64_t VirtualKv::PhysicalBytes() const {
  struct stat status{};
  return fstat(fd_, &status) == 0 ? static_cast<uint64_t>(status.st_blocks) * 512 : 0;
}

}  // namespace larder
