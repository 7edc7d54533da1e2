// Where files are kept that can be made again.
#pragma once

#include <string>

namespace larder {

// LARDER_CACHE, else XDG_CACHE_HOME/larder, else ~/.cache/larder, as in scripts/; "" without a home.
std::string CacheDirectory();

}  // namespace larder
