// Which keys a record has in Redis; docs/formats/redis.md.
//
// A record is one stream of bytes, head and then groups without gaps, cut into parts of kRedisPartBytes. The
// first lies under the record's name, so that it can be found; the others under keys that also say whose they
// are (a wipe finds them without reading) and which write they belong to (two writers of one name cannot mix
// theirs).
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "base/hash.h"
#include "base/result.h"
#include "store/record.h"

namespace larder {

inline constexpr uint64_t kRedisPartBytes = 4u << 20;
inline constexpr size_t kRedisFirstReadBytes = 8192;  // most heads are smaller and come with one command
inline constexpr size_t kRedisMaxChildren = 64;

// What the plain part of a head tells, also without a key to open it.
struct RedisPlace {
  Digest name, parent;
  SpaceId space{};
  uint64_t tag = 0;  // the head's checksum
  uint64_t head_bytes = 0;
  uint64_t stored_bytes = 0;  // head and groups

  uint64_t parts() const { return (stored_bytes + kRedisPartBytes - 1) / kRedisPartBytes; }
};

// kCorrupt, kUnsupported (version).
Result<RedisPlace> RedisPlaceOf(std::span<const std::byte> head);

std::string RedisHeadKey(const Digest& name);
std::string RedisPartKey(const RedisPlace& place, uint64_t part);  // part 0: RedisHeadKey
std::string RedisChildrenKey(const Digest& parent);
std::string RedisTenantKey(std::string_view tenant);         // of its entry in the keyring
std::string RedisHeadPattern();                              // for SCAN: head keys
std::string RedisAllPattern();                               // everything of ours
std::string RedisPartPrefix(const SpaceId& space);           // of the parts of a space
std::optional<Digest> RedisNameInKey(std::string_view key);  // of a head key

}  // namespace larder
