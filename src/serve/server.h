// The HTTP server: listens, and owns the threads that serve connections. One I/O thread (the one that calls
// Run) writes and reads; two handler threads parse, render and encode prompts.
#pragma once

#include <cstdint>
#include <memory>

#include "base/result.h"
#include "serve/backend.h"
#include "serve/options.h"

namespace larder {

class Server {
 public:
  // Checks the options, reads the keys and listens. `backend` outlives the server.
  static Result<std::unique_ptr<Server>> Create(ServeBackend* backend, const ServeOptions& options);
  ~Server();
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  uint16_t port() const;  // the one that is bound

  // Serves until Stop or Drain has ended everything.
  void Run();

  // From any thread, not from a signal handler. Drops all connections, which cancels their requests.
  void Stop();
  // Refuses new requests with 503, waits at most timeout_ms for the others, then stops. true: all were
  // answered.
  bool Drain(int64_t timeout_ms);

 private:
  struct Impl;
  explicit Server(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace larder
