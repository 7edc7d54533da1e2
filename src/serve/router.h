// From method and path to a handler. Every path also exists below /v1.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "serve/context.h"
#include "serve/http.h"

namespace larder {

class Router {
 public:
  explicit Router(ServeContext* context) : context_(context) {}

  // Looks at the head of a request before its body is read. Sets the tenant; an answer refuses the request.
  std::optional<HttpResponse> Admit(HttpRequest& request) const;

  // Answers the request, now or later. May block on the engine for a step: not for the I/O thread.
  void Handle(const HttpRequest& request, const std::shared_ptr<Exchange>& exchange) const;

 private:
  ServeContext* context_;
};

}  // namespace larder
