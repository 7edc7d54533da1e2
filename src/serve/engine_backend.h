// The real engine behind ServeBackend.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "model/chat_template.h"
#include "serve/backend.h"

namespace larder {

class EngineBackend final : public ServeBackend {
 public:
  // The chat template is the file's content where a path is given (errors are the caller's then), else the
  // model's own (which, if it cannot be interpreted, only chat requests are refused for). `engine` outlives
  // the backend.
  static Result<std::unique_ptr<EngineBackend>> Create(Engine* engine, const std::string& chat_template_file);

  const std::string& model_id() const override { return model_id_; }
  std::string fingerprint() const override { return fingerprint_; }
  int64_t context() const override { return engine_->context(); }
  const Tokenizer& tokenizer() const override { return engine_->model().tokenizer(); }
  const std::string& chat_template() const override { return template_source_; }
  Result<std::string> RenderChat(std::string_view context_json) const override;

  Result<uint64_t> Submit(Request request, std::shared_ptr<RequestSink> sink) override;
  void Cancel(uint64_t id) override { engine_->Cancel(id); }
  bool Drain(int64_t timeout_ms) override { return engine_->Drain(timeout_ms); }
  EngineStats Stats() const override { return engine_->Stats(); }
  std::vector<KvBlockInfo> Blocks(const std::string& tenant, size_t limit) override;
  uint64_t ClearCache(const std::string& tenant) override { return engine_->ClearCache(tenant); }
  Status Wipe(const std::string& tenant) override { return engine_->Wipe(tenant); }
  std::optional<ChunkInfo> FindChunk(Request request) override {
    return engine_->FindChunk(std::move(request));
  }
  ChunkPage Chunks(const std::string& tenant, const std::optional<Digest>& after, size_t limit) override {
    return engine_->Chunks(tenant, after, limit);
  }
  Status RemoveChunk(const std::string& tenant, const Digest& name) override {
    return engine_->RemoveChunk(tenant, name);
  }
  std::vector<EvictStateListing> States(const std::string& tenant, const std::optional<Digest>& after,
                                        size_t limit) override {
    return engine_->States(tenant, after, limit);
  }
  HintAnswer Apply(Hint hint) override { return engine_->Apply(std::move(hint)); }
  std::vector<std::pair<std::string, int64_t>> Lookup(const std::string& tenant,
                                                      std::vector<int32_t> tokens) override {
    return engine_->Lookup(tenant, std::move(tokens));
  }
  std::vector<KvLeaseInfo> Leases(const std::string& tenant, size_t limit) override {
    return engine_->Leases(tenant, limit);
  }
  int64_t CachedRows(const std::string& tenant) override { return engine_->CachedRows(tenant); }
  EventPage Events(const std::string& tenant, bool all, const EventCursor& cursor, size_t limit) override {
    return engine_->Events(tenant, all, cursor, limit);
  }
  bool EventsNow(const std::string& tenant, bool all, const EventCursor& cursor, size_t limit,
                 EventPage& page) override {
    return engine_->EventsNow(tenant, all, cursor, limit, page);
  }
  void OnEvents(std::function<void()> listener) override { engine_->OnEvents(std::move(listener)); }
  bool Fetching(uint64_t ticket) override { return engine_->Fetching(ticket); }
  std::vector<std::string> KvKinds() const override;

 private:
  explicit EngineBackend(Engine* engine) : engine_(engine) {}
  Engine* engine_;
  std::string model_id_, fingerprint_, template_source_;
  std::optional<ChatTemplate> template_;
  std::string template_error_;  // why there is none
};

}  // namespace larder
