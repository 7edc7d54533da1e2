#include "serve/auth.h"

#include <algorithm>
#include <cctype>
#include <span>

#include "base/file.h"

namespace larder {
namespace {

std::string_view Trim(std::string_view text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\t' || text.back() == '\r'))
    text.remove_suffix(1);
  return text;
}

Digest KeyDigest(std::string_view key) { return Sha256(std::as_bytes(std::span(key.data(), key.size()))); }

// Takes the same time wherever the digests differ.
bool SameDigest(const Digest& a, const Digest& b) {
  uint8_t difference = 0;
  for (size_t i = 0; i < a.bytes.size(); ++i) difference |= static_cast<uint8_t>(a.bytes[i] ^ b.bytes[i]);
  return difference == 0;
}

bool IsTenantName(std::string_view name) {
  if (name.empty() || name.size() > 64) return false;
  return std::all_of(name.begin(), name.end(), [](unsigned char c) {
    return std::isalnum(c) != 0 || c == '.' || c == '_' || c == '-';
  });
}

bool IsKey(std::string_view key) {
  if (key.empty() || key.size() > 512) return false;
  return std::all_of(key.begin(), key.end(), [](unsigned char c) { return c > 0x20 && c < 0x7F; });
}

// The credential in "Bearer <key>"; the scheme's case does not matter (RFC 9110).
std::string_view BearerKey(std::string_view authorization) {
  constexpr std::string_view kScheme = "bearer ";
  if (authorization.size() < kScheme.size()) return {};
  for (size_t i = 0; i < kScheme.size(); ++i) {
    if (std::tolower(static_cast<unsigned char>(authorization[i])) != kScheme[i]) return {};
  }
  return Trim(authorization.substr(kScheme.size()));
}

}  // namespace

Result<ApiKeys> ApiKeys::Parse(std::string_view text, std::string_view file_name) {
  ApiKeys keys;
  for (int line_number = 1; !text.empty(); ++line_number) {
    const size_t end = text.find('\n');
    const std::string_view line = Trim(text.substr(0, end));
    text = end == std::string_view::npos ? std::string_view() : text.substr(end + 1);
    if (line.empty() || line.front() == '#') continue;
    const size_t colon = line.find(':');
    if (colon == std::string_view::npos) {
      return Fail(ErrorKind::kInvalid, "{} line {}: no colon; write 'tenant: key'", file_name, line_number);
    }
    const std::string_view tenant = Trim(line.substr(0, colon)), key = Trim(line.substr(colon + 1));
    if (!IsTenantName(tenant)) {
      return Fail(ErrorKind::kInvalid,
                  "{} line {}: a tenant's name is 1 to 64 letters, digits, '.', '_' or '-'", file_name,
                  line_number);
    }
    if (!IsKey(key)) {
      return Fail(ErrorKind::kInvalid, "{} line {}: a key is 1 to 512 printable characters without spaces",
                  file_name, line_number);
    }
    if (keys.Find(key)) {
      return Fail(ErrorKind::kInvalid,
                  "{} line {}: this key stands in an earlier line; give each tenant its own", file_name,
                  line_number);
    }
    keys.keys_.push_back({KeyDigest(key), std::string(tenant)});
  }
  if (keys.empty()) {
    return Fail(ErrorKind::kInvalid, "{} has no key; write one 'tenant: key' a line or leave the option out",
                file_name);
  }
  return keys;
}

Result<ApiKeys> ApiKeys::Load(const std::string& path) {
  LARDER_ASSIGN(const std::string text, ReadFile(path, 16u << 20));
  return Parse(text, path);
}

std::optional<std::string> ApiKeys::Find(std::string_view key) const {
  const Digest digest = KeyDigest(key);
  const Key* found = nullptr;
  for (const Key& candidate : keys_) {  // all of them, so that time does not tell which
    if (SameDigest(candidate.digest, digest)) found = &candidate;
  }
  if (found == nullptr) return std::nullopt;
  return found->tenant;
}

std::optional<std::string> ApiKeys::TenantOf(const HttpRequest& request) const {
  if (keys_.empty()) return std::string(kDefaultTenant);
  std::string_view key = BearerKey(request.Header("authorization"));
  if (key.empty()) key = Trim(request.Header("x-api-key"));
  if (key.empty()) return std::nullopt;
  return Find(key);
}

}  // namespace larder
