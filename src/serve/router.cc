#include "serve/router.h"

#include <exception>
#include <span>

#include "base/log.h"
#include "serve/endpoints.h"
#include "serve/errors.h"

namespace larder {
namespace {

using Answer = HttpResponse (*)(ServeContext&, const HttpRequest&);
using AnswerLater = void (*)(ServeContext&, const HttpRequest&, const ExchangePtr&);

struct Route {
  std::string_view path;    // without /v1
  std::string_view method;  // "GET" is also HEAD
  Answer answer;
  AnswerLater later;
  bool open;  // needs no key
};

constexpr Route kRoutes[] = {
    {"/", "GET", HandleStatusPage, nullptr, true},
    {"/health", "GET", HandleHealth, nullptr, true},
    {"/version", "GET", HandleVersion, nullptr, true},
    {"/models", "GET", HandleModels, nullptr, false},
    {"/chat/completions", "POST", nullptr, HandleChatCompletions, false},
    {"/completions", "POST", nullptr, HandleCompletions, false},
    {"/tokenize", "POST", HandleTokenize, nullptr, false},
    {"/detokenize", "POST", HandleDetokenize, nullptr, false},
    {"/tokenizer_info", "GET", HandleTokenizerInfo, nullptr, false},
    {"/metrics", "GET", HandleMetrics, nullptr, false},
    {"/cache/stats", "GET", HandleCacheStats, nullptr, false},
    {"/cache/blocks", "GET", HandleCacheBlocks, nullptr, false},
    {"/cache/clear", "POST", HandleCacheClear, nullptr, false},
    {"/cache/wipe", "POST", HandleCacheWipe, nullptr, false},
    {"/cache/chunks", "POST", nullptr, HandleCacheChunks, false},
    {"/cache/hints", "POST", HandleCacheHints, nullptr, false},
    {"/cache/leases", "GET", HandleCacheLeases, nullptr, false},
    {"/cache/events", "GET", nullptr, HandleCacheEvents, false},
    {"/cache/lmcache/query_instance", "POST", HandleLmcacheQueryInstance, nullptr, false},
    {"/cache/lmcache/lookup", "POST", HandleLmcacheLookup, nullptr, false},
    {"/cache/lmcache/pin", "POST", HandleLmcachePin, nullptr, false},
    {"/cache/lmcache/clear", "POST", HandleLmcacheClear, nullptr, false},
    {"/cache/lmcache/move", "POST", HandleLmcacheMove, nullptr, false},
    {"/cache/lmcache/compress", "POST", HandleLmcacheCompress, nullptr, false},
    {"/cache/lmcache/decompress", "POST", HandleLmcacheCompress, nullptr, false},
    {"/cache/lmcache/health", "POST", HandleLmcacheHealth, nullptr, false},
    {"/cache/lmcache/check_finish", "POST", HandleLmcacheCheckFinish, nullptr, false},
};
constexpr std::string_view kModelPrefix = "/models/";

// Without scheme and host (proxies send them), /v1 and a trailing slash.
std::string_view NormalPath(std::string_view path) {
  for (const std::string_view scheme : {"http://", "https://"}) {
    if (!path.starts_with(scheme)) continue;
    const size_t slash = path.find('/', scheme.size());
    path = slash == std::string_view::npos ? std::string_view("/") : path.substr(slash);
  }
  if (path.starts_with("/v1/")) path.remove_prefix(3);
  while (path.size() > 1 && path.back() == '/') path.remove_suffix(1);
  return path;
}

const Route* FindRoute(std::string_view path) {
  for (const Route& route : kRoutes) {
    if (route.path == path) return &route;
  }
  return nullptr;
}

bool IsModelPath(std::string_view path) {
  return path.size() > kModelPrefix.size() && path.starts_with(kModelPrefix);
}

bool MethodAllowed(std::string_view allowed, std::string_view method) {
  return method == allowed || (allowed == "GET" && method == "HEAD");
}

HttpResponse Preflight(const HttpRequest& request) {
  HttpResponse response{.status = 200, .content_type = "", .body = ""};
  const std::string_view wanted = request.Header("access-control-request-headers");
  response.headers.emplace_back("Access-Control-Allow-Methods", "GET, HEAD, POST, OPTIONS");
  response.headers.emplace_back(
      "Access-Control-Allow-Headers",
      wanted.empty() ? "Authorization, Content-Type, X-Api-Key, X-Request-Id" : std::string(wanted));
  response.headers.emplace_back("Access-Control-Max-Age", "86400");
  return response;
}

HttpResponse NotFound(const HttpRequest& request) {
  return ErrorResponse(
      {.status = 404,
       .message = fmt::format("There is no {} {} here; see the list of endpoints in the documentation.",
                              request.method, request.path),
       .code = "not_found"});
}

HttpResponse WrongMethod(const HttpRequest& request, std::string_view allowed) {
  HttpResponse response =
      ErrorResponse({.status = 405,
                     .message = fmt::format("{} takes {}, not {}.", request.path, allowed, request.method),
                     .code = "method_not_allowed"});
  response.headers.emplace_back("Allow", allowed == "GET" ? "GET, HEAD, OPTIONS" : "POST, OPTIONS");
  return response;
}

HttpResponse WrongKey() {
  HttpResponse response = ErrorResponse(
      {.status = 401,
       .message =
           "No valid API key was given; send one of this server's keys as 'Authorization: Bearer KEY'.",
       .code = "invalid_api_key"});
  response.headers.emplace_back("WWW-Authenticate", "Bearer");
  return response;
}

}  // namespace

std::optional<HttpResponse> Router::Admit(HttpRequest& request) const {
  if (request.method == "OPTIONS") return Preflight(request);
  const std::string_view path = NormalPath(request.path);
  const Route* route = FindRoute(path);
  if (route == nullptr || !route->open) {
    std::optional<std::string> tenant = context_->keys.TenantOf(request);
    if (!tenant) return WrongKey();
    request.tenant = *std::move(tenant);
  }
  if (route == nullptr && !IsModelPath(path)) return NotFound(request);
  const std::string_view allowed = route != nullptr ? route->method : "GET";
  if (!MethodAllowed(allowed, request.method)) return WrongMethod(request, allowed);
  const bool generates = route != nullptr && route->later != nullptr && route->method == "POST";
  if (generates && context_->draining) return ErrorResponse(DrainingError());
  const std::string_view encoding = request.Header("content-encoding");
  if (!encoding.empty() && encoding != "identity") {
    return ErrorResponse(
        {.status = 415,
         .message = fmt::format("The content encoding '{}' is not known; send the body as it is.", encoding),
         .code = "unsupported_encoding"});
  }
  return std::nullopt;
}

void Router::Handle(const HttpRequest& request, const std::shared_ptr<Exchange>& exchange) const {
  const auto respond = [&](HttpResponse response) {
    exchange->Post(
        [exchange, response = std::move(response)]() mutable { exchange->Respond(std::move(response)); });
  };
  try {
    const std::string_view path = NormalPath(request.path);
    const Route* route = FindRoute(path);
    if (route == nullptr) return respond(HandleModel(*context_, request, path.substr(kModelPrefix.size())));
    if (route->later != nullptr) return route->later(*context_, request, exchange);
    respond(route->answer(*context_, request));
  } catch (const std::exception& error) {
    LogError("{} {}: {}", request.method, request.path, error.what());
    respond(ErrorResponse({.status = 500,
                           .message = "The server failed on this request; its log says more.",
                           .type = "server_error",
                           .code = "internal_error"}));
  }
}

}  // namespace larder
