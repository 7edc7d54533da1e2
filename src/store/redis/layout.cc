#include "store/redis/layout.h"

#include <charconv>

#include "store/bytes.h"

namespace larder {
namespace {

constexpr std::string_view kPrefix = "larder:v1:";

std::string Hex(std::span<const uint8_t> bytes) {
  std::string out;
  for (const uint8_t b : bytes) fmt::format_to(std::back_inserter(out), "{:02x}", b);
  return out;
}

}  // namespace

Result<RedisPlace> RedisPlaceOf(std::span<const std::byte> head) {
  LARDER_ASSIGN(const size_t length, RecordHeadBytes(head));
  const auto corrupt = [] { return Fail(ErrorKind::kCorrupt, "a damaged head"); };
  if (head.size() < length) return corrupt();
  head = head.first(length);
  RedisPlace place{.head_bytes = length, .stored_bytes = length};
  place.tag = ByteReader(head.last(sizeof place.tag)).Number<uint64_t>();
  if (place.tag != Checksum64(head.first(length - sizeof place.tag))) return corrupt();
  ByteReader reader(head);
  reader.Bytes(kRecordPrefixBytes);
  reader.Bytes(place.name.bytes);
  reader.Bytes(place.parent.bytes);
  reader.Bytes(place.space);
  reader.Bytes(8);  // kind, flags
  const uint32_t groups = reader.Number<uint32_t>();
  reader.Bytes(4);  // metadata
  if (groups > kMaxRecordGroups) return corrupt();
  uint64_t left = kMaxRecordBytes;
  for (uint32_t i = 0; i < groups; ++i) {
    const uint64_t bytes = reader.Number<uint64_t>();
    reader.Bytes(44);  // offset, checksum, nonce, tag
    if (bytes > left) return corrupt();
    left -= bytes;
  }
  if (!reader.ok()) return corrupt();
  place.stored_bytes += kMaxRecordBytes - left;
  return place;
}

std::string RedisHeadKey(const Digest& name) { return fmt::format("{}{}", kPrefix, name.Hex()); }

std::string RedisPartKey(const RedisPlace& place, uint64_t part) {
  if (part == 0) return RedisHeadKey(place.name);
  return fmt::format("{}{}:{:016x}:{}", RedisPartPrefix(place.space), place.name.Hex(), place.tag, part);
}

std::string RedisChildrenKey(const Digest& parent) { return fmt::format("{}c:{}", kPrefix, parent.Hex()); }

std::string RedisTenantKey(std::string_view tenant) {
  const Digest hash = Sha256(std::as_bytes(std::span(tenant.data(), tenant.size())));
  return fmt::format("{}k:{}", kPrefix, hash.Hex());
}

std::string RedisHeadPattern() { return fmt::format("{}{}", kPrefix, std::string(64, '?')); }

std::string RedisAllPattern() { return fmt::format("{}*", kPrefix); }

std::string RedisPartPrefix(const SpaceId& space) { return fmt::format("{}p:{}:", kPrefix, Hex(space)); }

std::optional<Digest> RedisNameInKey(std::string_view key) {
  Digest name;
  if (!key.starts_with(kPrefix) || key.size() != kPrefix.size() + 2 * name.bytes.size()) return std::nullopt;
  key.remove_prefix(kPrefix.size());
  for (size_t i = 0; i < name.bytes.size(); ++i) {
    const char* digits = key.data() + 2 * i;
    if (std::from_chars(digits, digits + 2, name.bytes[i], 16).ptr != digits + 2) return std::nullopt;
  }
  return name;
}

}  // namespace larder
