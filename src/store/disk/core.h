// What reading, writing and cleaning up share: the index, the segments, the logs, and the rules that keep
// them together. Opened by recovery (recover.cc); records become valid in commit.cc, space is found in
// space.cc.
//
// Locks, in this order: `write_mutex` (who appends to segments and frees them: the writer, or whoever steps),
// `log_mutex_` (the two logs and removals), `mutex_` (everything in memory; never held over I/O).
#pragma once

#include <array>
#include <atomic>
#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/clock.h"
#include "store/disk/buffer.h"
#include "store/disk/disk_tier.h"
#include "store/disk/format.h"
#include "store/disk/index.h"
#include "store/disk/log.h"
#include "store/disk/order.h"
#include "store/disk/removals.h"
#include "store/record.h"

namespace larder {

inline constexpr uint64_t kWritePiece = 1 << 20;  // written at once between two looks at the readers

// A file of records. Appended to while active, by this process only; dropped when nothing in it is live, and
// unlinked when no reader holds it any more.
struct DiskSegment {
  uint32_t number = 0;
  std::string path;
  std::unique_ptr<File> file;
  // All below: guarded by DiskCore::mutex.
  uint64_t allocated = 0;    // bytes that count against the limit
  uint32_t end_page = 0;     // records end here
  uint64_t live_pages = 0;   // of committed records
  uint32_t uncommitted = 0;  // records on their way in; keeps it from being dropped
  bool sealed = false, dropped = false;
  bool erase_soon = false;  // holds wiped records: cleaned at once
  bool stuck = false;       // could not be unlinked
};
using SegmentRef = std::shared_ptr<DiskSegment>;

// A record as a reader takes it: the reference keeps the file.
struct FoundRecord {
  SegmentRef segment;
  RecordPlace place;
  RecordKey key;
  uint64_t born = 0;
};

// A record that is written but not valid yet.
struct NewRecord {
  LogEntry entry;      // kPut
  SegmentRef segment;  // where it lies; counted in `uncommitted`
  RecordPlace from;    // of a moved record: where it was. pages 0: it is new
  Status status;       // after Commit
};

class DiskCore {
 public:
  DiskCore(const DiskOptions& options, FileSystem* files, const Sealer* sealer, Clock* clock)
      : options(options), files(files), sealer(sealer), clock(clock) {}

  const DiskOptions options;
  FileSystem* const files;
  const Sealer* const sealer;
  Clock* const clock;

  // recover.cc
  Status Open();
  // core.cc: what is here
  std::vector<bool> Has(std::span<const Digest> names);
  std::vector<FoundRecord> Locate(std::span<const Digest> names);  // segment null: not here; marks as used
  std::vector<FoundRecord> LocateChildren(const Digest& parent, size_t limit);
  std::vector<FoundRecord> LocateFrom(uint64_t& cursor, size_t limit, const SpaceId* space);
  Result<RecordHead> DecodeHead(const FoundRecord& record, std::span<const std::byte> bytes) const;
  Result<RecordHead> ReadHead(const FoundRecord& record);  // kCorrupt ones are given up
  void EncodeFrameFor(const Frame& frame, std::span<std::byte> to) const { EncodeFrame(frame, store_, to); }
  void GiveUp(const FoundRecord& record, const Error& why);
  void Touch(std::span<const Digest> names);
  Status Pin(const Digest& name, int64_t ttl_ms);
  uint64_t NextSequence();
  TierStats Stats() const;
  DiskCounters Counters() const;
  // What happens often on a failing disk: one line of each kind in a while.
  enum class Trouble : uint8_t { kReads, kLateReads, kWrites };
  void Complain(Trouble trouble, std::string_view what);
  template <class Change>
  void Count(Change change) {
    std::lock_guard lock(mutex_);
    change(stats_, counters_);
  }
  // commit.cc: the logs
  enum class Known { kNew, kSame, kOther };
  Known Compare(const RecordKey& key, uint64_t payload_digest) const;
  bool Removed(const RecordKey& key, const SpaceId& space, uint64_t born);
  // Syncs the segments, then the catalog; sets each record's status. REQUIRES: write_mutex.
  void Commit(std::span<NewRecord> records);
  Status Remove(std::span<const Digest> names);
  Status Wipe(const SpaceId& space);
  Status Checkpoint();  // writes what is only in memory: last uses, evictions
  bool CheckpointDue() const;
  // space.cc: segments. REQUIRES: write_mutex, for all of these
  struct Room {
    SegmentRef segment;
    uint32_t page = 0;
  };
  // Space for a record, evicting and cleaning for it. Counted as uncommitted. kExhausted, kIo.
  Result<Room> TakeRoom(uint32_t pages, bool for_move);
  // Writes in pieces, each after the request's reads had their turn. An error retires the segment.
  Status WriteTo(const SegmentRef& segment, uint64_t offset, std::span<const std::byte> bytes);
  bool Clean();  // one step of cleaning that is due by itself; whether there was one
  Status CompactAll();
  void SealActive();
  void Reap();  // unlinks dropped segments that nobody reads any more
  bool ReapDue() const;

  // departures.cc: what is here no longer, for who listens
  void ListenForRemovals(RemovalListener listener);
  std::vector<RemovedRecord> TakeDeparted();  // since the last time. REQUIRES: write_mutex
  void TellDeparted(std::vector<RemovedRecord> departed);

  std::mutex write_mutex;
  // Reads that a request waits for; writes let them pass.
  void RequestReadStarted() { ++request_reads_; }
  void RequestReadEnded();

 private:
  friend class DiskRecovery;
  struct PinState {
    uint64_t born = 0;
    int64_t until_ns = 0;
    uint64_t bytes = 0;
  };

  struct Departed {
    FoundRecord record;  // keeps the file, which has the name
    SpaceId space;
  };

  // All REQUIRE mutex_.
  void NoteDeparture(uint32_t slot);
  void EraseSlot(uint32_t slot, bool log, bool evicted = false);
  void AddLive(const RecordPlace& place);
  void SubtractLive(const RecordPlace& place);
  void ExpirePins();
  bool Pinned(uint32_t slot) const;
  FoundRecord FoundAt(uint32_t slot) const;
  void MarkUsed(uint32_t slot);
  uint64_t LogBound(uint64_t more_records) const;
  uint64_t Capacity() const;
  // REQUIRE log_mutex_.
  BatchHeader NextBatchHeader() const;
  Status RewriteCatalog();
  Status RewriteRemovals();
  Status AppendCatalog(std::span<const LogEntry> entries);
  Status WriteRemovals(std::span<const LogEntry> rules);
  std::vector<LogEntry> TakePendingEntries();
  void NoteLogBytes();
  // REQUIRE write_mutex.
  void NameDeparted();
  RemovedRecord NameOf(const Departed& departed, const DirectBuffer& page) const;
  void SyncSegments(std::span<NewRecord> records);
  void Publish(std::span<NewRecord> records);
  bool FitsAnother(bool for_move) const;
  Status CreateSegment();
  void Seal(const SegmentRef& segment);
  void DropEmpty();
  bool FreeSome();
  bool FreedSoon() const;
  bool OverLimit() const;
  uint64_t Evict(uint64_t bytes);
  uint64_t EvictFrom(const DiskSegment& segment);
  Status MoveAll(const SegmentRef& segment);
  Status MoveSome(const SegmentRef& segment, std::span<const FoundRecord> records);
  Status CopyRecord(const FoundRecord& record, NewRecord& copy);

  StoreId store_{};
  uint64_t segment_bytes_ = 0;
  std::unique_ptr<FileLock> lock_;
  SegmentRef active_;           // guarded by write_mutex
  DirectBuffer moving_;         // guarded by write_mutex
  bool said_buffered_ = false;  // guarded by write_mutex

  mutable std::mutex mutex_;
  DiskIndex index_;
  std::optional<DiskOrder> order_;  // once opened
  std::map<uint32_t, SegmentRef> segments_;
  std::unordered_map<uint32_t, PinState> pins_;  // by slot
  uint64_t pinned_bytes_ = 0;
  std::vector<LogEntry> gone_;     // evicted or bad, not in the catalog yet
  std::vector<uint32_t> touched_;  // used since the last checkpoint, in order; a slot may come twice
  uint64_t live_pages_ = 0, allocated_ = 0, log_bytes_ = 0, removal_rules_ = 0;
  uint64_t next_sequence_ = 1;
  uint32_t next_segment_ = 1;
  TierStats stats_;
  DiskCounters counters_;
  std::array<std::optional<int64_t>, 3> complained_ns_;  // by Trouble: when last

  bool listened_ = false;
  std::vector<Departed> departed_;    // while listened to: not named yet
  std::vector<RemovedRecord> named_;  // not told yet
  std::mutex listener_mutex_;
  RemovalListener listener_;  // guarded by listener_mutex_

  std::mutex log_mutex_;
  std::unique_ptr<DiskLog> catalog_, removals_log_;
  Removals removals_;

  std::atomic<int> request_reads_ = 0;
  std::mutex hold_mutex_;
  std::condition_variable hold_;
};

}  // namespace larder
