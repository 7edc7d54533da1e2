// What the handlers know of HTTP: a request that has been read, an answer, and the way back to the client. No
// sockets.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace larder {

struct HttpRequest {
  std::string method;                                        // as sent: "GET"
  std::string path;                                          // as sent, still percent-encoded, without query
  std::string query;                                         // after '?', still percent-encoded
  std::vector<std::pair<std::string, std::string>> headers;  // names in lower case
  std::string body;
  std::string id;      // x-request-id of the client, or our own
  std::string tenant;  // from the credential, set by the router

  std::string_view Header(std::string_view lower_case_name) const;  // "" where absent
  // A parameter of the query, decoded, or as it was sent where its encoding is broken; nullopt where absent.
  std::optional<std::string> QueryParameter(std::string_view name) const;
};

struct HttpResponse {
  int status = 200;
  std::string content_type = "application/json";
  std::string body;
  std::vector<std::pair<std::string, std::string>> headers;  // besides the usual ones
};

std::string_view ReasonPhrase(int status);
// "%41" -> "A"; nullopt for a broken escape.
std::optional<std::string> PercentDecode(std::string_view text);

// The answer to one request. Post may be called from any thread; everything else only on the connection's
// executor, that is inside a posted function. Once the client is gone every call is a no-op.
class Exchange {
 public:
  virtual ~Exchange() = default;

  // Runs the function on the connection's executor; functions of one thread keep their order.
  virtual void Post(std::move_only_function<void()> function) = 0;

  virtual void Respond(HttpResponse response) = 0;  // a whole answer, once

  // A streamed answer: Begin, any number of writes, then End (a complete answer) or Abort (the connection is
  // dropped after what was written, without the end mark, so that no client takes the answer for complete).
  // Each Write is sent in one piece. A client that reads too slowly for the buffer limit counts as gone.
  virtual void BeginStream() = 0;
  virtual void Write(std::string_view data) = 0;
  virtual void EndStream(std::string_view last_data) = 0;
  virtual void Abort() = 0;

  // Called at most once, when the client goes away before the answer is complete (at once if it is gone
  // already).
  virtual void OnGone(std::function<void()> function) = 0;
};

}  // namespace larder
