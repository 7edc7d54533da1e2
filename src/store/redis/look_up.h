// Tier::Find and Tier::Children over Redis.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "store/redis/core.h"

namespace larder {

class RedisFind : public std::enable_shared_from_this<RedisFind> {
 public:
  RedisFind(RedisCore& core, std::vector<Digest> names, Tier::FindDone done);
  RedisFind(const RedisFind&) = delete;
  RedisFind& operator=(const RedisFind&) = delete;
  void Start(int64_t deadline_ns);

 private:
  void End(Result<std::vector<bool>> found);

  RedisCore& core_;
  const std::vector<Digest> names_;
  Tier::FindDone done_;
  std::optional<RedisDeadline> deadline_;
  const std::shared_ptr<bool> abandoned_ = std::make_shared<bool>(false);
  std::vector<bool> found_;
  size_t answered_ = 0;  // rightly
};

class RedisChildren : public std::enable_shared_from_this<RedisChildren> {
 public:
  RedisChildren(RedisCore& core, const Digest& parent, size_t limit, Tier::ChildrenDone done);
  RedisChildren(const RedisChildren&) = delete;
  RedisChildren& operator=(const RedisChildren&) = delete;
  void Start(int64_t deadline_ns);

 private:
  void Named(Result<RespValue> answer);
  void HeadArrived(size_t index, const Digest& name, Result<RedisHead> head);
  void End(Result<std::vector<RecordHeader>> children);

  RedisCore& core_;
  const Digest parent_;
  const size_t limit_;
  Tier::ChildrenDone done_;
  std::optional<RedisDeadline> deadline_;
  const std::shared_ptr<bool> abandoned_ = std::make_shared<bool>(false);
  std::vector<std::optional<RecordHeader>> children_;  // in the order of the list
};

}  // namespace larder
