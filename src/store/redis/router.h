// Commands to the node that has their key. With one endpoint in the URL there is one node and redirections
// are refused: a single server cannot send us (and our password) elsewhere. With several, the slots' owners
// are asked for, MOVED and ASK are followed, and the map is fetched anew when it proved wrong.
#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "store/redis/node.h"
#include "store/redis/slots.h"

namespace larder {

// The type that a command's answer has. kStored: OK, or nil where nothing was to be overwritten.
enum class RedisReply : uint8_t { kAny, kInteger, kString, kArray, kStored };

// What a command asks for, besides its text.
struct RedisRequest {
  std::shared_ptr<const RespCommand> text;
  size_t max_reply_bytes = 512;
  RedisLane lane = RedisLane::kRequest;
  RedisReply reply = RedisReply::kAny;  // another one is wrong, and `done` has kUnavailable
  std::shared_ptr<const bool> abandoned;
  // Exactly once, never from inside Submit. kExhausted: the server is out of memory; kUnavailable: see
  // RedisCommand; kIo: another error that the server answered.
  std::function<void(Result<RespValue>)> done;
};

class RedisRouter {
 public:
  RedisRouter(boost::asio::io_context& io, const RedisOptions& options, const RedisUrl& url,
              boost::asio::ssl::context* tls, Clock& clock);
  RedisRouter(const RedisRouter&) = delete;
  RedisRouter& operator=(const RedisRouter&) = delete;

  void Start();  // connects
  void Submit(std::string_view key, RedisRequest request);
  void SubmitTo(const std::shared_ptr<RedisNode>& node, RedisRequest request);
  // What came from under this key was verified, or was not what it has to be.
  void AnsweredRight(std::string_view key) { slots_[RedisSlot(key)]->AnsweredRight(); }
  void AnsweredWrong(std::string_view key, std::string_view what) {
    slots_[RedisSlot(key)]->AnsweredWrong(what);
  }
  // Fetches the map of the cluster; at once for a single node.
  void Refresh(std::function<void(Status)> done);
  std::vector<std::shared_ptr<RedisNode>> Masters() const;
  bool healthy() const { return context_.open_circuits == 0; }  // from any thread
  uint64_t failures() const { return failures_; }               // from any thread
  void Close();

 private:
  using Node = std::shared_ptr<RedisNode>;
  struct Routed {
    RedisRequest request;
    int redirections = 0;
  };

  bool cluster() const { return url_.endpoints.size() > 1; }
  Node NodeAt(const RedisEndpoint& endpoint);  // null: too many
  void Dispatch(const std::shared_ptr<Routed>& routed, const Node& node, bool asking);
  void Answered(const std::shared_ptr<Routed>& routed, const Node& node, Result<RespValue> answer);
  // True if the error was a redirection that is followed.
  bool Follow(const std::shared_ptr<Routed>& routed, const Node& node, std::string_view error);
  void RefreshSoon();
  Status Apply(const RespValue& reply, const RedisEndpoint& asked);

  boost::asio::io_context& io_;
  const RedisUrl& url_;
  Clock& clock_;
  RedisNodeContext context_;
  std::map<std::string, Node> nodes_;  // by host:port
  std::vector<Node> slots_;            // kRedisSlots
  bool refreshing_ = false, closed_ = false;
  int64_t next_refresh_ns_ = 0;
  size_t next_asked_ = 0;
  std::atomic<uint64_t> failures_ = 0;
};

}  // namespace larder
