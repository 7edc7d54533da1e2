#include "serve/tls.h"

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/log.h"

namespace larder {
namespace {

constexpr size_t kRecordBytes = 16u << 10;  // of plain text, at most

std::string Reason() {
  const unsigned long code = ERR_peek_last_error();
  const char* reason = code == 0 ? nullptr : ERR_reason_error_string(code);
  return reason == nullptr ? "unknown" : reason;
}

Status Readable(const std::string& path) {
  if (access(path.c_str(), R_OK) == 0) return {};
  return Fail(errno == ENOENT ? ErrorKind::kNotFound : ErrorKind::kIo, "cannot read {}: {}", path,
              std::strerror(errno));
}

// A server must not ask for a passphrase on its terminal.
int NoPassphrase(char*, int, int, void*) { return -1; }

Status LoadKey(SSL_CTX* context, const std::string& certificate_file, const std::string& key_file) {
  LARDER_TRY(Readable(key_file));
  ERR_clear_error();
  if (SSL_CTX_use_PrivateKey_file(context, key_file.c_str(), SSL_FILETYPE_PEM) != 1) {
    if (ERR_GET_REASON(ERR_peek_last_error()) == X509_R_KEY_VALUES_MISMATCH)
      return Fail(ErrorKind::kInvalid, "the key in {} is not the one of the certificate in {}", key_file,
                  certificate_file);
    return Fail(ErrorKind::kInvalid,
                "{} has no private key that can be used ({}); it must be PEM and without a passphrase",
                key_file, Reason());
  }
  if (SSL_CTX_check_private_key(context) != 1)
    return Fail(ErrorKind::kInvalid, "the key in {} is not the one of the certificate in {}", key_file,
                certificate_file);
  return {};
}

void WarnOfTime(const SSL_CTX* context, const std::string& certificate_file) {
  const X509* certificate = SSL_CTX_get0_certificate(context);
  if (X509_cmp_current_time(X509_get0_notBefore(certificate)) > 0)
    LogWarn("the certificate in {} is not valid yet; clients will refuse it", certificate_file);
  if (X509_cmp_current_time(X509_get0_notAfter(certificate)) < 0)
    LogWarn("the certificate in {} has expired; clients will refuse it", certificate_file);
}

// The peer's list is of names, each behind its length. A client that speaks no HTTP/1.1 is told so.
int ChooseProtocol(SSL*, const unsigned char** chosen, unsigned char* chosen_bytes,
                   const unsigned char* offered, unsigned offered_bytes, void*) {
  static constexpr unsigned char kOurs[] = "\x08http/1.1";
  unsigned char* found = nullptr;
  if (SSL_select_next_proto(&found, chosen_bytes, kOurs, sizeof kOurs - 1, offered, offered_bytes) !=
      OPENSSL_NPN_NEGOTIATED)
    return SSL_TLSEXT_ERR_ALERT_FATAL;
  *chosen = found;
  return SSL_TLSEXT_ERR_OK;
}

}  // namespace

Result<std::unique_ptr<TlsContext>> TlsContext::Load(const std::string& certificate_file,
                                                     const std::string& key_file) {
  std::unique_ptr<TlsContext> out(new TlsContext);
  out->context_.reset(SSL_CTX_new(TLS_server_method()));
  out->transport_.reset(BIO_meth_new(BIO_TYPE_SOURCE_SINK, "larder connection"));
  SSL_CTX* context = out->context_.get();
  BIO_METHOD* transport = out->transport_.get();
  if (context == nullptr || transport == nullptr)
    return Fail(ErrorKind::kIo, "TLS cannot be set up: {}", Reason());
  BIO_meth_set_read(transport, TlsChannel::ReadFromPeer);
  BIO_meth_set_write(transport, TlsChannel::WriteToPeer);
  BIO_meth_set_ctrl(transport, TlsChannel::Control);

  SSL_CTX_set_min_proto_version(context, TLS1_2_VERSION);
  SSL_CTX_set_options(context, SSL_OP_NO_RENEGOTIATION);
  SSL_CTX_set_mode(context, SSL_MODE_RELEASE_BUFFERS);          // thousands of connections rest
  SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);  // tickets do, and keep nothing here
  SSL_CTX_set_alpn_select_cb(context, ChooseProtocol, nullptr);
  SSL_CTX_set_default_passwd_cb(context, NoPassphrase);

  LARDER_TRY(Readable(certificate_file));
  ERR_clear_error();
  if (SSL_CTX_use_certificate_chain_file(context, certificate_file.c_str()) != 1)
    return Fail(ErrorKind::kInvalid, "{} has no certificate in PEM that can be used ({})", certificate_file,
                Reason());
  LARDER_TRY(LoadKey(context, certificate_file, key_file));
  WarnOfTime(context, certificate_file);
  return out;
}

TlsChannel::TlsChannel(const TlsContext& context, std::string& to_peer) : to_peer_(to_peer) {
  ssl_.reset(SSL_new(context.context_.get()));
  BIO* transport = BIO_new(context.transport_.get());
  LARDER_CHECK(ssl_ != nullptr && transport != nullptr);  // no memory
  BIO_set_data(transport, this);
  BIO_set_init(transport, 1);
  SSL_set_bio(ssl_.get(), transport, transport);
  SSL_set_accept_state(ssl_.get());
}

TlsChannel::~TlsChannel() = default;

TlsChannel& TlsChannel::Of(BIO* bio) { return *static_cast<TlsChannel*>(BIO_get_data(bio)); }

int TlsChannel::ReadFromPeer(BIO* bio, char* to, int size) {
  std::string_view& from = Of(bio).from_peer_;
  BIO_clear_retry_flags(bio);
  if (from.empty()) {
    BIO_set_retry_read(bio);
    return -1;
  }
  const size_t count = std::min(from.size(), static_cast<size_t>(size));
  std::memcpy(to, from.data(), count);
  from.remove_prefix(count);
  return static_cast<int>(count);
}

int TlsChannel::WriteToPeer(BIO* bio, const char* from, int size) {
  BIO_clear_retry_flags(bio);
  Of(bio).to_peer_.append(from, static_cast<size_t>(size));
  return size;
}

long TlsChannel::Control(BIO*, int command, long, void*) { return command == BIO_CTRL_FLUSH ? 1 : 0; }

void TlsChannel::Receive(std::string_view bytes, std::string& plain) {
  from_peer_ = bytes;
  ERR_clear_error();  // the queue is the thread's, and thus other connections' too
  if (state_ == State::kHandshake) Handshake();
  if (state_ == State::kOpen) ReadAll(plain);
  from_peer_ = {};
}

void TlsChannel::Handshake() {
  const int result = SSL_do_handshake(ssl_.get());
  if (result == 1) {
    state_ = State::kOpen;
  } else if (SSL_get_error(ssl_.get(), result) != SSL_ERROR_WANT_READ) {
    const int reason = ERR_GET_REASON(ERR_peek_last_error());
    state_ = reason == SSL_R_HTTP_REQUEST ? State::kPlainHttp : State::kFailed;
  }
}

void TlsChannel::ReadAll(std::string& plain) {
  for (;;) {
    const size_t before = plain.size();
    plain.resize(before + kRecordBytes);
    const int count = SSL_read(ssl_.get(), plain.data() + before, kRecordBytes);
    plain.resize(before + static_cast<size_t>(std::max(count, 0)));
    if (count > 0) continue;
    const int error = SSL_get_error(ssl_.get(), count);
    if (error == SSL_ERROR_WANT_READ) return;
    state_ = error == SSL_ERROR_ZERO_RETURN ? State::kClosed : State::kFailed;
    return;
  }
}

void TlsChannel::Send(std::string_view plain) {
  ERR_clear_error();
  while (!plain.empty() && writable()) {
    const size_t count = std::min(plain.size(), kRecordBytes);
    // The transport takes everything, so a write ends in one go.
    if (SSL_write(ssl_.get(), plain.data(), static_cast<int>(count)) != static_cast<int>(count))
      state_ = State::kFailed;
    plain.remove_prefix(count);
  }
}

void TlsChannel::Farewell() {
  ERR_clear_error();
  if (writable()) SSL_shutdown(ssl_.get());
}

}  // namespace larder
