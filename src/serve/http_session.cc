#include "serve/http_session.h"

#include <utility>

#include <boost/asio/awaitable.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core/flat_buffer.hpp>

#include <chrono>
#include <exception>
#include <optional>
#include <vector>

#include "base/log.h"
#include "serve/errors.h"
#include "serve/http_head.h"
#include "serve/http_read.h"
#include "serve/tls.h"

namespace larder {

namespace net = boost::asio;
namespace http = boost::beast::http;
using boost::system::error_code;
using std::chrono::seconds;

namespace {

constexpr size_t kReadBytes = 16u << 10;
constexpr size_t kFirstBytes = 2u << 10;     // while a connection rests: thousands do
constexpr size_t kEarlyBytes = 256u << 10;   // of further requests, read while one is being answered
constexpr size_t kDiscardBytes = 64u << 20;  // of a refused request's body, read so that the answer arrives
constexpr size_t kKeptCapacity = 64u << 10;  // of a buffer between two answers
constexpr auto kLinger = seconds(5);

constexpr std::string_view kSpeakTls =
    "HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nContent-Length: 129\r\nConnection: "
    "close\r\n\r\n"
    R"({"error":{"message":"This port speaks HTTPS; use https://.","type":"invalid_request_error","param":null,"code":"https_required"}})";

}  // namespace

class HttpSession final : public std::enable_shared_from_this<HttpSession> {
 public:
  HttpSession(std::shared_ptr<SessionHost> host, int socket, bool ipv6);
  ~HttpSession();
  void Start();
  void Close(bool now);

  // Of the answer in progress; `turn` tells a late call from the present one.
  void Respond(uint64_t turn, const HttpResponse& response);
  void BeginStream(uint64_t turn);
  void Write(uint64_t turn, std::string_view data);
  void EndStream(uint64_t turn, std::string_view last_data);
  void Abort(uint64_t turn);
  void OnGone(uint64_t turn, std::function<void()> function);

 private:
  enum class Step { kOk, kClosed, kTimeout };
  net::awaitable<void> Run();
  net::awaitable<bool> Handshake();
  net::awaitable<bool> ServeOne();
  net::awaitable<error_code> ReadSome(size_t bytes);
  net::awaitable<error_code> ReadSealed(size_t bytes);
  net::awaitable<Step> Fill(size_t bytes = kReadBytes);
  net::awaitable<error_code> ReadHead(RequestParser& parser);
  net::awaitable<error_code> ReadBody(RequestParser& parser);
  net::awaitable<void> WaitForAnswer();
  net::awaitable<void> WaitUntilAnswered();
  net::awaitable<void> Refuse(HttpResponse response);
  net::awaitable<void> Linger();

  void BeginTurn(const HttpRequest& request, bool keep_alive, unsigned version);
  void Answer(const HttpResponse& response);
  void Send(std::string_view data);
  void Flush();
  void FlushLater(size_t sent);
  void Flushed(const error_code& error);
  void EndTurn();
  void Gone();
  void Shut();
  void Arm(seconds timeout);
  void Disarm();
  bool Active(uint64_t turn) const { return !shut_ && answering_ && turn == turn_ && !ending_; }
  ServeContext& context() const { return *host_->context; }

  std::shared_ptr<SessionHost> host_;
  net::ip::tcp::socket socket_;
  net::steady_timer deadline_;  // of reading
  net::steady_timer write_deadline_;
  net::steady_timer answered_;  // cancelled when the answer is complete
  boost::beast::flat_buffer buffer_;
  uint64_t armed_ = 0;  // which of the deadlines is meant
  bool timed_out_ = false, shut_ = false, close_after_ = false, peer_closed_ = false;

  // The answer in progress.
  uint64_t turn_ = 0;
  bool answering_ = false;
  bool ending_ = false;    // everything has been handed to the socket's queue
  bool aborting_ = false;  // drop the connection once it is sent
  bool keep_alive_ = true, head_only_ = false, chunked_ = true;
  AnswerHead head_;
  std::function<void()> on_gone_;

  std::string unsent_, sending_;   // as they go over the wire
  std::optional<TlsChannel> tls_;  // none: plain HTTP
};

// Keeps the server's loop alive until the last answer is given up, and dies on its thread.
class SessionExchange final : public Exchange {
 public:
  SessionExchange(std::shared_ptr<net::io_context> io, std::shared_ptr<HttpSession> session, uint64_t turn)
      : work_(net::make_work_guard(*io)), io_(io.get()), session_(std::move(session)), turn_(turn) {}

  static std::shared_ptr<Exchange> Make(const std::shared_ptr<net::io_context>& io,
                                        std::shared_ptr<HttpSession> session, uint64_t turn) {
    return {new SessionExchange(io, std::move(session), turn),
            [io](SessionExchange* exchange) { net::post(*io, [exchange] { delete exchange; }); }};
  }

  void Post(std::move_only_function<void()> function) override { net::post(*io_, std::move(function)); }
  void Respond(HttpResponse response) override { session_->Respond(turn_, response); }
  void BeginStream() override { session_->BeginStream(turn_); }
  void Write(std::string_view data) override { session_->Write(turn_, data); }
  void EndStream(std::string_view last_data) override { session_->EndStream(turn_, last_data); }
  void Abort() override { session_->Abort(turn_); }
  void OnGone(std::function<void()> function) override { session_->OnGone(turn_, std::move(function)); }

 private:
  net::executor_work_guard<net::io_context::executor_type> work_;
  net::io_context* io_;
  std::shared_ptr<HttpSession> session_;
  uint64_t turn_;
};

HttpSession::HttpSession(std::shared_ptr<SessionHost> host, int socket, bool ipv6)
    : host_(std::move(host)),
      socket_(*host_->io, ipv6 ? net::ip::tcp::v6() : net::ip::tcp::v4(), socket),
      deadline_(*host_->io),
      write_deadline_(*host_->io),
      answered_(*host_->io) {
  if (host_->tls != nullptr) tls_.emplace(*host_->tls, unsent_);
  host_->sessions.insert(this);
  ++context().connections_open;
  ++context().connections_accepted;
}

HttpSession::~HttpSession() {
  host_->sessions.erase(this);
  --context().connections_open;
}

void HttpSession::Start() {
  error_code ignored;
  socket_.set_option(net::ip::tcp::no_delay(true), ignored);
  socket_.non_blocking(true, ignored);
  net::co_spawn(
      *host_->io, [self = shared_from_this()] { return self->Run(); },
      [self = shared_from_this()](std::exception_ptr failure) {
        if (failure) LogError("a connection's reader failed and the connection was dropped");
        self->Shut();
      });
}

net::awaitable<void> HttpSession::Run() {
  // co_await stands in statements of its own everywhere: GCC 12 gets it wrong inside conditions.
  bool more = true;
  if (tls_) more = co_await Handshake();
  while (more && !shut_) more = co_await ServeOne();
}

// false: the connection has ended.
net::awaitable<bool> HttpSession::Handshake() {
  using State = TlsChannel::State;
  Arm(seconds(context().options.read_timeout_s));
  while (tls_->state() == State::kHandshake) {
    const error_code error = co_await ReadSome(kFirstBytes);
    if (shut_ || (error && tls_->state() == State::kHandshake)) co_return false;
  }
  if (tls_->state() != State::kPlainHttp && tls_->state() != State::kFailed) co_return true;
  if (tls_->state() == State::kPlainHttp) unsent_ += kSpeakTls;
  Flush();
  Arm(kLinger);
  co_await Linger();
  co_return false;
}

// Reads once into the buffer. Under TLS that may add nothing: a part of a record, or of the handshake.
net::awaitable<error_code> HttpSession::ReadSome(size_t bytes) {
  error_code error;
  if (tls_) {
    error = co_await ReadSealed(bytes);
  } else {
    const size_t count = co_await socket_.async_read_some(buffer_.prepare(bytes),
                                                          net::redirect_error(net::use_awaitable, error));
    buffer_.commit(count);
  }
  co_return error;
}

net::awaitable<error_code> HttpSession::ReadSealed(size_t bytes) {
  using State = TlsChannel::State;
  if (tls_->state() == State::kClosed) co_return net::error::eof;
  error_code error;
  std::vector<char> sealed(bytes);
  const size_t count =
      co_await socket_.async_read_some(net::buffer(sealed), net::redirect_error(net::use_awaitable, error));
  if (error || shut_) co_return error;
  std::string plain;
  tls_->Receive({sealed.data(), count}, plain);
  buffer_.commit(net::buffer_copy(buffer_.prepare(plain.size()), net::buffer(plain)));
  Flush();
  if (tls_->state() == State::kFailed) co_return net::error::connection_aborted;
  co_return error_code();
}

// Reads more into the buffer.
net::awaitable<HttpSession::Step> HttpSession::Fill(size_t bytes) {
  for (const size_t before = buffer_.size(); buffer_.size() == before;) {
    const error_code error = co_await ReadSome(bytes);
    if (error && timed_out_) co_return Step::kTimeout;
    if (error || shut_) co_return Step::kClosed;
  }
  co_return Step::kOk;
}

// need_more never comes out; a closed connection is end_of_stream, a slow one timed_out.
net::awaitable<error_code> HttpSession::ReadHead(RequestParser& parser) {
  for (;;) {
    error_code error;
    if (buffer_.size() > 0) {
      buffer_.consume(parser.put(buffer_.data(), error));
      if (!error) co_return error;
      if (error != http::error::need_more) co_return error;
      if (buffer_.size() > context().options.max_header_bytes) co_return http::error::header_limit;
    }
    const Step step = co_await Fill();
    if (step == Step::kTimeout) co_return net::error::timed_out;
    if (step == Step::kClosed) co_return http::error::end_of_stream;
  }
}

net::awaitable<error_code> HttpSession::ReadBody(RequestParser& parser) {
  parser.eager(true);
  while (!parser.is_done()) {
    error_code error;
    if (buffer_.size() > 0) {
      const size_t used = parser.put(buffer_.data(), error);
      buffer_.consume(used);
      if (error && error != http::error::need_more) co_return error;
      if (parser.is_done()) break;
      if (used > 0 && !error) continue;
      if (buffer_.size() > context().options.max_header_bytes)
        co_return http::error::bad_chunk;  // an endless extension
    }
    const Step step = co_await Fill();
    if (step == Step::kTimeout) co_return net::error::timed_out;
    if (step == Step::kClosed) co_return http::error::end_of_stream;
  }
  co_return error_code();
}

// One request and its answer. false: the connection has ended.
net::awaitable<bool> HttpSession::ServeOne() {
  if (buffer_.size() == 0) {
    Arm(seconds(context().options.idle_timeout_s));
    buffer_.shrink_to_fit();
    if (host_->closing) co_return false;
    const Step step = co_await Fill(kFirstBytes);
    if (step != Step::kOk) co_return false;
  }
  SkipBlankLines(buffer_);
  if (buffer_.size() == 0) co_return true;

  RequestParser parser;
  parser.header_limit(static_cast<uint32_t>(context().options.max_header_bytes));
  parser.body_limit(context().options.max_body_bytes);
  Arm(seconds(context().options.read_timeout_s));
  error_code error = co_await ReadHead(parser);
  if (error == http::error::end_of_stream) co_return false;
  HttpRequest request = ToRequest(parser.get());
  BeginTurn(request, !error && parser.keep_alive(), error ? 11 : parser.get().version());
  request.id = head_.request_id;
  if (error) {
    HttpResponse response = ErrorResponse(error == net::error::timed_out ? TimeoutError() : ReadError(error));
    co_await Refuse(std::move(response));
    co_return false;
  }
  if (std::optional<HttpResponse> refusal = host_->router->Admit(request)) {
    if (parser.is_done()) {
      Answer(*refusal);
      Disarm();
      co_await WaitForAnswer();
      co_return !shut_ && keep_alive_;
    }
    HttpResponse response = *std::move(refusal);
    co_await Refuse(std::move(response));
    co_return false;
  }
  if (!parser.is_done() && ExpectsContinue(request)) Send("HTTP/1.1 100 Continue\r\n\r\n");
  Arm(seconds(context().options.read_timeout_s));
  error = co_await ReadBody(parser);
  if (error == http::error::end_of_stream) {
    Gone();
    co_return false;
  }
  if (error) {
    HttpResponse response = ErrorResponse(error == net::error::timed_out ? TimeoutError() : ReadError(error));
    co_await Refuse(std::move(response));
    co_return false;
  }
  Disarm();
  request.body = std::move(parser.get().body());
  host_->run_handler([router = host_->router, request = std::move(request),
                      exchange = SessionExchange::Make(host_->io, shared_from_this(), turn_)] {
    router->Handle(request, exchange);
  });
  co_await WaitForAnswer();
  co_return !shut_ && keep_alive_;
}

// Until the answer is complete or the client is gone. What arrives meanwhile belongs to later requests.
net::awaitable<void> HttpSession::WaitForAnswer() {
  while (answering_ && !shut_) {
    if (peer_closed_ || buffer_.size() >= kEarlyBytes) {
      co_await WaitUntilAnswered();
      continue;
    }
    const error_code error = co_await ReadSome(kFirstBytes);
    if (error == net::error::operation_aborted && !shut_) continue;  // EndTurn woke us
    if (error == net::error::eof && answering_ && !on_gone_) {
      peer_closed_ = true;  // a quick answer may still be read: the client has closed its side only
    } else if (error) {
      Gone();
      Shut();
    }
  }
}

net::awaitable<void> HttpSession::WaitUntilAnswered() {
  error_code error;
  answered_.expires_at(net::steady_timer::time_point::max());
  co_await answered_.async_wait(net::redirect_error(net::use_awaitable, error));
}

// Answers a request whose body was not read, and ends the connection gently: closing with unread data would
// make the system reset the connection, and the client might never see the answer.
net::awaitable<void> HttpSession::Refuse(HttpResponse response) {
  keep_alive_ = false;
  Answer(response);
  Arm(kLinger);
  while (answering_ && !shut_) {
    co_await WaitUntilAnswered();
    if (timed_out_) co_return;
  }
  co_await Linger();
}

// Says that nothing follows, and reads and drops what still comes until the client has closed too.
net::awaitable<void> HttpSession::Linger() {
  if (shut_) co_return;
  error_code error;
  if (tls_) tls_->Farewell();
  Flush();
  socket_.shutdown(net::ip::tcp::socket::shutdown_send, error);
  error.clear();
  std::vector<char> dropped(kReadBytes);
  for (size_t read = 0; !error && !shut_ && read < kDiscardBytes;) {
    read += co_await socket_.async_read_some(net::buffer(dropped),
                                             net::redirect_error(net::use_awaitable, error));
  }
}

void HttpSession::BeginTurn(const HttpRequest& request, bool keep_alive, unsigned version) {
  ++turn_;
  answering_ = true;
  ending_ = aborting_ = false;
  keep_alive_ = keep_alive && !host_->closing;
  head_only_ = request.method == "HEAD";
  chunked_ = version >= 11;
  head_ = AnswerHead::For(request, version);
}

void HttpSession::Answer(const HttpResponse& response) {
  ++context().responses[static_cast<size_t>(response.status / 100)];
  if (context().draining) keep_alive_ = false;
  std::string out = head_.Format(response, keep_alive_);
  if (!head_only_) out += response.body;
  ending_ = true;
  Send(out);
}

void HttpSession::Respond(uint64_t turn, const HttpResponse& response) {
  if (Active(turn)) Answer(response);
}

void HttpSession::BeginStream(uint64_t turn) {
  if (!Active(turn)) return;
  ++context().responses[2];
  if (!chunked_ || context().draining) keep_alive_ = false;
  Send(head_.FormatStream(keep_alive_, chunked_));
}

void HttpSession::Write(uint64_t turn, std::string_view data) {
  if (!Active(turn) || data.empty()) return;
  if (unsent_.size() + data.size() > context().options.max_unsent_bytes) {
    LogWarn("a client left {} bytes of its stream unread; its request is cancelled", unsent_.size());
    Gone();
    Shut();
    return;
  }
  Send(chunked_ ? FormatChunk(data) : std::string(data));
}

void HttpSession::EndStream(uint64_t turn, std::string_view last_data) {
  if (!Active(turn)) return;
  ending_ = true;
  Send(chunked_ ? FormatChunk(last_data) + "0\r\n\r\n" : std::string(last_data));
}

void HttpSession::Abort(uint64_t turn) {
  if (!Active(turn)) return;
  ending_ = aborting_ = true;
  if (sending_.empty() && unsent_.empty()) EndTurn();
}

void HttpSession::OnGone(uint64_t turn, std::function<void()> function) {
  if (Active(turn)) {
    on_gone_ = std::move(function);
    if (!peer_closed_) return;
    Gone();  // a long answer is not made for a client that has closed
    Shut();
  } else if (shut_ || turn != turn_ || !ending_) {
    function();
  }
}

void HttpSession::Send(std::string_view data) {
  if (shut_) return;
  if (tls_) {
    tls_->Send(data);
  } else {
    unsent_ += data;
  }
  Flush();
}

// Nearly always the socket takes everything at once, which saves a stream two timers and a turn of the loop
// for every token. The rest, and every error, goes the long way.
void HttpSession::Flush() {
  if (!sending_.empty() || unsent_.empty()) return;
  sending_.swap(unsent_);
  error_code error;
  const size_t sent = socket_.write_some(net::buffer(sending_), error);
  if (!error && sent == sending_.size()) return Flushed(error);
  FlushLater(error ? 0 : sent);
}

void HttpSession::FlushLater(size_t sent) {
  write_deadline_.expires_after(seconds(context().options.write_timeout_s));
  write_deadline_.async_wait([weak = weak_from_this()](const error_code& error) {
    const auto self = weak.lock();
    if (error || !self) return;
    self->Gone();
    self->Shut();
  });
  net::async_write(socket_, net::buffer(sending_) + sent,
                   [self = shared_from_this()](const error_code& error, size_t) {
                     self->write_deadline_.cancel();
                     self->Flushed(error);
                   });
}

void HttpSession::Flushed(const error_code& error) {
  sending_.clear();
  if (sending_.capacity() > kKeptCapacity) sending_ = std::string();
  if (error || shut_) {
    Gone();
    Shut();
    return;
  }
  if (!unsent_.empty()) return Flush();
  if (answering_ && ending_) EndTurn();
}

// The answer is complete and sent.
void HttpSession::EndTurn() {
  answering_ = false;
  on_gone_ = nullptr;
  if (aborting_) return Shut();
  answered_.cancel();
  if (close_after_) keep_alive_ = false;
  // Wakes the reader, which then turns to the next request or ends.
  error_code ignored;
  socket_.cancel(ignored);
}

void HttpSession::Gone() {
  if (!answering_) return;
  answering_ = false;
  ++context().clients_gone;
  if (auto function = std::exchange(on_gone_, nullptr)) function();
}

void HttpSession::Shut() {
  if (std::exchange(shut_, true)) return;
  if (answering_) Gone();
  error_code ignored;
  deadline_.cancel();
  write_deadline_.cancel();
  answered_.cancel();
  if (tls_ && sending_.empty()) {
    tls_->Farewell();
    socket_.write_some(net::buffer(unsent_), ignored);
  }
  socket_.shutdown(net::ip::tcp::socket::shutdown_both, ignored);
  socket_.close(ignored);
}

void HttpSession::Close(bool now) {
  close_after_ = true;
  if (now || !answering_) Shut();
}

// When the time is up, reading ends with timed_out_ set.
void HttpSession::Arm(seconds timeout) {
  Disarm();
  deadline_.expires_after(timeout);
  deadline_.async_wait([weak = weak_from_this(), armed = armed_](const error_code& error) {
    const auto self = weak.lock();
    if (error || !self || self->shut_ || self->armed_ != armed) return;
    self->timed_out_ = true;
    self->answered_.cancel();
    boost::system::error_code ignored;
    self->socket_.cancel(ignored);
  });
}

void HttpSession::Disarm() {
  ++armed_;
  timed_out_ = false;
  deadline_.cancel();
}

void StartSession(const std::shared_ptr<SessionHost>& host, int socket, bool ipv6) {
  std::make_shared<HttpSession>(host, socket, ipv6)->Start();
}

void CloseSessions(SessionHost& host, bool now) {
  host.closing = true;
  const std::vector<HttpSession*> sessions(host.sessions.begin(), host.sessions.end());
  for (HttpSession* session : sessions) session->Close(now);
}

}  // namespace larder
