// TLS with a certificate made for the test.
#include "tests/store/redis/redis_server.h"
#include "tests/store/redis/tier_client.h"

namespace larder {
namespace {

class RedisTls : public testing::Test {
 protected:
  void SetUp() override {
    if (!HaveRedisServer()) GTEST_SKIP() << "no redis-server on this machine";
    if (!MakeCertificate("server", "IP:127.0.0.1")) GTEST_SKIP() << "no openssl on this machine";
    port_ = FreePort();
    server_ = std::make_unique<RedisServer>(std::vector<std::string>{
        "--tls-port", std::to_string(port_), "--tls-cert-file", folder_ / "server.pem", "--tls-key-file",
        folder_ / "server.key", "--tls-ca-cert-file", folder_ / "server.pem", "--tls-auth-clients", "no"});
  }
  bool MakeCertificate(const std::string& name, const std::string& subject) {
    return RunProgram({"openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj",
                       "/CN=larder", "-addext", "subjectAltName=" + subject, "-keyout",
                       folder_ / (name + ".key"), "-out", folder_ / (name + ".pem")}) == 0;
  }
  std::unique_ptr<Tier> Open(const std::string& host, const std::string& ca_file, bool verify = true) {
    return OpenRedisTier({.url = "rediss://" + host + ":" + std::to_string(port_),
                          .ca_file = ca_file,
                          .tls_verify = verify},
                         nullptr, &clock_)
        .value();
  }

  TestClock clock_;
  TemporaryFolder folder_{"redis-tls"};
  int port_ = 0;
  std::unique_ptr<RedisServer> server_;
};

TEST_F(RedisTls, ATrustedServerIsUsed) {
  const TestRecord record = MakeTestRecord(1, {1000, 5 << 20});
  EXPECT_TRUE(TierClient(*Open("127.0.0.1", folder_ / "server.pem")).Put(record));
  EXPECT_TRUE(TierClient(*Open("127.0.0.1", "", false)).Has(record));
}

TEST_F(RedisTls, AnUntrustedOrMisnamedServerIsNot) {
  ASSERT_TRUE(MakeCertificate("other", "IP:127.0.0.1"));
  const TestRecord record = MakeTestRecord(1, {10});
  for (const auto& [host, ca_file] : {std::pair<std::string, std::string>{"127.0.0.1", ""},
                                      {"127.0.0.1", folder_ / "other.pem"},
                                      {"localhost", folder_ / "server.pem"}}) {
    const auto tier = Open(host, ca_file);
    EXPECT_EQ(TierClient(*tier).Put(record).error().kind, ErrorKind::kUnavailable) << host << " " << ca_file;
  }
  EXPECT_EQ(server_->Number({"DBSIZE"}), 0);
}

TEST_F(RedisTls, APlainServerIsNotSpokenToInPlain) {
  port_ = server_->port();
  EXPECT_EQ(TierClient(*Open("127.0.0.1", "", false)).Put(MakeTestRecord(1, {10})).error().kind,
            ErrorKind::kUnavailable);
}

}  // namespace
}  // namespace larder
