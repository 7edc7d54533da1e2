// A small client of the completions endpoint that measures: many streams on kept connections, one thread.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"

namespace larder {

// When each token of a stream was there, in seconds since the requests were sent.
struct StreamTimes {
  std::vector<double> tokens;
};

class StreamClient {
 public:
  // Opens `connections` connections to this machine's port. kIo.
  static Result<std::unique_ptr<StreamClient>> Connect(uint16_t port, int64_t connections);
  ~StreamClient();
  StreamClient(const StreamClient&) = delete;
  StreamClient& operator=(const StreamClient&) = delete;

  // One greedy completion of `tokens` tokens for each prompt, all sent at once, each on a connection of its
  // own. kIo: a connection ended; kInvalid: the server refused.
  Result<std::vector<StreamTimes>> Run(const std::string& model,
                                       std::span<const std::vector<int32_t>> prompts, int64_t tokens);

 private:
  struct Stream {
    int socket = -1;
    std::string unread;  // the beginning of a line
    std::vector<double> times;
    bool done = false;
  };
  StreamClient() = default;
  static Status TakeLines(Stream& stream, double now);

  std::vector<Stream> streams_;
};

}  // namespace larder
