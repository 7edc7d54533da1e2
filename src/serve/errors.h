// Errors as clients see them: {"error": {"message", "type", "param", "code"}} with a status.
#pragma once

#include <expected>
#include <string>
#include <string_view>

#include "base/result.h"
#include "serve/http.h"

namespace larder {

struct ApiError {
  int status = 400;
  std::string message;
  std::string type = "invalid_request_error";
  std::string param;      // the field at fault; "" becomes null
  std::string code;       // "" becomes null
  int retry_after_s = 0;  // 0: no Retry-After
};

template <class T>
using ApiResult = std::expected<T, ApiError>;
using ApiStatus = std::expected<void, ApiError>;

// A 400 for one field of the request.
template <class... Args>
[[nodiscard]] std::unexpected<ApiError> BadField(const std::string& param, fmt::format_string<Args...> format,
                                                 Args&&... args) {
  return std::unexpected(
      ApiError{.message = fmt::format(format, std::forward<Args>(args)...), .param = param});
}

// The engine's error. kUnavailable is 503 while draining, else 429 (the queue is full) with retry_after_s.
ApiError ToApiError(const Error& error, bool draining, int retry_after_s);
ApiError DrainingError();

std::string ErrorBody(const ApiError& error);
HttpResponse ErrorResponse(const ApiError& error);

}  // namespace larder
