#include "larder/stream_client.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string_view>

#include "larder/measure.h"

namespace larder {
namespace {

constexpr int kPatienceMs = 10 * 60 * 1000;

std::unexpected<Error> OsError(const char* what) {
  return Fail(ErrorKind::kIo, "cannot {}: {}", what, std::strerror(errno));
}

Status SendAll(int socket, std::string_view text) {
  while (!text.empty()) {
    const ssize_t n = send(socket, text.data(), text.size(), MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return OsError("send a request");
    text.remove_prefix(static_cast<size_t>(n));
  }
  return {};
}

// Token numbers instead of text both ways: each token is one event, also where its text is held back.
std::string RequestText(const std::string& model, const std::vector<int32_t>& prompt, int64_t tokens) {
  std::string name;
  for (const char c : model) name += c == '"' || c == '\\' ? std::string{'\\', c} : std::string{c};
  const std::string body = fmt::format(
      R"({{"model":"{}","prompt":[{}],"max_tokens":{},"temperature":0,"ignore_eos":true,"stream":true,)"
      R"("return_token_ids":true}})",
      name, fmt::join(prompt, ","), tokens);
  return fmt::format(
      "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
      "Content-Length: {}\r\n\r\n{}",
      body.size(), body);
}

// Quotes inside of strings are escaped, so this can only be the key, and not its empty list at the end.
bool IsToken(std::string_view line) {
  constexpr std::string_view kKey = "\"token_ids\":[";
  const size_t at = line.find(kKey);
  return at != line.npos && at + kKey.size() < line.size() && line[at + kKey.size()] != ']';
}

}  // namespace

Result<std::unique_ptr<StreamClient>> StreamClient::Connect(uint16_t port, int64_t connections) {
  std::unique_ptr<StreamClient> client(new StreamClient);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  for (int64_t i = 0; i < connections; ++i) {
    Stream& stream = client->streams_.emplace_back();
    stream.socket = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (stream.socket < 0) return OsError("make a socket");
    const int on = 1;
    setsockopt(stream.socket, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (connect(stream.socket, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0)
      return OsError("connect to the server");
  }
  return client;
}

StreamClient::~StreamClient() {
  for (const Stream& stream : streams_)
    if (stream.socket >= 0) close(stream.socket);
}

Result<std::vector<StreamTimes>> StreamClient::Run(const std::string& model,
                                                   std::span<const std::vector<int32_t>> prompts,
                                                   int64_t tokens) {
  LARDER_CHECK(prompts.size() <= streams_.size());
  std::vector<std::string> requests;
  for (const auto& prompt : prompts) requests.push_back(RequestText(model, prompt, tokens));
  const auto streams = std::span(streams_).first(prompts.size());
  for (Stream& stream : streams) stream = {.socket = stream.socket};
  const Stopwatch watch;
  for (size_t i = 0; i < streams.size(); ++i) LARDER_TRY(SendAll(streams[i].socket, requests[i]));

  std::vector<pollfd> polled(streams.size());
  std::vector<char> buffer(64u << 10);
  while (std::ranges::any_of(streams, [](const Stream& s) { return !s.done; })) {
    for (size_t i = 0; i < streams.size(); ++i)
      polled[i] = {streams[i].done ? -1 : streams[i].socket, POLLIN, 0};
    const int ready = poll(polled.data(), polled.size(), kPatienceMs);
    if (ready < 0 && errno == EINTR) continue;
    if (ready <= 0) return Fail(ErrorKind::kIo, "the server says nothing");
    for (size_t i = 0; i < streams.size(); ++i) {
      if (polled[i].revents == 0) continue;
      const ssize_t n = recv(streams[i].socket, buffer.data(), buffer.size(), 0);
      if (n <= 0) return Fail(ErrorKind::kIo, "the server closed a connection");
      streams[i].unread.append(buffer.data(), static_cast<size_t>(n));
      LARDER_TRY(TakeLines(streams[i], watch.WallSeconds()));
    }
  }
  std::vector<StreamTimes> out;
  for (Stream& stream : streams) {
    if (static_cast<int64_t>(stream.times.size()) != tokens)
      return Fail(ErrorKind::kInvalid, "a stream had {} tokens instead of {}", stream.times.size(), tokens);
    out.push_back({std::move(stream.times)});
  }
  return out;
}

// Every line of the answer that is complete; chunk sizes and blank lines mean nothing here.
Status StreamClient::TakeLines(Stream& stream, double now) {
  size_t begin = 0;
  for (size_t end; (end = stream.unread.find('\n', begin)) != std::string::npos; begin = end + 1) {
    const auto line = std::string_view(stream.unread).substr(begin, end - begin);
    if (line.starts_with("HTTP/1.1 ") && !line.starts_with("HTTP/1.1 200"))
      return Fail(ErrorKind::kInvalid, "the server answered {}", line);
    if (line == "0\r") stream.done = true;  // the last chunk
    if (line.starts_with("data: ") && IsToken(line)) stream.times.push_back(now);
  }
  stream.unread.erase(0, begin);
  return {};
}

}  // namespace larder
