#include "serve/options.h"

namespace larder {

void DeclareServeOptions(Params& params, ServeOptions& options) {
  params.String("host", &options.host, "address to listen on");
  params.Int("port", &options.port, 0, 65535, "port to listen on; 0: any free one");
  params.String("api-keys", &options.api_keys, "file of API keys, one 'tenant: key' a line");
  params.Bool("no-auth", &options.no_auth, "serve other hosts without API keys");
  params.String("tls-cert", &options.tls_cert, "PEM file with the certificate and its chain: serves HTTPS");
  params.String("tls-key", &options.tls_key, "PEM file with the certificate's private key");
  params.Size("max-body", &options.max_body_bytes, 1024, 1u << 30, "largest request body");
  params.Size("max-header", &options.max_header_bytes, 1024, 1u << 20, "largest request header");
  params.Int("max-connections", &options.max_connections, 1, 1'000'000,
             "open connections; further ones get a 503");
  params.Int("read-timeout", &options.read_timeout_s, 1, 3600,
             "seconds a client may take for a TLS handshake, a header or a body");
  params.Int("write-timeout", &options.write_timeout_s, 1, 3600,
             "seconds a client may take no byte of its answer");
  params.Int("idle-timeout", &options.idle_timeout_s, 1, 86400,
             "seconds a connection may rest between two requests");
  params.Size("max-unsent", &options.max_unsent_bytes, 64u << 10, 1u << 30,
              "bytes kept for a client that does not read its stream");
}

}  // namespace larder
