// One Redis server: a connection made when it is wanted, commands pipelined over it in order of urgency, and
// a circuit breaker. All of it on the thread that runs the io_context; answers never come from inside a call.
//
// A server that answers and answers wrongly has failed, too: with another type than a command has, or with
// bytes that do not verify. As many of these as of failures, with nothing right between them, open the
// circuit, and after the back-off the first wrong one opens it again. Only bytes that were verified are
// right.
//
// States: closed (no connection; the next command makes one), opening, ready. The circuit opens after a
// failed attempt to connect or `failures_to_open` failures in a row; commands are then refused at once until
// a back-off has passed. The next command after it is refused too, but starts an attempt, which closes the
// circuit if it succeeds: no caller waits for a server that was just down.
#pragma once

#include <array>
#include <atomic>
#include <boost/asio/steady_timer.hpp>
#include <deque>
#include <functional>
#include <memory>
#include <string>

#include "base/clock.h"
#include "store/redis/connection.h"
#include "store/redis/redis_tier.h"
#include "store/redis/resp.h"

namespace larder {

enum class RedisLane : uint8_t { kRequest, kPrefetch, kWrite };
inline constexpr size_t kRedisLanes = 3;

struct RedisCommand {
  std::shared_ptr<const RespCommand> text;  // shared with the write under way, and sent again after MOVED
  size_t max_reply_bytes = 0;               // a larger answer ends the connection
  RedisLane lane = RedisLane::kRequest;
  bool asking = false;                    // preceded by ASKING
  std::shared_ptr<const bool> abandoned;  // true: nobody waits any more, need not be sent; null: never
  // Exactly once. kUnavailable: refused by the breaker, connection lost or timed out. An error that the
  // server answers is a value here.
  std::function<void(Result<RespValue>)> done;

  size_t weight() const { return text->size() + max_reply_bytes; }
};

// What is the same for all nodes of a tier.
struct RedisNodeContext {
  boost::asio::io_context& io;
  const RedisOptions& options;
  const RedisUrl& url;
  boost::asio::ssl::context* tls;  // null: plain
  Clock& clock;
  std::function<void()> on_failure;  // a connection was lost or not made, or an answer was wrong
  std::atomic<int> open_circuits = 0;
};

class RedisNode : public std::enable_shared_from_this<RedisNode> {
 public:
  RedisNode(RedisNodeContext& context, RedisEndpoint endpoint);
  RedisNode(const RedisNode&) = delete;
  RedisNode& operator=(const RedisNode&) = delete;

  const RedisEndpoint& endpoint() const { return endpoint_; }
  bool healthy() const { return !circuit_open_; }
  bool idle() const { return in_flight_.empty() && QueueEmpty(); }
  void Submit(RedisCommand command);
  void AnsweredRight();
  void AnsweredWrong(std::string_view what);
  void Close();  // fails what is under way; for the end

 private:
  enum class State : uint8_t { kClosed, kOpening, kReady };
  struct InFlight {
    bool asking_answered = true;
    RedisCommand command;
  };

  bool QueueEmpty() const;
  void Refuse(RedisCommand command, Error error);
  void Connect();
  void SayHello();
  void HelloAnswered(const RespValue& answer, bool last);
  void Ready();
  void Pump();
  void Received(std::string_view bytes);
  void Answered(RespValue answer);
  void WatchFront();
  void Broken(Error error, bool connecting);
  void Drop(const Error& error);
  void OpenCircuit(const Error& error);
  void SetCircuit(bool open);

  RedisNodeContext& context_;
  const RedisEndpoint endpoint_;
  State state_ = State::kClosed;
  std::shared_ptr<RedisConnection> connection_;
  std::unique_ptr<RespReader> reader_;
  std::array<std::deque<RedisCommand>, kRedisLanes> queues_;
  std::deque<InFlight> in_flight_;
  size_t in_flight_bytes_ = 0, hello_answers_ = 0;
  bool writing_ = false;
  boost::asio::steady_timer timer_;  // of the first command in flight, or of the hello

  bool circuit_open_ = false;
  int failures_ = 0;  // in a row
  int wrong_ = 0;     // answers since the last right one
  int64_t backoff_ms_ = 0, retry_at_ns_ = 0;
};

}  // namespace larder
