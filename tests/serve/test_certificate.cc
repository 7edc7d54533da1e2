#include "serve/test_certificate.h"

#include <gtest/gtest.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <memory>

namespace larder::testing {
namespace {

struct Free {
  void operator()(EVP_PKEY* key) const { EVP_PKEY_free(key); }
  void operator()(X509* certificate) const { X509_free(certificate); }
  void operator()(X509_EXTENSION* extension) const { X509_EXTENSION_free(extension); }
  void operator()(FILE* file) const { std::fclose(file); }
};
template <class T>
using Owned = std::unique_ptr<T, Free>;

void Check(bool good) {
  if (!good) std::abort();
}

Owned<FILE> Create(const std::string& path) {
  Owned<FILE> file(std::fopen(path.c_str(), "wb"));
  Check(file != nullptr);
  return file;
}

Owned<X509> SelfSigned(EVP_PKEY* key, const CertificateOptions& options) {
  constexpr long kDaySeconds = 24 * 3600;
  Owned<X509> certificate(X509_new());
  X509* x = certificate.get();
  X509_set_version(x, X509_VERSION_3);
  ASN1_INTEGER_set(X509_get_serialNumber(x), 1);
  X509_gmtime_adj(X509_getm_notBefore(x), options.first_day * kDaySeconds);
  X509_gmtime_adj(X509_getm_notAfter(x), options.last_day * kDaySeconds);
  X509_set_pubkey(x, key);
  X509_NAME* name = X509_get_subject_name(x);
  X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, reinterpret_cast<const unsigned char*>("larder test"),
                             -1, -1, 0);
  X509_set_issuer_name(x, name);
  const Owned<X509_EXTENSION> names(
      X509V3_EXT_conf_nid(nullptr, nullptr, NID_subject_alt_name, "IP:127.0.0.1,DNS:localhost"));
  Check(names != nullptr && X509_add_ext(x, names.get(), -1) == 1);
  Check(X509_sign(x, key, EVP_sha256()) > 0);
  return certificate;
}

}  // namespace

TestCertificate MakeTestCertificate(const std::string& folder, const std::string& name,
                                    const CertificateOptions& options) {
  const TestCertificate files{folder + "/" + name + ".pem", folder + "/" + name + ".key"};
  const Owned<EVP_PKEY> key(options.rsa ? EVP_RSA_gen(2048) : EVP_EC_gen("P-256"));
  Check(key != nullptr);
  Check(PEM_write_X509(Create(files.certificate_file).get(), SelfSigned(key.get(), options).get()) == 1);
  const std::string& phrase = options.passphrase;
  Check(PEM_write_PrivateKey(Create(files.key_file).get(), key.get(),
                             phrase.empty() ? nullptr : EVP_aes_256_cbc(),
                             reinterpret_cast<const unsigned char*>(phrase.data()),
                             static_cast<int>(phrase.size()), nullptr, nullptr) == 1);
  return files;
}

const TestCertificate& SharedTestCertificate() {
  struct Folder {
    Folder() {
      path = ::testing::TempDir() + "larder-certificate-XXXXXX";
      Check(mkdtemp(path.data()) != nullptr);
      files = MakeTestCertificate(path, "server");
    }
    ~Folder() { std::filesystem::remove_all(path); }
    std::string path;
    TestCertificate files;
  };
  static const Folder folder;
  return folder.files;
}

}  // namespace larder::testing
