#include "store/redis/core.h"

#include <algorithm>
#include <utility>

#include "base/log.h"

namespace larder {
namespace {

std::span<const std::byte> AsBytes(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

}  // namespace

RedisCore::RedisCore(RedisOptions options_in, RedisUrl url_in, const Sealer* sealer_in, Clock& clock_in,
                     std::unique_ptr<boost::asio::ssl::context> tls_in)
    : options(std::move(options_in)),
      url(std::move(url_in)),
      sealer(sealer_in),
      clock(clock_in),
      tls(std::move(tls_in)),
      router(io, options, url, tls.get(), clock) {}

void RedisCore::Count(const std::function<void(TierStats&)>& change) {
  const std::lock_guard guard(mutex_);
  change(counted_);
}

TierStats RedisCore::counted() const {
  const std::lock_guard guard(mutex_);
  return counted_;
}

void RedisCore::ReadRawHead(const Digest& name, RedisLane lane, std::shared_ptr<const bool> abandoned,
                            std::function<void(Result<std::string>)> done) {
  const auto whole = [this, name, lane, abandoned, done = std::move(done)](Result<RespValue> answer) {
    if (!answer) return done(std::unexpected(std::move(answer).error()));
    std::string first = std::move(answer->text);
    if (first.empty()) return done(Fail(ErrorKind::kNotFound, "no record {}", name.ShortHex()));
    const auto length = RecordHeadBytes(AsBytes(first));
    if (!length) return done(std::unexpected(length.error()));
    if (*length <= first.size()) return done(std::move(first));
    const std::string from = std::to_string(first.size()), to = std::to_string(*length - 1);
    router.Submit(RedisHeadKey(name), {.text = RedisText("GETRANGE", RedisHeadKey(name), from, to),
                                       .max_reply_bytes = *length,
                                       .lane = lane,
                                       .reply = RedisReply::kString,
                                       .abandoned = abandoned,
                                       .done = [first, done](Result<RespValue> rest) {
                                         if (!rest) return done(std::unexpected(std::move(rest).error()));
                                         done(first + rest->text);
                                       }});
  };
  router.Submit(RedisHeadKey(name), {.text = RedisText("GETRANGE", RedisHeadKey(name), "0",
                                                       std::to_string(kRedisFirstReadBytes - 1)),
                                     .max_reply_bytes = kRedisFirstReadBytes,
                                     .lane = lane,
                                     .reply = RedisReply::kString,
                                     .abandoned = abandoned,
                                     .done = whole});
}

void RedisCore::ReadHead(const Digest& name, RedisLane lane, std::shared_ptr<const bool> abandoned,
                         std::function<void(Result<RedisHead>)> done) {
  ReadRawHead(
      name, lane, std::move(abandoned),
      [this, name, done = std::move(done)](Result<std::string> raw) { Expect(name, std::move(raw), done); });
}

void RedisCore::Expect(const Digest& name, Result<std::string> raw,
                       const std::function<void(Result<RedisHead>)>& done) {
  const auto refuse = [&](const Error& error) {
    if (error.kind == ErrorKind::kCorrupt) {
      DeleteBadHead(name, raw ? *raw : "", error);
      router.AnsweredWrong(RedisHeadKey(name), error.message);
    }
    done(std::unexpected(error));
  };
  if (!raw) return refuse(raw.error());
  auto place = RedisPlaceOf(AsBytes(*raw));
  if (!place) return refuse(place.error());
  auto head = DecodeRecordHead(AsBytes(*raw), sealer);
  if (!head && head.error().kind == ErrorKind::kNotFound)
    return refuse(
        {ErrorKind::kUnsupported, "sealed for a tenant that this keyring does not know (any more)"});
  if (!head) return refuse(head.error());
  if (head->header.name != name)
    return refuse({ErrorKind::kCorrupt, "another record's bytes under this name"});
  uint64_t end = 0;
  for (const StoredGroup& group : head->groups) {
    if (group.offset != end) return refuse({ErrorKind::kCorrupt, "groups with gaps"});
    end += group.bytes;
  }
  done(RedisHead{.place = *place, .head = std::move(*head)});
}

void RedisCore::Unlink(const std::vector<std::string>& keys, std::function<void(Status)> done) {
  const auto join = std::make_shared<RedisJoin>(std::move(done));
  for (const std::string& key : keys) {
    router.Submit(key, {.text = RedisText("UNLINK", key), .done = [join](const Result<RespValue>& answer) {
                          if (!answer) join->Note(std::unexpected(answer.error()));
                        }});
  }
}

std::vector<std::string> RedisCore::KeysOf(const RedisPlace& place) const {
  std::vector<std::string> keys;
  for (uint64_t part = 0; part < place.parts(); ++part) keys.push_back(RedisPartKey(place, part));
  return keys;
}

void RedisCore::Delete(const RedisPlace& place, std::function<void(Status)> done) {
  const auto join = std::make_shared<RedisJoin>(std::move(done));
  Unlink(KeysOf(place), [join](const Status& status) { join->Note(status); });
  ForgetChild(place.parent, place.name, [join](const Status& status) { join->Note(status); });
}

void RedisCore::ForgetChild(const Digest& parent, const Digest& name, std::function<void(Status)> done) {
  if (parent == Digest{}) return done({});
  const std::string key = RedisChildrenKey(parent);
  router.Submit(key, {.text = RedisText("ZREM", key, RedisBytes(name)),
                      .done = [done = std::move(done)](const Result<RespValue>& answer) {
                        done(answer ? Status() : std::unexpected(answer.error()));
                      }});
}

void RedisCore::DeleteBad(const RedisPlace& place) {
  Count([](TierStats& stats) { ++stats.bad_records; });
  LogWarn("Redis record {} does not verify and is deleted", place.name.ShortHex());
  Delete(place, nullptr);
}

void RedisCore::DeleteBadHead(const Digest& name, std::string_view raw, const Error& error) {
  Count([](TierStats& stats) { ++stats.bad_records; });
  LogWarn("Redis record {} does not verify and is deleted: {}", name.ShortHex(), error.message);
  std::vector<std::string> keys{RedisHeadKey(name)};
  // Its other parts too, if it is a record of this name at all: a foreign head must not point us to others.
  if (const auto place = RedisPlaceOf(AsBytes(raw)); place && place->name == name) keys = KeysOf(*place);
  Unlink(keys, nullptr);
}

void RedisCore::Prolong(const RedisPlace& place) {
  const std::string ttl = std::to_string(options.ttl_ms);
  for (const std::string& key : KeysOf(place)) {
    router.Submit(key, {.text = options.ttl_ms > 0 ? RedisText("PEXPIRE", key, ttl) : RedisText("TOUCH", key),
                        .lane = RedisLane::kWrite,
                        .done = [](auto&&) {}});
  }
}

RedisDeadline::RedisDeadline(RedisCore& core, int64_t deadline_ns, std::function<void()> late)
    : timer_(std::make_shared<boost::asio::steady_timer>(core.io)) {
  constexpr int64_t kLongestNs = int64_t{3600} * 1'000'000'000;  // all commands are bounded by themselves
  const int64_t now = core.clock.NowNs();
  const int64_t left = deadline_ns <= now ? 0 : deadline_ns - std::max<int64_t>(now, 0);
  timer_->expires_after(std::chrono::nanoseconds(std::min(left, kLongestNs)));
  timer_->async_wait([timer = timer_, late = std::move(late)](const boost::system::error_code& error) {
    if (!error) late();
  });
}

}  // namespace larder
