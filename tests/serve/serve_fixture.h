// A server on a free port of this machine, with the fake engine behind it.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>

#include "serve/fake_backend.h"
#include "serve/http_client.h"
#include "serve/server.h"
#include "serve/test_certificate.h"

namespace larder::testing {

using Json = nlohmann::json;

class ServeTest : public ::testing::Test {
 protected:
  void Start(ServeOptions options = {}) {
    options.port = 0;
    if (TestTls()) {
      options.tls_cert = SharedTestCertificate().certificate_file;
      options.tls_key = SharedTestCertificate().key_file;
    }
    auto server = Server::Create(&backend_, options);
    ASSERT_TRUE(server.has_value()) << server.error().message;
    server_ = *std::move(server);
    port_ = server_->port();
    runner_ = std::thread([this] { server_->Run(); });
  }
  void TearDown() override {
    if (server_ == nullptr) return;
    server_->Stop();
    if (runner_.joinable()) runner_.join();
  }

  Answer Exchange(const std::string& text) {
    HttpClient client(port_);
    client.Send(text);
    return client.Read(text.starts_with("HEAD"));
  }
  Answer Post(std::string_view path, const Json& body, std::string_view headers = "") {
    return Exchange(PostText(path, body.dump(), headers));
  }
  Answer Get(std::string_view path, std::string_view headers = "") {
    return Exchange(GetText(path, headers));
  }
  Answer Chat(Json body) {
    if (!body.contains("messages")) body["messages"] = Json::array({{{"role", "user"}, {"content", "Hi"}}});
    return Post("/v1/chat/completions", body);
  }

  // The JSON objects of a stream's events; checks its form on the way.
  static std::vector<Json> Events(const Answer& answer, bool done = true) {
    std::vector<Json> events;
    bool seen_done = false;
    for (const std::string& chunk : answer.chunks) {
      std::string_view text = chunk;
      while (!text.empty()) {
        EXPECT_TRUE(text.starts_with("data: ")) << text;
        const size_t end = text.find("\n\n");
        if (end == std::string_view::npos) {
          ADD_FAILURE() << "an event was split over writes: " << text;
          break;
        }
        const std::string_view data = text.substr(6, end - 6);
        EXPECT_FALSE(seen_done) << "something after [DONE]";
        if (data == "[DONE]") {
          seen_done = true;
        } else {
          events.push_back(Json::parse(data));
        }
        text.remove_prefix(end + 2);
      }
    }
    EXPECT_EQ(seen_done, done);
    return events;
  }

  static void ExpectError(const Answer& answer, int status, const std::string& param = "",
                          const std::string& code = "") {
    EXPECT_EQ(answer.status, status) << answer.body;
    const Json body = Json::parse(answer.body, nullptr, false);
    ASSERT_TRUE(body.is_object() && body.contains("error") && body["error"].is_object()) << answer.body;
    const Json& error = body["error"];
    EXPECT_TRUE(error["message"].is_string() && !error["message"].get<std::string>().empty());
    EXPECT_TRUE(error["type"].is_string());
    EXPECT_TRUE(error.contains("param") && error.contains("code"));
    if (!param.empty()) {
      EXPECT_EQ(error["param"], param) << answer.body;
    }
    if (!code.empty()) {
      EXPECT_EQ(error["code"], code) << answer.body;
    }
    EXPECT_EQ(answer.headers.at("content-type"), "application/json");
  }

  FakeBackend backend_;
  std::unique_ptr<Server> server_;
  uint16_t port_ = 0;
  std::thread runner_;
};

}  // namespace larder::testing
