// The tier on local disk: an embedded, append-only object store. Records lie in segments that are never
// overwritten; a catalog log says which are valid. A record is there once its payload and then its entry in
// the catalog are synced; a crash at any point costs at most what was not committed. Removals and wipes are
// kept in a log of their own, so that not even a lost catalog brings them back.
// docs/formats/disk-store.md: the bytes, and why a crash cannot hurt.
//
// Memory: at most 128 bytes a record, the pending writes, 8 MiB for reads that are not aligned, and one
// record on its way out. Descriptors: one a segment. Threads: one reads, one writes and cleans up.
//
// A group is "here" for Tier::Get as soon as it is verified. A record that is not here has no groups; its
// items count up to their end_group if they say one, else for one group.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "base/clock.h"
#include "base/file_system.h"
#include "store/sealer.h"
#include "store/tier.h"

namespace larder {

enum class DiskIo {
  kAuto,    // io_uring, or threads where it is refused
  kUring,   // refuse to open without it
  kThreads  // pread by a few threads
};

struct DiskOptions {
  std::string directory;                         // made if it is not there
  uint64_t limit_bytes = 0;                      // of everything in it; at least 1 MiB
  uint64_t segment_bytes = uint64_t{256} << 20;  // a record must fit; made smaller to have 8 in the limit
  uint64_t pending_bytes = uint64_t{256} << 20;  // of payloads that wait to be written; more are dropped
  int64_t write_delay_ms = 300;                  // a pending write starts at the latest then
  std::string evict_policy = "lru";              // store/evict/policy.h
  DiskIo io = DiskIo::kAuto;
  int io_threads = 3;  // of kThreads
  // Writes let the reads of requests pass, for a while. Without it is slower; to measure by how much.
  bool writes_yield = true;
  // For tests: no threads; everything happens in Step, Flush and the destructor, on the thread that calls
  // them, and so do the callbacks.
  bool stepped = false;
};

struct DiskReport {
  uint64_t records = 0, bytes = 0, bad = 0;  // read; payload bytes; damaged, and given up
};

// Counted for tests and for those who look closely.
struct DiskCounters {
  uint64_t index_bytes = 0;              // memory of index and policy
  uint64_t reads = 0, read_batches = 0;  // pieces read for gets; how often a batch of them was handed over
  uint64_t read_calls = 0;       // system calls of the read queue: at most one a piece or call of the tier
  uint64_t syncs = 0;            // of segments and logs
  uint64_t held_writes = 0;      // pieces that waited for reads
  uint64_t conflicts = 0;        // another payload under a name that is here
  uint64_t catalog_entries = 0;  // read when it was opened
  uint64_t rebuilt_records = 0;  // found in segments because the catalog was damaged
  uint64_t catalogs_written = 0;
  uint64_t moved_records = 0;                 // by compaction
  uint64_t segments = 0, stuck_segments = 0;  // files; those that could not be removed
  uint64_t live_bytes = 0;                    // of records, heads and padding included
  uint64_t pinned_bytes = 0;                  // of these
};

class DiskTier : public Tier {
 public:
  // Reads and checks every record. Damaged ones are given up.
  virtual Result<DiskReport> Verify() = 0;
  // Closes the gaps: afterwards segments hold live records only. kIo, kExhausted.
  virtual Status Compact() = 0;
  virtual DiskCounters counters() const = 0;
  // With DiskOptions::stepped: does what there is to do now; whether there was anything.
  virtual bool Step() = 0;
};

// Sealed records are only seen with a sealer, plain ones only without. `files`, `sealer` (may be null) and
// `clock` outlive the tier. kConflict: another process has the directory; kUnsupported: another format
// version, the directory is left as it is; kInvalid: options; kCorrupt: the directory holds segments but
// nothing says of which store; kIo.
Result<std::unique_ptr<DiskTier>> OpenDiskTier(const DiskOptions& options, FileSystem* files,
                                               const Sealer* sealer, Clock* clock);

}  // namespace larder
