// The disk store's bytes: frames before the records in a segment, batches of entries in a log, the file that
// says what the directory is. docs/formats/disk-store.md has them to the byte. Pure functions; every size is
// checked before it is used.
#pragma once

#include <array>
#include <compare>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/file_system.h"
#include "base/hash.h"
#include "base/result.h"
#include "store/tier.h"

namespace larder {

inline constexpr uint32_t kDiskVersion = 1;
inline constexpr uint64_t kPage = kDirectAlign;  // records, heads and groups begin at multiples of it
using StoreId = std::array<uint8_t, 16>;         // random, made with the store; binds its files together

// The first half of a name: 128 bits tell records apart in memory and logs, the head on disk has it all.
struct RecordKey {
  std::array<uint64_t, 2> words{};
  auto operator<=>(const RecordKey&) const = default;
};
struct RecordKeyHash {
  size_t operator()(const RecordKey& key) const { return key.words[0]; }
};
RecordKey KeyOf(const Digest& name);
uint64_t ParentKeyOf(const Digest& parent);  // 0: none

inline constexpr uint64_t PagesFor(uint64_t bytes) { return (bytes + kPage - 1) / kPage; }

// Where a record lies.
struct RecordPlace {
  uint32_t segment = 0, page = 0;  // the segment's number; pages from its beginning
  uint32_t pages = 0;              // of head and payload together
  uint8_t head_pages = 0;          // frame and head
  auto operator<=>(const RecordPlace&) const = default;
};

// What stands before a record's head: enough to rebuild the catalog from segments alone.
struct Frame {
  RecordPlace place;
  uint32_t head_bytes = 0;
  uint64_t born = 0;  // drawn from the store's sequence when the record was put
  uint64_t payload_digest = 0;
  bool sealed = false;
  Digest name, parent;
  SpaceId space{};
};
inline constexpr size_t kFrameBytes = 192;
inline constexpr uint32_t kMaxHeadPages = 21;
void EncodeFrame(const Frame& frame, const StoreId& store, std::span<std::byte> to);  // kFrameBytes of it
// kCorrupt: not a frame of this store; sizes contradict each other.
Result<Frame> DecodeFrame(std::span<const std::byte> bytes, const StoreId& store);

enum class LogEntryType : uint8_t { kPut = 1, kGone = 2, kUsed = 3, kRemove = 4, kWipe = 5, kFloor = 6 };

// One line of a log. Which fields count depends on the type.
struct LogEntry {
  LogEntryType type = LogEntryType::kGone;
  bool sealed = false;    // kPut
  RecordKey key;          // kPut, kGone, kUsed, kRemove
  RecordPlace place;      // kPut
  uint64_t parent = 0;    // kPut
  uint64_t digest = 0;    // kPut
  uint64_t born = 0;      // kPut, kGone
  uint64_t used = 0;      // kPut, kUsed: sequence of the last use
  SpaceId space{};        // kPut, kWipe
  uint64_t sequence = 0;  // kRemove, kWipe, kFloor: what was born before is gone
};
inline constexpr size_t kPutEntryBytes = 80, kSmallEntryBytes = 32;
void EncodeEntry(const LogEntry& entry, std::vector<std::byte>& out);
// Calls `visit` with each entry of a batch's body. kCorrupt; entries before the bad one were visited.
Status DecodeEntries(std::span<const std::byte> body, const std::function<void(const LogEntry&)>& visit);

enum class LogKind : uint8_t { kCatalog, kRemovals };

struct LogHeader {
  LogKind kind = LogKind::kCatalog;
  StoreId store{};
  uint64_t number = 0;            // of the file
  uint64_t snapshot_batches = 0;  // the file began with these; they were synced before it got its name
};
inline constexpr size_t kLogAlign = 64, kLogHeaderBytes = 64, kBatchHeaderBytes = 48;
inline constexpr size_t kMaxBatchBytes = 1 << 20;

struct BatchHeader {
  uint64_t number = 0;         // consecutive within a store, across its files of one kind
  uint64_t next_sequence = 0;  // not used yet when this was written
  uint64_t removals = 0;       // number of the last batch of removals that was durable then
  uint32_t next_segment = 0;
};

void EncodeLogHeader(const LogHeader& header, std::vector<std::byte>& out);
// Appends a batch, padded to kLogAlign.
void EncodeBatch(const BatchHeader& header, const LogHeader& log, std::span<const std::byte> body,
                 std::vector<std::byte>& out);

// How the reading of a log ended.
struct LogEnd {
  BatchHeader last;  // the last good batch
  uint64_t batches = 0, entries = 0;
  bool torn = false;  // something stood after the last good batch: a write that was never synced
};
// Visits every entry of every good batch, in order. The next batch is written only after this one was synced;
// so a bad batch with a good later one behind it is damage, and a bad one at the end is a torn write.
// kCorrupt: damage. kUnsupported: another version.
Result<LogEnd> ReadLog(std::span<const std::byte> file, LogKind kind, const StoreId& store,
                       const std::function<void(const LogEntry&)>& visit);

// The text of DIR/LARDER.
std::string EncodeStoreFile(const StoreId& store);
Result<StoreId> DecodeStoreFile(std::span<const std::byte> bytes);  // kCorrupt, kUnsupported

// Names of files in the directory.
std::string NumberedName(std::string_view stem, uint64_t number);  // "seg-12"
std::optional<uint64_t> NumberIn(std::string_view name, std::string_view stem);

}  // namespace larder
