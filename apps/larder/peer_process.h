// Another engine in a child process that answers lines (scripts/peer_protocol.py).
#pragma once

#include <sys/types.h>

#include <memory>
#include <string>
#include <vector>

#include "base/result.h"

namespace larder {

class PeerProcess {
 public:
  // Starts `python script`. kIo.
  static Result<std::unique_ptr<PeerProcess>> Start(const std::string& python, const std::string& script);
  ~PeerProcess();  // ends the child
  PeerProcess(const PeerProcess&) = delete;
  PeerProcess& operator=(const PeerProcess&) = delete;

  // Sends a line and waits for one. kUnavailable: the child has ended, or says nothing for too long.
  Result<std::string> Ask(const std::string& line);

 private:
  PeerProcess(pid_t pid, int socket) : pid_(pid), socket_(socket) {}
  pid_t pid_;
  int socket_;
  std::string buffered_;
};

// The interpreter of the environment that scripts/peers made, in the cache directory; "" if there is none.
std::string FindPeersPython();
// scripts/NAME of the source tree that this program or the current directory lies in; kNotFound.
Result<std::string> FindScript(const std::string& name);

}  // namespace larder
