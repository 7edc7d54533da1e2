// The keyring as a file: docs/formats/keyring.md has it to the byte.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "base/result.h"
#include "store/cipher.h"
#include "store/tier.h"

namespace larder {

inline constexpr size_t kMaxTenantBytes = 1024;
inline constexpr size_t kMaxTenants = 1 << 16;
inline constexpr size_t kMaxKeyringBytes = 128u << 20;

struct SpaceKey {
  SpaceId id{};
  // How often the tenant was forgotten: of two entries the one with the higher number holds, so that neither
  // an old copy nor a server that was away brings a destroyed key back.
  uint32_t generation = 0;
  CipherKey key{};  // zero in a ring without encryption
  // Forgotten, and a Redis that shares the ring, now or later, may not know it yet.
  bool untold = false;

  ~SpaceKey() { Cleanse(key); }
  bool operator==(const SpaceKey&) const = default;
};

using SpaceKeys = std::map<std::string, SpaceKey, std::less<>>;  // by tenant

// The master key under which tenants' keys are wrapped, or none.
class StoreKey {
 public:
  // "": none. Else a file of 32 bytes, or 64 hexadecimal digits and white space; kInvalid, kNotFound, kIo.
  static Result<StoreKey> Read(const std::string& path);
  ~StoreKey() {
    if (key_) Cleanse(*key_);
  }
  const CipherKey* get() const { return key_ ? &*key_ : nullptr; }

 private:
  std::optional<CipherKey> key_;
};

Status CheckTenant(std::string_view tenant);  // kInvalid: the name is too long
std::unexpected<Error> KeyringFull();         // kExhausted
// A new random id, and with a store key a new random key. kIo: no randomness.
Result<SpaceKey> MakeSpaceKey(const StoreKey& store_key, uint32_t generation);
// What replaces a forgotten tenant's entry: of the next generation, untold. kExhausted: there is none.
Result<SpaceKey> NextSpaceKey(const StoreKey& store_key, std::string_view tenant, const SpaceKey& prior);

// `master`: null for a ring without encryption.
Result<std::string> FormatKeyring(const SpaceKeys& keys, const CipherKey* master, const Cipher& cipher);
// kCorrupt: damaged, or another master key; kInvalid: with keys and no master key is given, or the reverse;
// kUnsupported: another version.
Result<SpaceKeys> ParseKeyring(std::string_view content, const CipherKey* master, const Cipher& cipher);

Result<CipherKey> ReadKeyFile(const std::string& path);

// The file on disk. A lock on a file beside it is held while it is read, changed and replaced, so that two
// servers with one ring do not lose each other's tenants.
class KeyringFile {
 public:
  KeyringFile(std::string path, const StoreKey& store_key) : path_(std::move(path)), store_key_(store_key) {}

  const StoreKey& store_key() const { return store_key_; }
  // Makes the file if it is not there.
  Result<SpaceKeys> Open() const;
  // Reads the file anew, lets `edit` change what it says and, if that returns true, replaces it, synced.
  // Returns what it then holds.
  Result<SpaceKeys> Edit(const std::function<Result<bool>(SpaceKeys&)>& edit) const;

 private:
  Result<std::optional<SpaceKeys>> Read() const;  // nothing: there is no file
  Status Write(const SpaceKeys& keys) const;

  const std::string path_;
  const StoreKey store_key_;
  const Cipher cipher_;
};

}  // namespace larder
