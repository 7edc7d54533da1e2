// One record on its way to Redis: look whether the name is there, seal, write the parts behind the first,
// then the first with NX, which makes the record visible, then its parent's list of children.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "store/redis/core.h"

namespace larder {

class RedisPut : public std::enable_shared_from_this<RedisPut> {
 public:
  RedisPut(RedisCore& core, RecordHeader header, RecordPayload payload, std::function<void(Status)> done);
  RedisPut(const RedisPut&) = delete;
  RedisPut& operator=(const RedisPut&) = delete;

  const RecordHeader& header() const { return header_; }
  bool ended() const { return ended_; }
  void Start(std::function<void()> over);
  void End(Status status);

 private:
  void LookedUp(Result<RedisHead> there);
  void Compare(const RedisHead& there);
  void Write();
  Result<std::string> Encode();
  std::shared_ptr<const RespCommand> SetCommand(const std::string& key, std::string_view value,
                                                bool if_absent) const;
  void WriteParts();
  void WriteFirst();
  void FirstWritten(Result<RespValue> answer);
  void DropParts();
  void Link();

  RedisCore& core_;
  const RecordHeader header_;
  RecordPayload payload_;
  std::function<void(Status)> done_;
  std::function<void()> over_;
  const int64_t started_ns_;
  const std::shared_ptr<bool> abandoned_ = std::make_shared<bool>(false);
  std::optional<RedisDeadline> deadline_;
  RecordHead head_;
  RedisPlace place_;
  std::string stream_;  // head and groups as stored
  bool written_ = false, ended_ = false;
};

}  // namespace larder
