#include "store/redis/url.h"

#include <charconv>
#include <optional>

namespace larder {
namespace {

std::unexpected<Error> BadUrl(std::string_view what) {
  return Fail(
      ErrorKind::kInvalid,
      "the Redis URL {}; its form is redis://[user:password@]host:port[,host:port...], rediss:// with TLS, "
      "special characters of the password as %XX",
      what);
}

std::optional<std::string> PercentDecoded(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%') {
      out += text[i];
      continue;
    }
    uint8_t value = 0;
    if (i + 2 >= text.size()) return std::nullopt;
    const auto [end, error] = std::from_chars(text.data() + i + 1, text.data() + i + 3, value, 16);
    if (error != std::errc() || end != text.data() + i + 3) return std::nullopt;
    out += static_cast<char>(value);
    i += 2;
  }
  return out;
}

}  // namespace

std::string RedisEndpoint::ToString() const {
  return host.find(':') == std::string::npos ? fmt::format("{}:{}", host, port)
                                             : fmt::format("[{}]:{}", host, port);
}

Result<RedisEndpoint> ParseRedisEndpoint(std::string_view text) {
  RedisEndpoint out;
  const size_t colon = text.rfind(':');
  const bool only_address = text.ends_with(']');
  std::string_view host = only_address ? text : text.substr(0, colon);
  if (!only_address && colon != std::string_view::npos) {
    const std::string_view port = text.substr(colon + 1);
    const auto [end, error] = std::from_chars(port.data(), port.data() + port.size(), out.port);
    if (error != std::errc() || end != port.data() + port.size() || out.port == 0)
      return BadUrl("has a port that is not 1 to 65535");
  }
  if (host.starts_with('[') && host.ends_with(']')) host = host.substr(1, host.size() - 2);
  constexpr size_t kMostHostBytes = 253;  // of a DNS name
  if (host.empty() || host.size() > kMostHostBytes) return BadUrl("has no host");
  for (const char c : host) {
    const bool good = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                      c == '.' || c == '-' || c == '_' || c == ':';
    if (!good) return BadUrl("has a host or a path that is none");
  }
  out.host = host;
  return out;
}

Result<RedisUrl> ParseRedisUrl(std::string_view url) {
  RedisUrl out;
  constexpr std::string_view kPlain = "redis://", kTls = "rediss://";
  if (url.starts_with(kTls)) {
    out.tls = true;
    url.remove_prefix(kTls.size());
  } else if (url.starts_with(kPlain)) {
    url.remove_prefix(kPlain.size());
  } else {
    return BadUrl("does not begin with redis:// or rediss://");
  }
  if (const size_t at = url.rfind('@'); at != std::string_view::npos) {
    const std::string_view login = url.substr(0, at);
    url.remove_prefix(at + 1);
    const size_t colon = login.find(':');
    if (colon == std::string_view::npos) return BadUrl("has a user without a password");
    const auto user = PercentDecoded(login.substr(0, colon)),
               password = PercentDecoded(login.substr(colon + 1));
    if (!user || !password) return BadUrl("has a % that is not followed by two hexadecimal digits");
    if (password->empty()) return BadUrl("has an empty password");
    out.user = *user;
    out.password = *password;
  }
  while (true) {
    const size_t comma = url.find(',');
    LARDER_ASSIGN(RedisEndpoint endpoint, ParseRedisEndpoint(url.substr(0, comma)));
    out.endpoints.push_back(std::move(endpoint));
    if (comma == std::string_view::npos) return out;
    url.remove_prefix(comma + 1);
  }
}

}  // namespace larder
