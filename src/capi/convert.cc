#include "capi/convert.h"

#include <algorithm>
#include <cstring>
#include <limits>

namespace larder {
namespace {

static_assert(LARDER_STORE_MOST_GROUPS == kMaxRecordGroups);
static_assert(LARDER_STORE_MOST_METADATA == kMaxRecordMetadata);

// At most `most` bytes of it, no UTF-8 sequence cut.
size_t CutLength(const std::string& text, size_t most) {
  if (text.size() <= most) return text.size();
  while (most > 0 && (static_cast<uint8_t>(text[most]) & 0xc0) == 0x80) --most;
  return most;
}

}  // namespace

larder_store_status ToC(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::kInvalid:
      return LARDER_STORE_INVALID;
    case ErrorKind::kNotFound:
      return LARDER_STORE_NOT_FOUND;
    case ErrorKind::kUnsupported:
      return LARDER_STORE_UNSUPPORTED;
    case ErrorKind::kCorrupt:
      return LARDER_STORE_CORRUPT;
    case ErrorKind::kIo:
      return LARDER_STORE_IO;
    case ErrorKind::kExhausted:
      return LARDER_STORE_EXHAUSTED;
    case ErrorKind::kCancelled:
      return LARDER_STORE_CANCELLED;
    case ErrorKind::kUnavailable:
      return LARDER_STORE_UNAVAILABLE;
    case ErrorKind::kSlow:
      return LARDER_STORE_SLOW;
    case ErrorKind::kConflict:
      return LARDER_STORE_CONFLICT;
  }
  return LARDER_STORE_INTERNAL;
}

larder_store_status ToC(const Status& status) { return status ? LARDER_STORE_OK : ToC(status.error().kind); }

larder_store_status Tell(const Error& error, larder_store_error* out) {
  const larder_store_status status = ToC(error.kind);
  if (out == nullptr) return status;
  out->status = status;
  const size_t length = CutLength(error.message, sizeof out->message - 1);
  std::memcpy(out->message, error.message.data(), length);
  out->message[length] = '\0';
  return status;
}

Status CheckPointer(const void* pointer, const char* what) {
  if (pointer == nullptr) return Fail(ErrorKind::kInvalid, "{} may not be NULL", what);
  return {};
}

Status CheckArray(const void* array, size_t count, const char* what) {
  if (count > LARDER_STORE_MOST_NAMES)
    return Fail(ErrorKind::kInvalid, "{} {} in one call, at most {} are allowed; ask in parts", count, what,
                LARDER_STORE_MOST_NAMES);
  if (count > 0 && array == nullptr)
    return Fail(ErrorKind::kInvalid, "{} is NULL with a count of {}", what, count);
  return {};
}

Digest DigestOf(const larder_store_name& name) {
  Digest digest;
  std::ranges::copy(name.bytes, digest.bytes.begin());
  return digest;
}

std::vector<Digest> DigestsOf(const larder_store_name* names, size_t count) {
  std::vector<Digest> digests(count);
  for (size_t i = 0; i < count; ++i) digests[i] = DigestOf(names[i]);
  return digests;
}

Result<int64_t> DeadlineOf(int64_t timeout_ms, int64_t now_ns) {
  constexpr int64_t kNever = std::numeric_limits<int64_t>::max();
  if (timeout_ms < 0) return Fail(ErrorKind::kInvalid, "a timeout of {} ms; 0 is none", timeout_ms);
  if (timeout_ms == 0 || timeout_ms > (kNever - now_ns) / 1'000'000) return kNever;
  return now_ns + timeout_ms * 1'000'000;
}

StackedOptions OptionsOf(const larder_store_options& options) {
  StackedOptions out;
  out.disk.directory = TextOf(options.disk_directory);
  out.disk.limit_bytes = options.disk_limit_bytes;
  out.redis.url = TextOf(options.redis_url);
  out.redis.ca_file = TextOf(options.redis_ca_file);
  out.store_key_file = TextOf(options.store_key_file);
  out.keyring_file = TextOf(options.keyring_file);
  if (options.most_pending_bytes > 0) {
    out.disk.pending_bytes = options.most_pending_bytes;
    out.redis.max_pending_bytes = options.most_pending_bytes;
  }
  return out;
}

Result<RecordHeader> HeaderOf(const larder_store_record& record) {
  if (record.group_count == 0 || record.group_count > kMaxRecordGroups)
    return Fail(ErrorKind::kInvalid, "a record has 1 to {} groups, not {}", kMaxRecordGroups,
                record.group_count);
  if (record.metadata_bytes > kMaxRecordMetadata)
    return Fail(ErrorKind::kInvalid, "a record has at most {} bytes of metadata, not {}", kMaxRecordMetadata,
                record.metadata_bytes);
  LARDER_TRY(CheckPointer(record.groups, "groups"));
  if (record.metadata_bytes > 0) LARDER_TRY(CheckPointer(record.metadata, "metadata"));
  RecordHeader header{.name = DigestOf(record.name), .parent = DigestOf(record.parent), .kind = record.kind};
  const auto* metadata = static_cast<const std::byte*>(record.metadata);
  if (record.metadata_bytes > 0) header.metadata.assign(metadata, metadata + record.metadata_bytes);
  uint64_t left = kMaxRecordBytes;
  for (size_t i = 0; i < record.group_count; ++i) {
    const larder_store_group& group = record.groups[i];
    if (group.bytes > left)
      return Fail(ErrorKind::kInvalid, "a record has at most {} bytes", kMaxRecordBytes);
    if (group.bytes > 0 && group.data == nullptr)
      return Fail(ErrorKind::kInvalid, "group {} is NULL and has {} bytes", i, group.bytes);
    left -= group.bytes;
    header.group_bytes.push_back(group.bytes);
  }
  return header;
}

std::vector<std::span<const std::byte>> GroupsOf(const larder_store_record& record) {
  std::vector<std::span<const std::byte>> groups;
  for (size_t i = 0; i < record.group_count; ++i) {
    groups.emplace_back(static_cast<const std::byte*>(record.groups[i].data), record.groups[i].bytes);
  }
  return groups;
}

Result<std::vector<RecordRead>> ReadsOf(const larder_store_read* items, size_t count) {
  LARDER_TRY(CheckArray(items, count, "items"));
  std::vector<RecordRead> reads;
  for (size_t i = 0; i < count; ++i) {
    const larder_store_read& item = items[i];
    const uint32_t end = item.end_group == 0 ? kMaxRecordGroups : item.end_group;
    if (item.first_group >= end || end > kMaxRecordGroups)
      return Fail(ErrorKind::kInvalid, "item {} wants groups {} to {}; there are at most {}", i,
                  item.first_group, end, kMaxRecordGroups);
    if (item.bytes > kMaxRecordBytes || (item.bytes > 0 && item.destination == nullptr))
      return Fail(ErrorKind::kInvalid, "item {} has a destination of {} bytes at {}; at most {} are allowed",
                  i, item.bytes, item.destination, kMaxRecordBytes);
    reads.push_back({.name = DigestOf(item.name),
                     .first_group = item.first_group,
                     .end_group = end,
                     .destination = {static_cast<std::byte*>(item.destination), item.bytes}});
  }
  return reads;
}

larder_store_tier_stats StatsOf(const TierStats& stats) {
  return {.size = sizeof(larder_store_tier_stats),
          .used_bytes = stats.used_bytes,
          .limit_bytes = stats.limit_bytes,
          .pending_bytes = stats.pending_bytes,
          .records = stats.records,
          .hits = stats.hits,
          .misses = stats.misses,
          .read_records = stats.read_records,
          .read_bytes = stats.read_bytes,
          .write_records = stats.write_records,
          .write_bytes = stats.write_bytes,
          .dropped_writes = stats.dropped_writes,
          .evicted_records = stats.evicted_records,
          .bad_records = stats.bad_records,
          .failures = stats.failures,
          .slow_reads = stats.slow_reads,
          .read_ns = stats.read_ns,
          .write_ns = stats.write_ns,
          .healthy = stats.healthy ? uint64_t{1} : uint64_t{0}};
}

RecordView::RecordView(const RecordHeader& header) {
  for (const uint64_t bytes : header.group_bytes) groups_.push_back({.data = nullptr, .bytes = bytes});
  record_.size = sizeof record_;
  std::ranges::copy(header.name.bytes, record_.name.bytes);
  std::ranges::copy(header.parent.bytes, record_.parent.bytes);
  record_.kind = header.kind;
  record_.metadata = header.metadata.data();
  record_.metadata_bytes = header.metadata.size();
  record_.groups = groups_.data();
  record_.group_count = groups_.size();
}

}  // namespace larder
