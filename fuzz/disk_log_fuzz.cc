// Any bytes as a log of the disk store: as a whole file, and as the bodies of batches whose checksums are
// right. Entries that are accepted must be read again as they are written.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "store/disk/format.h"

namespace {

using larder::LogKind;

void Require(bool condition) {
  if (!condition) __builtin_trap();
}

bool Same(const larder::LogEntry& a, const larder::LogEntry& b) {
  return a.type == b.type && a.sealed == b.sealed && a.key == b.key && a.place == b.place &&
         a.parent == b.parent && a.digest == b.digest && a.born == b.born && a.used == b.used &&
         a.space == b.space && a.sequence == b.sequence;
}

void CheckEntry(const larder::LogEntry& entry) {
  std::vector<std::byte> body;
  larder::EncodeEntry(entry, body);
  const bool put = entry.type == larder::LogEntryType::kPut;
  Require(body.size() == (put ? larder::kPutEntryBytes : larder::kSmallEntryBytes));
  size_t entries = 0;
  Require(larder::DecodeEntries(body, [&](const larder::LogEntry& again) {
            ++entries;
            Require(Same(entry, again));
          }).has_value());
  Require(entries == 1);
}

void Read(std::span<const std::byte> file, LogKind kind, const larder::StoreId& store) {
  uint64_t entries = 0;
  const auto end = larder::ReadLog(file, kind, store, [&](const larder::LogEntry& entry) {
    ++entries;
    CheckEntry(entry);
  });
  if (!end) return Require(!end.error().message.empty());
  Require(end->entries == entries && entries * larder::kSmallEntryBytes <= file.size());
}

// The first byte says how the rest is cut into batches.
std::vector<std::byte> LogOf(std::span<const std::byte> bytes, LogKind kind, const larder::StoreId& store) {
  const auto cut = static_cast<size_t>(bytes[0]) % 8 * larder::kSmallEntryBytes + larder::kSmallEntryBytes;
  const larder::LogHeader header{kind, store, 5, 1};
  std::vector<std::byte> log;
  larder::EncodeLogHeader(header, log);
  larder::BatchHeader batch{.number = 9};
  for (size_t at = 1; at < bytes.size(); at += cut) {
    larder::EncodeBatch(batch, header, bytes.subspan(at, std::min(cut, bytes.size() - at)), log);
    ++batch.number;
  }
  return log;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::vector<std::byte> bytes(size);
  std::ranges::copy(std::as_bytes(std::span(data, size)), bytes.begin());
  larder::StoreId store{};
  for (size_t i = 0; i < store.size(); ++i) store[i] = static_cast<uint8_t>(i);  // as in the seeds
  for (const LogKind kind : {LogKind::kCatalog, LogKind::kRemovals}) {
    Read(bytes, kind, store);
    if (size > 0) Read(LogOf(bytes, kind, store), kind, store);
  }
  return 0;
}
