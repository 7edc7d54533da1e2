#include "store/archive.h"

#include <algorithm>
#include <cstring>
#include <string_view>

#include "base/hash.h"
#include "store/bytes.h"
#include "store/cipher.h"

namespace larder {
namespace {

constexpr std::string_view kHeaderMagic = "larderAr", kRecordMagic = "larderAi", kEndMagic = "larderAe";
constexpr std::string_view kMarkStem = "larderA";
constexpr uint32_t kFlagSealed = 1;
constexpr uint64_t kHeaderBytes = 64, kMarkBytes = 64, kChecksumBytes = 8;
constexpr uint64_t kScanBytes = 1 << 20;  // looked through at once for the next record

std::span<const std::byte> Text(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

// Fills up to 64 bytes: zeros, then the checksum of all before.
void Complete(std::vector<std::byte>& out) {
  out.resize(kMarkBytes - kChecksumBytes);
  ByteWriter(out).Number(Checksum64(out));
}

bool HasChecksum(std::span<const std::byte> bytes) {
  ByteReader sum(bytes.last(kChecksumBytes));
  return sum.Number<uint64_t>() == Checksum64(bytes.first(bytes.size() - kChecksumBytes));
}

std::vector<std::byte> MarkBytes(std::string_view magic, uint64_t number, uint32_t head_bytes,
                                 uint64_t payload_bytes, const ArchiveId& id) {
  std::vector<std::byte> out;
  ByteWriter writer(out);
  writer.Bytes(Text(magic));
  writer.Number(number);
  writer.Number(head_bytes);
  writer.Number(uint32_t{0});
  writer.Number(payload_bytes);
  writer.Bytes(id);
  Complete(out);
  return out;
}

std::string DirectoryOf(const std::string& path) {
  const size_t slash = path.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

}  // namespace

// --- writing

Result<std::unique_ptr<ArchiveWriter>> ArchiveWriter::Create(FileSystem* files, const std::string& path,
                                                             const Sealer* sealer) {
  if (files->Open(path, {}))
    return Fail(ErrorKind::kConflict, "{} is there already; remove it or choose another name", path);
  auto writer = std::unique_ptr<ArchiveWriter>(new ArchiveWriter(files, path, sealer));
  LARDER_TRY(writer->Begin());
  return writer;
}

ArchiveWriter::~ArchiveWriter() {
  if (file_ != nullptr) (void)files_->Remove(path_ + ".tmp");
}

Status ArchiveWriter::Begin() {
  (void)files_->Remove(path_ + ".tmp");  // of an export that was killed
  LARDER_ASSIGN(file_, files_->Open(path_ + ".tmp", {.write = true, .create = true}));
  LARDER_TRY(FillRandom(id_));
  std::vector<std::byte> header;
  ByteWriter writer(header);
  writer.Bytes(Text(kHeaderMagic));
  writer.Number(kArchiveVersion);
  writer.Number(sealer_ != nullptr ? kFlagSealed : 0);
  writer.Bytes(id_);
  Complete(header);
  return Append(header);
}

Status ArchiveWriter::Append(std::span<const std::byte> bytes) {
  LARDER_TRY(file_->Write(end_, bytes));
  end_ += bytes.size();
  return {};
}

Status ArchiveWriter::Add(const RecordHeader& header, const RecordPayload& payload) {
  LARDER_ASSIGN(RecordHead head, MakeRecordHead(header, payload, 1, sealer_));
  stored_.resize(PayloadAreaBytes(head, 1));
  for (size_t g = 0; g < head.groups.size(); ++g) {
    const auto to = std::span(stored_).subspan(head.groups[g].offset, head.groups[g].bytes);
    LARDER_TRY(EncodeGroup(head, g, payload.groups[g], to, sealer_));
  }
  std::vector<std::byte> head_bytes;
  LARDER_TRY(EncodeRecordHead(head, sealer_, head_bytes));
  LARDER_TRY(Append(
      MarkBytes(kRecordMagic, records_, static_cast<uint32_t>(head_bytes.size()), stored_.size(), id_)));
  LARDER_TRY(Append(head_bytes));
  LARDER_TRY(Append(stored_));
  ++records_;
  return {};
}

Status ArchiveWriter::Finish() {
  LARDER_TRY(Append(MarkBytes(kEndMagic, records_, 0, 0, id_)));
  LARDER_TRY(file_->Sync());
  LARDER_TRY(files_->Rename(path_ + ".tmp", path_));
  file_.reset();
  return files_->SyncDirectory(DirectoryOf(path_));
}

// --- reading

struct ArchiveReader::Mark {
  bool end = false;
  uint64_t number = 0, head_bytes = 0, payload_bytes = 0;
};

Result<std::unique_ptr<ArchiveReader>> ArchiveReader::Open(std::unique_ptr<File> file, const Sealer* sealer) {
  auto reader = std::unique_ptr<ArchiveReader>(new ArchiveReader(std::move(file), sealer));
  LARDER_TRY(reader->ReadHeader());
  return reader;
}

// Fewer bytes where the file ends.
Result<std::vector<std::byte>> ArchiveReader::ReadAt(uint64_t offset, uint64_t bytes) {
  if (offset >= size_) return std::vector<std::byte>();
  std::vector<std::byte> out(std::min(bytes, size_ - offset));
  LARDER_ASSIGN(const size_t got, file_->Read(offset, out));
  out.resize(got);
  return out;
}

Status ArchiveReader::ReadHeader() {
  LARDER_ASSIGN(size_, file_->Size());
  LARDER_ASSIGN(const auto bytes, ReadAt(0, kHeaderBytes));
  ByteReader reader(bytes);
  if (!std::ranges::equal(reader.Bytes(kHeaderMagic.size()), Text(kHeaderMagic)))
    return Fail(ErrorKind::kCorrupt, "this is no archive of records; larder store export makes them");
  const auto version = reader.Number<uint32_t>(), flags = reader.Number<uint32_t>();
  if (reader.ok() && version != kArchiveVersion)
    return Fail(ErrorKind::kUnsupported, "the archive has version {}; this program knows version {}", version,
                kArchiveVersion);
  if (bytes.size() < kHeaderBytes || !HasChecksum(bytes) || (flags & ~kFlagSealed) != 0)
    return Fail(ErrorKind::kCorrupt, "the head of the archive is damaged; fetch it again");
  reader.Bytes(id_);
  const bool sealed = flags != 0;
  if (sealed && sealer_ == nullptr)
    return Fail(ErrorKind::kUnsupported, "the archive is sealed; give the store key and its keyring");
  if (!sealed && sealer_ != nullptr)
    return Fail(ErrorKind::kUnsupported,
                "the archive is not sealed, and a store with a store key takes only sealed records");
  at_ = kHeaderBytes;
  return {};
}

// Nothing if there is no sound mark of this archive, or one of records that were read already.
Result<std::optional<ArchiveReader::Mark>> ArchiveReader::MarkAt(uint64_t offset) {
  LARDER_ASSIGN(const auto bytes, ReadAt(offset, kMarkBytes));
  if (bytes.size() < kMarkBytes || !HasChecksum(bytes)) return std::nullopt;
  ByteReader reader(bytes);
  const auto magic = reader.Bytes(kRecordMagic.size());
  Mark mark{.end = std::ranges::equal(magic, Text(kEndMagic))};
  if (!mark.end && !std::ranges::equal(magic, Text(kRecordMagic))) return std::nullopt;
  mark.number = reader.Number<uint64_t>();
  mark.head_bytes = reader.Number<uint32_t>();
  reader.Number<uint32_t>();
  mark.payload_bytes = reader.Number<uint64_t>();
  ArchiveId id;
  reader.Bytes(id);
  if (id != id_ || mark.number < expected_) return std::nullopt;
  if (mark.head_bytes > kMaxRecordHeadBytes || mark.payload_bytes > kMaxRecordBytes) return std::nullopt;
  return mark;
}

// Where the next sound mark is, from `from` on; the size of the file if there is none.
Result<uint64_t> ArchiveReader::FindMark(uint64_t from) {
  const auto stem = Text(kMarkStem);
  while (from < size_) {
    LARDER_ASSIGN(const auto bytes, ReadAt(from, kScanBytes));
    if (bytes.size() < kMarkBytes) break;
    for (auto at = bytes.begin();; ++at) {
      at = std::search(at, bytes.end(), stem.begin(), stem.end());
      if (at == bytes.end()) break;
      const uint64_t offset = from + static_cast<uint64_t>(at - bytes.begin());
      LARDER_ASSIGN(const auto mark, MarkAt(offset));
      if (mark) return offset;
    }
    // A stem that is cut by the end of this piece is seen in the next.
    from += bytes.size() - (kMarkStem.size() - 1);
  }
  return size_;
}

// Goes on at the next sound mark; what lies between is lost.
Result<ArchiveItem> ArchiveReader::Lost(uint64_t search_from, Error why) {
  ArchiveItem item{.first = expected_, .offset = at_, .status = std::unexpected(std::move(why))};
  LARDER_ASSIGN(at_, FindMark(search_from));
  if (at_ >= size_)
    return Fail(ErrorKind::kCorrupt,
                "the archive was cut off or its end is damaged: nothing is sound after byte {}", item.offset);
  LARDER_ASSIGN(const auto mark, MarkAt(at_));
  item.next = at_;
  item.end = expected_ = mark->number;
  return item;
}

Result<std::optional<ArchiveItem>> ArchiveReader::Next() {
  LARDER_ASSIGN(const auto mark, MarkAt(at_));
  if (!mark) return Lost(at_ + 1, {ErrorKind::kCorrupt, fmt::format("there is no record at byte {}", at_)});
  if (mark->number > expected_) {
    ArchiveItem missing{.first = expected_, .end = mark->number, .offset = at_, .next = at_};
    missing.status = Fail(ErrorKind::kCorrupt, "records are missing before byte {}", at_);
    expected_ = mark->number;
    return missing;
  }
  if (!mark->end) return Record(*mark);
  if (at_ + kMarkBytes != size_)
    return Fail(ErrorKind::kCorrupt, "{} bytes follow the end of the archive", size_ - at_ - kMarkBytes);
  return std::nullopt;
}

Result<ArchiveItem> ArchiveReader::Record(const Mark& mark) {
  const uint64_t head_at = at_ + kMarkBytes, payload_at = head_at + mark.head_bytes;
  ArchiveItem item{.first = mark.number, .end = mark.number + 1, .offset = at_};
  item.next = payload_at + mark.payload_bytes;
  if (item.next > size_) {
    return Lost(head_at, {ErrorKind::kCorrupt, fmt::format("record {} is cut off", mark.number)});
  }
  LARDER_ASSIGN(const auto head, ReadAt(head_at, mark.head_bytes));
  LARDER_ASSIGN(item.payload, ReadAt(payload_at, mark.payload_bytes));
  item.status = Decode(head, item);
  if (!item.status) item.payload.clear();
  if (!item.status && item.status.error().kind == ErrorKind::kCorrupt) {
    // If bytes are missing in it, the next record begins before its end.
    LARDER_ASSIGN(const auto next, MarkAt(item.next));
    if (!next) return Lost(head_at, item.status.error());
  }
  at_ = item.next;
  expected_ = mark.number + 1;
  return item;
}

// Verifies and decrypts the groups in place.
Status ArchiveReader::Decode(std::span<const std::byte> head_bytes, ArchiveItem& item) const {
  LARDER_ASSIGN(RecordHead head, DecodeRecordHead(head_bytes, sealer_));
  uint64_t end = 0;
  for (size_t g = 0; g < head.groups.size(); ++g) {
    const StoredGroup& group = head.groups[g];
    if (group.offset != end || group.bytes > item.payload.size() - end)
      return Fail(ErrorKind::kCorrupt, "the groups of record {} are out of place",
                  head.header.name.ShortHex());
    LARDER_TRY(DecodeGroup(head, g, std::span(item.payload).subspan(end, group.bytes), sealer_));
    end += group.bytes;
  }
  if (end != item.payload.size())
    return Fail(ErrorKind::kCorrupt, "record {} has bytes left over", head.header.name.ShortHex());
  item.header = std::move(head.header);
  return {};
}

}  // namespace larder
