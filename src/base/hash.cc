#include "base/hash.h"

#include <openssl/evp.h>
#include <xxhash.h>

#include "base/result.h"

namespace larder {

std::string Digest::Hex() const {
  std::string out;
  out.reserve(64);
  for (uint8_t b : bytes) fmt::format_to(std::back_inserter(out), "{:02x}", b);
  return out;
}

std::string Digest::ShortHex() const { return Hex().substr(0, 16); }

struct FieldHasher::State {
  EVP_MD_CTX* context = EVP_MD_CTX_new();
  ~State() { EVP_MD_CTX_free(context); }
  void Update(const void* data, size_t size) { LARDER_CHECK(EVP_DigestUpdate(context, data, size) == 1); }
  void UpdateLength(uint64_t n) {
    uint8_t bytes[8];
    for (int i = 0; i < 8; ++i) bytes[i] = static_cast<uint8_t>(n >> (8 * i));
    Update(bytes, sizeof bytes);
  }
};

FieldHasher::FieldHasher() : state_(std::make_unique<State>()) {
  LARDER_CHECK(EVP_DigestInit_ex(state_->context, EVP_sha256(), nullptr) == 1);
}
FieldHasher::~FieldHasher() = default;

FieldHasher& FieldHasher::Add(std::string_view tag, std::span<const std::byte> value) {
  state_->UpdateLength(tag.size());
  state_->Update(tag.data(), tag.size());
  state_->UpdateLength(value.size());
  state_->Update(value.data(), value.size());
  return *this;
}

FieldHasher& FieldHasher::Add(std::string_view tag, std::string_view value) {
  return Add(tag, std::as_bytes(std::span(value.data(), value.size())));
}

FieldHasher& FieldHasher::Add(std::string_view tag, uint64_t value) {
  std::array<std::byte, 8> bytes;
  for (int i = 0; i < 8; ++i) bytes[i] = static_cast<std::byte>(value >> (8 * i));
  return Add(tag, std::span<const std::byte>(bytes));
}

FieldHasher& FieldHasher::Add(std::string_view tag, const Digest& value) {
  return Add(tag, std::as_bytes(std::span(value.bytes)));
}

FieldHasher& FieldHasher::Add(std::string_view tag, std::span<const int32_t> value) {
  return Add(tag, std::as_bytes(value));
}

Digest FieldHasher::Finish() {
  Digest out;
  LARDER_CHECK(EVP_DigestFinal_ex(state_->context, out.bytes.data(), nullptr) == 1);
  return out;
}

Digest Sha256(std::span<const std::byte> bytes) {
  Digest out;
  LARDER_CHECK(EVP_Digest(bytes.data(), bytes.size(), out.bytes.data(), nullptr, EVP_sha256(), nullptr) == 1);
  return out;
}

uint64_t Checksum64(std::span<const std::byte> bytes) { return XXH3_64bits(bytes.data(), bytes.size()); }

}  // namespace larder
