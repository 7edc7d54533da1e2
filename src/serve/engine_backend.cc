#include "serve/engine_backend.h"

#include "base/file.h"
#include "base/log.h"

namespace larder {
namespace {

constexpr std::string_view kRemedy = "give one with --chat-template FILE, or use /v1/completions";

}  // namespace

Result<std::unique_ptr<EngineBackend>> EngineBackend::Create(Engine* engine,
                                                             const std::string& chat_template_file) {
  auto backend = std::unique_ptr<EngineBackend>(new EngineBackend(engine));
  const Model& model = engine->model();
  backend->model_id_ = model.name();
  const KvIdentity identity = model.kv_identity();
  FieldHasher hasher;
  hasher.Add("weights", identity.weights).Add("numerics", identity.numerics).Add("codec", identity.codec);
  backend->fingerprint_ = "fp_" + hasher.Finish().ShortHex();

  const bool from_file = !chat_template_file.empty();
  if (from_file) {
    LARDER_ASSIGN(backend->template_source_, ReadFile(chat_template_file, 4u << 20));
  } else {
    backend->template_source_ = std::string(model.file().StringOr("tokenizer.chat_template", ""));
  }
  if (backend->template_source_.empty()) {
    backend->template_error_ = fmt::format("The model '{}' has no chat template", backend->model_id_);
    return backend;
  }
  Result<ChatTemplate> parsed = ChatTemplate::Parse(backend->template_source_);
  if (parsed) {
    backend->template_.emplace(*std::move(parsed));
  } else if (from_file) {
    return Fail(parsed.error().kind, "{}: {}", chat_template_file, parsed.error().message);
  } else {
    backend->template_error_ =
        fmt::format("The model's chat template cannot be used ({})", parsed.error().message);
    LogWarn("{}; {}", backend->template_error_, kRemedy);
  }
  return backend;
}

Result<std::string> EngineBackend::RenderChat(std::string_view context_json) const {
  if (!template_) return Fail(ErrorKind::kUnsupported, "{}; {}.", template_error_, kRemedy);
  return template_->Render(context_json);
}

Result<uint64_t> EngineBackend::Submit(Request request, std::shared_ptr<RequestSink> sink) {
  return engine_->Submit(std::move(request), std::move(sink));
}

std::vector<std::string> EngineBackend::KvKinds() const {
  std::vector<std::string> names;
  for (const KvKind& kind : engine_->model().kv_shape().kinds()) names.push_back(kind.name);
  return names;
}

std::vector<KvBlockInfo> EngineBackend::Blocks(const std::string& tenant, size_t limit) {
  return engine_->Blocks(tenant, limit);
}

}  // namespace larder
