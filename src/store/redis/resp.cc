#include "store/redis/resp.h"

#include <hiredis/hiredis.h>

#include <cstdlib>

namespace larder {
namespace {

constexpr size_t kLineBytes = 512;     // what an error line may weigh besides what was asked for
constexpr size_t kElementBytes = 128;  // what an element of an array is charged with: it is memory here

}  // namespace

RespCommand::RespCommand(std::initializer_list<std::string_view> arguments) {
  std::vector<const char*> texts;
  std::vector<size_t> sizes;
  for (const std::string_view argument : arguments) {
    texts.push_back(argument.data() == nullptr ? "" : argument.data());
    sizes.push_back(argument.size());
  }
  char* text = nullptr;
  const int size = redisFormatCommandArgv(&text, static_cast<int>(texts.size()), texts.data(), sizes.data());
  LARDER_CHECK(size > 0);  // only memory can be lacking
  text_.reset(text);
  size_ = static_cast<size_t>(size);
}

void RespCommand::FreeText::operator()(char* text) const { redisFreeCommand(text); }

// What the reader builds with. An object is a RespValue: the root its own allocation, an element in its
// array's vector, so that what hangs together is freed together. A null answer makes the reader fail.
struct RespReader::Callbacks {
  static Limits& LimitsOf(const redisReadTask* task) { return *static_cast<Limits*>(task->privdata); }

  static RespValue* Place(const redisReadTask* task) {
    if (task->parent == nullptr) return new RespValue;
    return &static_cast<RespValue*>(task->parent->obj)->elements.at(static_cast<size_t>(task->idx));
  }

  static bool Charge(const redisReadTask* task, size_t bytes) {
    Limits& limits = LimitsOf(task);
    limits.used_bytes += bytes;
    limits.exceeded = limits.used_bytes > limits.max_bytes + kLineBytes;
    return !limits.exceeded;
  }

  static void* String(const redisReadTask* task, char* text, size_t size) {
    if (!Charge(task, size)) return nullptr;
    RespValue* value = Place(task);
    value->type = task->type == REDIS_REPLY_ERROR    ? RespValue::Type::kError
                  : task->type == REDIS_REPLY_STATUS ? RespValue::Type::kStatus
                                                     : RespValue::Type::kString;
    value->text.assign(text, size);
    return value;
  }
  static void* Array(const redisReadTask* task, int elements) {
    if (elements < 0 || !Charge(task, static_cast<size_t>(elements) * kElementBytes)) return nullptr;
    RespValue* value = Place(task);
    value->type = RespValue::Type::kArray;
    value->elements.resize(static_cast<size_t>(elements));
    return value;
  }
  static void* Integer(const redisReadTask* task,
                       long long number) {  // NOLINT(google-runtime-int): hiredis' type
    RespValue* value = Place(task);
    value->type = RespValue::Type::kInteger;
    value->integer = number;
    return value;
  }
  static void* Nil(const redisReadTask* task) {
    RespValue* value = Place(task);
    value->type = RespValue::Type::kNil;
    return value;
  }
  static void Free(void* object) { delete static_cast<RespValue*>(object); }

  static redisReplyObjectFunctions* Table() {
    static redisReplyObjectFunctions table{String, Array, Integer, Nil, Free};
    return &table;
  }
};

RespReader::RespReader() : reader_(redisReaderCreateWithFunctions(Callbacks::Table())) {
  LARDER_CHECK(reader_ != nullptr);
  reader_->privdata = &limits_;
}

Status RespReader::Feed(std::string_view bytes) {
  if (redisReaderFeed(reader_.get(), bytes.data(), bytes.size()) != REDIS_OK)
    return Fail(ErrorKind::kCorrupt, "the Redis server's answer cannot be read: {}", reader_->errstr);
  return {};
}

Result<std::optional<RespValue>> RespReader::Next(size_t max_bytes) {
  limits_.max_bytes = max_bytes;
  void* object = nullptr;
  const int status = redisReaderGetReply(reader_.get(), &object);
  const std::unique_ptr<RespValue> value(static_cast<RespValue*>(object));
  // An incomplete answer is judged by what has been gathered of it.
  const bool waiting = status == REDIS_OK && value == nullptr;
  if (limits_.exceeded || (waiting && limits_.used_bytes + buffered() > max_bytes + 2 * kLineBytes))
    return Fail(ErrorKind::kCorrupt, "the Redis server answered with more than the {} bytes asked for",
                max_bytes);
  if (status != REDIS_OK)
    return Fail(ErrorKind::kCorrupt, "the Redis server does not speak its protocol: {}", reader_->errstr);
  if (value == nullptr) return std::nullopt;
  limits_.used_bytes = 0;
  return std::move(*value);
}

}  // namespace larder
