#include "store/redis/look_up.h"

#include <algorithm>
#include <utility>

namespace larder {

RedisFind::RedisFind(RedisCore& core, std::vector<Digest> names, Tier::FindDone done)
    : core_(core), names_(std::move(names)), done_(std::move(done)), found_(names_.size()) {}

void RedisFind::Start(int64_t deadline_ns) {
  deadline_.emplace(core_, deadline_ns, [self = shared_from_this()] {
    self->core_.Count([](TierStats& stats) { ++stats.slow_reads; });
    self->End(Fail(ErrorKind::kSlow, "Redis did not answer before the deadline"));
  });
  // Of a cluster some nodes may be away; only when all are, the question has no answer.
  const auto join = std::make_shared<RedisJoin>([self = shared_from_this()](const Status& status) {
    if (!status && self->answered_ == 0) return self->End(std::unexpected(status.error()));
    self->End(std::move(self->found_));
  });
  for (size_t i = 0; i < names_.size(); ++i) {
    const std::string key = RedisHeadKey(names_[i]);
    core_.router.Submit(key, {.text = RedisText("EXISTS", key),
                              .reply = RedisReply::kInteger,
                              .abandoned = abandoned_,
                              .done = [self = shared_from_this(), join, i](const Result<RespValue>& answer) {
                                if (!answer) return join->Note(std::unexpected(answer.error()));
                                if (!self->done_) return;
                                ++self->answered_;
                                self->found_[i] = answer->integer == 1;
                              }});
  }
}

void RedisFind::End(Result<std::vector<bool>> found) {
  if (!done_) return;
  deadline_->Cancel();
  *abandoned_ = true;
  if (found) {
    const auto hits = static_cast<uint64_t>(std::ranges::count(*found, true));
    core_.Count([&](TierStats& stats) {
      stats.hits += hits;
      stats.misses += found->size() - hits;
    });
  }
  std::exchange(done_, nullptr)(std::move(found));
}

RedisChildren::RedisChildren(RedisCore& core, const Digest& parent, size_t limit, Tier::ChildrenDone done)
    : core_(core), parent_(parent), limit_(std::min(limit, kRedisMaxChildren)), done_(std::move(done)) {}

void RedisChildren::Start(int64_t deadline_ns) {
  deadline_.emplace(core_, deadline_ns, [self = shared_from_this()] {
    self->core_.Count([](TierStats& stats) { ++stats.slow_reads; });
    self->End(Fail(ErrorKind::kSlow, "Redis did not answer before the deadline"));
  });
  if (limit_ == 0) return End(std::vector<RecordHeader>());
  const std::string key = RedisChildrenKey(parent_);
  core_.router.Submit(key, {.text = RedisText("ZREVRANGE", key, "0", std::to_string(limit_ - 1)),
                            .max_reply_bytes = limit_ * 256,
                            .reply = RedisReply::kArray,
                            .abandoned = abandoned_,
                            .done = [self = shared_from_this()](Result<RespValue> answer) {
                              self->Named(std::move(answer));
                            }});
}

void RedisChildren::Named(Result<RespValue> answer) {
  if (!done_) return;
  if (!answer) return End(std::unexpected(std::move(answer).error()));
  const auto join = std::make_shared<RedisJoin>([self = shared_from_this()](const Status&) {
    std::vector<RecordHeader> out;
    for (auto& child : self->children_) {
      if (child) out.push_back(std::move(*child));
    }
    self->End(std::move(out));
  });
  const size_t count = std::min(answer->elements.size(), limit_);
  children_.resize(count);
  for (size_t i = 0; i < count; ++i) {
    Digest name;
    const std::string& member = answer->elements[i].text;
    if (member.size() != name.bytes.size()) continue;
    std::ranges::copy(member, name.bytes.begin());
    core_.ReadHead(name, RedisLane::kRequest, abandoned_,
                   [self = shared_from_this(), join, i, name](Result<RedisHead> head) {
                     self->HeadArrived(i, name, std::move(head));
                   });
  }
}

void RedisChildren::HeadArrived(size_t index, const Digest& name, Result<RedisHead> head) {
  if (!done_) return;
  if (head && head->head.header.parent == parent_) {
    children_[index] = std::move(head->head.header);
  } else if (head || head.error().kind == ErrorKind::kNotFound) {
    core_.ForgetChild(parent_, name, [](const Status&) {});  // evicted, or another's child
  }
}

void RedisChildren::End(Result<std::vector<RecordHeader>> children) {
  if (!done_) return;
  deadline_->Cancel();
  *abandoned_ = true;
  std::exchange(done_, nullptr)(std::move(children));
}

}  // namespace larder
