// Heads of answers, as bytes.
#pragma once

#include <string>
#include <string_view>

#include "serve/http.h"

namespace larder {

// What of the request comes back in the answer's head.
struct AnswerHead {
  std::string request_id;  // the client's x-request-id if it is printable and short, else our own
  std::string origin;      // for cross-origin requests
  unsigned version = 11;   // 10 or 11

  static AnswerHead For(const HttpRequest& request, unsigned version);
  std::string Format(const HttpResponse& response, bool keep_alive) const;
  std::string FormatStream(bool keep_alive, bool chunked) const;  // of server-sent events

 private:
  void AppendCommon(std::string& out, bool keep_alive) const;
};

std::string FormatChunk(std::string_view data);  // REQUIRES: not empty
bool ExpectsContinue(const HttpRequest& request);

}  // namespace larder
