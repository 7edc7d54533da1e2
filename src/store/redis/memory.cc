#include "store/redis/memory.h"

#include <boost/asio/post.hpp>
#include <charconv>

namespace larder {
namespace {

constexpr int64_t kEveryNs = 1'000'000'000;
constexpr size_t kMaxInfoBytes = 64 * 1024;

struct Usage {
  uint64_t used = 0, limit = 0;
};

// The number after "field:" at the start of a line; 0 if there is none.
uint64_t NumberOf(std::string_view info, std::string_view field) {
  const size_t at = info.find(fmt::format("\n{}:", field));
  uint64_t value = 0;
  if (at == std::string_view::npos) return value;
  const std::string_view number = info.substr(at + field.size() + 2);
  std::from_chars(number.data(), number.data() + number.size(), value);
  return value;
}

}  // namespace

void RedisMemory::Refresh() {
  const int64_t now = core_.clock.NowNs();
  int64_t next = next_ns_;
  if (now < next || !next_ns_.compare_exchange_strong(next, now + kEveryNs)) return;
  boost::asio::post(core_.io, [this] { Ask(); });
}

void RedisMemory::Ask() {
  const auto usage = std::make_shared<Usage>();
  const auto join = std::make_shared<RedisJoin>([this, usage](const Status& status) {
    if (!status) return;  // the last known stays
    core_.Count([&](TierStats& stats) {
      stats.used_bytes = usage->used;
      stats.limit_bytes = usage->limit;
    });
  });
  for (const auto& node : core_.router.Masters()) {
    core_.router.SubmitTo(node, {.text = RedisText("INFO", "memory"),
                                 .max_reply_bytes = kMaxInfoBytes,
                                 .done = [usage, join](const Result<RespValue>& answer) {
                                   if (!answer) return join->Note(std::unexpected(answer.error()));
                                   usage->used += NumberOf(answer->text, "used_memory");
                                   usage->limit += NumberOf(answer->text, "maxmemory");
                                 }});
  }
}

}  // namespace larder
