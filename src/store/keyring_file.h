// The keyring as a file: docs/formats/keyring.md has it to the byte.
#pragma once

#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "base/result.h"
#include "store/cipher.h"
#include "store/tier.h"

namespace larder {

inline constexpr size_t kMaxTenantBytes = 1024;
inline constexpr size_t kMaxTenants = 1 << 16;
inline constexpr size_t kMaxKeyringBytes = 128u << 20;

struct SpaceKey {
  SpaceId id{};
  CipherKey key{};  // zero in a ring without encryption
};

using SpaceKeys = std::map<std::string, SpaceKey, std::less<>>;  // by tenant

// `master`: null for a ring without encryption.
Result<std::string> FormatKeyring(const SpaceKeys& keys, const CipherKey* master, const Cipher& cipher);
// kCorrupt: damaged, or another master key; kInvalid: with keys and no master key is given, or the reverse;
// kUnsupported: another version.
Result<SpaceKeys> ParseKeyring(std::string_view content, const CipherKey* master, const Cipher& cipher);

// The master key in a file: 32 bytes, or 64 hexadecimal digits and white space.
Result<CipherKey> ReadKeyFile(const std::string& path);

}  // namespace larder
