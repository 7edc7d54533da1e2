// Any bytes as the head of a record, as they are and with their checksum put right, plain and sealed. What is
// accepted must hold together, and a plain head must be written again as it was read. So must metadata that
// the cache takes for a block's or a chunk's.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

#include "base/hash.h"
#include "kv/block_record.h"
#include "kv/reuse/chunk_record.h"
#include "store/record.h"

namespace {

// Opens everything: the fuzzer cannot forge a tag, and what lies behind it shall be reached.
class OpenSealer final : public larder::Sealer {
 public:
  larder::Status Seal(const larder::SpaceId&, std::span<const std::byte>, std::span<const std::byte> from,
                      std::span<std::byte> to, std::array<uint8_t, 12>&,
                      std::array<uint8_t, 16>&) const override {
    std::ranges::copy(from, to.begin());
    return {};
  }
  larder::Status Open(const larder::SpaceId&, std::span<const std::byte>, const std::array<uint8_t, 12>&,
                      const std::array<uint8_t, 16>&, std::span<std::byte>) const override {
    return {};
  }
};

void Require(bool condition) {
  if (!condition) __builtin_trap();
}

void DecodeMetadata(const std::vector<std::byte>& metadata) {
  if (const auto tokens = larder::DecodeBlockMetadata(metadata))
    Require(larder::EncodeBlockMetadata(*tokens) == metadata);
  if (const auto chunk = larder::DecodeChunkMetadata(metadata))
    Require(larder::EncodeChunkMetadata(chunk->name, chunk->prefix_rows, chunk->tokens) == metadata);
}

void Decode(std::span<const std::byte> bytes, const larder::Sealer* sealer) {
  const auto head = larder::DecodeRecordHead(bytes, sealer);
  if (!head) return Require(!head.error().message.empty());
  Require(head->groups.size() == head->header.group_bytes.size());
  Require(head->header.payload_bytes() <= larder::kMaxRecordBytes);
  Require(larder::PayloadAreaBytes(*head, 4096) % 4096 == 0);
  DecodeMetadata(head->header.metadata);
  std::vector<std::byte> again;
  Require(larder::EncodeRecordHead(*head, sealer, again).has_value());
  Require(again.size() == larder::RecordHeadBytes(bytes).value());
  // Nonces of plain heads are not looked at, so only what a reader uses is compared.
  const auto same = larder::DecodeRecordHead(again, sealer);
  Require(same && same->header.name == head->header.name && same->header.metadata == head->header.metadata &&
          same->payload_digest == head->payload_digest);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const OpenSealer sealer;
  std::vector<std::byte> bytes(size);
  std::ranges::copy(std::as_bytes(std::span(data, size)), bytes.begin());
  Decode(bytes, nullptr);
  const auto length = larder::RecordHeadBytes(bytes);
  if (!length || *length > size) return 0;
  const uint64_t checksum = larder::Checksum64(std::span(bytes).first(*length - 8));
  for (size_t i = 0; i < 8; ++i) bytes[*length - 8 + i] = static_cast<std::byte>(checksum >> (8 * i));
  Decode(bytes, nullptr);
  Decode(bytes, &sealer);
  return 0;
}
