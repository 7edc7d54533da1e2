// redis://[user:password@]host:port[,host:port...], or rediss:// for TLS.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace larder {

struct RedisEndpoint {
  std::string host;
  uint16_t port = 6379;

  std::string ToString() const;  // host:port, with brackets around an IPv6 address
  bool operator==(const RedisEndpoint&) const = default;
};

struct RedisUrl {
  bool tls = false;
  std::string user, password;            // percent-decoded; no password: no AUTH
  std::vector<RedisEndpoint> endpoints;  // more than one: nodes of a cluster to begin with
};

// kInvalid with the right form in the message, which never contains the password.
Result<RedisUrl> ParseRedisUrl(std::string_view url);
// "host:port", "[v6]:port", and the unbracketed IPv6 addresses of Redis' redirections.
Result<RedisEndpoint> ParseRedisEndpoint(std::string_view text);

}  // namespace larder
