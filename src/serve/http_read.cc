#include "serve/http_read.h"

#include <string>
#include <utility>

namespace larder {

namespace http = boost::beast::http;
using boost::system::error_code;

HttpRequest ToRequest(const RequestParser::value_type& message) {
  HttpRequest request;
  request.method = std::string(message.method_string());
  const std::string target(message.target());
  const size_t question = target.find('?');
  request.path = target.substr(0, question);
  if (question != std::string::npos) request.query = target.substr(question + 1);
  for (const auto& field : message) {
    std::string name(field.name_string());
    for (char& c : name) {
      if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
    }
    request.headers.emplace_back(std::move(name), std::string(field.value()));
  }
  return request;
}

void SkipBlankLines(boost::beast::flat_buffer& buffer) {
  const auto* text = static_cast<const char*>(buffer.data().data());
  size_t count = 0;
  while (count < buffer.size() && (text[count] == '\r' || text[count] == '\n')) ++count;
  buffer.consume(count);
}

ApiError ReadError(const error_code& error) {
  if (error == http::error::body_limit) {
    return {.status = 413,
            .message = "The body is larger than this server takes; send less or raise --max-body.",
            .code = "body_too_large"};
  }
  if (error == http::error::header_limit) {
    return {
        .status = 431, .message = "The header is larger than this server takes.", .code = "header_too_large"};
  }
  return {.status = 400,
          .message = "The request is not well-formed HTTP: " + error.message() + ".",
          .code = "bad_http"};
}

ApiError TimeoutError() {
  return {.status = 408,
          .message = "The request did not arrive in time; send it again.",
          .code = "request_timeout"};
}

}  // namespace larder
