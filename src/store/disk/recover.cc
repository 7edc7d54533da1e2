// Opening a directory: which records are valid after whatever happened. The catalog says; removals are
// applied to what it says. Without a sound catalog the frames in the segments say, less what was removed.
// Without a sound log of removals only a sound catalog is believed, and without either nothing is.
#include <openssl/rand.h>

#include <algorithm>
#include <optional>

#include "base/log.h"
#include "store/disk/core.h"

namespace larder {
namespace {

constexpr uint64_t kMostLogBytes = uint64_t{8} << 30;
constexpr uint64_t kLeastSegment = 64 << 10;
constexpr uint64_t kScanBytes = 1 << 20;
// Drawn and never written down before a crash: fewer than this.
constexpr uint64_t kSequenceGap = uint64_t{1} << 20;

}  // namespace

class DiskRecovery {
 public:
  explicit DiskRecovery(DiskCore& core)
      : core_(core), files_(core.files), directory_(core.options.directory) {}
  Status Run();

 private:
  std::string Path(const std::string& name) const { return directory_ + "/" + name; }
  Status CheckOptions();
  Status Identify();
  Status MakeStore();
  Status ListFiles();
  Status ReadLogs();
  Result<LogEnd> ReadOne(std::string_view stem, std::optional<uint64_t> number, LogKind kind,
                         const std::function<void(const LogEntry&)>& visit);
  void Replay(const LogEntry& entry);
  Status OpenSegments();
  Status Rebuild();
  Status RebuildFrom(DiskSegment& segment, uint64_t size);
  void Insert(const LogEntry& entry);
  void DropWhere(const std::function<bool(uint32_t)>& dead);
  void Settle();
  void ReleaseUnused();
  Status BeginLogs();

  DiskCore& core_;
  FileSystem* files_;
  const std::string directory_;
  std::vector<std::string> names_;
  std::optional<uint64_t> catalog_number_, removals_number_;
  LogEnd catalog_end_, removals_end_;
  bool catalog_sound_ = false, removals_sound_ = false;
};

Status DiskCore::Open() { return DiskRecovery(*this).Run(); }

Status DiskRecovery::Run() {
  LARDER_TRY(CheckOptions());
  LARDER_TRY(files_->MakeDirectory(directory_));
  LARDER_TRY(Identify());
  LARDER_TRY(ListFiles());
  core_.catalog_ = std::make_unique<DiskLog>(files_, directory_, "catalog", LogKind::kCatalog, core_.store_);
  core_.removals_log_ =
      std::make_unique<DiskLog>(files_, directory_, "removed", LogKind::kRemovals, core_.store_);
  LARDER_TRY(ReadLogs());
  LARDER_TRY(OpenSegments());
  if (!catalog_sound_ && removals_sound_) LARDER_TRY(Rebuild());
  Settle();
  ReleaseUnused();
  return BeginLogs();
}

Status DiskRecovery::CheckOptions() {
  const uint64_t limit = core_.options.limit_bytes;
  if (core_.options.directory.empty()) return Fail(ErrorKind::kInvalid, "the disk tier needs a directory");
  core_.segment_bytes_ = std::min(core_.options.segment_bytes, limit / 8) / kPage * kPage;
  if (core_.segment_bytes_ < kLeastSegment) {
    return Fail(ErrorKind::kInvalid, "the disk tier needs a limit of 1 MiB at least and segments of {} bytes",
                kLeastSegment);
  }
  LARDER_ASSIGN(auto policy, CreateEvictPolicy(core_.options.evict_policy));
  core_.order_.emplace(&core_.index_, std::move(policy));
  return {};
}

// Looks before it touches: a directory of another version, or of another process, stays as it is.
Status DiskRecovery::Identify() {
  auto text = ReadWhole(files_, Path("LARDER"), 4096);
  if (!text && text.error().kind != ErrorKind::kNotFound) return std::unexpected(text.error());
  if (text) LARDER_TRY(DecodeStoreFile(*text));
  LARDER_ASSIGN(core_.lock_, files_->Lock(Path("LOCK")));
  // Another process may have made the store between the look and the lock.
  text = ReadWhole(files_, Path("LARDER"), 4096);
  if (text) {
    LARDER_ASSIGN(core_.store_, DecodeStoreFile(*text));
    return {};
  }
  if (text.error().kind != ErrorKind::kNotFound) return std::unexpected(text.error());
  return MakeStore();
}

Status DiskRecovery::MakeStore() {
  LARDER_TRY(ListFiles());
  for (const std::string& name : names_) {
    if (NumberIn(name, "seg") || NumberIn(name, "catalog") || NumberIn(name, "removed")) {
      return Fail(ErrorKind::kCorrupt, "{} holds {} but no file LARDER that says whose it is; empty it",
                  directory_, name);
    }
  }
  if (RAND_bytes(core_.store_.data(), static_cast<int>(core_.store_.size())) != 1) {
    return Fail(ErrorKind::kIo, "the system gives no random numbers");
  }
  const std::string temporary = Path("LARDER.tmp"), text = EncodeStoreFile(core_.store_);
  (void)files_->Remove(temporary);
  LARDER_ASSIGN(auto file, files_->Open(temporary, {.write = true, .create = true}));
  LARDER_TRY(file->Write(0, std::as_bytes(std::span(text.data(), text.size()))));
  LARDER_TRY(file->Sync());
  LARDER_TRY(files_->Rename(temporary, Path("LARDER")));
  return files_->SyncDirectory(directory_);
}

Status DiskRecovery::ListFiles() {
  LARDER_ASSIGN(names_, files_->List(directory_));
  for (const std::string& name : names_) {
    if (const auto n = NumberIn(name, "catalog")) catalog_number_ = std::max(catalog_number_.value_or(0), *n);
    if (const auto n = NumberIn(name, "removed"))
      removals_number_ = std::max(removals_number_.value_or(0), *n);
  }
  return {};
}

// --- logs

Result<LogEnd> DiskRecovery::ReadOne(std::string_view stem, std::optional<uint64_t> number, LogKind kind,
                                     const std::function<void(const LogEntry&)>& visit) {
  if (!number) return Fail(ErrorKind::kNotFound, "there is no {} in {}", stem, directory_);
  LARDER_ASSIGN(const auto bytes, ReadWhole(files_, Path(NumberedName(stem, *number)), kMostLogBytes));
  return ReadLog(bytes, kind, core_.store_, visit);
}

Status DiskRecovery::ReadLogs() {
  const auto removals = ReadOne("removed", removals_number_, LogKind::kRemovals,
                                [this](const LogEntry& entry) { core_.removals_.Add(entry); });
  const auto catalog = ReadOne("catalog", catalog_number_, LogKind::kCatalog,
                               [this](const LogEntry& entry) { Replay(entry); });
  // An I/O error is not damage: what cannot be read today may be read tomorrow.
  for (const auto* log : {&removals, &catalog}) {
    if (!*log && log->error().kind != ErrorKind::kNotFound && log->error().kind != ErrorKind::kCorrupt) {
      return std::unexpected(log->error());
    }
  }
  catalog_sound_ = catalog.has_value();
  removals_sound_ = removals.has_value();
  if (catalog) catalog_end_ = *catalog;
  if (removals) removals_end_ = *removals;
  // The catalog remembers how long the other log was.
  if (catalog && removals && removals->last.number < catalog->last.removals) removals_sound_ = false;
  core_.counters_.catalog_entries = catalog_end_.entries;
  if (!catalog_sound_) {
    DropWhere([](uint32_t) { return true; });
    if (catalog_number_) {
      LogWarn("disk store: {}; it is made anew from the segments", catalog.error().message);
    }
  }
  if (!removals_sound_ && removals_number_) {
    LogWarn("disk store: the log of removals is damaged; {}",
            catalog_sound_ ? "the catalog is sound and knows enough" : "nothing is kept");
  }
  return {};
}

void DiskRecovery::Replay(const LogEntry& entry) {
  uint64_t& sequence = core_.next_sequence_;
  sequence = std::max({sequence, entry.born + 1, entry.used + 1, entry.sequence + 1});
  const uint32_t slot = core_.index_.Find(entry.key);
  switch (entry.type) {
    case LogEntryType::kPut:
      core_.next_segment_ = std::max(core_.next_segment_, entry.place.segment + 1);
      if (slot != kNoSlot) core_.index_.Erase(slot);
      core_.index_.Insert(entry);
      break;
    case LogEntryType::kGone:
      if (slot != kNoSlot && core_.index_.at(slot).born == entry.born) core_.index_.Erase(slot);
      break;
    case LogEntryType::kUsed:
      if (slot != kNoSlot) core_.index_.Use(slot, entry.used);
      break;
    default:
      core_.removals_.Add(entry);
  }
}

void DiskRecovery::DropWhere(const std::function<bool(uint32_t)>& dead) {
  for (uint32_t slot = 0; slot < core_.index_.slots(); ++slot) {
    if (core_.index_.live(slot) && dead(slot)) core_.index_.Erase(slot);
  }
}

// --- segments

Status DiskRecovery::OpenSegments() {
  for (const std::string& name : names_) {
    const auto number = NumberIn(name, "seg");
    if (!number || *number >= UINT32_MAX) continue;
    auto segment = std::make_shared<DiskSegment>();
    segment->number = static_cast<uint32_t>(*number);
    segment->path = Path(name);
    segment->sealed = true;
    // A read-only disk still serves what it has.
    auto file = files_->Open(segment->path, {.write = true, .direct = true});
    if (!file) file = files_->Open(segment->path, {.direct = true});
    if (!file) return std::unexpected(file.error());
    segment->file = *std::move(file);
    LARDER_ASSIGN(segment->allocated, segment->file->Size());
    core_.next_segment_ = std::max(core_.next_segment_, segment->number + 1);
    core_.segments_[segment->number] = std::move(segment);
  }
  return {};
}

Status DiskRecovery::Rebuild() {
  for (const auto& [number, segment] : core_.segments_) {
    LARDER_TRY(RebuildFrom(*segment, segment->allocated));
  }
  core_.counters_.rebuilt_records = core_.index_.size();
  return {};
}

// Frames stand where the record before ended; after a torn record they are looked for page by page.
Status DiskRecovery::RebuildFrom(DiskSegment& segment, uint64_t size) {
  const DirectBuffer buffer(kScanBytes);
  uint64_t loaded = 0, loaded_end = 0;  // which bytes the buffer has
  for (uint64_t at = 0; at + kPage <= size;) {
    if (at < loaded || at + kPage > loaded_end) {
      LARDER_ASSIGN(const size_t got, segment.file->Read(at, buffer.first(kScanBytes)));
      loaded = at;
      loaded_end = at + got;
      if (got < kPage) break;
    }
    const auto frame =
        DecodeFrame(std::span<const std::byte>(buffer.data() + (at - loaded), kPage), core_.store_);
    const bool here = frame && frame->place.segment == segment.number && frame->place.page == at / kPage &&
                      at + frame->place.pages * kPage <= size;
    if (here) {
      Insert({.type = LogEntryType::kPut,
              .sealed = frame->sealed,
              .key = KeyOf(frame->name),
              .place = frame->place,
              .parent = ParentKeyOf(frame->parent),
              .digest = frame->payload_digest,
              .born = frame->born,
              .used = frame->born,
              .space = frame->space});
    }
    at += here ? frame->place.pages * kPage : kPage;
  }
  return {};
}

// The last born of a name counts. Of copies the first: it goes only once the other one is known to be whole.
void DiskRecovery::Insert(const LogEntry& entry) {
  core_.next_sequence_ = std::max(core_.next_sequence_, entry.born + 1);
  if (entry.born < core_.removals_.floor()) return;
  const uint32_t slot = core_.index_.Find(entry.key);
  if (slot != kNoSlot) {
    if (core_.index_.at(slot).born >= entry.born) return;
    core_.index_.Erase(slot);
  }
  core_.index_.Insert(entry);
}

// What the segments cannot give or removals forbid goes; the rest is counted.
void DiskRecovery::Settle() {
  DiskIndex& index = core_.index_;
  const bool sealed = core_.sealer != nullptr;
  DropWhere([&](uint32_t slot) {
    const IndexSlot& record = index.at(slot);
    const auto segment = core_.segments_.find(record.segment);
    if (segment == core_.segments_.end() || record.sealed != sealed) return true;
    if ((record.page + uint64_t{record.pages}) * kPage > segment->second->allocated) return true;
    return core_.removals_.Covers(record.key, index.SpaceOf(slot), record.born);
  });
  std::vector<uint32_t> order;
  for (uint32_t slot = 0; slot < index.slots(); ++slot) {
    if (!index.live(slot)) continue;
    order.push_back(slot);
    core_.AddLive(index.at(slot).place());
    DiskSegment& segment = *core_.segments_.at(index.at(slot).segment);
    segment.end_page = std::max(segment.end_page, index.at(slot).page + index.at(slot).pages);
  }
  std::sort(order.begin(), order.end(),
            [&](uint32_t a, uint32_t b) { return index.at(a).used < index.at(b).used; });
  index.SetDepths();
  for (const uint32_t slot : order) core_.order_->Add(slot);
  uint64_t& sequence = core_.next_sequence_;
  sequence = std::max({sequence, core_.removals_.latest() + 1, catalog_end_.last.next_sequence,
                       removals_end_.last.next_sequence}) +
             kSequenceGap;
  core_.next_segment_ =
      std::max({core_.next_segment_, catalog_end_.last.next_segment, removals_end_.last.next_segment});
}

// Cuts off what was never committed, and removes segments without a record.
void DiskRecovery::ReleaseUnused() {
  for (const auto& [number, segment] : core_.segments_) {
    const uint64_t end = segment->end_page * kPage;
    if (end > 0 && segment->allocated > end && segment->file->Truncate(end)) segment->allocated = end;
    core_.allocated_ += segment->allocated;
  }
  core_.Reap();
}

// A log is never appended to by another process than the one that began it: after a crash nobody knows which
// of its pages are only in the page cache.
Status DiskRecovery::BeginLogs() {
  if (!removals_sound_) core_.removals_.Add({.type = LogEntryType::kFloor, .sequence = core_.next_sequence_});
  core_.catalog_->Continue(catalog_number_.value_or(0), catalog_end_.last.number);
  core_.removals_log_->Continue(removals_number_.value_or(0),
                                std::max(removals_end_.last.number, catalog_end_.last.removals));
  std::lock_guard lock(core_.log_mutex_);
  Status begun = core_.RewriteRemovals();
  if (begun) begun = core_.RewriteCatalog();
  if (!begun) {
    // It reads, it does not write; each write tries again.
    LogWarn("disk store: {} is read only for now: {}", directory_, begun.error().message);
    return {};
  }
  for (const std::string& name : names_) {
    const bool old = NumberIn(name, "catalog") || NumberIn(name, "removed");
    if (old || name.ends_with(".tmp")) (void)files_->Remove(Path(name));
  }
  return {};
}

}  // namespace larder
