// A raw HTTP client for tests: sends exactly the bytes it is given and shows exactly what came back. With
// LARDER_TEST_TLS in the environment it speaks TLS, and servers of ServeTest do.
#pragma once

#include <openssl/ssl.h>

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace larder::testing {

struct Answer {
  int status = 0;                              // 0: the connection ended before a head came
  std::map<std::string, std::string> headers;  // names in lower case
  std::string body;
  std::vector<std::string> chunks;  // of a chunked body
  bool complete = false;            // content length or last chunk seen
};

bool TestTls();
// Trusts anybody; speaks what the machine's OpenSSL does by default.
SSL_CTX* AnyClientTls();

class HttpClient {
 public:
  explicit HttpClient(uint16_t port);
  HttpClient(uint16_t port, SSL_CTX* tls);  // null: plain TCP
  ~HttpClient();
  HttpClient(HttpClient&& other) noexcept;
  HttpClient(const HttpClient&) = delete;
  HttpClient& operator=(const HttpClient&) = delete;

  bool connected() const { return socket_ >= 0; }  // and, with TLS, agreed
  int socket() const { return socket_; }
  SSL* tls() const { return tls_.get(); }
  bool Send(std::string_view bytes);
  // One answer; a HEAD answer has no body whatever its length says.
  Answer Read(bool head_only = false);
  // The next chunk of a chunked answer, after ReadHead; nullopt: the last one or the end of the connection.
  Answer ReadHead();
  std::optional<std::string> ReadChunk();
  std::string ReadUntilClosed();
  bool Closed();  // waits for the server to close
  void CloseSending();
  void Close();

 private:
  bool Fill();
  std::optional<std::string> Line();
  std::optional<std::string> Exactly(size_t count);
  struct Free {
    void operator()(SSL* ssl) const { SSL_free(ssl); }
  };
  int socket_ = -1;
  std::unique_ptr<SSL, Free> tls_;
  std::string buffer_;
};

std::string PostText(std::string_view path, std::string_view body, std::string_view extra_headers = "");
std::string GetText(std::string_view path, std::string_view extra_headers = "");

}  // namespace larder::testing
