// A record as bytes: the head that every tier writes before a payload, and the protection of its groups.
// docs/formats/records.md has it to the byte.
//
// A head is self-delimiting and checksummed. Without a sealer it is plain; with one, metadata and tokens are
// encrypted, and name, parent, kind and group table are authenticated. Groups carry a 64-bit checksum (XXH3
// of the plain bytes) or, sealed, an AES-GCM nonce and tag that bind the record's name and the group's
// number.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "base/result.h"
#include "store/sealer.h"
#include "store/tier.h"

namespace larder {

inline constexpr uint32_t kRecordVersion = 1;

struct StoredGroup {
  uint64_t bytes = 0;     // of the payload; stored bytes are as many (AES-GCM does not grow them)
  uint64_t offset = 0;    // from the start of the payload area, as the tier lays groups out
  uint64_t checksum = 0;  // XXH3 of the plain bytes; 0 when sealed, where the tag does the work
  std::array<uint8_t, 12> nonce{};
  std::array<uint8_t, 16> tag{};
};

struct RecordHead {
  RecordHeader header;
  bool sealed = false;
  uint64_t payload_digest = 0;  // of the groups' plain checksums: two payloads under one name are told apart
  std::vector<StoredGroup> groups;  // one for each of header.group_bytes
};

// The head of a record whose groups begin at multiples of `alignment` (a power of two) in the payload area.
// Computes checksums; with a sealer draws nonces. kInvalid: too many groups, too much metadata, too large.
Result<RecordHead> MakeRecordHead(const RecordHeader& header, const RecordPayload& payload,
                                  uint64_t alignment, const Sealer* sealer);
// Bytes of the payload area: the end of the last group, rounded up to `alignment`.
uint64_t PayloadAreaBytes(const RecordHead& head, uint64_t alignment);

// Copies group `index` to `to` as it is to be stored: plain or encrypted; fills nonce and tag of the head.
// to.size() == bytes of the group. Groups are encoded before the head.
Status EncodeGroup(RecordHead& head, size_t index, std::span<const std::byte> from, std::span<std::byte> to,
                   const Sealer* sealer);
// Verifies group `index`, stored bytes in `bytes`, and decrypts it in place. kCorrupt: flipped or foreign;
// kUnsupported: sealed and no sealer, or plain where `sealer` demands sealed ones.
Status DecodeGroup(const RecordHead& head, size_t index, std::span<std::byte> bytes, const Sealer* sealer);

// Appended to `out`. The first 16 bytes tell how long a head is (RecordHeadBytes).
Status EncodeRecordHead(const RecordHead& head, const Sealer* sealer, std::vector<std::byte>& out);
inline constexpr size_t kRecordPrefixBytes = 16;
inline constexpr size_t kMaxRecordHeadBytes = 80 * 1024;
// Of the head that begins with these bytes. kCorrupt: not a head, too long; kUnsupported: another version.
Result<size_t> RecordHeadBytes(std::span<const std::byte> prefix);
// Every size is checked before use. kCorrupt, kUnsupported (version; sealed without a sealer and the
// reverse).
Result<RecordHead> DecodeRecordHead(std::span<const std::byte> bytes, const Sealer* sealer);

}  // namespace larder
