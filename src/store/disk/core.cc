#include "store/disk/core.h"

#include <algorithm>

#include "base/log.h"

namespace larder {
namespace {

constexpr size_t kTouchesKept = 4096;  // then they are written
constexpr size_t kTouchesMost = 1 << 16;
constexpr uint64_t kListedSlots = 1 << 16;  // looked at under one lock
constexpr int64_t kQuietNs = 60'000'000'000;

}  // namespace

uint64_t DiskCore::NextSequence() {
  std::lock_guard lock(mutex_);
  return next_sequence_++;
}

void DiskCore::AddLive(const RecordPlace& place) {
  segments_.at(place.segment)->live_pages += place.pages;
  live_pages_ += place.pages;
}

void DiskCore::SubtractLive(const RecordPlace& place) {
  segments_.at(place.segment)->live_pages -= place.pages;
  live_pages_ -= place.pages;
}

// `log`: the catalog does not know yet. `evicted`: the policy named it.
void DiskCore::EraseSlot(uint32_t slot, bool log, bool evicted) {
  const IndexSlot& record = index_.at(slot);
  if (log) gone_.push_back({.type = LogEntryType::kGone, .key = record.key, .born = record.born});
  SubtractLive(record.place());
  if (const auto pin = pins_.find(slot); pin != pins_.end()) {
    pinned_bytes_ -= pin->second.bytes;
    pins_.erase(pin);
  }
  order_->Erase(slot, evicted);
}

void DiskCore::MarkUsed(uint32_t slot) {
  index_.Use(slot, next_sequence_++);
  order_->Use(slot);
  if (touched_.size() >= kTouchesMost) touched_.clear();  // the log is broken; a crash costs some order
  if (touched_.empty() || touched_.back() != slot) touched_.push_back(slot);
}

FoundRecord DiskCore::FoundAt(uint32_t slot) const {
  const IndexSlot& record = index_.at(slot);
  return {segments_.at(record.segment), record.place(), record.key, record.born};
}

std::vector<bool> DiskCore::Has(std::span<const Digest> names) {
  std::vector<bool> here;
  std::lock_guard lock(mutex_);
  for (const Digest& name : names) {
    here.push_back(index_.Find(KeyOf(name)) != kNoSlot);
    ++(here.back() ? stats_.hits : stats_.misses);
  }
  return here;
}

std::vector<FoundRecord> DiskCore::Locate(std::span<const Digest> names) {
  std::vector<FoundRecord> found(names.size());
  std::lock_guard lock(mutex_);
  for (size_t i = 0; i < names.size(); ++i) {
    const uint32_t slot = index_.Find(KeyOf(names[i]));
    if (slot != kNoSlot) found[i] = FoundAt(slot);
  }
  // From last to first, so that the first of a chain is the most recent and suffixes go before prefixes.
  for (size_t i = names.size(); i-- > 0;) {
    const uint32_t slot = index_.Find(KeyOf(names[i]));
    if (slot != kNoSlot) MarkUsed(slot);
  }
  return found;
}

std::vector<FoundRecord> DiskCore::LocateChildren(const Digest& parent, size_t limit) {
  std::vector<FoundRecord> found;
  std::lock_guard lock(mutex_);
  for (const uint32_t slot : index_.ChildrenOf(ParentKeyOf(parent), limit)) found.push_back(FoundAt(slot));
  return found;
}

std::vector<FoundRecord> DiskCore::LocateFrom(uint64_t& cursor, size_t limit, const SpaceId* space) {
  std::vector<FoundRecord> found;
  std::lock_guard lock(mutex_);
  for (uint64_t seen = 0; cursor < index_.slots() && found.size() < limit && seen < kListedSlots;
       ++cursor, ++seen) {
    const auto slot = static_cast<uint32_t>(cursor);
    if (!index_.live(slot) || (space != nullptr && index_.SpaceOf(slot) != *space)) continue;
    found.push_back(FoundAt(slot));
  }
  if (cursor >= index_.slots()) cursor = 0;
  return found;
}

Result<RecordHead> DiskCore::DecodeHead(const FoundRecord& record, std::span<const std::byte> bytes) const {
  LARDER_ASSIGN(const Frame frame, DecodeFrame(bytes, store_));
  if (frame.place != record.place || frame.born != record.born || KeyOf(frame.name) != record.key) {
    return Fail(ErrorKind::kCorrupt, "another record is where record {} should be", frame.name.ShortHex());
  }
  LARDER_ASSIGN(RecordHead head, DecodeRecordHead(bytes.subspan(kFrameBytes, frame.head_bytes), sealer));
  const uint64_t payload_pages = record.place.pages - record.place.head_pages;
  if (head.header.name != frame.name || PayloadAreaBytes(head, kPage) > payload_pages * kPage) {
    return Fail(ErrorKind::kCorrupt, "the head of record {} does not fit it", frame.name.ShortHex());
  }
  return head;
}

Result<RecordHead> DiskCore::ReadHead(const FoundRecord& record) {
  const DirectBuffer buffer(record.place.head_pages * kPage);
  const auto bytes = buffer.first(record.place.head_pages * kPage);
  LARDER_ASSIGN(const size_t got, record.segment->file->Read(record.place.page * kPage, bytes));
  Result<RecordHead> head = DecodeHead(record, bytes.first(got));
  if (!head) GiveUp(record, head.error());
  return head;
}

void DiskCore::GiveUp(const FoundRecord& record, const Error& why) {
  // A record of a wiped tenant cannot be read any more; that is no damage.
  const bool bad = why.kind == ErrorKind::kCorrupt;
  if (!bad && why.kind != ErrorKind::kNotFound) return;
  {
    std::lock_guard lock(mutex_);
    const uint32_t slot = index_.Find(record.key);
    // A moved record is judged where it is now, by who reads it there.
    if (slot == kNoSlot || index_.at(slot).born != record.born || index_.at(slot).place() != record.place)
      return;
    NoteDeparture(slot);
    EraseSlot(slot, true);
    if (bad) ++stats_.bad_records;
  }
  if (bad) LogWarn("disk store: a record in {} is given up: {}", record.segment->path, why.message);
}

void DiskCore::Touch(std::span<const Digest> names) {
  std::lock_guard lock(mutex_);
  for (const Digest& name : names) {
    const uint32_t slot = index_.Find(KeyOf(name));
    if (slot != kNoSlot) MarkUsed(slot);
  }
}

bool DiskCore::CheckpointDue() const {
  std::lock_guard lock(mutex_);
  return touched_.size() >= kTouchesKept || gone_.size() >= kTouchesKept;
}

// --- pins

void DiskCore::ExpirePins() {
  const int64_t now = clock->NowNs();
  std::erase_if(pins_, [&](const auto& pin) {
    if (pin.second.until_ns > now) return false;
    pinned_bytes_ -= pin.second.bytes;
    return true;
  });
}

bool DiskCore::Pinned(uint32_t slot) const { return pins_.contains(slot); }

Status DiskCore::Pin(const Digest& name, int64_t ttl_ms) {
  std::lock_guard lock(mutex_);
  ExpirePins();
  const uint32_t slot = index_.Find(KeyOf(name));
  if (slot == kNoSlot) return Fail(ErrorKind::kNotFound, "record {} is not on the disk", name.ShortHex());
  if (const auto old = pins_.find(slot); old != pins_.end()) {
    pinned_bytes_ -= old->second.bytes;
    pins_.erase(old);
  }
  if (ttl_ms <= 0) return {};
  const uint64_t bytes = index_.at(slot).pages * kPage;
  if (pinned_bytes_ + bytes > options.limit_bytes / 2) {
    return Fail(ErrorKind::kExhausted, "half of the disk tier is pinned already; wait until pins end");
  }
  constexpr int64_t kLongestMs = int64_t{1} << 40;  // decades; keeps the sum from overflowing
  pins_[slot] = {index_.at(slot).born, clock->NowNs() + std::min(ttl_ms, kLongestMs) * 1'000'000, bytes};
  pinned_bytes_ += bytes;
  return {};
}

// --- figures

TierStats DiskCore::Stats() const {
  std::lock_guard lock(mutex_);
  TierStats stats = stats_;
  stats.limit_bytes = options.limit_bytes;
  stats.used_bytes = allocated_ + log_bytes_;
  stats.records = index_.size();
  return stats;
}

DiskCounters DiskCore::Counters() const {
  std::lock_guard lock(mutex_);
  DiskCounters counters = counters_;
  counters.index_bytes = index_.bytes() + order_->bytes();
  counters.segments = segments_.size();
  counters.live_bytes = live_pages_ * kPage;
  counters.pinned_bytes = pinned_bytes_;
  for (const auto& [number, segment] : segments_) counters.stuck_segments += segment->stuck;
  return counters;
}

void DiskCore::Complain(Trouble trouble, std::string_view what) {
  {
    std::lock_guard lock(mutex_);
    std::optional<int64_t>& last = complained_ns_[static_cast<size_t>(trouble)];
    const int64_t now = clock->NowNs();
    // A clock that went back silences nobody.
    if (last && now >= *last && now - *last < kQuietNs) return;
    last = now;
  }
  LogWarn("disk store: {}", what);
}

void DiskCore::RequestReadEnded() {
  if (--request_reads_ > 0) return;
  {
    std::lock_guard lock(hold_mutex_);
  }
  hold_.notify_all();
}

}  // namespace larder
