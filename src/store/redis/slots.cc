#include "store/redis/slots.h"

#include <array>
#include <charconv>

namespace larder {
namespace {

constexpr std::array<uint16_t, 256> MakeCrcTable() {
  std::array<uint16_t, 256> table{};
  for (unsigned i = 0; i < table.size(); ++i) {
    unsigned crc = i << 8;
    for (int bit = 0; bit < 8; ++bit) crc = (crc & 0x8000) != 0 ? crc << 1 ^ 0x1021 : crc << 1;
    table[i] = static_cast<uint16_t>(crc);
  }
  return table;
}
constexpr std::array<uint16_t, 256> kCrcTable = MakeCrcTable();

std::unexpected<Error> BadSlots() {
  return Fail(ErrorKind::kCorrupt, "the Redis server describes its cluster in a way that makes no sense");
}

bool IsSlot(const RespValue& value) {
  return value.type == RespValue::Type::kInteger && value.integer >= 0 &&
         value.integer < static_cast<int64_t>(kRedisSlots);
}

// [host, port, id, ...]; no host, or "?" for one that it does not know: the one that was asked.
Result<RedisEndpoint> ParseNode(const RespValue& node, const RedisEndpoint& asked) {
  if (node.elements.size() < 2 || node.elements[1].type != RespValue::Type::kInteger) return BadSlots();
  const RespValue& host = node.elements[0];
  const int64_t port = node.elements[1].integer;
  if ((!host.IsString() && !host.IsNil()) || port < 1 || port > 65535) return BadSlots();
  const bool unknown = host.text.empty() || host.text == "?";
  return ParseRedisEndpoint(fmt::format("{}:{}", unknown ? asked.host : host.text, port));
}

}  // namespace

uint16_t Crc16(std::string_view bytes) {
  uint16_t crc = 0;
  for (const char c : bytes)
    crc = static_cast<uint16_t>(crc << 8 ^ kCrcTable[(crc >> 8 ^ static_cast<uint8_t>(c)) & 0xff]);
  return crc;
}

uint16_t RedisSlot(std::string_view key) { return Crc16(key) % kRedisSlots; }

Result<std::vector<RedisSlotRange>> ParseClusterSlots(const RespValue& reply, const RedisEndpoint& asked) {
  if (reply.type != RespValue::Type::kArray || reply.elements.size() > kRedisSlots) return BadSlots();
  std::vector<RedisSlotRange> out;
  for (const RespValue& range : reply.elements) {
    if (range.elements.size() < 3 || !IsSlot(range.elements[0]) || !IsSlot(range.elements[1]))
      return BadSlots();
    LARDER_ASSIGN(RedisEndpoint master, ParseNode(range.elements[2], asked));
    const auto first = static_cast<uint16_t>(range.elements[0].integer),
               last = static_cast<uint16_t>(range.elements[1].integer);
    if (first > last) return BadSlots();
    out.push_back({.first = first, .last = last, .master = std::move(master)});
  }
  return out;
}

Result<RedisRedirection> ParseRedirection(std::string_view error, const RedisEndpoint& asked) {
  RedisRedirection out;
  constexpr std::string_view kMoved = "MOVED ", kAsk = "ASK ";
  const std::string_view verb = error.starts_with(kMoved) ? kMoved : kAsk;
  if (!error.starts_with(verb)) return Fail(ErrorKind::kNotFound, "no redirection");
  out.ask = verb == kAsk;
  error.remove_prefix(verb.size());
  const auto [end, code] = std::from_chars(error.data(), error.data() + error.size(), out.slot);
  const auto digits = static_cast<size_t>(end - error.data());
  if (code != std::errc() || out.slot >= kRedisSlots || digits >= error.size() || error[digits] != ' ')
    return BadSlots();
  error.remove_prefix(digits + 1);
  const std::string text =
      error.rfind(':') == 0 ? fmt::format("{}{}", asked.host, error) : std::string(error);
  LARDER_ASSIGN(out.to, ParseRedisEndpoint(text));
  return out;
}

}  // namespace larder
