// A raw HTTP client for tests: sends exactly the bytes it is given and shows exactly what came back.
#pragma once

#include <cstdint>
#include <map>
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

class HttpClient {
 public:
  explicit HttpClient(uint16_t port);
  ~HttpClient();
  HttpClient(HttpClient&& other) noexcept;
  HttpClient(const HttpClient&) = delete;
  HttpClient& operator=(const HttpClient&) = delete;

  bool connected() const { return socket_ >= 0; }
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
  int socket_ = -1;
  std::string buffer_;
};

std::string PostText(std::string_view path, std::string_view body, std::string_view extra_headers = "");
std::string GetText(std::string_view path, std::string_view extra_headers = "");

}  // namespace larder::testing
