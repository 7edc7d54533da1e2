#include "store/cipher.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/rand.h>

#include <algorithm>
#include <climits>

namespace larder {
namespace {

struct FreeContext {
  void operator()(EVP_CIPHER_CTX* context) const { EVP_CIPHER_CTX_free(context); }
};
using Context = std::unique_ptr<EVP_CIPHER_CTX, FreeContext>;

const uint8_t* Raw(std::span<const std::byte> bytes) {
  return reinterpret_cast<const uint8_t*>(bytes.data());
}
uint8_t* Raw(std::span<std::byte> bytes) { return reinterpret_cast<uint8_t*>(bytes.data()); }

bool Fits(size_t bytes) { return bytes <= INT_MAX; }  // the lengths of EVP are ints

}  // namespace

// Fetched once: looking the cipher up costs more than sealing a small record.
struct Cipher::State {
  EVP_CIPHER* aes = EVP_CIPHER_fetch(nullptr, "AES-256-GCM", nullptr);
  ~State() { EVP_CIPHER_free(aes); }
};

Cipher::Cipher() : state_(std::make_unique<State>()) { LARDER_CHECK(state_->aes != nullptr); }
Cipher::~Cipher() = default;

Status Cipher::Seal(const CipherKey& key, std::span<const std::byte> bound, std::span<const std::byte> from,
                    std::span<std::byte> to, CipherNonce& nonce, CipherTag& tag) const {
  LARDER_CHECK(from.size() == to.size() && Fits(from.size()) && Fits(bound.size()));
  LARDER_TRY(FillRandom(nonce));
  const Context context(EVP_CIPHER_CTX_new());
  int written = 0;
  bool ok =
      context && EVP_EncryptInit_ex2(context.get(), state_->aes, key.data(), nonce.data(), nullptr) == 1;
  ok = ok &&
       EVP_EncryptUpdate(context.get(), nullptr, &written, Raw(bound), static_cast<int>(bound.size())) == 1;
  ok = ok && (from.empty() || EVP_EncryptUpdate(context.get(), Raw(to), &written, Raw(from),
                                                static_cast<int>(from.size())) == 1);
  uint8_t none[16];
  ok = ok && EVP_EncryptFinal_ex(context.get(), none, &written) == 1;
  ok = ok && EVP_CIPHER_CTX_ctrl(context.get(), EVP_CTRL_GCM_GET_TAG, static_cast<int>(tag.size()),
                                 tag.data()) == 1;
  if (!ok) return Fail(ErrorKind::kIo, "the cipher failed; is the system's OpenSSL intact?");
  return {};
}

Status Cipher::Open(const CipherKey& key, std::span<const std::byte> bound, const CipherNonce& nonce,
                    const CipherTag& tag, std::span<std::byte> bytes) const {
  LARDER_CHECK(Fits(bytes.size()) && Fits(bound.size()));
  const Context context(EVP_CIPHER_CTX_new());
  CipherTag expected = tag;  // the interface wants a mutable one
  int written = 0;
  bool ok =
      context && EVP_DecryptInit_ex2(context.get(), state_->aes, key.data(), nonce.data(), nullptr) == 1;
  ok = ok &&
       EVP_DecryptUpdate(context.get(), nullptr, &written, Raw(bound), static_cast<int>(bound.size())) == 1;
  ok = ok && (bytes.empty() || EVP_DecryptUpdate(context.get(), Raw(bytes), &written, Raw(bytes),
                                                 static_cast<int>(bytes.size())) == 1);
  ok = ok && EVP_CIPHER_CTX_ctrl(context.get(), EVP_CTRL_GCM_SET_TAG, static_cast<int>(expected.size()),
                                 expected.data()) == 1;
  uint8_t none[16];
  ok = ok && EVP_DecryptFinal_ex(context.get(), none, &written) == 1;
  if (ok) return {};
  std::ranges::fill(bytes, std::byte{0});
  return Fail(ErrorKind::kCorrupt, "sealed bytes are damaged, or were sealed under another name or key");
}

Status FillRandom(std::span<uint8_t> bytes) {
  if (RAND_bytes(bytes.data(), static_cast<int>(bytes.size())) != 1)
    return Fail(ErrorKind::kIo, "the system gave no random bytes");
  return {};
}

void Cleanse(std::span<uint8_t> bytes) { OPENSSL_cleanse(bytes.data(), bytes.size()); }

}  // namespace larder
