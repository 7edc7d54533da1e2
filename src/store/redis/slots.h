// Which node of a cluster has which key.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "store/redis/resp.h"
#include "store/redis/url.h"

namespace larder {

inline constexpr size_t kRedisSlots = 16384;

uint16_t Crc16(std::string_view bytes);  // XMODEM: polynomial 0x1021, from 0
// Of a whole key: our keys have no hash tags.
uint16_t RedisSlot(std::string_view key);

struct RedisSlotRange {
  uint16_t first = 0, last = 0;
  RedisEndpoint master;
};
// Of CLUSTER SLOTS. A master without a host is at `asked`'s, which Redis means by that. kCorrupt.
Result<std::vector<RedisSlotRange>> ParseClusterSlots(const RespValue& reply, const RedisEndpoint& asked);

// MOVED or ASK and where to; nothing if the error is neither.
struct RedisRedirection {
  bool ask = false;
  uint16_t slot = 0;
  RedisEndpoint to;
};
Result<RedisRedirection> ParseRedirection(std::string_view error, const RedisEndpoint& asked);

}  // namespace larder
