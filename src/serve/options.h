// How the server listens and what it lets through.
#pragma once

#include <cstdint>
#include <string>

#include "base/params.h"
#include "base/result.h"

namespace larder {

struct ServeOptions {
  std::string host = "127.0.0.1";
  int64_t port = 8080;            // 0: any free one
  std::string api_keys;           // file of "tenant: key" lines; "": no keys
  bool no_auth = false;           // allows other hosts than loopback without keys
  std::string tls_cert, tls_key;  // PEM files; both or neither (plain HTTP)
  uint64_t max_body_bytes = 32u << 20;
  uint64_t max_header_bytes = 64u << 10;
  int64_t max_connections = 8192;
  int64_t read_timeout_s = 60;           // for a TLS handshake, a request's header and again its body
  int64_t write_timeout_s = 120;         // without the client taking a single byte
  int64_t idle_timeout_s = 600;          // between requests; clients reuse connections for minutes
  uint64_t max_unsent_bytes = 4u << 20;  // of a stream that the client does not read
  std::string reuse;                     // of requests that name none, as the engine was started
};

// Declares the options for the command line and the configuration file.
void DeclareServeOptions(Params& params, ServeOptions& options);

// kInvalid with the remedy: another host than loopback needs keys or no_auth. Reads certificate and key and
// says what is wrong with them.
Status CheckServeOptions(const ServeOptions& options);

}  // namespace larder
