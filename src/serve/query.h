// Parameters of a query that several lists have.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/hash.h"
#include "serve/errors.h"
#include "serve/http.h"

namespace larder {

// A decimal number in least..most; `otherwise` where the parameter is absent.
ApiResult<int64_t> QueryInteger(const HttpRequest& request, const std::string& name, int64_t otherwise,
                                int64_t least, int64_t most);

std::optional<Digest> DigestFrom(std::string_view hex);  // 64 lower-case digits

}  // namespace larder
