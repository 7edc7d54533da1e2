// TLS as a transformation of bytes, beside the socket and not around it: the session goes on reading, writing
// and cancelling its socket as it does without TLS. (A read that is cancelled inside Asio's ssl::stream can
// lose bytes that TLS had to write, and every such stream keeps 70 KB of buffers while it rests.)
#pragma once

#include <openssl/ssl.h>

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

#include "base/result.h"

namespace larder {

// Certificate and key, shared by all connections: TLS 1.2 and 1.3, ALPN http/1.1.
class TlsContext {
 public:
  // PEM files; the certificate's may have the chain behind it. kInvalid, kNotFound, kIo: names the file and
  // the remedy. A certificate whose time has not come or is over is logged.
  static Result<std::unique_ptr<TlsContext>> Load(const std::string& certificate_file,
                                                  const std::string& key_file);

 private:
  friend class TlsChannel;
  struct Free {
    void operator()(SSL_CTX* context) const { SSL_CTX_free(context); }
    void operator()(BIO_METHOD* method) const { BIO_meth_free(method); }
  };
  std::unique_ptr<SSL_CTX, Free> context_;
  std::unique_ptr<BIO_METHOD, Free> transport_;
};

// The server's side of one connection. Bytes for the peer are appended to a string of the session's.
class TlsChannel {
 public:
  enum class State {
    kHandshake,
    kOpen,
    kClosed,     // the peer said farewell
    kPlainHttp,  // the first bytes were HTTP in the clear
    kFailed,     // what came is not TLS, or was changed on the way; an alert may be among the bytes to send
  };

  // `to_peer` outlives the channel.
  TlsChannel(const TlsContext& context, std::string& to_peer);
  ~TlsChannel();
  TlsChannel(const TlsChannel&) = delete;
  TlsChannel& operator=(const TlsChannel&) = delete;

  State state() const { return state_; }
  // Takes bytes from the peer and appends what they say to `plain`.
  void Receive(std::string_view bytes, std::string& plain);
  void Send(std::string_view plain);  // after the handshake; a peer that said farewell may still read
  void Farewell();                    // says that nothing follows

 private:
  static TlsChannel& Of(BIO* bio);
  static int ReadFromPeer(BIO* bio, char* to, int size);
  static int WriteToPeer(BIO* bio, const char* from, int size);
  static long Control(BIO* bio, int command, long number, void* pointer);
  friend class TlsContext;

  bool writable() const { return state_ == State::kOpen || state_ == State::kClosed; }
  void Handshake();
  void ReadAll(std::string& plain);

  struct Free {
    void operator()(SSL* ssl) const { SSL_free(ssl); }
  };
  std::unique_ptr<SSL, Free> ssl_;
  State state_ = State::kHandshake;
  std::string& to_peer_;
  std::string_view from_peer_;
};

}  // namespace larder
