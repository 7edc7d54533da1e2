#include "serve/router.h"

#include <algorithm>
#include <exception>
#include <iterator>
#include <span>

#include "base/log.h"
#include "base/result.h"
#include "serve/endpoints.h"
#include "serve/errors.h"

namespace larder {
namespace {

using Answer = HttpResponse (*)(ServeContext&, const HttpRequest&);
using AnswerLater = void (*)(ServeContext&, const HttpRequest&, const ExchangePtr&);

struct Route {
  std::string_view path;    // without /v1; ends in a slash: whatever is below it
  std::string_view method;  // "GET" is also HEAD
  Answer answer;
  AnswerLater later;
  bool open;  // needs no key
};

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

constexpr std::string_view kModelPrefix = "/models/";

HttpResponse AnswerModel(ServeContext& context, const HttpRequest& request) {
  return HandleModel(context, request, NormalPath(request.path).substr(kModelPrefix.size()));
}

constexpr std::string_view kChunkPrefix = "/cache/chunks/";

HttpResponse RemoveChunk(ServeContext& context, const HttpRequest& request) {
  return HandleRemoveChunk(context, request, NormalPath(request.path).substr(kChunkPrefix.size()));
}

// The methods of one path stand together.
constexpr Route kRoutes[] = {
    {"/", "GET", HandleStatusPage, nullptr, true},
    {"/health", "GET", HandleHealth, nullptr, true},
    {"/version", "GET", HandleVersion, nullptr, true},
    {"/models", "GET", HandleModels, nullptr, false},
    {kModelPrefix, "GET", AnswerModel, nullptr, false},
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
    {"/cache/chunks", "GET", HandleCacheChunks, nullptr, false},
    {"/cache/chunks", "POST", nullptr, HandleStoreChunks, false},
    {kChunkPrefix, "DELETE", RemoveChunk, nullptr, false},
    {"/cache/states", "GET", HandleCacheStates, nullptr, false},
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

// Whether it is the route's path, or one below it.
bool IsPathOf(const Route& route, std::string_view path) {
  if (route.path.size() == 1 || !route.path.ends_with('/')) return route.path == path;
  return path.size() > route.path.size() && path.starts_with(route.path);
}

// One for each method of the path; none: there is no such path.
std::span<const Route> RoutesOf(std::string_view path) {
  const auto of_path = [&](const Route& route) { return IsPathOf(route, path); };
  const auto first = std::ranges::find_if(kRoutes, of_path);
  return {first, std::find_if_not(first, std::end(kRoutes), of_path)};
}

bool MethodAllowed(std::string_view allowed, std::string_view method) {
  return method == allowed || (allowed == "GET" && method == "HEAD");
}

// null: the path does not take the method.
const Route* FindRoute(std::span<const Route> routes, std::string_view method) {
  const auto at =
      std::ranges::find_if(routes, [&](const Route& route) { return MethodAllowed(route.method, method); });
  return at == routes.end() ? nullptr : &*at;
}

HttpResponse Preflight(const HttpRequest& request) {
  HttpResponse response{.status = 200, .content_type = "", .body = ""};
  const std::string_view wanted = request.Header("access-control-request-headers");
  response.headers.emplace_back("Access-Control-Allow-Methods", "GET, HEAD, POST, DELETE, OPTIONS");
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

HttpResponse WrongMethod(const HttpRequest& request, std::span<const Route> routes) {
  std::string allowed;
  for (const Route& route : routes)
    allowed += fmt::format("{}, ", route.method == "GET" ? "GET, HEAD" : route.method);
  allowed += "OPTIONS";
  HttpResponse response =
      ErrorResponse({.status = 405,
                     .message = fmt::format("{} takes {}, not {}.", request.path, allowed, request.method),
                     .code = "method_not_allowed"});
  response.headers.emplace_back("Allow", allowed);
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
  const std::span<const Route> routes = RoutesOf(NormalPath(request.path));
  if (routes.empty() || !routes.front().open) {
    std::optional<std::string> tenant = context_->keys.TenantOf(request);
    if (!tenant) return WrongKey();
    request.tenant = *std::move(tenant);
  }
  if (routes.empty()) return NotFound(request);
  const Route* route = FindRoute(routes, request.method);
  if (route == nullptr) return WrongMethod(request, routes);
  const bool generates = route->later != nullptr && route->method == "POST";
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
    const Route* route = FindRoute(RoutesOf(NormalPath(request.path)), request.method);
    LARDER_CHECK(route != nullptr);  // Admit has seen it
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
