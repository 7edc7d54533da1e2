// Tier::Get over Redis: the heads of all items in one round, then their groups, group after group, so that
// the first layers arrive first.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "store/redis/core.h"

namespace larder {

class RedisGet : public std::enable_shared_from_this<RedisGet> {
 public:
  RedisGet(RedisCore& core, const std::vector<RecordRead>& items, RedisLane lane, GetCallbacks callbacks,
           std::function<void()> over);
  RedisGet(const RedisGet&) = delete;
  RedisGet& operator=(const RedisGet&) = delete;

  void Start(int64_t deadline_ns);
  // What is not final yet gets this error.
  void End(const Error& error);

 private:
  struct Item {
    RecordRead read;
    std::optional<RedisHead> found;
    uint32_t first = 0, end = 0;                // groups, cut to the record's once it is known
    std::vector<std::optional<Status>> groups;  // by number; nothing: not final
    std::vector<uint32_t> pieces_left;
    bool lost = false;  // its deletion is under way
  };

  void HeadArrived(size_t index, Result<RedisHead> head);
  Status Accept(size_t index, const RedisHead& head);
  void FailItem(Item& item, const Error& error);
  void ReadGroup(size_t index, uint32_t group);
  void PieceArrived(size_t index, uint32_t group, uint64_t offset, uint64_t bytes, Result<RespValue> answer);
  void GroupArrived(Item& item, uint32_t group);
  static std::string FirstKeyOf(const Item& item, uint32_t group);  // of its bytes
  void Lose(Item& item, uint32_t group, bool evicted);
  void SetBounds();
  void Advance();
  void Finish();
  std::span<std::byte> GroupBytes(const Item& item, uint32_t group) const;

  RedisCore& core_;
  std::vector<Item> items_;
  const RedisLane lane_;
  GetCallbacks callbacks_;
  std::function<void()> over_;
  const int64_t started_ns_;
  const std::shared_ptr<bool> abandoned_ = std::make_shared<bool>(false);
  std::optional<RedisDeadline> deadline_;
  size_t heads_left_;
  uint32_t next_group_ = 0, end_group_ = 0;  // of all items, once every head is known
  bool finished_ = false;
};

}  // namespace larder
