#include "store/redis/admin.h"

#include <algorithm>
#include <charconv>
#include <utility>

#include "store/bytes.h"

namespace larder {
namespace {

constexpr size_t kScanCount = 500, kMaxScanReplyBytes = 4u << 20;
constexpr size_t kSpaceOffset = 80, kParentOffset = 48, kOwnerBytes = 96;  // docs/formats/records.md
constexpr int kCursorBits = 56;

std::span<const std::byte> AsBytes(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

}  // namespace

void RedisRemove(RedisCore& core, const std::vector<Digest>& names, std::function<void(Status)> done) {
  const auto join = std::make_shared<RedisJoin>(std::move(done));
  for (const Digest& name : names) {
    core.ReadRawHead(name, RedisLane::kRequest, nullptr, [&core, join, name](const Result<std::string>& raw) {
      const auto note = [join](const Status& status) { join->Note(status); };
      const auto place = raw ? RedisPlaceOf(AsBytes(*raw)) : std::unexpected(raw.error());
      if (place && place->name == name) return core.Delete(*place, note);
      if (!place && place.error().kind == ErrorKind::kNotFound) return;
      const bool unreadable =
          place || place.error().kind == ErrorKind::kCorrupt || place.error().kind == ErrorKind::kUnsupported;
      if (unreadable) return core.Unlink({RedisHeadKey(name)}, note);
      join->Note(std::unexpected(place.error()));
    });
  }
}

void RedisScan(RedisCore& core, const std::shared_ptr<RedisNode>& node, uint64_t cursor,
               const std::string& pattern, size_t count, std::function<void(Result<RedisScanStep>)> done) {
  core.router.SubmitTo(
      node,
      {.text = RedisText("SCAN", std::to_string(cursor), "MATCH", pattern, "COUNT", std::to_string(count)),
       .max_reply_bytes = kMaxScanReplyBytes,
       .done = [done = std::move(done)](Result<RespValue> answer) {
         if (!answer) return done(std::unexpected(std::move(answer).error()));
         RedisScanStep step;
         const auto bad = [&] { done(Fail(ErrorKind::kIo, "the Redis server answers SCAN with nonsense")); };
         if (answer->elements.size() != 2 || !answer->elements[0].IsString()) return bad();
         const std::string& next = answer->elements[0].text;
         const auto [end, code] = std::from_chars(next.data(), next.data() + next.size(), step.cursor);
         if (code != std::errc() || end != next.data() + next.size()) return bad();
         for (RespValue& key : answer->elements[1].elements) step.keys.push_back(std::move(key.text));
         done(std::move(step));
       }});
}

RedisWipe::RedisWipe(RedisCore& core, const SpaceId& space, std::function<void(Status)> done)
    : core_(core), space_(space), part_prefix_(RedisPartPrefix(space)), done_(std::move(done)) {}

void RedisWipe::Start() {
  deadline_.emplace(core_, core_.clock.NowNs() + core_.options.wipe_timeout_ms * 1'000'000,
                    [self = shared_from_this()] {
                      self->End(Fail(ErrorKind::kSlow, "wiping Redis took too long; wipe again to go on"));
                    });
  core_.router.Refresh([self = shared_from_this()](const Status& status) {
    if (!status) return self->End(status);
    self->nodes_ = self->core_.router.Masters();
    self->Next();
  });
}

void RedisWipe::Next() {
  if (!done_) return;
  if (node_ == nodes_.size()) return End({});
  RedisScan(core_, nodes_[node_], cursor_, RedisAllPattern(), kScanCount,
            [self = shared_from_this()](Result<RedisScanStep> step) { self->Scanned(std::move(step)); });
}

void RedisWipe::Scanned(Result<RedisScanStep> step) {
  if (!step) return End(std::unexpected(std::move(step).error()));
  cursor_ = step->cursor;
  if (cursor_ == 0) ++node_;
  const auto join = std::make_shared<RedisJoin>([self = shared_from_this()](const Status& status) {
    if (!status) return self->End(status);
    self->Next();
  });
  std::vector<std::string> parts;
  for (std::string& key : step->keys) {
    if (key.starts_with(part_prefix_))
      parts.push_back(std::move(key));
    else if (RedisNameInKey(key))
      Look(key, join);
  }
  core_.Unlink(std::move(parts), [join](const Status& status) { join->Note(status); });
}

// Reads whose a record is; its space is not secret.
void RedisWipe::Look(const std::string& key, const std::shared_ptr<RedisJoin>& join) {
  core_.router.Submit(key, {.text = RedisText("GETRANGE", key, "0", std::to_string(kOwnerBytes - 1)),
                            .max_reply_bytes = kOwnerBytes,
                            .done = [self = shared_from_this(), key, join](const Result<RespValue>& answer) {
                              if (!answer) return join->Note(std::unexpected(answer.error()));
                              const auto head = AsBytes(answer->text);
                              if (head.size() < kOwnerBytes) return;
                              SpaceId space;
                              Digest parent;
                              ByteReader(head.subspan(kSpaceOffset)).Bytes(space);
                              ByteReader(head.subspan(kParentOffset)).Bytes(parent.bytes);
                              if (space != self->space_) return;
                              const auto note = [join](const Status& status) { join->Note(status); };
                              self->core_.Unlink({key}, note);
                              self->core_.ForgetChild(parent, *RedisNameInKey(key), note);
                            }});
}

void RedisWipe::End(Status status) {
  if (!done_) return;
  deadline_->Cancel();
  std::exchange(done_, nullptr)(std::move(status));
}

RedisList::RedisList(RedisCore& core, uint64_t cursor, size_t limit, std::function<void(Page)> done)
    : core_(core),
      limit_(limit),
      done_(std::move(done)),
      nodes_(core.router.Masters()),
      node_(cursor >> kCursorBits),
      cursor_(cursor & ((uint64_t{1} << kCursorBits) - 1)) {}

void RedisList::Start() {
  deadline_.emplace(core_, core_.clock.NowNs() + core_.options.admin_timeout_ms * 1'000'000,
                    [self = shared_from_this()] { self->End(); });
  Next();
}

void RedisList::Next() {
  if (!done_) return;
  if (node_ >= nodes_.size() || page_.records.size() >= limit_) return End();
  const size_t count = std::clamp<size_t>(limit_ - page_.records.size(), 1, kScanCount);
  RedisScan(core_, nodes_[node_], cursor_, RedisHeadPattern(), count,
            [self = shared_from_this()](Result<RedisScanStep> step) { self->Scanned(std::move(step)); });
}

void RedisList::Scanned(Result<RedisScanStep> step) {
  if (!done_) return;
  // A node that does not answer is passed over: the list is of what can be reached.
  cursor_ = step ? step->cursor : 0;
  if (cursor_ == 0 || cursor_ >> kCursorBits != 0) {
    cursor_ = 0;
    ++node_;
  }
  if (!step) return Next();
  const auto join = std::make_shared<RedisJoin>([self = shared_from_this()](const Status&) { self->Next(); });
  for (const std::string& key : step->keys) {
    const auto name = RedisNameInKey(key);
    if (!name) continue;
    core_.ReadHead(*name, RedisLane::kPrefetch, nullptr,
                   [self = shared_from_this(), join](Result<RedisHead> head) {
                     if (self->done_ && head) self->page_.records.push_back(std::move(head->head.header));
                   });
  }
}

void RedisList::End() {
  if (!done_) return;
  deadline_->Cancel();
  page_.cursor = node_ >= nodes_.size() ? 0 : static_cast<uint64_t>(node_) << kCursorBits | cursor_;
  std::exchange(done_, nullptr)(std::move(page_));
}

}  // namespace larder
