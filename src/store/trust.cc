#include "store/trust.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <system_error>

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

Status CheckKeyIsOutside(const std::string& store_key_file, const std::string& directory) {
  namespace fs = std::filesystem;
  if (store_key_file.empty() || directory.empty()) return {};
  const auto whole = [](const std::string& path) {
    std::error_code ignored;  // what cannot be read shows when it is opened
    const fs::path resolved = fs::weakly_canonical(fs::absolute(path, ignored), ignored);
    return resolved.has_filename() ? resolved : resolved.parent_path();
  };
  const fs::path key = whole(store_key_file), folder = whole(directory);
  if (folder.empty() || std::ranges::mismatch(folder, key).in1 != folder.end()) return {};
  return Fail(ErrorKind::kInvalid,
              "the store key {} lies in {}, and who copies that has both; move the key out of it",
              store_key_file, directory);
}

}  // namespace larder
