#include "serve/errors.h"

#include "serve/json_writer.h"

namespace larder {
namespace {

void FieldOrNull(JsonWriter& json, std::string_view key, std::string_view text) {
  json.Key(key);
  if (text.empty()) {
    json.Null();
  } else {
    json.String(text);
  }
}

}  // namespace

ApiError DrainingError() {
  return {
      .status = 503,
      .message =
          "The server is shutting down and takes no new requests; send this one to another server or retry.",
      .type = "server_error",
      .code = "draining",
      .retry_after_s = 5};
}

ApiError ToApiError(const Error& error, bool draining, int retry_after_s) {
  switch (error.kind) {
    case ErrorKind::kInvalid:
      return {.status = 400, .message = error.message};
    case ErrorKind::kNotFound:
      return {.status = 404, .message = error.message, .code = "not_found"};
    case ErrorKind::kUnsupported:
      return {.status = 400, .message = error.message, .code = "unsupported"};
    case ErrorKind::kSlow:
    case ErrorKind::kUnavailable:
      if (draining) return DrainingError();
      return {.status = 429,
              .message = error.message,
              .type = "rate_limit_error",
              .code = "queue_full",
              .retry_after_s = retry_after_s};
    case ErrorKind::kExhausted:
      return {.status = 503,
              .message = error.message,
              .type = "server_error",
              .code = "exhausted",
              .retry_after_s = retry_after_s};
    case ErrorKind::kCancelled:
      if (draining) return DrainingError();
      return {.status = 503, .message = error.message, .type = "server_error", .code = "cancelled"};
    case ErrorKind::kConflict:
    case ErrorKind::kCorrupt:
    case ErrorKind::kIo:
      break;
  }
  return {.status = 500, .message = error.message, .type = "server_error", .code = "internal_error"};
}

std::string ErrorBody(const ApiError& error) {
  JsonWriter json;
  json.BeginObject().Key("error").BeginObject();
  json.Field("message", error.message).Field("type", error.type);
  FieldOrNull(json, "param", error.param);
  FieldOrNull(json, "code", error.code);
  json.EndObject().EndObject();
  return json.Take();
}

HttpResponse ErrorResponse(const ApiError& error) {
  HttpResponse response{.status = error.status, .body = ErrorBody(error)};
  if (error.retry_after_s > 0)
    response.headers.emplace_back("Retry-After", fmt::format("{}", error.retry_after_s));
  return response;
}

}  // namespace larder
