// One TCP or TLS connection: connects, writes, reads, and says when it is over. All of it happens on the
// thread that runs the io_context.
#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/ssl/context.hpp>
#include <boost/asio/ssl/stream.hpp>
#include <boost/asio/steady_timer.hpp>
#include <functional>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "store/redis/url.h"

namespace larder {

// What TLS connections share; null for a URL without TLS. `ca_file` "": the system's certificates. kIo: the
// file cannot be read.
Result<std::unique_ptr<boost::asio::ssl::context>> MakeRedisTls(const RedisUrl& url,
                                                                const std::string& ca_file);

class RedisConnection : public std::enable_shared_from_this<RedisConnection> {
 public:
  // `closed` at most once, and nothing after it; after Close nothing at all.
  struct Events {
    std::function<void()> open;
    std::function<void(std::string_view bytes)> received;
    std::function<void()> written;  // all that Write was given
    std::function<void(Error)> closed;
  };

  // `tls` null: plain TCP. With it, the certificate must name `endpoint.host` if `verify`.
  RedisConnection(boost::asio::io_context& io, RedisEndpoint endpoint, boost::asio::ssl::context* tls,
                  bool verify, Events events);
  RedisConnection(const RedisConnection&) = delete;
  RedisConnection& operator=(const RedisConnection&) = delete;

  void Open(int64_t timeout_ms);
  // One at a time; the texts stay as they are until `written` or the end of the connection, which the owner
  // is kept for.
  void Write(const std::vector<std::string_view>& texts, std::shared_ptr<const void> owner);
  void Close();

 private:
  using Socket = boost::asio::ip::tcp::socket;

  void Connected();
  void Opened();
  void Read();
  void Fail(std::string_view verb, const boost::system::error_code& error);
  template <class Do>
  void WithStream(Do&& operation) {
    if (tls_) {
      operation(*tls_);
    } else {
      operation(socket_);
    }
  }
  Socket& tcp() { return tls_ ? tls_->next_layer() : socket_; }

  const RedisEndpoint endpoint_;
  const bool verify_;
  Events events_;
  boost::asio::ip::tcp::resolver resolver_;
  boost::asio::steady_timer timer_;  // of Open
  Socket socket_;
  std::optional<boost::asio::ssl::stream<Socket>> tls_;
  std::vector<char> buffer_;
  bool over_ = false;
};

}  // namespace larder
