#include "larder/cache_directory.h"

#include <cstdlib>

namespace larder {
namespace {

std::string Environment(const char* name) {
  const char* value = std::getenv(name);
  return value ? value : "";
}

}  // namespace

std::string CacheDirectory() {
  if (const std::string own = Environment("LARDER_CACHE"); !own.empty()) return own;
  if (const std::string xdg = Environment("XDG_CACHE_HOME"); !xdg.empty()) return xdg + "/larder";
  const std::string home = Environment("HOME");
  return home.empty() ? "" : home + "/.cache/larder";
}

}  // namespace larder
