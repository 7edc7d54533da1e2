// Segments: room for records, eviction, and cleaning. The limit counts what is allocated, also what is dead
// or dropped and still held; one segment of it is kept for cleaning, so that cleaning can always begin.
#include <algorithm>
#include <chrono>

#include "base/log.h"
#include "store/disk/core.h"

namespace larder {
namespace {

constexpr auto kLongestHold = std::chrono::milliseconds(20);  // of one piece, for reads of requests
constexpr int kRounds = 256;                                  // of freeing, for one record
constexpr uint64_t kMoveAtOnce = 32 << 20;                    // bytes that become valid together
constexpr int kRefused = 5;                                   // times the disk may be full meanwhile
// Live bytes are kept below this share, so that the emptiest segment is worth cleaning.
constexpr uint64_t kLivePercent = 80;
constexpr uint64_t kWorthMovingPercent = 75;  // a fuller segment is not cleaned for room
constexpr uint64_t kMostlyDeadPercent = 25;   // an emptier one is cleaned when there is nothing else to do
constexpr uint32_t kScanSlots = 4096;         // looked at under one lock

}  // namespace

// --- writing

Status DiskCore::WriteTo(const SegmentRef& segment, uint64_t offset, std::span<const std::byte> bytes) {
  for (size_t at = 0; at < bytes.size(); at += kWritePiece) {
    if (request_reads_ > 0 && options.writes_yield && !options.stepped) {
      Count([](TierStats&, DiskCounters& counters) { ++counters.held_writes; });
      std::unique_lock lock(hold_mutex_);
      hold_.wait_for(lock, kLongestHold, [this] { return request_reads_ == 0; });
    }
    const Status written =
        segment->file->Write(offset + at, bytes.subspan(at, std::min(kWritePiece, bytes.size() - at)));
    if (!written) {
      LogWarn("disk store: {} takes no more records: {}", segment->path, written.error().message);
      Seal(segment);
      return written;
    }
  }
  return {};
}

bool DiskCore::FitsAnother(bool for_move) const {
  std::lock_guard lock(mutex_);
  const uint64_t segments = for_move ? 1 : 2;
  const uint64_t records = segments * segment_bytes_ / (2 * kPage);
  return allocated_ + segments * segment_bytes_ + std::max(log_bytes_, LogBound(records)) <=
         options.limit_bytes;
}

Status DiskCore::CreateSegment() {
  auto segment = std::make_shared<DiskSegment>();
  {
    std::lock_guard lock(mutex_);
    segment->number = next_segment_++;
  }
  segment->path = options.directory + "/" + NumberedName("seg", segment->number);
  segment->allocated = segment_bytes_;
  LARDER_ASSIGN(segment->file, files->Open(segment->path, {.write = true, .create = true, .direct = true}));
  if (!segment->file->direct() && !said_buffered_) {
    LogInfo("disk store: {} has no direct I/O; reads and writes go through the page cache",
            options.directory);
    said_buffered_ = true;
  }
  Status ready = segment->file->Allocate(segment_bytes_);
  if (!ready && ready.error().kind == ErrorKind::kUnsupported) ready = {};
  // The name must be on disk before the catalog speaks of it.
  if (ready) ready = files->SyncDirectory(options.directory);
  const bool removed = ready || files->Remove(segment->path);
  std::lock_guard lock(mutex_);
  if (ready) {
    active_ = segment;
  } else if (!removed) {
    segment->sealed = segment->dropped = segment->stuck = true;
  } else {
    return ready;
  }
  allocated_ += segment->allocated;
  segments_[segment->number] = std::move(segment);
  return ready;
}

void DiskCore::Seal(const SegmentRef& segment) {
  if (segment == active_) active_.reset();
  uint64_t end;
  {
    std::lock_guard lock(mutex_);
    if (segment->sealed) return;
    segment->sealed = true;
    end = segment->end_page * kPage;
  }
  // Gives back what was allocated ahead. If that fails it goes on counting.
  if (!segment->file->Truncate(end)) return;
  std::lock_guard lock(mutex_);
  allocated_ -= segment->allocated - end;
  segment->allocated = end;
}

void DiskCore::SealActive() {
  if (active_ != nullptr) Seal(SegmentRef(active_));
}

Result<DiskCore::Room> DiskCore::TakeRoom(uint32_t pages, bool for_move) {
  if (pages * kPage > segment_bytes_) {
    return Fail(ErrorKind::kExhausted, "a record of {} bytes does not fit a segment of {}; raise the limit",
                pages * kPage, segment_bytes_);
  }
  int refused = 0;
  for (int round = 0; round < kRounds; ++round) {
    if (active_ != nullptr) {
      std::lock_guard lock(mutex_);
      if ((active_->end_page + uint64_t{pages}) * kPage <= segment_bytes_) {
        Room room{active_, active_->end_page};
        active_->end_page += pages;
        ++active_->uncommitted;
        return room;
      }
    }
    SealActive();
    Reap();
    if (FitsAnother(for_move)) {
      const Status created = CreateSegment();
      if (created) continue;
      // A disk filled by others: give up a segment's worth, not everything.
      if (created.error().kind != ErrorKind::kExhausted || for_move || ++refused > kRefused) {
        return std::unexpected(created.error());
      }
    }
    if (for_move || FreedSoon() || !FreeSome()) break;
  }
  return Fail(ErrorKind::kExhausted, "the disk tier is full, and what could go is pinned or being read");
}

// --- freeing

// A segment that only waits for its readers is as good as free; evicting more would not help sooner.
bool DiskCore::FreedSoon() const {
  std::lock_guard lock(mutex_);
  return std::any_of(segments_.begin(), segments_.end(),
                     [](const auto& entry) { return entry.second->dropped && !entry.second->stuck; });
}

bool DiskCore::ReapDue() const {
  std::lock_guard lock(mutex_);
  return std::any_of(segments_.begin(), segments_.end(), [](const auto& entry) {
    const DiskSegment& segment = *entry.second;
    return segment.dropped && !segment.stuck && entry.second.use_count() == 1;
  });
}

// The limit was larger when this was written.
bool DiskCore::OverLimit() const {
  std::lock_guard lock(mutex_);
  return allocated_ + log_bytes_ > options.limit_bytes;
}

void DiskCore::DropEmpty() {
  std::lock_guard lock(mutex_);
  for (auto& [number, segment] : segments_) {
    if (segment->sealed && segment->live_pages == 0 && segment->uncommitted == 0) segment->dropped = true;
  }
}

// Unlinks what nobody reads. Stuck files are tried again each time, and stop nothing.
void DiskCore::Reap() {
  NameDeparted();  // what left is named from its segment
  DropEmpty();
  std::vector<SegmentRef> unread;
  {
    std::lock_guard lock(mutex_);
    for (const auto& [number, segment] : segments_) {
      // References are only given out under this lock, and never to a dropped segment.
      if (segment->dropped && segment.use_count() == 1) unread.push_back(segment);
    }
  }
  for (const SegmentRef& segment : unread) {
    const Status removed = files->Remove(segment->path);
    const bool gone = removed || removed.error().kind == ErrorKind::kNotFound;
    if (!gone && !segment->stuck) {
      LogWarn("disk store: {}; it goes on counting and is tried again", removed.error().message);
    }
    std::lock_guard lock(mutex_);
    segment->stuck = !gone;
    if (!gone) continue;
    allocated_ -= segment->allocated;
    segments_.erase(segment->number);
  }
}

uint64_t DiskCore::Capacity() const {
  const uint64_t away = LogBound(0) + 2 * segment_bytes_;
  return options.limit_bytes > away ? options.limit_bytes - away : 0;
}

// Forgets the records the policy names until `bytes` are dead; how many are. Pinned ones are passed over.
uint64_t DiskCore::Evict(uint64_t bytes) {
  uint64_t freed = 0;
  std::vector<uint32_t> pinned;
  std::lock_guard lock(mutex_);
  ExpirePins();
  while (freed < bytes) {
    const std::optional<uint32_t> slot = order_->Next();
    if (!slot) break;
    if (Pinned(*slot)) {
      order_->SetAside(*slot);
      pinned.push_back(*slot);
      continue;
    }
    freed += index_.at(*slot).pages * kPage;
    NoteDeparture(*slot);
    EraseSlot(*slot, true, true);
    ++stats_.evicted_records;
  }
  for (const uint32_t slot : pinned) order_->PutBack(slot);
  return freed;
}

// One step towards an empty segment; false if there is none to take.
bool DiskCore::FreeSome() {
  SegmentRef emptiest;
  uint64_t above = 0;
  {
    std::lock_guard lock(mutex_);
    const uint64_t target = Capacity() * kLivePercent / 100;
    if (live_pages_ * kPage > target) above = live_pages_ * kPage - target;
  }
  if (above > 0) Evict(above);
  DropEmpty();
  if (FreedSoon()) return true;
  {
    std::lock_guard lock(mutex_);
    for (const auto& [number, segment] : segments_) {
      if (!segment->sealed || segment->dropped || segment->uncommitted > 0) continue;
      if (segment->live_pages * 100 > segment->end_page * kWorthMovingPercent) continue;
      if (emptiest == nullptr || segment->live_pages < emptiest->live_pages) emptiest = segment;
    }
  }
  if (emptiest == nullptr) return Evict(std::max(segment_bytes_ / 4, kPage)) > 0;
  const Status moved = MoveAll(emptiest);
  if (moved || moved.error().kind != ErrorKind::kExhausted) return moved.has_value();
  // After a crash, or a move that broke off, the segment kept for cleaning may be in use; then what is left
  // in this one goes, or where that is pinned, something elsewhere.
  return EvictFrom(*emptiest) > 0 || Evict(std::max(segment_bytes_ / 4, kPage)) > 0;
}

// Forgets what is in a segment; how many bytes that were.
uint64_t DiskCore::EvictFrom(const DiskSegment& segment) {
  uint64_t freed = 0;
  std::lock_guard lock(mutex_);
  ExpirePins();
  for (uint32_t slot = 0; slot < index_.slots(); ++slot) {
    if (!index_.live(slot) || index_.at(slot).segment != segment.number || Pinned(slot)) continue;
    freed += index_.at(slot).pages * kPage;
    NoteDeparture(slot);
    EraseSlot(slot, true);
    ++stats_.evicted_records;
  }
  return freed;
}

// --- moving

Status DiskCore::MoveAll(const SegmentRef& segment) {
  for (uint32_t slot = 0;;) {
    std::vector<FoundRecord> records;
    bool end = false;
    uint64_t bytes = 0;
    while (!end && bytes < kMoveAtOnce) {
      std::lock_guard lock(mutex_);
      for (uint32_t seen = 0; slot < index_.slots() && seen < kScanSlots && bytes < kMoveAtOnce;
           ++slot, ++seen) {
        if (!index_.live(slot) || index_.at(slot).segment != segment->number) continue;
        records.push_back(FoundAt(slot));
        bytes += records.back().place.pages * kPage;
      }
      end = slot >= index_.slots();
    }
    if (!records.empty()) LARDER_TRY(MoveSome(segment, records));
    if (end) break;
  }
  moving_.Release();
  DropEmpty();
  return {};
}

Status DiskCore::CopyRecord(const FoundRecord& record, NewRecord& copy) {
  const uint64_t bytes = record.place.pages * kPage;
  moving_.Reserve(bytes);
  const auto got = record.segment->file->Read(record.place.page * kPage, moving_.first(bytes));
  Result<Frame> frame = got && *got == bytes ? DecodeFrame(moving_.first(bytes), store_)
                                             : Fail(ErrorKind::kCorrupt, "it cannot be read: {}",
                                                    got ? "the file ends before it" : got.error().message);
  if (frame && (frame->place != record.place || frame->born != record.born)) {
    frame = Fail(ErrorKind::kCorrupt, "another record is in its place");
  }
  if (!frame) {
    GiveUp(record, frame.error());
    return std::unexpected(frame.error());
  }
  frame->place = copy.entry.place;
  EncodeFrame(*frame, store_, moving_.first(kFrameBytes));
  return WriteTo(copy.segment, copy.entry.place.page * kPage, moving_.first(bytes));
}

Status DiskCore::MoveSome(const SegmentRef& segment, std::span<const FoundRecord> records) {
  std::vector<NewRecord> copies;
  Status status;
  for (const FoundRecord& record : records) {
    const auto room = TakeRoom(record.place.pages, true);
    if (!room) {
      status = std::unexpected(room.error());
      break;
    }
    NewRecord copy{.segment = room->segment, .from = record.place};
    {
      std::lock_guard lock(mutex_);
      const uint32_t slot = index_.Find(record.key);
      if (slot == kNoSlot || index_.at(slot).born != record.born) {
        --room->segment->uncommitted;
        continue;
      }
      copy.entry = index_.EntryOf(slot);
    }
    copy.entry.place.segment = room->segment->number;
    copy.entry.place.page = room->page;
    copy.status = CopyRecord(record, copy);
    const bool unreadable = !copy.status && copy.status.error().kind == ErrorKind::kCorrupt;
    if (!copy.status && !unreadable) status = copy.status;
    copies.push_back(std::move(copy));
    if (!status) break;
  }
  Commit(copies);
  for (const NewRecord& copy : copies) {
    const bool cancelled = !copy.status && (copy.status.error().kind == ErrorKind::kCancelled ||
                                            copy.status.error().kind == ErrorKind::kCorrupt);
    if (status && !copy.status && !cancelled) status = copy.status;
  }
  return status;
}

bool DiskCore::Clean() {
  if (OverLimit()) return FreeSome();
  SegmentRef dirty;
  bool active = false;
  {
    std::lock_guard lock(mutex_);
    for (const auto& [number, segment] : segments_) {
      if (segment->dropped || segment->uncommitted > 0) continue;
      const bool mostly_dead =
          segment->sealed && segment->live_pages * 100 <= segment->end_page * kMostlyDeadPercent;
      if (!segment->erase_soon && !mostly_dead) continue;
      dirty = segment;
      active = !segment->sealed;
      segment->erase_soon = false;
      break;
    }
  }
  if (dirty == nullptr) return false;
  if (active) Seal(dirty);
  const bool moved = MoveAll(dirty).has_value();
  dirty.reset();
  Reap();
  return moved;
}

Status DiskCore::CompactAll() {
  SealActive();
  std::vector<SegmentRef> gappy;
  {
    std::lock_guard lock(mutex_);
    for (const auto& [number, segment] : segments_) {
      if (segment->sealed && !segment->dropped && segment->live_pages < segment->end_page)
        gappy.push_back(segment);
    }
  }
  while (!gappy.empty()) {
    LARDER_TRY(MoveAll(gappy.back()));
    gappy.pop_back();
    Reap();
  }
  SealActive();
  Reap();
  std::lock_guard lock(log_mutex_);
  return RewriteCatalog();
}

}  // namespace larder
