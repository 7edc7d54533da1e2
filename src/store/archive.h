// Records in one file, to be carried to another machine or kept. docs/formats/archive.md has it to the byte.
//
// Every record is verified when it is read. One that is damaged costs itself: what follows is found again. An
// archive without its end mark was cut off. With a sealer the records are sealed under their tenants' keys,
// and only who has the store key and the keyring can read or make such an archive; without one an archive is
// only as trustworthy as who wrote it.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/file_system.h"
#include "base/result.h"
#include "store/record.h"

namespace larder {

inline constexpr uint32_t kArchiveVersion = 1;
using ArchiveId = std::array<uint8_t, 16>;  // random; binds the records to their archive

class ArchiveWriter {
 public:
  // Writes to `path` with .tmp appended; the file has its name once Finish returned ok. `files` and `sealer`
  // (may be null) outlive it. kConflict: `path` is there already.
  static Result<std::unique_ptr<ArchiveWriter>> Create(FileSystem* files, const std::string& path,
                                                       const Sealer* sealer);
  ~ArchiveWriter();  // without Finish nothing is left
  ArchiveWriter(const ArchiveWriter&) = delete;
  ArchiveWriter& operator=(const ArchiveWriter&) = delete;

  // kNotFound: the record's space has no key; the archive is as before. After another error it is of no use.
  Status Add(const RecordHeader& header, const RecordPayload& payload);
  Status Finish();  // once; the end mark, synced
  uint64_t records() const { return records_; }
  uint64_t bytes() const { return end_; }

 private:
  ArchiveWriter(FileSystem* files, std::string path, const Sealer* sealer)
      : files_(files), path_(std::move(path)), sealer_(sealer) {}
  Status Begin();
  Status Append(std::span<const std::byte> bytes);

  FileSystem* files_;
  const std::string path_;
  const Sealer* sealer_;
  std::unique_ptr<File> file_;
  ArchiveId id_{};
  uint64_t end_ = 0, records_ = 0;
  std::vector<std::byte> stored_;  // a record's groups as they are written
};

// What stands next in an archive: a record, or a stretch that gave none.
struct ArchiveItem {
  uint64_t first = 0, end = 0;     // records [first, end) of the archive, counted from 0; a sound one: one
  uint64_t offset = 0, next = 0;   // bytes [offset, next) of the file
  Status status;                   // kCorrupt; kNotFound: the space has no key; kUnsupported
  RecordHeader header;             // both only with an ok status
  std::vector<std::byte> payload;  // the groups, one after another
};

class ArchiveReader {
 public:
  // kCorrupt: not an archive; kUnsupported: another version, or sealed without a sealer and the reverse.
  static Result<std::unique_ptr<ArchiveReader>> Open(std::unique_ptr<File> file, const Sealer* sealer);

  // Nothing at the end mark. kCorrupt: there is none, the archive was cut off; or bytes follow it. kIo. After
  // an error there is nothing more to read.
  Result<std::optional<ArchiveItem>> Next();
  uint64_t size() const { return size_; }
  uint64_t position() const { return at_; }

 private:
  struct Mark;  // what stands before a record, and at the end
  ArchiveReader(std::unique_ptr<File> file, const Sealer* sealer) : file_(std::move(file)), sealer_(sealer) {}
  Status ReadHeader();
  Result<std::vector<std::byte>> ReadAt(uint64_t offset, uint64_t bytes);
  Result<std::optional<Mark>> MarkAt(uint64_t offset);
  Result<uint64_t> FindMark(uint64_t from);
  Result<ArchiveItem> Record(const Mark& mark);
  Status Decode(std::span<const std::byte> head, ArchiveItem& item) const;
  Result<ArchiveItem> Lost(uint64_t search_from, Error why);

  std::unique_ptr<File> file_;
  const Sealer* sealer_;
  ArchiveId id_{};
  uint64_t size_ = 0, at_ = 0, expected_ = 0;  // bytes; where the next mark should be; its number
};

}  // namespace larder
