// Keys, tenants, and who may be served at all.
#include "serve/auth.h"

#include <filesystem>
#include <fstream>

#include "serve/serve_fixture.h"

namespace larder::testing {
namespace {

HttpRequest With(std::string name, std::string value) {
  HttpRequest request;
  request.headers.emplace_back(std::move(name), std::move(value));
  return request;
}

TEST(ApiKeys, FindTheTenant) {
  const auto keys = ApiKeys::Parse("# people\n\nalice: key-a\r\n bob :  key-b\nalice: key-c", "keys");
  ASSERT_TRUE(keys.has_value()) << keys.error().message;
  EXPECT_EQ(keys->TenantOf(With("authorization", "Bearer key-a")), "alice");
  EXPECT_EQ(keys->TenantOf(With("authorization", "bearer   key-b ")), "bob");
  EXPECT_EQ(keys->TenantOf(With("x-api-key", "key-c")), "alice");
  EXPECT_EQ(keys->TenantOf(With("authorization", "Bearer key-")), std::nullopt);
  EXPECT_EQ(keys->TenantOf(With("authorization", "Bearer key-aa")), std::nullopt);
  EXPECT_EQ(keys->TenantOf(With("authorization", "Basic key-a")), std::nullopt);
  EXPECT_EQ(keys->TenantOf(With("authorization", "Bearer ")), std::nullopt);
  EXPECT_EQ(keys->TenantOf(HttpRequest()), std::nullopt);
}

TEST(ApiKeys, WithoutKeysEverybodyIsDefault) {
  EXPECT_EQ(ApiKeys().TenantOf(With("authorization", "Bearer ")), "default");
  EXPECT_EQ(ApiKeys().TenantOf(With("authorization", "Bearer whatever")), "default");
}

TEST(ApiKeys, ErrorsNameTheLineAndHideTheKey) {
  for (const auto& [text, line] :
       std::vector<std::pair<std::string, std::string>>{{"alice key-secret", "line 1"},
                                                        {"a: k1\nno colon here secret", "line 2"},
                                                        {"a: k1\n\n: secret", "line 3"},
                                                        {"a b: secret", "line 1"},
                                                        {"a: with space secret", "line 1"},
                                                        {"a:", "line 1"},
                                                        {"a: secret\nb: secret", "line 2"},
                                                        {std::string(65, 't') + ": secret", "line 1"},
                                                        {"# only comments", "no key"}}) {
    const auto keys = ApiKeys::Parse(text, "file.txt");
    ASSERT_FALSE(keys.has_value()) << text;
    EXPECT_NE(keys.error().message.find(line), std::string::npos) << keys.error().message;
    EXPECT_EQ(keys.error().message.find("secret"), std::string::npos) << keys.error().message;
  }
}

TEST(ServeOptions, WithoutKeysOnlyLoopbackIsServed) {
  FakeBackend backend;
  for (const char* host : {"0.0.0.0", "::", "192.0.2.1", "example.org"}) {
    ServeOptions options;
    options.host = host;
    const auto server = Server::Create(&backend, options);
    ASSERT_FALSE(server.has_value());
    EXPECT_NE(server.error().message.find("--api-keys"), std::string::npos);
    EXPECT_NE(server.error().message.find("--no-auth"), std::string::npos);
  }
  ServeOptions open;
  open.host = "0.0.0.0";
  open.port = 0;
  open.no_auth = true;
  EXPECT_TRUE(Server::Create(&backend, open).has_value());
}

class AuthTest : public ServeTest {
 protected:
  void SetUp() override {
    path_ = std::filesystem::temp_directory_path() / ("larder-keys-" + std::to_string(::getpid()));
    std::ofstream(path_) << "alice: key-alice\nbob: key-bob\noperator: key-operator\n";
    ServeOptions options;
    options.api_keys = path_;
    Start(options);
  }
  void TearDown() override {
    ServeTest::TearDown();
    std::filesystem::remove(path_);
  }
  static std::string As(const std::string& name) { return "Authorization: Bearer key-" + name + "\r\n"; }
  std::filesystem::path path_;
};

TEST_F(AuthTest, WrongAndMissingKeysAreRefusedInShape) {
  const Json body = {{"prompt", "a"}};
  for (const char* headers : {"", "Authorization: Bearer nope\r\n", "Authorization: Bearer \r\n",
                              "Authorization: key-alice\r\n", "x-api-key: nope\r\n"}) {
    ExpectError(Post("/v1/completions", body, headers), 401, "", "invalid_api_key");
  }
  for (const char* path : {"/v1/models", "/v1/models/x", "/metrics", "/tokenizer_info", "/v1/cache/stats",
                           "/v1/cache/blocks", "/nothing"}) {
    ExpectError(Get(path), 401, "", "invalid_api_key");
  }
  EXPECT_EQ(Get("/health").status, 200);
  EXPECT_EQ(Get("/").status, 200);
  EXPECT_EQ(Post("/v1/completions", body, "x-api-key: key-bob\r\n").status, 200);
}

TEST_F(AuthTest, TheTenantIsTheKeysWhateverTheBodySays) {
  const Json body = {{"prompt", "a"},
                     {"tenant", "bob"},
                     {"user", "bob"},
                     {"cache_salt", "bob"},
                     {"larder", {{"tenant", "bob"}}}};
  EXPECT_EQ(Post("/v1/completions", body, As("alice")).status, 200);
  EXPECT_EQ(backend_.last().tenant, "alice");
  Post("/v1/cache/clear", Json::object(), As("bob"));
  EXPECT_EQ(backend_.cleared, "bob");
}

TEST_F(AuthTest, BlocksOfOthersAreNotShown) {
  KvBlockInfo block{};
  block.tenant = "alice";
  backend_.blocks.push_back(block);
  EXPECT_EQ(Json::parse(Get("/v1/cache/blocks", As("alice")).body)["blocks"].size(), 1u);
  EXPECT_EQ(Json::parse(Get("/v1/cache/blocks", As("bob")).body)["blocks"].size(), 0u);
}

// A tenant that could watch this count would learn whether strangers sent its prompt.
TEST_F(AuthTest, OnlyTheOperatorSeesMissesAcrossTenants) {
  backend_.stats.misses = {{"never seen", 2}, {"other tenant", 5}};
  const auto metrics = [&](const char* name) { return Get("/metrics", As(name)).body; };
  EXPECT_NE(metrics("operator").find("larder_kv_misses_total{reason=\"other_tenant\"} 5"), std::string::npos);
  EXPECT_EQ(metrics("alice").find("other_tenant"), std::string::npos);
  EXPECT_NE(metrics("alice").find("larder_kv_misses_total{reason=\"never_seen\"} 7"), std::string::npos);
  EXPECT_EQ(Json::parse(Get("/v1/cache/stats", As("alice")).body)["misses"], Json({{"never_seen", 7}}));
}

TEST_F(AuthTest, AWrongKeyIsRefusedBeforeItsBodyIsRead) {
  HttpClient client(port_);
  client.Send("POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n");
  EXPECT_EQ(client.Read().status, 401);
}

}  // namespace
}  // namespace larder::testing
