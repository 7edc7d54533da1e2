// TLS on the HTTP port. connection_test, stream_test and others run once more over TLS; this is what is TLS's
// own.
#include "serve/tls.h"

#include <openssl/err.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <random>
#include <thread>

#include "serve/serve_fixture.h"

namespace larder::testing {
namespace {

struct Free {
  void operator()(SSL* ssl) const { SSL_free(ssl); }
  void operator()(SSL_CTX* context) const { SSL_CTX_free(context); }
};
using ClientTls = std::unique_ptr<SSL_CTX, Free>;

ClientTls MakeClientTls() { return ClientTls(SSL_CTX_new(TLS_client_method())); }

// A client that keeps the bytes in its hands: what it wants to send comes out as a string.
class HandClient {
 public:
  explicit HandClient(SSL_CTX* context = AnyClientTls()) : ssl_(SSL_new(context)) {
    SSL_set_bio(ssl_.get(), BIO_new(BIO_s_mem()), BIO_new(BIO_s_mem()));
    SSL_set_connect_state(ssl_.get());
  }
  std::string Out() {
    char* data = nullptr;
    const long size = BIO_get_mem_data(SSL_get_wbio(ssl_.get()), &data);
    std::string out(data, static_cast<size_t>(size));
    BIO_reset(SSL_get_wbio(ssl_.get()));
    return out;
  }
  void In(std::string_view bytes) {
    BIO_write(SSL_get_rbio(ssl_.get()), bytes.data(), static_cast<int>(bytes.size()));
  }
  bool Handshake() { return SSL_do_handshake(ssl_.get()) == 1; }
  void Write(std::string_view plain) { SSL_write(ssl_.get(), plain.data(), static_cast<int>(plain.size())); }
  std::string Read() {
    std::string out(1 << 20, '\0');
    const int count = SSL_read(ssl_.get(), out.data(), static_cast<int>(out.size()));
    out.resize(static_cast<size_t>(std::max(count, 0)));
    return out;
  }
  bool SaidFarewell() {
    Read();
    return (SSL_get_shutdown(ssl_.get()) & SSL_RECEIVED_SHUTDOWN) != 0;
  }
  SSL* ssl() { return ssl_.get(); }

 private:
  std::unique_ptr<SSL, Free> ssl_;
};

class TlsTest : public ServeTest {
 protected:
  void StartTls(ServeOptions options = {}) {
    options.tls_cert = SharedTestCertificate().certificate_file;
    options.tls_key = SharedTestCertificate().key_file;
    Start(options);
  }
  Answer GetOver(SSL_CTX* tls, std::string_view path = "/health") {
    HttpClient client(port_, tls);
    if (!client.connected()) return {};
    client.Send(GetText(path));
    return client.Read();
  }
  // True when nothing is left of all connections but the one that asks.
  bool AllGone() {
    for (int i = 0; i < 1000; ++i) {
      if (GetOver(AnyClientTls(), "/metrics").body.find("larder_http_connections 1\n") != std::string::npos)
        return true;
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    return false;
  }
};

TEST_F(TlsTest, BothVersionsOfTodayAreSpokenAndOlderOnesRefused) {
  StartTls();
  for (const auto& [version, good] : {std::pair{TLS1_VERSION, false},
                                      {TLS1_1_VERSION, false},
                                      {TLS1_2_VERSION, true},
                                      {TLS1_3_VERSION, true}}) {
    const ClientTls tls = MakeClientTls();
    SSL_CTX_set_security_level(tls.get(), 0);  // or the client itself refuses old versions
    SSL_CTX_set_min_proto_version(tls.get(), version);
    SSL_CTX_set_max_proto_version(tls.get(), version);
    EXPECT_EQ(GetOver(tls.get()).status, good ? 200 : 0) << version;
  }
  EXPECT_TRUE(AllGone());
}

TEST_F(TlsTest, TheCertificateIsTheOneOfTheFile) {
  StartTls();
  const ClientTls tls = MakeClientTls();
  SSL_CTX_set_verify(tls.get(), SSL_VERIFY_PEER, nullptr);
  EXPECT_EQ(GetOver(tls.get()).status, 0) << "it is trusted without reason";
  ASSERT_EQ(
      SSL_CTX_load_verify_locations(tls.get(), SharedTestCertificate().certificate_file.c_str(), nullptr), 1);
  EXPECT_EQ(GetOver(tls.get()).status, 200);
  EXPECT_TRUE(AllGone());
}

TEST_F(TlsTest, AlpnIsHttp11OrNothing) {
  StartTls();
  const auto offer = [&](const std::string& list) {
    const ClientTls tls = MakeClientTls();
    SSL_CTX_set_alpn_protos(tls.get(), reinterpret_cast<const unsigned char*>(list.data()),
                            static_cast<unsigned>(list.size()));
    HttpClient client(port_, tls.get());
    const unsigned char* chosen = nullptr;
    unsigned size = 0;
    if (!client.connected()) return std::string("refused");
    SSL_get0_alpn_selected(client.tls(), &chosen, &size);
    return std::string(reinterpret_cast<const char*>(chosen), size);
  };
  EXPECT_EQ(offer(""), "");
  EXPECT_EQ(offer("\x08http/1.1"), "http/1.1");
  EXPECT_EQ(offer("\x02h2\x08http/1.1"), "http/1.1");
  EXPECT_EQ(offer("\x02h2"), "refused");
}

TEST_F(TlsTest, PlainHttpIsToldAndClosedCleanly) {
  StartTls();
  for (const std::string& text :
       {GetText("/health"), PostText("/v1/completions", std::string(1 << 20, 'x'))}) {
    HttpClient client(port_, nullptr);
    client.Send(text);
    const Answer answer = client.Read();
    ExpectError(answer, 400, "", "https_required");
    EXPECT_TRUE(answer.complete);
    char byte;
    EXPECT_EQ(recv(client.socket(), &byte, 1, 0), 0) << "an end, not a reset";
  }
  EXPECT_TRUE(AllGone());
}

TEST_F(TlsTest, NonsenseIsClosedCleanly) {
  StartTls();
  std::mt19937 random(1);
  for (int i = 0; i < 50; ++i) {
    HttpClient client(port_, nullptr);
    std::string text(1 + random() % 3000, '\0');
    for (char& c : text) c = static_cast<char>(random());
    if (i % 2 == 0) text.replace(0, 3, std::string("\x16\x03\x01", 3));  // as TLS begins
    client.Send(text);
    client.CloseSending();
    client.ReadUntilClosed();
  }
  EXPECT_TRUE(AllGone());
}

TEST_F(TlsTest, AHandshakeHasItsTime) {
  ServeOptions options;
  options.read_timeout_s = 1;
  StartTls(options);
  HttpClient silent(port_, nullptr), halfway(port_, nullptr), patient(port_, AnyClientTls());
  HandClient hand;
  hand.Handshake();
  const std::string hello = hand.Out();
  halfway.Send(std::string_view(hello).substr(0, hello.size() / 2));
  char byte;
  EXPECT_EQ(recv(silent.socket(), &byte, 1, 0), 0) << "an end, not the test's own patience";
  EXPECT_EQ(recv(halfway.socket(), &byte, 1, 0), 0);
  patient.Send(GetText("/health"));
  EXPECT_EQ(patient.Read().status, 200) << "after the handshake a connection may rest";
}

// The connection ends at every byte of the client's part of the handshake.
TEST_F(TlsTest, AKillAtAnyPointOfTheHandshakeLeavesNothingBehind) {
  StartTls();
  for (const int version : {TLS1_2_VERSION, TLS1_3_VERSION}) {
    const ClientTls tls = MakeClientTls();
    SSL_CTX_set_min_proto_version(tls.get(), version);
    SSL_CTX_set_max_proto_version(tls.get(), version);
    bool whole = false;
    for (size_t cut = 0; !whole; cut += 7) {
      HandClient hand(tls.get());
      HttpClient client(port_, nullptr);
      size_t sent = 0;
      while (sent < cut) {
        whole = hand.Handshake();
        const std::string out = hand.Out();
        const size_t count = std::min(out.size(), cut - sent);
        client.Send(std::string_view(out).substr(0, count));
        sent += count;
        if (whole || count < out.size()) break;
        char bytes[8192];
        const ssize_t got = recv(client.socket(), bytes, sizeof bytes, 0);
        ASSERT_GT(got, 0);
        hand.In({bytes, static_cast<size_t>(got)});
      }
      if (cut % 2 == 0) {  // half of them with a reset
        const linger now{.l_onoff = 1, .l_linger = 0};
        setsockopt(client.socket(), SOL_SOCKET, SO_LINGER, &now, sizeof now);
      }
    }
  }
  EXPECT_TRUE(AllGone());
}

TEST_F(TlsTest, AFullServerClosesWithoutAHandshake) {
  ServeOptions options;
  options.max_connections = 1;
  StartTls(options);
  HttpClient first(port_, AnyClientTls());
  first.Send(GetText("/health"));
  EXPECT_EQ(first.Read().status, 200);
  EXPECT_FALSE(HttpClient(port_, AnyClientTls()).connected());
}

TEST_F(TlsTest, AThousandIdleConnectionsDoNotDisturb) {
  rlimit limit{};
  getrlimit(RLIMIT_NOFILE, &limit);
  limit.rlim_cur = std::min<rlim_t>(limit.rlim_max, 4096);
  setrlimit(RLIMIT_NOFILE, &limit);
  if (limit.rlim_cur < 2200) GTEST_SKIP() << "only " << limit.rlim_cur << " descriptors";
  StartTls();
  std::vector<HttpClient> idle;
  for (int i = 0; i < 1000; ++i) {
    idle.emplace_back(port_, AnyClientTls());
    ASSERT_TRUE(idle.back().connected()) << i;
  }
  EXPECT_EQ(GetOver(AnyClientTls()).status, 200);
  for (HttpClient& client : idle) client.Send(GetText("/health"));
  for (HttpClient& client : idle) EXPECT_EQ(client.Read().status, 200);
}

TEST_F(TlsTest, LargeBodiesGoBothWays) {
  backend_.context_tokens = 4 << 20;
  backend_.script = [](const Request&) { return Say(std::string(1 << 20, 'y')); };
  StartTls();
  HttpClient client(port_, AnyClientTls());
  const Json body = {{"prompt", std::string(3 << 20, 'x')}, {"max_tokens", 1 << 20}};
  client.Send(PostText("/v1/completions", body.dump()));
  const Answer answer = client.Read();
  EXPECT_EQ(answer.status, 200);
  EXPECT_TRUE(Json::parse(answer.body)["choices"][0]["text"] == std::string(1 << 20, 'y'));
  EXPECT_EQ(backend_.last().prompt.size(), 3u << 20);
}

TEST_F(TlsTest, AnAnswerThatEndsWithTheConnectionIsSaidToEnd) {
  StartTls();
  HttpClient client(port_, AnyClientTls());
  client.Send("GET /health HTTP/1.0\r\n\r\n");
  EXPECT_EQ(client.Read().status, 200);
  client.ReadUntilClosed();
  EXPECT_NE(SSL_get_shutdown(client.tls()) & SSL_RECEIVED_SHUTDOWN, 0);
}

TEST(TlsFiles, WhatIsWrongIsSaidAtStart) {
  const std::string folder = std::filesystem::path(SharedTestCertificate().key_file).parent_path();
  const TestCertificate good = SharedTestCertificate(), other = MakeTestCertificate(folder, "other"),
                        rsa = MakeTestCertificate(folder, "rsa", {.rsa = true}),
                        locked = MakeTestCertificate(folder, "locked", {.passphrase = "secret"});
  std::ofstream(folder + "/text") << "no PEM\n";
  std::ofstream(folder + "/empty");
  const std::string text = folder + "/text", empty = folder + "/empty", absent = folder + "/absent";
  struct Case {
    std::string certificate, key, names;
    ErrorKind kind;
  };
  for (const Case& c : std::vector<Case>{
           {good.certificate_file, "", "--tls-key", ErrorKind::kInvalid},
           {"", good.key_file, "--tls-cert", ErrorKind::kInvalid},
           {absent, good.key_file, absent, ErrorKind::kNotFound},
           {good.certificate_file, absent, absent, ErrorKind::kNotFound},
           {text, good.key_file, text, ErrorKind::kInvalid},
           {empty, good.key_file, empty, ErrorKind::kInvalid},
           {folder, good.key_file, folder, ErrorKind::kInvalid},
           {good.certificate_file, text, text, ErrorKind::kInvalid},
           {good.key_file, good.key_file, good.key_file, ErrorKind::kInvalid},
           {good.certificate_file, good.certificate_file, good.certificate_file, ErrorKind::kInvalid},
           {good.certificate_file, other.key_file, "is not the one of the certificate", ErrorKind::kInvalid},
           {good.certificate_file, rsa.key_file, "is not the one of the certificate", ErrorKind::kInvalid},
           {locked.certificate_file, locked.key_file, "without a passphrase", ErrorKind::kInvalid}}) {
    ServeOptions options;
    options.tls_cert = c.certificate;
    options.tls_key = c.key;
    const Status status = CheckServeOptions(options);
    ASSERT_FALSE(status) << c.certificate << " " << c.key;
    EXPECT_EQ(status.error().kind, c.kind) << status.error().message;
    EXPECT_NE(status.error().message.find(c.names), std::string::npos) << status.error().message;
    FakeBackend backend;
    EXPECT_FALSE(Server::Create(&backend, options));
  }
  for (const TestCertificate* files : {&good, &rsa}) {
    ServeOptions options;
    options.tls_cert = files->certificate_file;
    options.tls_key = files->key_file;
    EXPECT_TRUE(CheckServeOptions(options));
  }
}

class TlsChannelTest : public ::testing::Test {
 protected:
  using State = TlsChannel::State;
  TlsChannelTest()
      : context_(TlsContext::Load(SharedTestCertificate().certificate_file, SharedTestCertificate().key_file)
                     .value()) {}
  // Carries bytes back and forth, `step` at a time, until both sides have agreed.
  void Agree(TlsChannel& channel, HandClient& hand, size_t step) {
    for (bool agreed = false; !agreed;) {
      agreed = hand.Handshake();
      const std::string out = hand.Out();
      for (size_t at = 0; at < out.size(); at += step)
        channel.Receive(std::string_view(out).substr(at, step), plain_);
      ASSERT_NE(channel.state(), State::kFailed);
      hand.In(std::exchange(to_peer_, ""));
    }
    ASSERT_EQ(channel.state(), State::kOpen);
  }

  std::unique_ptr<TlsContext> context_;
  std::string to_peer_, plain_;
};

TEST_F(TlsChannelTest, BytesMayComeInPiecesOfAnySize) {
  const std::string text(100'000, 'a');
  for (const size_t step : {1, 2, 5, 1000, 1 << 20}) {
    TlsChannel channel(*context_, to_peer_);
    HandClient hand;
    Agree(channel, hand, step);
    hand.Write(text);
    const std::string sealed = hand.Out();
    plain_.clear();
    for (size_t at = 0; at < sealed.size(); at += step)
      channel.Receive(std::string_view(sealed).substr(at, step), plain_);
    EXPECT_EQ(plain_, text);
    channel.Send(text);
    EXPECT_EQ(to_peer_.find("aaaa"), std::string::npos);
    hand.In(std::exchange(to_peer_, ""));
    std::string back;
    for (std::string more = hand.Read(); !more.empty(); more = hand.Read()) back += more;
    EXPECT_EQ(back, text);
    EXPECT_FALSE(hand.SaidFarewell());
    channel.Farewell();
    hand.In(std::exchange(to_peer_, ""));
    EXPECT_TRUE(hand.SaidFarewell());
  }
}

TEST_F(TlsChannelTest, AfterItsFarewellAPeerMayStillRead) {
  TlsChannel channel(*context_, to_peer_);
  HandClient hand;
  Agree(channel, hand, 1 << 20);
  plain_.clear();
  hand.Write("last words");
  SSL_shutdown(hand.ssl());
  channel.Receive(hand.Out(), plain_);
  EXPECT_EQ(plain_, "last words");
  EXPECT_EQ(channel.state(), State::kClosed);
  channel.Send("answer");
  hand.In(std::exchange(to_peer_, ""));
  EXPECT_EQ(hand.Read(), "answer");
}

// Whatever is changed on the way: an error, never other bytes.
TEST_F(TlsChannelTest, AFlippedBitIsFound) {
  std::mt19937 random(1);
  for (int round = 0; round < 300; ++round) {
    TlsChannel channel(*context_, to_peer_);
    HandClient hand;
    const bool open = round % 2 == 0;
    if (open) {
      Agree(channel, hand, 1 << 20);
      hand.Write("0123456789");
    } else {
      hand.Handshake();
    }
    std::string sealed = hand.Out();
    const size_t bit = random() % (sealed.size() * 8);
    sealed[bit / 8] = static_cast<char>(sealed[bit / 8] ^ 1 << bit % 8);
    plain_.clear();
    channel.Receive(sealed, plain_);
    EXPECT_EQ(plain_, "") << bit;
    if (open) {
      EXPECT_NE(channel.state(), State::kClosed) << bit;
    } else {
      EXPECT_NE(channel.state(), State::kOpen) << bit;
    }
    channel.Receive("and more", plain_);
    channel.Farewell();
    to_peer_.clear();
  }
}

}  // namespace
}  // namespace larder::testing
