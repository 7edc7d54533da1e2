// A real redis-server process for tests: on a free loopback port, in a temporary folder, stopped at the end.
#pragma once

#include <sys/types.h>

#include <functional>
#include <initializer_list>
#include <memory>
#include <string>
#include <vector>

#include "tests/store/store_fixture.h"

namespace larder {

// False: the machine has no redis-server; such tests skip.
bool HaveRedisServer();
int FreePort();
// True as soon as `condition` is; false after a while.
bool Eventually(const std::function<bool()>& condition);
// Runs a program to its end; its exit code.
int RunProgram(const std::vector<std::string>& arguments);

class RedisServer {
 public:
  // More options of redis-server, as on its command line.
  explicit RedisServer(std::vector<std::string> options = {});
  ~RedisServer();
  RedisServer(const RedisServer&) = delete;
  RedisServer& operator=(const RedisServer&) = delete;

  int port() const { return port_; }
  const TemporaryFolder& folder() const { return folder_; }
  std::string url(const std::string& login = "") const { return "redis://" + login + address(); }
  std::string address() const { return "127.0.0.1:" + std::to_string(port_); }

  void Start();
  void Kill();   // at once; what it had in memory is gone
  void Pause();  // accepts connections and says nothing
  void Resume();

  // One command over a connection of its own. Text, number or, of an array, its elements in lines; errors
  // begin with "ERROR ".
  std::string Command(const std::vector<std::string>& arguments) const;
  long Number(const std::vector<std::string>& arguments) const { return std::stol(Command(arguments)); }

 private:
  const int port_;
  const TemporaryFolder folder_;
  const std::vector<std::string> options_;
  pid_t process_ = -1;
};

}  // namespace larder
