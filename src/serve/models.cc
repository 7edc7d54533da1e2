#include "serve/endpoints.h"
#include "serve/errors.h"
#include "serve/json_writer.h"

namespace larder {
namespace {

void WriteModel(JsonWriter& json, const ServeContext& context) {
  const std::string& id = context.backend->model_id();
  json.BeginObject().Field("id", id).Field("object", "model").Field("created", context.started_unix_s);
  json.Field("owned_by", "larder").Field("root", id).Key("parent").Null();
  json.Field("max_model_len", context.backend->context());
  json.EndObject();
}

}  // namespace

HttpResponse HandleModels(ServeContext& context, const HttpRequest& request) {
  JsonWriter json;
  json.BeginObject().Field("object", "list").Key("data").BeginArray();
  WriteModel(json, context);
  json.EndArray().EndObject();
  return {.body = json.Take()};
}

HttpResponse HandleModel(ServeContext& context, const HttpRequest& request, std::string_view encoded_id) {
  const std::optional<std::string> id = PercentDecode(encoded_id);
  if (!id || *id != context.backend->model_id()) {
    return ErrorResponse({.status = 404,
                          .message = fmt::format("The model '{}' is not served here; this server has '{}'.",
                                                 encoded_id.substr(0, 200), context.backend->model_id()),
                          .param = "model",
                          .code = "model_not_found"});
  }
  JsonWriter json;
  WriteModel(json, context);
  return {.body = json.Take()};
}

HttpResponse HandleHealth(ServeContext& context, const HttpRequest& request) {
  const bool draining = context.draining;
  HttpResponse response{.status = draining ? 503 : 200,
                        .body = draining ? R"({"status":"draining"})" : R"({"status":"ok"})"};
  if (draining) response.headers.emplace_back("Retry-After", "5");
  return response;
}

HttpResponse HandleVersion(ServeContext& context, const HttpRequest& request) {
  JsonWriter json;
  json.BeginObject().Field("version", LARDER_VERSION).EndObject();
  return {.body = json.Take()};
}

}  // namespace larder
