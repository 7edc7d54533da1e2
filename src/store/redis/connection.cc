#include "store/redis/connection.h"

#include <openssl/ssl.h>

#include <boost/asio/buffer.hpp>
#include <boost/asio/connect.hpp>
#include <boost/asio/ip/address.hpp>
#include <boost/asio/ssl/host_name_verification.hpp>
#include <boost/asio/write.hpp>
#include <chrono>

namespace larder {
namespace {

namespace asio = boost::asio;
using boost::system::error_code;

constexpr size_t kReadBytes = 256 * 1024;

}  // namespace

Result<std::unique_ptr<asio::ssl::context>> MakeRedisTls(const RedisUrl& url, const std::string& ca_file) {
  if (!url.tls) return nullptr;
  auto tls = std::make_unique<asio::ssl::context>(asio::ssl::context::tls_client);
  error_code error;
  tls->set_options(asio::ssl::context::no_tlsv1 | asio::ssl::context::no_tlsv1_1, error);
  if (ca_file.empty()) {
    tls->set_default_verify_paths(error);
  } else {
    tls->load_verify_file(ca_file, error);
    if (error)
      return larder::Fail(ErrorKind::kIo, "cannot read the certificates in {}: {}", ca_file, error.message());
  }
  return tls;
}

RedisConnection::RedisConnection(asio::io_context& io, RedisEndpoint endpoint, asio::ssl::context* tls,
                                 bool verify, Events events)
    : endpoint_(std::move(endpoint)),
      verify_(verify),
      events_(std::move(events)),
      resolver_(io),
      timer_(io),
      socket_(io) {
  if (tls != nullptr) tls_.emplace(Socket(io), *tls);
}

void RedisConnection::Open(int64_t timeout_ms) {
  timer_.expires_after(std::chrono::milliseconds(timeout_ms));
  timer_.async_wait([self = shared_from_this()](const error_code& error) {
    if (!error) self->Fail("connect to", asio::error::timed_out);
  });
  resolver_.async_resolve(endpoint_.host, std::to_string(endpoint_.port),
                          [self = shared_from_this()](const error_code& error,
                                                      const asio::ip::tcp::resolver::results_type& results) {
                            if (error || self->over_) return self->Fail("find", error);
                            asio::async_connect(
                                self->tcp(), results,
                                [self](const error_code& connect_error, const asio::ip::tcp::endpoint&) {
                                  if (connect_error || self->over_)
                                    return self->Fail("connect to", connect_error);
                                  self->Connected();
                                });
                          });
}

void RedisConnection::Connected() {
  error_code ignored;
  tcp().set_option(asio::ip::tcp::no_delay(true), ignored);
  if (!tls_) return Opened();
  error_code not_an_address;
  asio::ip::make_address(endpoint_.host, not_an_address);
  if (not_an_address) SSL_set_tlsext_host_name(tls_->native_handle(), endpoint_.host.c_str());
  if (verify_) {
    tls_->set_verify_mode(asio::ssl::verify_peer, ignored);
    tls_->set_verify_callback(asio::ssl::host_name_verification(endpoint_.host), ignored);
  } else {
    tls_->set_verify_mode(asio::ssl::verify_none, ignored);
  }
  tls_->async_handshake(asio::ssl::stream_base::client, [self = shared_from_this()](const error_code& error) {
    if (error || self->over_) return self->Fail("agree on TLS with", error);
    self->Opened();
  });
}

void RedisConnection::Opened() {
  timer_.cancel();
  buffer_.resize(kReadBytes);
  Read();
  events_.open();
}

void RedisConnection::Read() {
  WithStream([this](auto& stream) {
    stream.async_read_some(asio::buffer(buffer_),
                           [self = shared_from_this()](const error_code& error, size_t bytes) {
                             if (error || self->over_) return self->Fail("read from", error);
                             self->events_.received({self->buffer_.data(), bytes});
                             if (!self->over_) self->Read();
                           });
  });
}

void RedisConnection::Write(const std::vector<std::string_view>& texts, std::shared_ptr<const void> owner) {
  std::vector<asio::const_buffer> buffers;
  buffers.reserve(texts.size());
  for (const std::string_view text : texts) buffers.emplace_back(text.data(), text.size());
  WithStream([&](auto& stream) {
    asio::async_write(stream, buffers,
                      [self = shared_from_this(), owner = std::move(owner)](const error_code& error, size_t) {
                        if (error || self->over_) return self->Fail("write to", error);
                        self->events_.written();
                      });
  });
}

void RedisConnection::Close() {
  over_ = true;
  resolver_.cancel();
  timer_.cancel();
  error_code ignored;
  tcp().close(ignored);  // no TLS farewell: nothing is owed to a server that we leave
}

void RedisConnection::Fail(std::string_view verb, const error_code& error) {
  if (over_) return;
  Close();
  events_.closed(Error{ErrorKind::kUnavailable, fmt::format("cannot {} the Redis server {}: {}", verb,
                                                            endpoint_.ToString(), error.message())});
}

}  // namespace larder
