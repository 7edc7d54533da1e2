#include "serve/http_head.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>

#include "serve/context.h"

namespace larder {
namespace {

constexpr size_t kMaxRequestId = 200;

bool IsPrintable(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](unsigned char c) { return c >= 0x20 && c < 0x7F; });
}

}  // namespace

AnswerHead AnswerHead::For(const HttpRequest& request, unsigned version) {
  AnswerHead head;
  head.version = version;
  const std::string_view id = request.Header("x-request-id"), origin = request.Header("origin");
  const bool usable = !id.empty() && id.size() <= kMaxRequestId && IsPrintable(id);
  head.request_id = usable ? std::string(id) : NewId("req");
  head.origin =
      !origin.empty() && origin.size() <= kMaxRequestId && IsPrintable(origin) ? std::string(origin) : "*";
  return head;
}

void AnswerHead::AppendCommon(std::string& out, bool keep_alive) const {
  fmt::format_to(
      std::back_inserter(out),
      "Server: larder\r\nx-request-id: {0}\r\nrequest-id: {0}\r\nAccess-Control-Allow-Origin: {1}\r\n"
      "Access-Control-Allow-Credentials: true\r\nAccess-Control-Expose-Headers: x-request-id, request-id\r\n"
      "Vary: Origin\r\nConnection: {2}\r\n\r\n",
      request_id, origin, keep_alive ? "keep-alive" : "close");
}

std::string AnswerHead::Format(const HttpResponse& response, bool keep_alive) const {
  std::string out = fmt::format("HTTP/1.{} {} {}\r\nContent-Length: {}\r\n", version == 10 ? 0 : 1,
                                response.status, ReasonPhrase(response.status), response.body.size());
  if (!response.content_type.empty()) out += fmt::format("Content-Type: {}\r\n", response.content_type);
  for (const auto& [name, value] : response.headers) {
    if (IsPrintable(value)) out += fmt::format("{}: {}\r\n", name, value);
  }
  AppendCommon(out, keep_alive);
  return out;
}

std::string AnswerHead::FormatStream(bool keep_alive, bool chunked) const {
  std::string out = fmt::format(
      "HTTP/1.{} 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nCache-Control: no-cache\r\n"
      "X-Accel-Buffering: no\r\n{}",
      version == 10 ? 0 : 1, chunked ? "Transfer-Encoding: chunked\r\n" : "");
  AppendCommon(out, keep_alive);
  return out;
}

std::string FormatChunk(std::string_view data) { return fmt::format("{:x}\r\n{}\r\n", data.size(), data); }

bool ExpectsContinue(const HttpRequest& request) {
  std::string text(request.Header("expect"));
  std::transform(text.begin(), text.end(), text.begin(), [](unsigned char c) { return std::tolower(c); });
  return text == "100-continue";
}

}  // namespace larder
