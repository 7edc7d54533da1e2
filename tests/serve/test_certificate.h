// Certificates that live as long as a test.
#pragma once

#include <string>

namespace larder::testing {

struct TestCertificate {
  std::string certificate_file, key_file;  // PEM
};

struct CertificateOptions {
  long first_day = -1, last_day = 1;  // from today
  std::string passphrase;             // of the key; "": none
  bool rsa = false;                   // else P-256
};

// For 127.0.0.1 and localhost, signed by itself; files `folder`/`name`.pem and .key.
TestCertificate MakeTestCertificate(const std::string& folder, const std::string& name,
                                    const CertificateOptions& options = {});

// Made at the first call, for the whole program.
const TestCertificate& SharedTestCertificate();

}  // namespace larder::testing
