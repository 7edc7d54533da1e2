#include "store/keyring_file.h"

#include <algorithm>
#include <cctype>
#include <vector>

#include "base/file.h"
#include "base/hash.h"
#include "store/bytes.h"

namespace larder {
namespace {

constexpr std::string_view kMagic = "larderKr", kKeyDomain = "larderKk";
constexpr uint32_t kVersion = 1, kFlagKeys = 1;
constexpr size_t kFixedBytes = 20, kSealBytes = 28, kChecksumBytes = 8;

std::span<const std::byte> AsBytes(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

// A wrapped key is bound to its tenant and its space, so that entries cannot be exchanged.
std::vector<std::byte> KeyBound(std::string_view tenant, const SpaceId& id) {
  std::vector<std::byte> bound;
  ByteWriter writer(bound);
  writer.Bytes(AsBytes(kKeyDomain));
  writer.Number(kVersion);
  writer.Bytes(id);
  writer.Bytes(AsBytes(tenant));
  return bound;
}

Status WriteKey(ByteWriter& writer, std::string_view tenant, const SpaceKey& entry, const CipherKey& master,
                const Cipher& cipher) {
  CipherKey wrapped;
  CipherNonce nonce;
  CipherTag tag;
  const auto plain = std::as_bytes(std::span(entry.key));
  LARDER_TRY(cipher.Seal(master, KeyBound(tenant, entry.id), plain,
                         std::as_writable_bytes(std::span(wrapped)), nonce, tag));
  writer.Bytes(nonce);
  writer.Bytes(tag);
  writer.Bytes(wrapped);
  return {};
}

std::unexpected<Error> Corrupt(std::string_view what) {
  return Fail(ErrorKind::kCorrupt,
              "the keyring is damaged ({}); restore it from a copy, or move it away to begin anew", what);
}

// One entry after the fixed part; `master` null: ids only.
Status ReadEntry(ByteReader& reader, const CipherKey* master, const Cipher& cipher, SpaceKeys& keys) {
  const uint32_t tenant_bytes = reader.Number<uint32_t>();
  if (tenant_bytes > kMaxTenantBytes) return Corrupt("a tenant's name is too long");
  const auto name = reader.Bytes(tenant_bytes);
  const std::string tenant(reinterpret_cast<const char*>(name.data()), name.size());
  SpaceKey entry;
  reader.Bytes(entry.id);
  if (master != nullptr) {
    CipherNonce nonce;
    CipherTag tag;
    reader.Bytes(nonce);
    reader.Bytes(tag);
    reader.Bytes(entry.key);
    if (!reader.ok()) return Corrupt("it is cut off");
    if (!cipher.Open(*master, KeyBound(tenant, entry.id), nonce, tag,
                     std::as_writable_bytes(std::span(entry.key))))
      return Corrupt("a key does not open");
  }
  if (!reader.ok()) return Corrupt("it is cut off");
  if (!keys.emplace(tenant, entry).second) return Corrupt("a tenant appears twice");
  return {};
}

// The seal over everything before it tells a wrong master key from damage, also in an empty ring.
Status CheckSeal(ByteReader& reader, std::span<const std::byte> sealed, const CipherKey& master,
                 const Cipher& cipher) {
  CipherNonce nonce;
  CipherTag tag;
  reader.Bytes(nonce);
  reader.Bytes(tag);
  if (!reader.ok() || !cipher.Open(master, sealed, nonce, tag, {}))
    return Fail(
        ErrorKind::kCorrupt,
        "the keyring was made with another store key; give that one, or move the keyring away to begin anew");
  return {};
}

}  // namespace

Result<std::string> FormatKeyring(const SpaceKeys& keys, const CipherKey* master, const Cipher& cipher) {
  std::vector<std::byte> out;
  ByteWriter writer(out);
  writer.Bytes(AsBytes(kMagic));
  writer.Number(kVersion);
  writer.Number(master != nullptr ? kFlagKeys : 0);
  writer.Number(static_cast<uint32_t>(keys.size()));
  for (const auto& [tenant, entry] : keys) {
    writer.Number(static_cast<uint32_t>(tenant.size()));
    writer.Bytes(AsBytes(tenant));
    writer.Bytes(entry.id);
    if (master != nullptr) LARDER_TRY(WriteKey(writer, tenant, entry, *master, cipher));
  }
  if (master != nullptr) {
    CipherNonce nonce;
    CipherTag tag;
    LARDER_TRY(cipher.Seal(*master, out, {}, {}, nonce, tag));
    writer.Bytes(nonce);
    writer.Bytes(tag);
  }
  writer.Number(Checksum64(out));
  return std::string(reinterpret_cast<const char*>(out.data()), out.size());
}

Result<SpaceKeys> ParseKeyring(std::string_view content, const CipherKey* master, const Cipher& cipher) {
  const auto bytes = AsBytes(content);
  if (bytes.size() < kFixedBytes + kChecksumBytes) return Corrupt("it is cut off");
  const auto body = bytes.first(bytes.size() - kChecksumBytes);
  ByteReader reader(body);
  if (!std::ranges::equal(reader.Bytes(kMagic.size()), AsBytes(kMagic)))
    return Corrupt("it begins with other bytes");
  if (const uint32_t version = reader.Number<uint32_t>(); version != kVersion)
    return Fail(ErrorKind::kUnsupported, "the keyring has version {}; this program knows version {}", version,
                kVersion);
  if (ByteReader(bytes.last(kChecksumBytes)).Number<uint64_t>() != Checksum64(body))
    return Corrupt("it does not have its checksum");
  const uint32_t flags = reader.Number<uint32_t>(), count = reader.Number<uint32_t>();
  if ((flags & ~kFlagKeys) != 0 || count > kMaxTenants) return Corrupt("unknown flags or too many tenants");
  const bool has_keys = flags != 0;
  if (has_keys && master == nullptr)
    return Fail(ErrorKind::kInvalid, "the keyring was made with a store key; give that key");
  if (!has_keys && master != nullptr)
    return Fail(ErrorKind::kInvalid,
                "the keyring was made without a store key; move it away to begin anew with encryption");
  if (has_keys) {
    if (reader.left() < kSealBytes) return Corrupt("it is cut off");
    const auto sealed = body.first(body.size() - kSealBytes);
    ByteReader seal(body.last(kSealBytes));
    LARDER_TRY(CheckSeal(seal, sealed, *master, cipher));
  }
  SpaceKeys keys;
  for (uint32_t i = 0; i < count; ++i) LARDER_TRY(ReadEntry(reader, master, cipher, keys));
  if (reader.left() != (has_keys ? kSealBytes : 0)) return Corrupt("there are bytes left over");
  return keys;
}

Result<CipherKey> ReadKeyFile(const std::string& path) {
  constexpr size_t kMostBytes = 4096;  // 64 digits and a little white space
  LARDER_ASSIGN(std::string content, ReadFile(path, kMostBytes));
  CipherKey key{};
  bool good = content.size() == key.size();
  if (good) {
    std::ranges::copy(content, key.begin());
  } else {
    size_t digits = 0;
    good = true;
    for (const char c : content) {
      const auto byte = static_cast<unsigned char>(c);
      if (std::isspace(byte)) continue;
      good = good && std::isxdigit(byte) && digits < 2 * key.size();
      if (!good) break;
      const int value = std::isdigit(byte) ? c - '0' : std::tolower(byte) - 'a' + 10;
      key[digits / 2] = static_cast<uint8_t>(key[digits / 2] << 4 | value);
      ++digits;
    }
    good = good && digits == 2 * key.size();
  }
  Cleanse({reinterpret_cast<uint8_t*>(content.data()), content.size()});
  if (!good)
    return Fail(ErrorKind::kInvalid,
                "{} is not a key: 32 bytes or 64 hexadecimal digits are wanted (openssl rand -hex 32)", path);
  return key;
}

}  // namespace larder
