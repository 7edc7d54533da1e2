#include "store/disk/format.h"

#include <algorithm>
#include <charconv>
#include <cstring>

#include "store/bytes.h"

namespace larder {
namespace {

constexpr std::string_view kFrameMagic = "larderFr", kCatalogMagic = "larderCt", kRemovalsMagic = "larderRm";
constexpr uint32_t kBatchMagic = 0x7461424c;  // "LBat"
constexpr std::string_view kStoreTitle = "larder disk store\n";
constexpr uint8_t kSealedFlag = 1;

std::span<const std::byte> Text(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

bool IsText(std::span<const std::byte> bytes, std::string_view text) {
  return bytes.size() == text.size() && std::memcmp(bytes.data(), text.data(), text.size()) == 0;
}

std::string_view MagicOf(LogKind kind) { return kind == LogKind::kCatalog ? kCatalogMagic : kRemovalsMagic; }

void Zeros(std::vector<std::byte>& out, size_t count) { out.resize(out.size() + count); }

bool Plausible(const RecordPlace& place) {
  return place.head_pages >= 1 && place.head_pages <= kMaxHeadPages && place.pages > place.head_pages &&
         place.page + uint64_t{place.pages} <= UINT32_MAX;
}

void PutKey(ByteWriter& writer, const RecordKey& key) {
  writer.Number(key.words[0]);
  writer.Number(key.words[1]);
}

RecordKey TakeKey(ByteReader& reader) {
  RecordKey key;
  key.words[0] = reader.Number<uint64_t>();
  key.words[1] = reader.Number<uint64_t>();
  return key;
}

}  // namespace

RecordKey KeyOf(const Digest& name) {
  RecordKey key;
  std::memcpy(key.words.data(), name.bytes.data(), sizeof key.words);
  return key;
}

uint64_t ParentKeyOf(const Digest& parent) {
  uint64_t key;
  std::memcpy(&key, parent.bytes.data(), sizeof key);
  return key;
}

// --- frames

void EncodeFrame(const Frame& frame, const StoreId& store, std::span<std::byte> to) {
  LARDER_CHECK(to.size() >= kFrameBytes);
  std::vector<std::byte> out;
  out.reserve(kFrameBytes);
  ByteWriter writer(out);
  writer.Bytes(Text(kFrameMagic));
  writer.Number(kDiskVersion);
  writer.Number(uint32_t{frame.sealed ? kSealedFlag : uint8_t{0}});
  writer.Number(frame.place.segment);
  writer.Number(frame.place.page);
  writer.Number(frame.place.pages);
  writer.Number(uint32_t{frame.place.head_pages});
  writer.Number(frame.head_bytes);
  writer.Number(uint32_t{0});
  writer.Number(frame.born);
  writer.Number(frame.payload_digest);
  writer.Bytes(frame.name.bytes);
  writer.Bytes(frame.parent.bytes);
  writer.Bytes(frame.space);
  writer.Bytes(store);
  Zeros(out, kFrameBytes - 8 - out.size());
  writer.Number(Checksum64(out));
  std::memcpy(to.data(), out.data(), kFrameBytes);
}

Result<Frame> DecodeFrame(std::span<const std::byte> bytes, const StoreId& store) {
  if (bytes.size() < kFrameBytes) return Fail(ErrorKind::kCorrupt, "the record's frame is cut off");
  ByteReader reader(bytes.first(kFrameBytes));
  if (!IsText(reader.Bytes(8), kFrameMagic)) return Fail(ErrorKind::kCorrupt, "no record begins here");
  ByteReader sum(bytes.subspan(kFrameBytes - 8, 8));
  if (sum.Number<uint64_t>() != Checksum64(bytes.first(kFrameBytes - 8))) {
    return Fail(ErrorKind::kCorrupt, "the record's frame fails its checksum");
  }
  const auto version = reader.Number<uint32_t>();
  if (version != kDiskVersion) return Fail(ErrorKind::kUnsupported, "the record has version {}", version);
  Frame frame;
  frame.sealed = (reader.Number<uint32_t>() & kSealedFlag) != 0;
  frame.place.segment = reader.Number<uint32_t>();
  frame.place.page = reader.Number<uint32_t>();
  frame.place.pages = reader.Number<uint32_t>();
  frame.place.head_pages = static_cast<uint8_t>(std::min<uint32_t>(reader.Number<uint32_t>(), 255));
  frame.head_bytes = reader.Number<uint32_t>();
  reader.Number<uint32_t>();
  frame.born = reader.Number<uint64_t>();
  frame.payload_digest = reader.Number<uint64_t>();
  reader.Bytes(frame.name.bytes);
  reader.Bytes(frame.parent.bytes);
  reader.Bytes(frame.space);
  StoreId owner;
  reader.Bytes(owner);
  if (owner != store) return Fail(ErrorKind::kCorrupt, "the record belongs to another store");
  if (!Plausible(frame.place) ||
      PagesFor(kFrameBytes + uint64_t{frame.head_bytes}) != frame.place.head_pages) {
    return Fail(ErrorKind::kCorrupt, "the sizes in the record's frame contradict each other");
  }
  return frame;
}

// --- entries

void EncodeEntry(const LogEntry& entry, std::vector<std::byte>& out) {
  ByteWriter writer(out);
  writer.Number(static_cast<uint8_t>(entry.type));
  if (entry.type == LogEntryType::kPut) {
    writer.Number(entry.sealed ? kSealedFlag : uint8_t{0});
    writer.Number(entry.place.head_pages);
    writer.Number(uint8_t{0});
    writer.Number(entry.place.segment);
    writer.Number(entry.place.page);
    writer.Number(entry.place.pages);
    PutKey(writer, entry.key);
    for (const uint64_t number : {entry.parent, entry.digest, entry.born, entry.used}) writer.Number(number);
    writer.Bytes(entry.space);
    return;
  }
  Zeros(out, 7);
  if (entry.type == LogEntryType::kWipe || entry.type == LogEntryType::kFloor) {
    writer.Bytes(entry.space);
  } else {
    PutKey(writer, entry.key);
  }
  const bool gone = entry.type == LogEntryType::kGone, used = entry.type == LogEntryType::kUsed;
  writer.Number(gone ? entry.born : used ? entry.used : entry.sequence);
}

namespace {

LogEntry DecodePut(ByteReader& reader) {
  LogEntry entry{.type = LogEntryType::kPut};
  entry.sealed = (reader.Number<uint8_t>() & kSealedFlag) != 0;
  entry.place.head_pages = reader.Number<uint8_t>();
  reader.Number<uint8_t>();
  entry.place.segment = reader.Number<uint32_t>();
  entry.place.page = reader.Number<uint32_t>();
  entry.place.pages = reader.Number<uint32_t>();
  entry.key = TakeKey(reader);
  for (uint64_t* number : {&entry.parent, &entry.digest, &entry.born, &entry.used}) {
    *number = reader.Number<uint64_t>();
  }
  reader.Bytes(entry.space);
  return entry;
}

LogEntry DecodeSmall(LogEntryType type, ByteReader& reader) {
  LogEntry entry{.type = type};
  reader.Bytes(7);
  if (type == LogEntryType::kWipe || type == LogEntryType::kFloor) {
    reader.Bytes(entry.space);
  } else {
    entry.key = TakeKey(reader);
  }
  entry.born = entry.used = entry.sequence = reader.Number<uint64_t>();
  return entry;
}

}  // namespace

Status DecodeEntries(std::span<const std::byte> body, const std::function<void(const LogEntry&)>& visit) {
  ByteReader reader(body);
  while (reader.left() > 0) {
    const auto type = reader.Number<uint8_t>();
    if (type < 1 || type > 6) return Fail(ErrorKind::kCorrupt, "a log entry has the unknown type {}", type);
    const auto known = static_cast<LogEntryType>(type);
    const LogEntry entry = known == LogEntryType::kPut ? DecodePut(reader) : DecodeSmall(known, reader);
    if (!reader.ok() || (known == LogEntryType::kPut && !Plausible(entry.place))) {
      return Fail(ErrorKind::kCorrupt, "a log entry contradicts itself");
    }
    visit(entry);
  }
  return {};
}

// --- logs

void EncodeLogHeader(const LogHeader& header, std::vector<std::byte>& out) {
  const size_t begin = out.size();
  ByteWriter writer(out);
  writer.Bytes(Text(MagicOf(header.kind)));
  writer.Number(kDiskVersion);
  writer.Number(uint32_t{0});
  writer.Bytes(header.store);
  writer.Number(header.number);
  writer.Number(header.snapshot_batches);
  Zeros(out, kLogHeaderBytes - 8 - (out.size() - begin));
  writer.Number(Checksum64(std::span(out).subspan(begin)));
}

namespace {

// Over the batch and the file it stands in, so that an old file's bytes are never taken for new ones.
uint64_t BatchChecksum(std::span<const std::byte> header, const LogHeader& log,
                       std::span<const std::byte> body) {
  std::vector<std::byte> bound(header.begin(), header.end());
  ByteWriter writer(bound);
  writer.Bytes(log.store);
  writer.Number(log.number);
  writer.Number(Checksum64(body));
  return Checksum64(bound);
}

struct Batch {
  BatchHeader header;
  std::span<const std::byte> body;
  uint64_t end = 0;  // where the next one begins
};

std::optional<Batch> BatchAt(std::span<const std::byte> file, uint64_t offset, const LogHeader& log) {
  if (offset > file.size() || file.size() - offset < kBatchHeaderBytes) return std::nullopt;
  ByteReader reader(file.subspan(offset));
  if (reader.Number<uint32_t>() != kBatchMagic) return std::nullopt;
  const auto bytes = reader.Number<uint32_t>();
  Batch batch;
  batch.header.number = reader.Number<uint64_t>();
  batch.header.next_sequence = reader.Number<uint64_t>();
  batch.header.removals = reader.Number<uint64_t>();
  batch.header.next_segment = reader.Number<uint32_t>();
  reader.Number<uint32_t>();
  const auto checksum = reader.Number<uint64_t>();
  if (bytes > kMaxBatchBytes || bytes > reader.left()) return std::nullopt;
  batch.body = reader.Bytes(bytes);
  if (BatchChecksum(file.subspan(offset, kBatchHeaderBytes - 8), log, batch.body) != checksum) {
    return std::nullopt;
  }
  batch.end = (offset + kBatchHeaderBytes + bytes + kLogAlign - 1) / kLogAlign * kLogAlign;
  return batch;
}

Result<LogHeader> DecodeLogHeader(std::span<const std::byte> file, LogKind kind, const StoreId& store) {
  if (file.size() < kLogHeaderBytes) return Fail(ErrorKind::kCorrupt, "the log is cut off");
  ByteReader reader(file.first(kLogHeaderBytes));
  ByteReader sum(file.subspan(kLogHeaderBytes - 8, 8));
  if (!IsText(reader.Bytes(8), MagicOf(kind)) ||
      sum.Number<uint64_t>() != Checksum64(file.first(kLogHeaderBytes - 8))) {
    return Fail(ErrorKind::kCorrupt, "the log's header is damaged");
  }
  const auto version = reader.Number<uint32_t>();
  if (version != kDiskVersion) return Fail(ErrorKind::kUnsupported, "the log has version {}", version);
  reader.Number<uint32_t>();
  LogHeader header{.kind = kind};
  reader.Bytes(header.store);
  header.number = reader.Number<uint64_t>();
  header.snapshot_batches = reader.Number<uint64_t>();
  if (header.store != store) return Fail(ErrorKind::kCorrupt, "the log belongs to another store");
  return header;
}

}  // namespace

void EncodeBatch(const BatchHeader& header, const LogHeader& log, std::span<const std::byte> body,
                 std::vector<std::byte>& out) {
  LARDER_CHECK(body.size() <= kMaxBatchBytes);
  const size_t begin = out.size();
  ByteWriter writer(out);
  writer.Number(kBatchMagic);
  writer.Number(static_cast<uint32_t>(body.size()));
  writer.Number(header.number);
  writer.Number(header.next_sequence);
  writer.Number(header.removals);
  writer.Number(header.next_segment);
  writer.Number(uint32_t{0});
  writer.Number(BatchChecksum(std::span(out).subspan(begin), log, body));
  writer.Bytes(body);
  Zeros(out, (kLogAlign - (out.size() - begin) % kLogAlign) % kLogAlign);
}

Result<LogEnd> ReadLog(std::span<const std::byte> file, LogKind kind, const StoreId& store,
                       const std::function<void(const LogEntry&)>& visit) {
  LARDER_ASSIGN(const LogHeader log, DecodeLogHeader(file, kind, store));
  LogEnd end;
  uint64_t offset = kLogHeaderBytes;
  while (const auto batch = BatchAt(file, offset, log)) {
    if (end.batches > 0 && batch->header.number != end.last.number + 1) break;
    LARDER_TRY(DecodeEntries(batch->body, [&](const LogEntry& entry) {
      ++end.entries;
      visit(entry);
    }));
    end.last = batch->header;
    ++end.batches;
    offset = batch->end;
  }
  end.torn = offset < file.size();
  if (end.batches < log.snapshot_batches) return Fail(ErrorKind::kCorrupt, "the log lacks its beginning");
  for (uint64_t at = offset + kLogAlign; at < file.size(); at += kLogAlign) {
    const auto later = BatchAt(file, at, log);
    if (later && later->header.number > end.last.number) {
      return Fail(ErrorKind::kCorrupt, "the log is damaged after batch {}", end.last.number);
    }
  }
  return end;
}

// --- names

std::string EncodeStoreFile(const StoreId& store) {
  std::string hex;
  for (const uint8_t byte : store) hex += fmt::format("{:02x}", byte);
  return fmt::format("{}version {}\nuuid {}\n", kStoreTitle, kDiskVersion, hex);
}

Result<StoreId> DecodeStoreFile(std::span<const std::byte> bytes) {
  std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  const auto damaged = [] { return Fail(ErrorKind::kCorrupt, "the file LARDER of the store is damaged"); };
  const auto take = [&text](std::string_view prefix) {
    const bool there = text.starts_with(prefix);
    if (there) text.remove_prefix(prefix.size());
    return there;
  };
  if (!take(kStoreTitle) || !take("version ")) return damaged();
  uint32_t version = 0;
  const auto parsed = std::from_chars(text.data(), text.data() + text.size(), version);
  if (parsed.ec != std::errc()) return damaged();
  text.remove_prefix(static_cast<size_t>(parsed.ptr - text.data()));
  if (version != kDiskVersion) {
    return Fail(ErrorKind::kUnsupported,
                "the store has format version {} and this program knows {}; use another directory", version,
                kDiskVersion);
  }
  StoreId store{};
  if (!take("\nuuid ") || text.size() != 2 * store.size() + 1 || text.back() != '\n') return damaged();
  for (size_t i = 0; i < store.size(); ++i) {
    const char* digits = text.data() + 2 * i;
    const auto byte = std::from_chars(digits, digits + 2, store[i], 16);
    if (byte.ec != std::errc() || byte.ptr != digits + 2) return damaged();
  }
  return store;
}

std::string NumberedName(std::string_view stem, uint64_t number) {
  return fmt::format("{}-{}", stem, number);
}

std::optional<uint64_t> NumberIn(std::string_view name, std::string_view stem) {
  if (!name.starts_with(stem) || name.size() < stem.size() + 2 || name[stem.size()] != '-')
    return std::nullopt;
  const std::string_view digits = name.substr(stem.size() + 1);
  uint64_t number = 0;
  const auto parsed = std::from_chars(digits.data(), digits.data() + digits.size(), number);
  const bool whole = parsed.ec == std::errc() && parsed.ptr == digits.data() + digits.size();
  return whole ? std::optional(number) : std::nullopt;
}

}  // namespace larder
