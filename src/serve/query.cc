#include "serve/query.h"

#include <charconv>

namespace larder {

ApiResult<int64_t> QueryInteger(const HttpRequest& request, const std::string& name, int64_t otherwise,
                                int64_t least, int64_t most) {
  const auto text = request.QueryParameter(name);
  if (!text) return otherwise;
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text->data(), text->data() + text->size(), value);
  if (error != std::errc() || end != text->data() + text->size() || value < least || value > most)
    return BadField(name, "'{}' must be an integer in {}..{}.", name, least, most);
  return value;
}

std::optional<Digest> DigestFrom(std::string_view hex) {
  Digest digest;
  if (hex.size() != 2 * digest.bytes.size()) return std::nullopt;
  for (size_t i = 0; i < hex.size(); ++i) {
    const char c = hex[i];
    const int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
    if (digit < 0) return std::nullopt;
    digest.bytes[i / 2] = static_cast<uint8_t>(digest.bytes[i / 2] << 4 | digit);
  }
  return digest;
}

}  // namespace larder
