// One connection: reads requests, hands them to the router, writes the answers. Boost stays in the source.
//
// A coroutine reads for as long as the connection lives, also while a request is being answered: that is how
// a client that hangs up is noticed. Requests that come early (pipelining) wait in the buffer. Answers are
// written by a chain of callbacks. Everything of a connection runs on the one I/O thread. With TLS, bytes are
// sealed and opened (tls.h) between the socket and all of this.
#pragma once

#include <functional>
#include <memory>
#include <unordered_set>

#include "serve/context.h"
#include "serve/router.h"

namespace boost::asio {
class io_context;
}

namespace larder {

class HttpSession;
class TlsContext;

// What the connections of a server share. Its members belong to the I/O thread.
struct SessionHost {
  ServeContext* context = nullptr;
  const Router* router = nullptr;
  const TlsContext* tls = nullptr;  // null: plain HTTP
  std::shared_ptr<boost::asio::io_context> io;
  std::function<void(std::move_only_function<void()>)> run_handler;  // on a thread that may block
  std::unordered_set<HttpSession*> sessions;
  bool closing = false;  // connections end with the answer in progress
};

// Takes the connected socket (a file descriptor), which is IPv6 or IPv4.
void StartSession(const std::shared_ptr<SessionHost>& host, int socket, bool ipv6);
// Ends all connections: those that rest, at once; the others after their answer, or at once if `now`.
void CloseSessions(SessionHost& host, bool now);

}  // namespace larder
