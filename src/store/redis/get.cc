#include "store/redis/get.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace larder {

RedisGet::RedisGet(RedisCore& core, const std::vector<RecordRead>& items, RedisLane lane,
                   GetCallbacks callbacks, std::function<void()> over)
    : core_(core),
      lane_(lane),
      callbacks_(std::move(callbacks)),
      over_(std::move(over)),
      started_ns_(core.clock.NowNs()),
      heads_left_(items.size()) {
  for (const RecordRead& read : items) {
    Item& item = items_.emplace_back();
    item.first = std::min<uint32_t>(read.first_group, kMaxRecordGroups);
    item.end = std::clamp<uint32_t>(read.end_group, item.first, kMaxRecordGroups);
    item.groups.resize(item.end);
    item.read = read;
  }
}

void RedisGet::Start(int64_t deadline_ns) {
  if (items_.empty()) return Finish();
  deadline_.emplace(core_, deadline_ns, [self = shared_from_this()] {
    self->core_.Count([](TierStats& stats) { ++stats.slow_reads; });
    self->End({ErrorKind::kSlow, "Redis did not answer before the deadline"});
  });
  for (size_t i = 0; i < items_.size(); ++i) {
    core_.ReadHead(
        items_[i].read.name, lane_, abandoned_,
        [self = shared_from_this(), i](Result<RedisHead> head) { self->HeadArrived(i, std::move(head)); });
  }
}

void RedisGet::HeadArrived(size_t index, Result<RedisHead> head) {
  if (finished_) return;
  Item& item = items_[index];
  if (!head) {
    FailItem(item, head.error());
  } else if (const Status accepted = Accept(index, *head); !accepted) {
    FailItem(item, accepted.error());
  } else {
    const auto groups = static_cast<uint32_t>(head->head.groups.size());
    item.end = std::min(item.end, groups);
    item.first = std::min(item.first, item.end);
    item.groups.resize(item.end);
    item.pieces_left.resize(item.end);
    item.found = std::move(*head);
  }
  if (--heads_left_ > 0) return;
  SetBounds();
  for (uint32_t group = next_group_; group < end_group_; ++group) {
    for (size_t i = 0; i < items_.size(); ++i) {
      if (items_[i].found && group >= items_[i].first && group < items_[i].end) ReadGroup(i, group);
    }
  }
  Advance();
}

Status RedisGet::Accept(size_t index, const RedisHead& head) {
  if (callbacks_.accept) LARDER_TRY(callbacks_.accept(index, head.head.header));
  const uint64_t payload = head.head.header.payload_bytes();
  if (items_[index].read.destination.size() < payload)
    return Fail(ErrorKind::kInvalid, "the record has {} bytes and there is room for {}", payload,
                items_[index].read.destination.size());
  return {};
}

void RedisGet::FailItem(Item& item, const Error& error) {
  for (uint32_t group = item.first; group < item.end; ++group) {
    if (!item.groups[group]) item.groups[group] = std::unexpected(error);
  }
}

std::span<std::byte> RedisGet::GroupBytes(const Item& item, uint32_t group) const {
  const StoredGroup& stored = item.found->head.groups[group];
  return item.read.destination.subspan(stored.offset, stored.bytes);
}

// A group's bytes may lie in several parts; each is a command of its own.
void RedisGet::ReadGroup(size_t index, uint32_t group) {
  Item& item = items_[index];
  const RedisPlace& place = item.found->place;
  const StoredGroup& stored = item.found->head.groups[group];
  if (stored.bytes == 0) return GroupArrived(item, group);
  uint64_t position = place.head_bytes + stored.offset;
  const uint64_t end = position + stored.bytes;
  while (position < end) {
    const uint64_t part = position / kRedisPartBytes;
    const uint64_t part_end = std::min(end, (part + 1) * kRedisPartBytes);
    const uint64_t first = position - part * kRedisPartBytes, last = part_end - part * kRedisPartBytes - 1;
    const uint64_t offset = position - place.head_bytes - stored.offset, bytes = part_end - position;
    const std::string key = RedisPartKey(place, part);
    ++item.pieces_left[group];
    core_.router.Submit(
        key, {.text = RedisText("GETRANGE", key, std::to_string(first), std::to_string(last)),
              .max_reply_bytes = bytes,
              .lane = lane_,
              .reply = RedisReply::kString,
              .abandoned = abandoned_,
              .done = [self = shared_from_this(), index, group, offset, bytes](Result<RespValue> answer) {
                self->PieceArrived(index, group, offset, bytes, std::move(answer));
              }});
    position = part_end;
  }
}

void RedisGet::PieceArrived(size_t index, uint32_t group, uint64_t offset, uint64_t bytes,
                            Result<RespValue> answer) {
  Item& item = items_[index];
  if (finished_ || item.groups[group]) return;
  if (!answer) {
    item.groups[group] = std::unexpected(std::move(answer).error());
  } else if (answer->text.size() != bytes) {
    // Redis evicts keys and not records: without one of its parts the others are of no use.
    const bool evicted = answer->text.empty();
    item.groups[group] = evicted ? Fail(ErrorKind::kNotFound, "a part of the record was evicted")
                                 : Fail(ErrorKind::kCorrupt, "a part of the record has another size");
    Lose(item, group, evicted);
  } else {
    std::memcpy(GroupBytes(item, group).data() + offset, answer->text.data(), bytes);
    if (--item.pieces_left[group] == 0) GroupArrived(item, group);
  }
  Advance();
}

void RedisGet::GroupArrived(Item& item, uint32_t group) {
  const Status status = DecodeGroup(item.found->head, group, GroupBytes(item, group), core_.sealer);
  item.groups[group] = status;
  if (!status && status.error().kind == ErrorKind::kCorrupt) Lose(item, group, false);
  if (status) {
    core_.router.AnsweredRight(FirstKeyOf(item, group));
    const uint64_t bytes = item.found->head.groups[group].bytes;
    core_.Count([bytes](TierStats& stats) { stats.read_bytes += bytes; });
  }
}

std::string RedisGet::FirstKeyOf(const Item& item, uint32_t group) {
  const RedisPlace& place = item.found->place;
  return RedisPartKey(place, (place.head_bytes + item.found->head.groups[group].offset) / kRedisPartBytes);
}

// A bad record is one wrong answer, however many of its groups do not verify.
void RedisGet::Lose(Item& item, uint32_t group, bool evicted) {
  if (std::exchange(item.lost, true)) return;
  if (!evicted) {
    core_.DeleteBad(item.found->place);
    return core_.router.AnsweredWrong(FirstKeyOf(item, group), "a record that does not verify");
  }
  core_.Count([](TierStats& stats) { ++stats.evicted_records; });
  core_.Delete(item.found->place, nullptr);
}

void RedisGet::SetBounds() {
  next_group_ = kMaxRecordGroups;
  for (const Item& item : items_) {
    next_group_ = std::min(next_group_, item.read.first_group);
    end_group_ = std::max(end_group_, item.end);
  }
}

// Reports the groups that are final, in order.
void RedisGet::Advance() {
  if (finished_ || heads_left_ > 0) return;
  std::vector<Status> statuses(items_.size());
  for (; next_group_ < end_group_; ++next_group_) {
    for (size_t i = 0; i < items_.size(); ++i) {
      const Item& item = items_[i];
      statuses[i] = {};
      if (next_group_ < item.first || next_group_ >= item.end) continue;
      if (!item.groups[next_group_]) return;
      statuses[i] = *item.groups[next_group_];
    }
    if (callbacks_.group_done) callbacks_.group_done(next_group_, statuses);
  }
  Finish();
}

void RedisGet::End(const Error& error) {
  if (finished_) return;
  for (Item& item : items_) FailItem(item, error);
  if (std::exchange(heads_left_, 0) > 0) SetBounds();
  Advance();
}

void RedisGet::Finish() {
  if (std::exchange(finished_, true)) return;
  *abandoned_ = true;
  if (deadline_) deadline_->Cancel();
  const auto delivered = std::ranges::count_if(items_, [](const Item& item) {
    return item.found && std::all_of(item.groups.begin() + item.first, item.groups.end(),
                                     [](const auto& status) { return status && *status; });
  });
  const int64_t took_ns = core_.clock.NowNs() - started_ns_;
  core_.Count([&](TierStats& stats) {
    stats.read_records += static_cast<uint64_t>(delivered);
    stats.read_ns += static_cast<uint64_t>(delivered * took_ns);
  });
  over_();
  if (callbacks_.done) callbacks_.done();
}

}  // namespace larder
