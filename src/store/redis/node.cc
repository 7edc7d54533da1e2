#include "store/redis/node.h"

#include <algorithm>
#include <boost/asio/post.hpp>
#include <chrono>
#include <utility>

#include "base/log.h"

namespace larder {
namespace {

namespace asio = boost::asio;

constexpr size_t kHelloReplyBytes = 4096;

const RespCommand& AskingCommand() {
  static const RespCommand command{"ASKING"};
  return command;
}

}  // namespace

RedisNode::RedisNode(RedisNodeContext& context, RedisEndpoint endpoint)
    : context_(context), endpoint_(std::move(endpoint)), timer_(context.io) {}

bool RedisNode::QueueEmpty() const {
  return std::ranges::all_of(queues_, [](const auto& queue) { return queue.empty(); });
}

void RedisNode::Refuse(RedisCommand command, Error error) {
  asio::post(context_.io, [done = std::move(command.done), error = std::move(error)]() mutable {
    done(std::unexpected(std::move(error)));
  });
}

void RedisNode::Submit(RedisCommand command) {
  if (circuit_open_) {
    if (state_ == State::kClosed && context_.clock.NowNs() >= retry_at_ns_) Connect();
    return Refuse(std::move(command),
                  {ErrorKind::kUnavailable,
                   fmt::format("the Redis server {} failed lately and is left alone for a while",
                               endpoint_.ToString())});
  }
  queues_[static_cast<size_t>(command.lane)].push_back(std::move(command));
  if (state_ == State::kClosed) return Connect();
  Pump();
}

void RedisNode::Connect() {
  state_ = State::kOpening;
  reader_ = std::make_unique<RespReader>();
  hello_answers_ = 0;
  // The connection is ours and ends with us, but a handler may still run: it holds us weakly.
  const std::weak_ptr<RedisNode> weak = weak_from_this();
  const auto with_node = [weak](auto member) {
    return [weak, member](auto&&... arguments) {
      if (const auto node = weak.lock()) member(*node, std::forward<decltype(arguments)>(arguments)...);
    };
  };
  connection_ = std::make_shared<RedisConnection>(
      context_.io, endpoint_, context_.tls, context_.options.tls_verify,
      RedisConnection::Events{
          .open = with_node([](RedisNode& node) { node.SayHello(); }),
          .received = with_node([](RedisNode& node, std::string_view bytes) { node.Received(bytes); }),
          .written = with_node([](RedisNode& node) {
            node.writing_ = false;
            node.Pump();
          }),
          .closed = with_node([](RedisNode& node, Error error) {
            node.Broken(std::move(error), node.state_ == State::kOpening);
          })});
  connection_->Open(context_.options.connect_timeout_ms);
}

// Logs in and asks for one answer, so that "ready" means a server that answers.
void RedisNode::SayHello() {
  auto texts = std::make_shared<std::vector<RespCommand>>();
  if (!context_.url.password.empty()) {
    if (context_.url.user.empty()) {
      texts->push_back(RespCommand{"AUTH", context_.url.password});
    } else {
      texts->push_back(RespCommand{"AUTH", context_.url.user, context_.url.password});
    }
  }
  texts->push_back(RespCommand{"PING"});
  hello_answers_ = texts->size();
  std::vector<std::string_view> views;
  for (const RespCommand& text : *texts) views.push_back(text.text());
  timer_.expires_after(std::chrono::milliseconds(context_.options.connect_timeout_ms));
  timer_.async_wait([weak = weak_from_this(),
                     connection = connection_](const boost::system::error_code& error) {
    const auto node = weak.lock();
    if (error || !node || node->connection_ != connection || node->state_ != State::kOpening) return;
    node->Broken(
        {ErrorKind::kUnavailable, fmt::format("the Redis server {} accepts connections and does not answer",
                                              node->endpoint_.ToString())},
        true);
  });
  writing_ = true;
  connection_->Write(views, texts);
}

void RedisNode::HelloAnswered(const RespValue& answer, bool last) {
  if (answer.type == RespValue::Type::kError || (last && !answer.IsStatus("PONG")))
    return Broken({ErrorKind::kUnavailable,
                   fmt::format("the Redis server {} refuses us: {}", endpoint_.ToString(), answer.text)},
                  true);
  if (last) Ready();
}

void RedisNode::Ready() {
  state_ = State::kReady;
  timer_.cancel();
  if (circuit_open_) {
    LogInfo("the Redis server {} answers again", endpoint_.ToString());
    SetCircuit(false);
    failures_ = context_.options.failures_to_open - 1;  // one more opens it: it has yet to prove itself
  }
  Pump();
}

void RedisNode::Pump() {
  if (state_ != State::kReady || writing_) return;
  std::vector<std::string_view> views;
  const auto texts = std::make_shared<std::vector<std::shared_ptr<const RespCommand>>>();
  const bool watched = !in_flight_.empty();
  for (auto& queue : queues_) {
    while (!queue.empty()) {
      RedisCommand& next = queue.front();
      if (next.abandoned && *next.abandoned) {
        Refuse(std::move(next), {ErrorKind::kCancelled, "nobody waits for this any more"});
        queue.pop_front();
        continue;
      }
      const size_t weight = next.weight();
      if (!in_flight_.empty() && in_flight_bytes_ + weight > context_.options.max_in_flight_bytes) break;
      if (next.asking) views.push_back(AskingCommand().text());
      views.push_back(next.text->text());
      texts->push_back(next.text);
      in_flight_bytes_ += weight;
      in_flight_.push_back({.asking_answered = !next.asking, .command = std::move(next)});
      queue.pop_front();
    }
    // What is urgent and does not fit yet must not be overtaken by what is not.
    if (!queue.empty()) break;
  }
  if (views.empty()) return;
  writing_ = true;
  connection_->Write(views, texts);
  if (!watched) WatchFront();
}

void RedisNode::Received(std::string_view bytes) {
  if (const Status fed = reader_->Feed(bytes); !fed) return Broken(fed.error(), state_ == State::kOpening);
  const std::shared_ptr<RedisConnection> connection = connection_;
  while (connection_ == connection && state_ != State::kClosed) {
    const bool opening = state_ == State::kOpening;
    if ((opening && hello_answers_ == 0) || (!opening && in_flight_.empty())) {
      if (reader_->buffered() > 0)
        Broken({ErrorKind::kCorrupt,
                fmt::format("the Redis server {} answers what nobody asked", endpoint_.ToString())},
               opening);
      return;
    }
    const size_t limit = opening                              ? kHelloReplyBytes
                         : in_flight_.front().asking_answered ? in_flight_.front().command.max_reply_bytes
                                                              : kHelloReplyBytes;
    auto answer = reader_->Next(limit);
    if (!answer) return Broken(answer.error(), opening);
    if (!*answer) return;
    if (opening) {
      --hello_answers_;
      HelloAnswered(**answer, hello_answers_ == 0);
    } else {
      Answered(std::move(**answer));
    }
  }
}

void RedisNode::Answered(RespValue answer) {
  InFlight& front = in_flight_.front();
  failures_ = 0;
  if (wrong_ < context_.options.failures_to_open) backoff_ms_ = 0;
  if (!front.asking_answered) {
    front.asking_answered = true;
    return;
  }
  InFlight answered = std::move(front);
  in_flight_.pop_front();
  in_flight_bytes_ -= answered.command.weight();
  WatchFront();
  answered.command.done(std::move(answer));
  Pump();
}

// The first in line has its time from when it became first, the others wait behind it.
void RedisNode::WatchFront() {
  if (in_flight_.empty()) {
    timer_.cancel();
    return;
  }
  timer_.expires_after(std::chrono::milliseconds(context_.options.command_timeout_ms));
  timer_.async_wait(
      [weak = weak_from_this(), connection = connection_](const boost::system::error_code& error) {
        const auto node = weak.lock();
        if (error || !node || node->connection_ != connection || node->in_flight_.empty()) return;
        if (node->timer_.expiry() > std::chrono::steady_clock::now()) return;  // set anew meanwhile
        node->Broken({ErrorKind::kUnavailable,
                      fmt::format("the Redis server {} does not answer", node->endpoint_.ToString())},
                     false);
      });
}

void RedisNode::Broken(Error error, bool connecting) {
  if (state_ == State::kClosed) return;
  // A server that closes an idle connection has done nothing wrong.
  const bool idle_close = !connecting && idle() && error.kind == ErrorKind::kUnavailable;
  if (!idle_close) {
    ++failures_;
    if (connecting || failures_ >= context_.options.failures_to_open) OpenCircuit(error);
  }
  Drop(error);
  if (!idle_close) context_.on_failure();
}

void RedisNode::AnsweredRight() {
  wrong_ = 0;
  backoff_ms_ = 0;
}

void RedisNode::AnsweredWrong(std::string_view what) {
  ++wrong_;
  if (state_ == State::kReady && wrong_ >= context_.options.failures_to_open) {
    const Error error{ErrorKind::kUnavailable,
                      fmt::format("the Redis server {} answers wrongly: {}", endpoint_.ToString(), what)};
    OpenCircuit(error);
    Drop(error);
  }
  context_.on_failure();
}

void RedisNode::Drop(const Error& error) {
  if (state_ == State::kClosed) return;
  state_ = State::kClosed;
  timer_.cancel();
  connection_->Close();
  connection_.reset();
  writing_ = false;
  in_flight_bytes_ = 0;
  std::vector<RedisCommand> lost;
  for (InFlight& sent : std::exchange(in_flight_, {})) lost.push_back(std::move(sent.command));
  for (auto& queue : queues_) {
    for (RedisCommand& command : std::exchange(queue, {})) lost.push_back(std::move(command));
  }
  // What a server sent wrongly is its fault and not the record's: for the callers it is unavailable.
  for (RedisCommand& command : lost) Refuse(std::move(command), {ErrorKind::kUnavailable, error.message});
}

void RedisNode::OpenCircuit(const Error& error) {
  backoff_ms_ = backoff_ms_ == 0 ? context_.options.backoff_ms
                                 : std::min(2 * backoff_ms_, context_.options.max_backoff_ms);
  retry_at_ns_ = context_.clock.NowNs() + backoff_ms_ * 1'000'000;
  if (!circuit_open_) LogWarn("{}; left alone, tried again now and then", error.message);
  SetCircuit(true);
}

void RedisNode::SetCircuit(bool open) {
  if (circuit_open_ != open) context_.open_circuits += open ? 1 : -1;
  circuit_open_ = open;
}

void RedisNode::Close() {
  SetCircuit(false);
  Drop({ErrorKind::kUnavailable, "the connection to this Redis server ends"});
}

}  // namespace larder
