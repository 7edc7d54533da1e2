#include "serve/http_client.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdlib>
#include <utility>

namespace larder::testing {

bool TestTls() { return std::getenv("LARDER_TEST_TLS") != nullptr; }

SSL_CTX* AnyClientTls() {
  struct Free {
    void operator()(SSL_CTX* context) const { SSL_CTX_free(context); }
  };
  static const std::unique_ptr<SSL_CTX, Free> context(SSL_CTX_new(TLS_client_method()));
  return context.get();
}

HttpClient::HttpClient(uint16_t port) : HttpClient(port, TestTls() ? AnyClientTls() : nullptr) {}

HttpClient::HttpClient(uint16_t port, SSL_CTX* tls) {
  socket_ = ::socket(AF_INET, SOCK_STREAM, 0);
  const timeval patience{.tv_sec = 60, .tv_usec = 0};  // a test that hangs fails instead
  setsockopt(socket_, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  setsockopt(socket_, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
  const int on = 1;
  setsockopt(socket_, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (connect(socket_, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) Close();
  if (tls == nullptr || !connected()) return;
  signal(SIGPIPE, SIG_IGN);  // OpenSSL writes without MSG_NOSIGNAL
  tls_.reset(SSL_new(tls));
  SSL_set_fd(tls_.get(), socket_);
  if (SSL_connect(tls_.get()) != 1) Close();
}

HttpClient::~HttpClient() { Close(); }

HttpClient::HttpClient(HttpClient&& other) noexcept
    : socket_(std::exchange(other.socket_, -1)),
      tls_(std::move(other.tls_)),
      buffer_(std::move(other.buffer_)) {}

void HttpClient::Close() {
  if (socket_ >= 0) close(std::exchange(socket_, -1));
}

void HttpClient::CloseSending() {
  if (tls_) SSL_shutdown(tls_.get());
  shutdown(socket_, SHUT_WR);
}

bool HttpClient::Send(std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t sent = tls_ ? SSL_write(tls_.get(), bytes.data(), static_cast<int>(bytes.size()))
                              : send(socket_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (sent <= 0) return false;
    bytes.remove_prefix(static_cast<size_t>(sent));
  }
  return true;
}

bool HttpClient::Fill() {
  char chunk[4096];
  const ssize_t count =
      tls_ ? SSL_read(tls_.get(), chunk, sizeof chunk) : recv(socket_, chunk, sizeof chunk, 0);
  if (count <= 0) return false;
  buffer_.append(chunk, static_cast<size_t>(count));
  return true;
}

std::optional<std::string> HttpClient::Line() {
  size_t end;
  while ((end = buffer_.find("\r\n")) == std::string::npos) {
    if (!Fill()) return std::nullopt;
  }
  std::string line = buffer_.substr(0, end);
  buffer_.erase(0, end + 2);
  return line;
}

std::optional<std::string> HttpClient::Exactly(size_t count) {
  while (buffer_.size() < count) {
    if (!Fill()) return std::nullopt;
  }
  std::string bytes = buffer_.substr(0, count);
  buffer_.erase(0, count);
  return bytes;
}

Answer HttpClient::ReadHead() {
  Answer answer;
  const std::optional<std::string> status = Line();
  if (!status || status->size() < 12) return answer;
  answer.status = std::atoi(status->c_str() + 9);
  for (;;) {
    const std::optional<std::string> line = Line();
    if (!line || line->empty()) break;
    const size_t colon = line->find(": ");
    std::string name = line->substr(0, colon);
    for (char& c : name) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    answer.headers[name] = line->substr(colon + 2);
  }
  return answer;
}

std::optional<std::string> HttpClient::ReadChunk() {
  const std::optional<std::string> size = Line();
  if (!size) return std::nullopt;
  const size_t count = std::strtoul(size->c_str(), nullptr, 16);
  std::optional<std::string> data = Exactly(count);
  if (!data || !Exactly(2)) return std::nullopt;
  return data;
}

Answer HttpClient::Read(bool head_only) {
  Answer answer = ReadHead();
  if (answer.status == 0) return answer;
  const bool chunked =
      answer.headers.contains("transfer-encoding") && answer.headers["transfer-encoding"] == "chunked";
  if (chunked) {
    while (std::optional<std::string> chunk = ReadChunk()) {
      if (chunk->empty()) {
        answer.complete = true;
        break;
      }
      answer.body += *chunk;
      answer.chunks.push_back(*std::move(chunk));
    }
  } else if (answer.headers.contains("content-length")) {
    const size_t length = std::strtoul(answer.headers["content-length"].c_str(), nullptr, 10);
    std::optional<std::string> body = Exactly(head_only ? 0 : length);
    answer.complete = body.has_value();
    answer.body = body.value_or("");
  } else if (answer.status != 100) {
    answer.body = ReadUntilClosed();
  }
  return answer;
}

std::string HttpClient::ReadUntilClosed() {
  while (Fill()) {
  }
  return std::exchange(buffer_, "");
}

bool HttpClient::Closed() {
  ReadUntilClosed();
  return true;
}

std::string PostText(std::string_view path, std::string_view body, std::string_view extra_headers) {
  return fmt::format("POST {} HTTP/1.1\r\nHost: test\r\nContent-Length: {}\r\n{}\r\n{}", path, body.size(),
                     extra_headers, body);
}

std::string GetText(std::string_view path, std::string_view extra_headers) {
  return fmt::format("GET {} HTTP/1.1\r\nHost: test\r\n{}\r\n", path, extra_headers);
}

}  // namespace larder::testing
