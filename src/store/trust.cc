#include "store/trust.h"

#include <fmt/format.h>

namespace larder {

std::vector<std::string> TrustSentences(const TrustedPlaces& places) {
  const bool disk = !places.disk.empty(), redis = !places.redis_url.empty();
  std::vector<std::string> out;
  if (!disk && !redis) return out;
  if (places.store_key) {
    out.push_back(
        "stored blocks are encrypted and verified with the store key: others can delete them, not read or "
        "plant them; archives sealed under another key are refused");
  } else {
    if (disk)
      out.push_back(
          fmt::format("no store key: whoever can write to {} is trusted with every answer, and whoever can "
                      "read it can read tenants' texts; --store-key FILE encrypts",
                      places.disk));
    if (redis)
      out.push_back(
          "no store key: the Redis server and everybody who can write to it are trusted with every answer, "
          "and whoever can read it can read tenants' texts; --store-key FILE encrypts");
    out.push_back("no store key: imported archives are trusted; import only what you exported");
  }
  if (redis && !places.redis_url.starts_with("rediss://")) {
    out.push_back(
        "the connection to Redis is not encrypted, its password neither; rediss:// is, or keep it on a "
        "network "
        "of your own");
  } else if (redis && !places.redis_tls_verify) {
    out.push_back("the certificate of the Redis server is not verified: whoever stands between is trusted");
  }
  return out;
}

}  // namespace larder
