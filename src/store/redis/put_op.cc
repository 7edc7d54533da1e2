#include "store/redis/put_op.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/log.h"

namespace larder {
namespace {

Status Stored(const Result<RespValue>& answer) {
  if (!answer) return std::unexpected(answer.error());
  if (answer->IsNil()) return Fail(ErrorKind::kIo, "the Redis server did not take a part of the record");
  return {};
}

}  // namespace

RedisPut::RedisPut(RedisCore& core, RecordHeader header, RecordPayload payload,
                   std::function<void(Status)> done)
    : core_(core),
      header_(std::move(header)),
      payload_(std::move(payload)),
      done_(std::move(done)),
      started_ns_(core.clock.NowNs()) {}

void RedisPut::Start(std::function<void()> over) {
  over_ = std::move(over);
  deadline_.emplace(core_, started_ns_ + core_.options.put_timeout_ms * 1'000'000,
                    [self = shared_from_this()] {
                      self->End(Fail(ErrorKind::kIo, "Redis did not take the record in time"));
                    });
  auto head = MakeRecordHead(header_, payload_, 1, core_.sealer);
  if (!head) return End(std::unexpected(std::move(head).error()));
  head_ = std::move(*head);
  core_.ReadHead(header_.name, RedisLane::kWrite, nullptr,
                 [self = shared_from_this()](Result<RedisHead> there) { self->LookedUp(std::move(there)); });
}

void RedisPut::LookedUp(Result<RedisHead> there) {
  if (ended_) return;
  if (there) return Compare(*there);
  const ErrorKind kind = there.error().kind;
  if (kind == ErrorKind::kNotFound || kind == ErrorKind::kCorrupt) return Write();
  End(std::unexpected(std::move(there).error()));
}

void RedisPut::Compare(const RedisHead& there) {
  if (there.place.tag != place_.tag) DropParts();
  if (there.head.payload_digest == head_.payload_digest) return Link();
  core_.Count([](TierStats& stats) { ++stats.bad_records; });
  LogError("two payloads under the name {}: Redis has another one than was computed here",
           header_.name.ShortHex());
  End(Fail(ErrorKind::kConflict, "another payload is in Redis under this name"));
}

void RedisPut::Write() {
  auto stream = Encode();
  if (!stream) return End(std::unexpected(std::move(stream).error()));
  stream_ = std::move(*stream);
  const auto place = RedisPlaceOf(std::as_bytes(std::span(stream_.data(), stream_.size())));
  LARDER_CHECK(place.has_value());  // it was just made
  place_ = *place;
  WriteParts();
}

// The head is written last, since it holds the groups' tags, but comes first: its size is known.
Result<std::string> RedisPut::Encode() {
  std::vector<std::byte> head;
  LARDER_TRY(EncodeRecordHead(head_, core_.sealer, head));
  std::string stream(head.size() + header_.payload_bytes(), '\0');
  const std::span<std::byte> area = std::as_writable_bytes(std::span(stream)).subspan(head.size());
  for (size_t i = 0; i < head_.groups.size(); ++i) {
    const StoredGroup& group = head_.groups[i];
    LARDER_TRY(
        EncodeGroup(head_, i, payload_.groups[i], area.subspan(group.offset, group.bytes), core_.sealer));
  }
  const size_t size = head.size();
  head.clear();
  LARDER_TRY(EncodeRecordHead(head_, core_.sealer, head));
  LARDER_CHECK(head.size() == size);
  std::memcpy(stream.data(), head.data(), head.size());
  payload_ = {};  // sealed or copied: the pages may go
  return stream;
}

std::shared_ptr<const RespCommand> RedisPut::SetCommand(const std::string& key, std::string_view value,
                                                        bool if_absent) const {
  const std::string ttl = std::to_string(core_.options.ttl_ms);
  const bool expires = core_.options.ttl_ms > 0;
  if (if_absent)
    return expires ? RedisText("SET", key, value, "NX", "PX", ttl) : RedisText("SET", key, value, "NX");
  return expires ? RedisText("SET", key, value, "PX", ttl) : RedisText("SET", key, value);
}

void RedisPut::WriteParts() {
  const auto join = std::make_shared<RedisJoin>([self = shared_from_this()](const Status& status) {
    if (!self->ended_ && status) return self->WriteFirst();
    self->DropParts();
    self->End(status);
  });
  for (uint64_t part = 1; part < place_.parts(); ++part) {
    const std::string key = RedisPartKey(place_, part);
    const auto value = std::string_view(stream_).substr(part * kRedisPartBytes, kRedisPartBytes);
    core_.router.Submit(key,
                        {.text = SetCommand(key, value, false),
                         .lane = RedisLane::kWrite,
                         .reply = RedisReply::kStored,
                         .abandoned = abandoned_,
                         .done = [join](const Result<RespValue>& answer) { join->Note(Stored(answer)); }});
  }
}

void RedisPut::WriteFirst() {
  const std::string key = RedisHeadKey(header_.name);
  core_.router.Submit(key,
                      {.text = SetCommand(key, std::string_view(stream_).substr(0, kRedisPartBytes), true),
                       .lane = RedisLane::kWrite,
                       .reply = RedisReply::kStored,
                       .abandoned = abandoned_,
                       .done = [self = shared_from_this()](Result<RespValue> answer) {
                         self->FirstWritten(std::move(answer));
                       }});
}

void RedisPut::FirstWritten(Result<RespValue> answer) {
  if (ended_) {  // too late; if it was not even sent, its parts are nobody's
    if (!answer && answer.error().kind == ErrorKind::kCancelled) DropParts();
    return;
  }
  if (answer && answer->IsNil()) {  // another server was faster
    core_.ReadHead(
        header_.name, RedisLane::kWrite, nullptr, [self = shared_from_this()](Result<RedisHead> there) {
          if (self->ended_) return;
          if (there) return self->Compare(*there);
          self->DropParts();
          self->End(Fail(ErrorKind::kIo, "this name is taken in Redis: {}", there.error().message));
        });
    return;
  }
  if (const Status stored = Stored(answer); !stored) {
    // Lost without an answer it may be there all the same; then its parts must stay.
    if (stored.error().kind != ErrorKind::kUnavailable) DropParts();
    return End(stored);
  }
  written_ = true;
  Link();
}

// Of a write that lost or failed. Without tag nothing was written.
void RedisPut::DropParts() {
  std::vector<std::string> keys;
  for (uint64_t part = 1; part < place_.parts(); ++part) keys.push_back(RedisPartKey(place_, part));
  core_.Unlink(std::move(keys), nullptr);
}

// The newest children of each parent; without this list the record is still found by its name.
void RedisPut::Link() {
  const auto join =
      std::make_shared<RedisJoin>([self = shared_from_this()](const Status&) { self->End({}); });
  if (header_.parent == Digest{}) return;
  const std::string key = RedisChildrenKey(header_.parent), ttl = std::to_string(core_.options.ttl_ms);
  const auto send = [&](std::shared_ptr<const RespCommand> text) {
    core_.router.Submit(key, {.text = std::move(text), .lane = RedisLane::kWrite, .done = [join](auto&&) {}});
  };
  send(RedisText("ZADD", key, std::to_string(core_.clock.WallMs()), RedisBytes(header_.name)));
  send(RedisText("ZREMRANGEBYRANK", key, "0", fmt::format("-{}", kRedisMaxChildren + 1)));
  if (core_.options.ttl_ms > 0) send(RedisText("PEXPIRE", key, ttl));
}

void RedisPut::End(Status status) {
  if (std::exchange(ended_, true)) return;
  *abandoned_ = true;
  if (deadline_) deadline_->Cancel();
  const auto took_ns = static_cast<uint64_t>(core_.clock.NowNs() - started_ns_);
  const uint64_t bytes = stream_.size(), pending = header_.payload_bytes();
  core_.Count([&](TierStats& stats) {
    stats.pending_bytes -= pending;
    if (!status) {
      ++stats.dropped_writes;
    } else if (written_) {
      ++stats.write_records;
      stats.write_bytes += bytes;
      stats.write_ns += took_ns;
    }
  });
  stream_ = {};
  payload_ = {};
  if (done_) std::exchange(done_, nullptr)(std::move(status));
  if (over_) std::exchange(over_, nullptr)();
}

}  // namespace larder
