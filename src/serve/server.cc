#include "serve/server.h"

#include <sys/resource.h>

#include <utility>

#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/thread_pool.hpp>
#include <boost/asio/write.hpp>

#include <algorithm>
#include <chrono>
#include <exception>
#include <thread>

#include "base/log.h"
#include "serve/context.h"
#include "serve/event_waits.h"
#include "serve/http_session.h"
#include "serve/router.h"
#include "serve/tls.h"

namespace larder {

namespace net = boost::asio;
using boost::system::error_code;
using net::ip::tcp;

namespace {

constexpr int kBacklog = 4096;
constexpr size_t kHandlerThreads = 2;
constexpr auto kAcceptPause = std::chrono::milliseconds(100);  // when descriptors have run out
constexpr auto kFlushTime = std::chrono::milliseconds(5000);   // for last answers to be written
constexpr auto kFlushTick = std::chrono::milliseconds(20);
constexpr std::string_view kTooMany =
    "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nContent-Length: "
    "133\r\nRetry-After: 5\r\n"
    "Connection: close\r\n\r\n"
    R"({"error":{"message":"The server has too many open connections; retry later.","type":"server_error","param":null,"code":"overloaded"}})";

bool IsLoopback(const std::string& host) {
  if (host == "localhost") return true;
  error_code error;
  const net::ip::address address = net::ip::make_address(host, error);
  return !error && address.is_loopback();
}

// Every connection is a descriptor, and the usual soft limit of 1024 is below what load tools open.
void RaiseDescriptorLimit() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= limit.rlim_max) return;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
}

Result<tcp::endpoint> Resolve(net::io_context& io, const ServeOptions& options) {
  error_code error;
  tcp::resolver resolver(io);
  const auto found =
      resolver.resolve(options.host, std::to_string(options.port), tcp::resolver::passive, error);
  if (error || found.empty()) {
    return Fail(ErrorKind::kInvalid, "the host '{}' cannot be resolved ({}); give an address like 127.0.0.1",
                options.host, error.message());
  }
  return found.begin()->endpoint();
}

int64_t LongestTokenBytes(const Tokenizer& tokenizer) {
  size_t longest = 1;
  for (int32_t token = 0; token < tokenizer.size(); ++token) {
    longest = std::max(longest, tokenizer.TokenBytes(token, true).size());
  }
  return static_cast<int64_t>(longest);
}

// Null without TLS.
Result<std::unique_ptr<TlsContext>> LoadTls(const ServeOptions& options) {
  if (options.tls_cert.empty() && options.tls_key.empty()) return nullptr;
  if (options.tls_cert.empty() || options.tls_key.empty())
    return Fail(ErrorKind::kInvalid,
                "TLS needs both a certificate and its key; give --tls-cert and --tls-key");
  return TlsContext::Load(options.tls_cert, options.tls_key);
}

}  // namespace

Status CheckServeOptions(const ServeOptions& options) {
  if (options.api_keys.empty() && !options.no_auth && !IsLoopback(options.host)) {
    return Fail(ErrorKind::kInvalid,
                "without API keys only this machine is served, but the host is '{}'; give --api-keys FILE, "
                "or --no-auth "
                "to let everybody in",
                options.host);
  }
  LARDER_TRY(LoadTls(options));
  return {};
}

struct Server::Impl {
  Impl()
      : io(std::make_shared<net::io_context>(1)), router(&context), acceptor(*io), pause(*io), flush(*io) {}

  Status Listen();
  void Accept();
  void Accepted(const error_code& error, tcp::socket socket);
  void Close(bool now);
  void AwaitSessions(std::chrono::milliseconds left);

  ServeContext context;
  std::shared_ptr<net::io_context> io;
  Router router;
  std::unique_ptr<TlsContext> tls;
  std::shared_ptr<SessionHost> host;
  tcp::acceptor acceptor;
  net::steady_timer pause, flush;
  std::unique_ptr<EventWaits> waits;
  std::unique_ptr<net::thread_pool> handlers;
  bool closed = false;
};

Status Server::Impl::Listen() {
  LARDER_ASSIGN(const tcp::endpoint endpoint, Resolve(*io, context.options));
  error_code error;
  const auto failed = [&] {
    return Fail(ErrorKind::kIo, "cannot listen on {} port {}: {}", context.options.host, context.options.port,
                error.message());
  };
  if (acceptor.open(endpoint.protocol(), error)) return failed();
  if (acceptor.set_option(tcp::acceptor::reuse_address(true), error)) return failed();
  if (acceptor.bind(endpoint, error)) return failed();
  if (acceptor.listen(kBacklog, error)) return failed();
  return {};
}

void Server::Impl::Accept() {
  acceptor.async_accept(
      [this](const error_code& error, tcp::socket socket) { Accepted(error, std::move(socket)); });
}

void Server::Impl::Accepted(const error_code& error, tcp::socket socket) {
  if (!acceptor.is_open()) return;
  if (error) {
    if (error == net::error::operation_aborted) return;
    pause.expires_after(kAcceptPause);
    pause.async_wait([this](const error_code& stopped) {
      if (!stopped) Accept();
    });
    return;
  }
  error_code failure;
  if (context.connections_open >= static_cast<uint64_t>(context.options.max_connections)) {
    socket.non_blocking(true, failure);
    // Under TLS the client sees a closed connection: a handshake is work that a full server spares itself.
    if (!tls) socket.write_some(net::buffer(kTooMany.data(), kTooMany.size()), failure);
    socket.shutdown(tcp::socket::shutdown_send, failure);
  } else {
    const bool ipv6 = socket.local_endpoint(failure).address().is_v6();
    const int descriptor = failure ? -1 : socket.release(failure);
    if (descriptor >= 0) StartSession(host, descriptor, ipv6);
  }
  Accept();
}

// On the I/O thread. Running answers may finish unless `now`.
void Server::Impl::Close(bool now) {
  error_code ignored;
  acceptor.close(ignored);
  pause.cancel();
  CloseSessions(*host, now);
  if (!now) AwaitSessions(kFlushTime);
}

// Drops the connections that are left when the time is up.
void Server::Impl::AwaitSessions(std::chrono::milliseconds left) {
  if (host->sessions.empty()) return;
  if (left.count() <= 0) return CloseSessions(*host, true);
  flush.expires_after(kFlushTick);
  flush.async_wait([this, left](const error_code&) { AwaitSessions(left - kFlushTick); });
}

Server::Server(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

Server::~Server() = default;

Result<std::unique_ptr<Server>> Server::Create(ServeBackend* backend, const ServeOptions& options) {
  LARDER_TRY(CheckServeOptions(options));
  LARDER_ASSIGN(auto tls, LoadTls(options));
  auto impl = std::make_unique<Impl>();
  impl->context.backend = backend;
  impl->context.options = options;
  impl->context.longest_token_bytes = LongestTokenBytes(backend->tokenizer());
  impl->context.started_unix_s =
      std::chrono::duration_cast<std::chrono::seconds>(std::chrono::system_clock::now().time_since_epoch())
          .count();
  if (!options.api_keys.empty()) {
    LARDER_ASSIGN(impl->context.keys, ApiKeys::Load(options.api_keys));
  }
  RaiseDescriptorLimit();
  LARDER_TRY(impl->Listen());
  impl->waits = std::make_unique<EventWaits>(*impl->io, backend);
  impl->context.waits = impl->waits.get();
  impl->host = std::make_shared<SessionHost>();
  impl->host->context = &impl->context;
  impl->host->router = &impl->router;
  impl->host->io = impl->io;
  impl->host->tls = (impl->tls = std::move(tls)).get();
  impl->host->run_handler = [raw = impl.get()](std::move_only_function<void()> handler) {
    net::post(*raw->handlers, std::move(handler));
  };
  return std::unique_ptr<Server>(new Server(std::move(impl)));
}

uint16_t Server::port() const {
  error_code ignored;
  return impl_->acceptor.local_endpoint(ignored).port();
}

void Server::Run() {
  impl_->handlers = std::make_unique<net::thread_pool>(kHandlerThreads);
  impl_->Accept();
  // Ends when nothing is left to do: listening has ended, all connections are closed, all answers given up.
  for (bool more = true; more;) {
    try {
      impl_->io->run();
      more = false;
    } catch (const std::exception& error) {
      LogError("a connection failed: {}", error.what());
    }
  }
  impl_->handlers->join();
}

void Server::Stop() {
  net::post(*impl_->io, [impl = impl_.get()] { impl->Close(true); });
}

bool Server::Drain(int64_t timeout_ms) {
  impl_->context.draining = true;
  impl_->waits->End();
  const bool all = impl_->context.backend->Drain(timeout_ms);
  net::post(*impl_->io, [impl = impl_.get(), all] { impl->Close(!all); });
  return all;
}

}  // namespace larder
