// API keys. The tenant of a request is the one its key belongs to; nothing in the body can change it.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/hash.h"
#include "base/result.h"
#include "serve/http.h"

namespace larder {

// Everybody's tenant where there are no keys.
inline constexpr std::string_view kDefaultTenant = "default";
// The one tenant that is told, through the metrics, of what concerns several tenants.
inline constexpr std::string_view kOperatorTenant = "operator";

class ApiKeys {
 public:
  ApiKeys() = default;  // no keys: everybody is kDefaultTenant

  // Lines "tenant: key"; several keys for one tenant are fine; '#' begins a comment line. Tenant names are 1
  // to 64 letters, digits, '.', '_' and '-'; a key has 1 to 512 printable characters and belongs to one
  // tenant. The error names the line and never shows the key.
  static Result<ApiKeys> Parse(std::string_view text, std::string_view file_name);
  static Result<ApiKeys> Load(const std::string& path);

  bool empty() const { return keys_.empty(); }
  // The tenant of the request's key (Authorization: Bearer, or x-api-key); nullopt: no key or a wrong one.
  std::optional<std::string> TenantOf(const HttpRequest& request) const;

 private:
  struct Key {
    Digest digest;
    std::string tenant;
  };
  std::optional<std::string> Find(std::string_view key) const;
  std::vector<Key> keys_;
};

}  // namespace larder
