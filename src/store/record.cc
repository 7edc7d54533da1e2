#include "store/record.h"

#include <algorithm>
#include <cstring>
#include <string_view>

#include "base/hash.h"
#include "store/bytes.h"

namespace larder {
namespace {

constexpr std::string_view kMagic = "larderRc", kGroupDomain = "larderRg";
constexpr uint32_t kFlagSealed = 1;
constexpr size_t kFixedBytes = 112;        // up to the group table
constexpr size_t kGroupEntryBytes = 52;    // one group in the table
constexpr size_t kSecretPrefixBytes = 28;  // nonce and tag of the secret part
constexpr size_t kChecksumBytes = 8;

static_assert(kFixedBytes + kMaxRecordGroups * kGroupEntryBytes + kSecretPrefixBytes + 8 +
                  kMaxRecordMetadata + kChecksumBytes <=
              kMaxRecordHeadBytes);

std::span<const std::byte> AsBytes(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

size_t HeadBytes(size_t groups, size_t metadata) {
  return kFixedBytes + groups * kGroupEntryBytes + kSecretPrefixBytes + 8 + metadata + kChecksumBytes;
}

uint64_t RoundUp(uint64_t value, uint64_t alignment) { return (value + alignment - 1) & ~(alignment - 1); }

// What a group's tag vouches for besides its bytes: whose group it is, and which.
std::vector<std::byte> GroupBound(const Digest& name, size_t index) {
  std::vector<std::byte> bound;
  ByteWriter writer(bound);
  writer.Bytes(AsBytes(kGroupDomain));
  writer.Number(kRecordVersion);
  writer.Number(static_cast<uint32_t>(index));
  writer.Bytes(name.bytes);
  return bound;
}

Status CheckHeader(const RecordHeader& header) {
  if (header.group_bytes.empty() || header.group_bytes.size() > kMaxRecordGroups)
    return Fail(ErrorKind::kInvalid, "a record has 1 to {} groups, not {}", kMaxRecordGroups,
                header.group_bytes.size());
  if (header.metadata.size() > kMaxRecordMetadata)
    return Fail(ErrorKind::kInvalid, "a record has at most {} bytes of metadata, not {}", kMaxRecordMetadata,
                header.metadata.size());
  uint64_t left = kMaxRecordBytes;
  for (const uint64_t bytes : header.group_bytes) {
    if (bytes > left) return Fail(ErrorKind::kInvalid, "a record has at most {} bytes", kMaxRecordBytes);
    left -= bytes;
  }
  return {};
}

std::unexpected<Error> Corrupt(std::string_view what) {
  return Fail(ErrorKind::kCorrupt, "not the head of a record: {}", what);
}

Status MatchSealer(bool sealed, const Sealer* sealer) {
  if (sealed && sealer == nullptr)
    return Fail(ErrorKind::kUnsupported, "a sealed record, and no store key is configured");
  if (!sealed && sealer != nullptr)
    return Fail(ErrorKind::kUnsupported, "a plain record where a store key demands sealed ones");
  return {};
}

// Groups lie in order, do not overlap, and are not larger than a record may be.
Status CheckLayout(const RecordHead& head) {
  uint64_t end = 0, left = kMaxRecordBytes;
  for (const StoredGroup& group : head.groups) {
    if (group.bytes > left) return Corrupt("larger than a record may be");
    if (group.offset < end || group.offset > 2 * kMaxRecordBytes) return Corrupt("groups out of place");
    left -= group.bytes;
    end = group.offset + group.bytes;
  }
  return {};
}

// The payload digest and the metadata: what a sealed head encrypts.
Status DecodeSecret(RecordHead& head, std::span<const std::byte> bound, ByteReader& reader,
                    size_t metadata_bytes, const Sealer* sealer) {
  std::array<uint8_t, 12> nonce;
  std::array<uint8_t, 16> tag;
  reader.Bytes(nonce);
  reader.Bytes(tag);
  const auto stored = reader.Bytes(8 + metadata_bytes);
  std::vector<std::byte> secret(stored.begin(), stored.end());
  if (head.sealed) LARDER_TRY(sealer->Open(head.header.space, bound, nonce, tag, secret));
  head.payload_digest = ByteReader(secret).Number<uint64_t>();
  head.header.metadata.assign(secret.begin() + 8, secret.end());
  return {};
}

}  // namespace

Result<RecordHead> MakeRecordHead(const RecordHeader& header, const RecordPayload& payload,
                                  uint64_t alignment, const Sealer* sealer) {
  LARDER_CHECK(alignment > 0 && (alignment & (alignment - 1)) == 0 && alignment <= uint64_t{1} << 20);
  LARDER_TRY(CheckHeader(header));
  if (payload.groups.size() != header.group_bytes.size())
    return Fail(ErrorKind::kInvalid, "{} groups are announced and {} given", header.group_bytes.size(),
                payload.groups.size());
  RecordHead head{.header = header, .sealed = sealer != nullptr};
  std::vector<std::byte> checksums;
  ByteWriter writer(checksums);
  uint64_t end = 0;
  for (size_t i = 0; i < payload.groups.size(); ++i) {
    const auto bytes = payload.groups[i];
    if (bytes.size() != header.group_bytes[i])
      return Fail(ErrorKind::kInvalid, "group {} is announced with {} bytes and has {}", i,
                  header.group_bytes[i], bytes.size());
    const uint64_t checksum = Checksum64(bytes);
    writer.Number(checksum);
    head.groups.push_back(
        {.bytes = bytes.size(), .offset = RoundUp(end, alignment), .checksum = head.sealed ? 0 : checksum});
    end = head.groups.back().offset + bytes.size();
  }
  head.payload_digest = Checksum64(checksums);
  return head;
}

uint64_t PayloadAreaBytes(const RecordHead& head, uint64_t alignment) {
  if (head.groups.empty()) return 0;
  return RoundUp(head.groups.back().offset + head.groups.back().bytes, alignment);
}

Status EncodeGroup(RecordHead& head, size_t index, std::span<const std::byte> from, std::span<std::byte> to,
                   const Sealer* sealer) {
  LARDER_CHECK(index < head.groups.size());
  StoredGroup& group = head.groups[index];
  LARDER_CHECK(from.size() == group.bytes && to.size() == group.bytes);
  LARDER_TRY(MatchSealer(head.sealed, sealer));
  if (head.sealed) {
    const auto bound = GroupBound(head.header.name, index);
    return sealer->Seal(head.header.space, bound, from, to, group.nonce, group.tag);
  }
  if (!from.empty()) std::memcpy(to.data(), from.data(), from.size());
  return {};
}

Status DecodeGroup(const RecordHead& head, size_t index, std::span<std::byte> bytes, const Sealer* sealer) {
  LARDER_CHECK(index < head.groups.size());
  const StoredGroup& group = head.groups[index];
  LARDER_TRY(MatchSealer(head.sealed, sealer));
  if (bytes.size() != group.bytes)
    return Fail(ErrorKind::kCorrupt, "group {} has {} bytes instead of {}", index, bytes.size(), group.bytes);
  if (head.sealed) {
    const auto bound = GroupBound(head.header.name, index);
    return sealer->Open(head.header.space, bound, group.nonce, group.tag, bytes);
  }
  if (Checksum64(bytes) != group.checksum)
    return Fail(ErrorKind::kCorrupt, "group {} of record {} does not have its checksum", index,
                head.header.name.ShortHex());
  return {};
}

Status EncodeRecordHead(const RecordHead& head, const Sealer* sealer, std::vector<std::byte>& out) {
  LARDER_TRY(CheckHeader(head.header));
  LARDER_TRY(MatchSealer(head.sealed, sealer));
  LARDER_CHECK(head.groups.size() == head.header.group_bytes.size());
  const size_t start = out.size();
  ByteWriter writer(out);
  writer.Bytes(AsBytes(kMagic));
  writer.Number(kRecordVersion);
  writer.Number(static_cast<uint32_t>(HeadBytes(head.groups.size(), head.header.metadata.size())));
  writer.Bytes(head.header.name.bytes);
  writer.Bytes(head.header.parent.bytes);
  writer.Bytes(head.header.space);
  writer.Number(head.header.kind);
  writer.Number(head.sealed ? kFlagSealed : 0);
  writer.Number(static_cast<uint32_t>(head.groups.size()));
  writer.Number(static_cast<uint32_t>(head.header.metadata.size()));
  for (const StoredGroup& group : head.groups) {
    writer.Number(group.bytes);
    writer.Number(group.offset);
    writer.Number(group.checksum);
    writer.Bytes(group.nonce);
    writer.Bytes(group.tag);
  }
  std::vector<std::byte> secret;
  ByteWriter secret_writer(secret);
  secret_writer.Number(head.payload_digest);
  secret_writer.Bytes(head.header.metadata);
  std::array<uint8_t, 12> nonce{};
  std::array<uint8_t, 16> tag{};
  if (head.sealed) {
    std::vector<std::byte> plain = secret;
    const Status sealed =
        sealer->Seal(head.header.space, std::span(out).subspan(start), plain, secret, nonce, tag);
    if (!sealed) {
      out.resize(start);
      return sealed;
    }
  }
  writer.Bytes(nonce);
  writer.Bytes(tag);
  writer.Bytes(secret);
  writer.Number(Checksum64(std::span(out).subspan(start)));
  return {};
}

Result<size_t> RecordHeadBytes(std::span<const std::byte> prefix) {
  ByteReader reader(prefix);
  const auto magic = reader.Bytes(kMagic.size());
  const uint32_t version = reader.Number<uint32_t>(), bytes = reader.Number<uint32_t>();
  if (!reader.ok()) return Corrupt("it is cut off");
  if (!std::ranges::equal(magic, AsBytes(kMagic))) return Corrupt("it begins with other bytes");
  if (version != kRecordVersion)
    return Fail(ErrorKind::kUnsupported, "a record of version {}; this program knows version {}", version,
                kRecordVersion);
  if (bytes < HeadBytes(1, 0) || bytes > HeadBytes(kMaxRecordGroups, kMaxRecordMetadata))
    return Corrupt("no head has this length");
  return bytes;
}

Result<RecordHead> DecodeRecordHead(std::span<const std::byte> bytes, const Sealer* sealer) {
  LARDER_ASSIGN(const size_t length, RecordHeadBytes(bytes));
  if (bytes.size() < length) return Corrupt("it is cut off");
  bytes = bytes.first(length);
  if (ByteReader(bytes.last(kChecksumBytes)).Number<uint64_t>() !=
      Checksum64(bytes.first(length - kChecksumBytes)))
    return Corrupt("it does not have its checksum");

  ByteReader reader(bytes);
  reader.Bytes(kRecordPrefixBytes);
  RecordHead head;
  reader.Bytes(head.header.name.bytes);
  reader.Bytes(head.header.parent.bytes);
  reader.Bytes(head.header.space);
  head.header.kind = reader.Number<uint32_t>();
  const uint32_t flags = reader.Number<uint32_t>();
  const uint32_t groups = reader.Number<uint32_t>(), metadata = reader.Number<uint32_t>();
  if (!reader.ok() || groups == 0 || groups > kMaxRecordGroups || metadata > kMaxRecordMetadata ||
      HeadBytes(groups, metadata) != length)
    return Corrupt("its sizes contradict each other");
  if ((flags & ~kFlagSealed) != 0) return Corrupt("unknown flags");
  head.sealed = (flags & kFlagSealed) != 0;
  LARDER_TRY(MatchSealer(head.sealed, sealer));
  for (uint32_t i = 0; i < groups; ++i) {
    StoredGroup& group = head.groups.emplace_back();
    group.bytes = reader.Number<uint64_t>();
    group.offset = reader.Number<uint64_t>();
    group.checksum = reader.Number<uint64_t>();
    reader.Bytes(group.nonce);
    reader.Bytes(group.tag);
    head.header.group_bytes.push_back(group.bytes);
  }
  LARDER_TRY(CheckLayout(head));
  LARDER_TRY(DecodeSecret(head, bytes.first(reader.position()), reader, metadata, sealer));
  LARDER_CHECK(reader.ok());  // the lengths were compared above
  return head;
}

}  // namespace larder
