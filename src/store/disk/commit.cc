// The two logs: how a record becomes valid, and how it stops being so.
#include <algorithm>
#include <set>

#include "base/log.h"
#include "store/disk/core.h"

namespace larder {
namespace {

constexpr size_t kSnapshotSlots = 1024;                           // looked at under one lock
constexpr uint64_t kCatalogBase = 32 << 10, kCatalogEntry = 200;  // it is rewritten when it has more
constexpr uint64_t kRemovalsBase = 16 << 10, kRemovalsEntry = 128;
constexpr size_t kRulesAtOnce = 8192;

}  // namespace

// The logs' bytes at their largest, while a new one is being written beside the old one.
uint64_t DiskCore::LogBound(uint64_t more_records) const {
  const uint64_t records = index_.size() + more_records;
  return kCatalogBase + 3 * kLogAlign + (kCatalogEntry + kPutEntryBytes + 4) * records + kRemovalsBase +
         3 * kLogAlign + (kRemovalsEntry + kSmallEntryBytes + 2) * removal_rules_ + 2 * kPage;
}

void DiskCore::NoteLogBytes() {
  std::lock_guard lock(mutex_);
  log_bytes_ = catalog_->bytes() + removals_log_->bytes();
  removal_rules_ = removals_.size();
  counters_.catalogs_written = catalog_->replaced();
  stats_.healthy = catalog_->usable() && removals_log_->usable();
}

BatchHeader DiskCore::NextBatchHeader() const {
  std::lock_guard lock(mutex_);
  return {.next_sequence = next_sequence_,
          .removals = removals_log_->last_batch(),
          .next_segment = next_segment_};
}

Status DiskCore::RewriteCatalog() {
  uint32_t slot = 0;
  const auto next = [&] {
    std::vector<std::byte> body;
    while (body.empty()) {
      std::lock_guard lock(mutex_);
      if (slot >= index_.slots()) break;
      const auto end = static_cast<uint32_t>(std::min<uint64_t>(slot + kSnapshotSlots, index_.slots()));
      for (; slot < end; ++slot) {
        if (index_.live(slot)) EncodeEntry(index_.EntryOf(slot), body);
      }
    }
    return body;
  };
  const Status status = catalog_->Replace(NextBatchHeader(), next);
  NoteLogBytes();
  return status;
}

Status DiskCore::RewriteRemovals() {
  const std::vector<LogEntry> rules = removals_.Entries();
  size_t at = 0;
  const auto next = [&] {
    std::vector<std::byte> body;
    const size_t end = std::min(at + kRulesAtOnce, rules.size());
    for (; at < end; ++at) EncodeEntry(rules[at], body);
    return body;
  };
  const Status status = removals_log_->Replace(NextBatchHeader(), next);
  NoteLogBytes();
  return status;
}

// Evictions and last uses since the last time. A use is written once, in the order of the last ones.
std::vector<LogEntry> DiskCore::TakePendingEntries() {
  std::lock_guard lock(mutex_);
  std::vector<LogEntry> entries = std::move(gone_);
  gone_.clear();
  std::sort(touched_.begin(), touched_.end());
  touched_.erase(std::unique(touched_.begin(), touched_.end()), touched_.end());
  for (const uint32_t slot : touched_) {
    if (!index_.live(slot)) continue;
    const IndexSlot& record = index_.at(slot);
    entries.push_back({.type = LogEntryType::kUsed, .key = record.key, .used = record.used});
  }
  touched_.clear();
  return entries;
}

Status DiskCore::AppendCatalog(std::span<const LogEntry> entries) {
  const std::vector<LogEntry> pending = TakePendingEntries();
  const uint64_t bytes = entries.size() * kPutEntryBytes + pending.size() * kSmallEntryBytes;
  uint64_t records = entries.size();
  {
    std::lock_guard lock(mutex_);
    records += index_.size();
  }
  if (!catalog_->usable() || catalog_->bytes() + bytes > kCatalogBase + kCatalogEntry * records) {
    LARDER_TRY(RewriteCatalog());
  }
  std::vector<std::byte> body;
  Status status;
  const auto add = [&](const LogEntry& entry) {
    if (body.size() + kPutEntryBytes > kMaxBatchBytes) {
      if (status) status = catalog_->Append(NextBatchHeader(), body);
      body.clear();
    }
    EncodeEntry(entry, body);
  };
  for (const LogEntry& entry : pending) add(entry);
  for (const LogEntry& entry : entries) add(entry);
  if (status && !body.empty()) status = catalog_->Append(NextBatchHeader(), body);
  if (!status) {
    LogWarn("disk store: the catalog is written anew: {}", status.error().message);
    // What the broken one ends with is unknown; the new one says that it is not there.
    (void)RewriteCatalog();
  }
  // The disk takes writes again.
  if (status && !removals_log_->usable()) (void)RewriteRemovals();
  NoteLogBytes();
  return status;
}

DiskCore::Known DiskCore::Compare(const RecordKey& key, uint64_t payload_digest) const {
  std::lock_guard lock(mutex_);
  const uint32_t slot = index_.Find(key);
  if (slot == kNoSlot) return Known::kNew;
  return index_.at(slot).digest == payload_digest ? Known::kSame : Known::kOther;
}

bool DiskCore::Removed(const RecordKey& key, const SpaceId& space, uint64_t born) {
  std::lock_guard lock(log_mutex_);
  return removals_.Covers(key, space, born) || born < removals_.floor();
}

// --- putting

void DiskCore::SyncSegments(std::span<NewRecord> records) {
  std::set<SegmentRef> segments;
  for (const NewRecord& record : records) {
    if (record.status) segments.insert(record.segment);
  }
  for (const SegmentRef& segment : segments) {
    Count([](TierStats&, DiskCounters& counters) { ++counters.syncs; });
    const Status synced = segment->file->Sync();
    if (synced) continue;
    LogWarn("disk store: {} takes no more records: {}", segment->path, synced.error().message);
    Seal(segment);
    for (NewRecord& record : records) {
      if (record.segment == segment) record.status = synced;
    }
  }
}

void DiskCore::Publish(std::span<NewRecord> records) {
  std::lock_guard lock(mutex_);
  for (const NewRecord& record : records) {
    --record.segment->uncommitted;
    if (!record.status) continue;
    const uint32_t slot = index_.Find(record.entry.key);
    if (record.from.pages == 0) {
      LARDER_CHECK(slot == kNoSlot);
      order_->Add(index_.Insert(record.entry));
      AddLive(record.entry.place);
      continue;
    }
    const bool here = slot != kNoSlot && index_.at(slot).born == record.entry.born;
    if (!here || index_.at(slot).place() != record.from) continue;  // evicted or removed meanwhile
    SubtractLive(record.from);
    index_.Move(slot, record.entry.place);
    AddLive(record.entry.place);
    ++counters_.moved_records;
  }
}

void DiskCore::Commit(std::span<NewRecord> records) {
  SyncSegments(records);
  std::lock_guard lock(log_mutex_);
  std::vector<LogEntry> entries;
  for (NewRecord& record : records) {
    const LogEntry& entry = record.entry;
    const bool fresh = record.from.pages == 0;
    if (removals_.Covers(entry.key, entry.space, entry.born) || (fresh && entry.born < removals_.floor())) {
      if (record.status) record.status = Fail(ErrorKind::kCancelled, "removed before it was written");
    }
    if (record.status) entries.push_back(entry);
  }
  if (!entries.empty()) {
    const Status appended = AppendCatalog(entries);
    for (NewRecord& record : records) {
      if (!appended && record.status) record.status = appended;
    }
  }
  Publish(records);
}

Status DiskCore::Checkpoint() {
  std::lock_guard lock(log_mutex_);
  {
    std::lock_guard state(mutex_);
    if (gone_.empty() && touched_.empty()) return {};
  }
  return AppendCatalog({});
}

// --- removing

Status DiskCore::WriteRemovals(std::span<const LogEntry> rules) {
  for (const LogEntry& rule : rules) removals_.Add(rule);
  Status status;
  if (removals_log_->usable() &&
      removals_log_->bytes() <= kRemovalsBase + kRemovalsEntry * removals_.size()) {
    for (size_t at = 0; status && at < rules.size(); at += kRulesAtOnce) {
      std::vector<std::byte> body;
      for (const LogEntry& rule : rules.subspan(at, std::min(kRulesAtOnce, rules.size() - at))) {
        EncodeEntry(rule, body);
      }
      status = removals_log_->Append(NextBatchHeader(), body);
    }
    if (status) return {};
    LogWarn("disk store: the log of removals is written anew: {}", status.error().message);
  }
  return RewriteRemovals();
}

namespace {

Status NotDurable(const Error& why) {
  return Fail(why.kind, "removed, but a crash may bring it back: {}", why.message);
}

}  // namespace

Status DiskCore::Remove(std::span<const Digest> names) {
  if (names.empty()) return {};
  std::lock_guard lock(log_mutex_);
  std::vector<LogEntry> rules;
  {
    std::lock_guard state(mutex_);
    const uint64_t sequence = next_sequence_++;
    for (const Digest& name : names) {
      const RecordKey key = KeyOf(name);
      rules.push_back({.type = LogEntryType::kRemove, .key = key, .sequence = sequence});
      const uint32_t slot = index_.Find(key);
      if (slot == kNoSlot) continue;
      NoteDeparture(slot);
      EraseSlot(slot, false);
    }
  }
  const Status removed = WriteRemovals(rules);
  // The catalog says it too, should the other log be damaged.
  const Status noted = AppendCatalog(rules);
  if (!removed || !noted) return NotDurable((removed ? noted : removed).error());
  if (removals_.size() > Removals::kLimit && RewriteCatalog()) {
    removals_.Shorten(rules[0].sequence);
    (void)RewriteRemovals();
  }
  return {};
}

Status DiskCore::Wipe(const SpaceId& space) {
  std::lock_guard lock(log_mutex_);
  LogEntry rule{.type = LogEntryType::kWipe, .space = space};
  {
    std::lock_guard state(mutex_);
    rule.sequence = next_sequence_++;
    for (uint32_t slot = 0; slot < index_.slots(); ++slot) {
      if (!index_.live(slot) || index_.SpaceOf(slot) != space) continue;
      segments_.at(index_.at(slot).segment)->erase_soon = true;
      EraseSlot(slot, false);
    }
  }
  const Status removed = WriteRemovals({&rule, 1});
  const Status noted = AppendCatalog({&rule, 1});
  if (!removed || !noted) return NotDurable((removed ? noted : removed).error());
  return {};
}

}  // namespace larder
