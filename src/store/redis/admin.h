// Removing, wiping and listing: what an operator asks for, slowly and completely.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "store/redis/core.h"

namespace larder {

// Deletes the records of these names; names that are not there are no error.
void RedisRemove(RedisCore& core, const std::vector<Digest>& names, std::function<void(Status)> done);

// One step of SCAN on one node: keys that match, and where to go on (0: the node is through).
struct RedisScanStep {
  std::vector<std::string> keys;
  uint64_t cursor = 0;
};
void RedisScan(RedisCore& core, const std::shared_ptr<RedisNode>& node, uint64_t cursor,
               const std::string& pattern, size_t count, std::function<void(Result<RedisScanStep>)> done);

// Deletes everything of a space: its parts by their keys, its records by their heads, which are all read.
class RedisWipe : public std::enable_shared_from_this<RedisWipe> {
 public:
  RedisWipe(RedisCore& core, const SpaceId& space, std::function<void(Status)> done);
  RedisWipe(const RedisWipe&) = delete;
  RedisWipe& operator=(const RedisWipe&) = delete;
  void Start();

 private:
  void Next();
  void Scanned(Result<RedisScanStep> step);
  void Look(const std::string& key, const std::shared_ptr<RedisJoin>& join);
  void End(Status status);

  RedisCore& core_;
  const SpaceId space_;
  const std::string part_prefix_;
  std::function<void(Status)> done_;
  std::optional<RedisDeadline> deadline_;
  std::vector<std::shared_ptr<RedisNode>> nodes_;
  size_t node_ = 0;
  uint64_t cursor_ = 0;
};

// Records from a cursor on, which holds the number of the node in its highest byte and SCAN's own below.
class RedisList : public std::enable_shared_from_this<RedisList> {
 public:
  struct Page {
    std::vector<RecordHeader> records;
    uint64_t cursor = 0;
  };
  RedisList(RedisCore& core, uint64_t cursor, size_t limit, std::function<void(Page)> done);
  RedisList(const RedisList&) = delete;
  RedisList& operator=(const RedisList&) = delete;
  void Start();

 private:
  void Next();
  void Scanned(Result<RedisScanStep> step);
  void End();

  RedisCore& core_;
  const size_t limit_;
  std::function<void(Page)> done_;
  std::optional<RedisDeadline> deadline_;
  std::vector<std::shared_ptr<RedisNode>> nodes_;
  size_t node_;
  uint64_t cursor_;
  Page page_;
};

}  // namespace larder
