// What the server needs of an engine. Tests bring their own; engine_backend.h adapts the real one.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/engine.h"
#include "engine/request.h"
#include "model/tokenizer.h"

namespace larder {

// Everything may be called from any thread.
class ServeBackend {
 public:
  virtual ~ServeBackend() = default;

  virtual const std::string& model_id() const = 0;
  virtual std::string fingerprint()
      const = 0;                        // of weights and numerics: equal answers need equal fingerprints
  virtual int64_t context() const = 0;  // tokens
  virtual const Tokenizer& tokenizer() const = 0;
  virtual const std::string& chat_template() const = 0;  // its source; "" where the model has none

  // context_json as for ChatTemplate::Render. kUnsupported where there is no template or it cannot be
  // interpreted.
  virtual Result<std::string> RenderChat(std::string_view context_json) const = 0;

  // As Engine's functions of the same name.
  virtual Result<uint64_t> Submit(Request request, std::shared_ptr<RequestSink> sink) = 0;
  virtual void Cancel(uint64_t id) = 0;
  virtual bool Drain(int64_t timeout_ms) = 0;
  virtual EngineStats Stats() const = 0;
  virtual std::vector<KvBlockInfo> Blocks(const std::string& tenant, size_t limit) = 0;
  virtual uint64_t ClearCache(const std::string& tenant) = 0;
  virtual Status Wipe(const std::string& tenant) = 0;
  virtual std::optional<ChunkInfo> FindChunk(Request request) = 0;
  virtual ChunkPage Chunks(const std::string& tenant, const std::optional<Digest>& after, size_t limit) = 0;
  virtual Status RemoveChunk(const std::string& tenant, const Digest& name) = 0;
  virtual std::vector<EvictStateListing> States(const std::string& tenant, const std::optional<Digest>& after,
                                                size_t limit) = 0;
  virtual HintAnswer Apply(Hint hint) = 0;
  virtual std::vector<std::pair<std::string, int64_t>> Lookup(const std::string& tenant,
                                                              std::vector<int32_t> tokens) = 0;
  virtual std::vector<KvLeaseInfo> Leases(const std::string& tenant, size_t limit) = 0;
  virtual int64_t CachedRows(const std::string& tenant) = 0;
  virtual EventPage Events(const std::string& tenant, bool all, const EventCursor& cursor, size_t limit) = 0;
  virtual bool EventsNow(const std::string& tenant, bool all, const EventCursor& cursor, size_t limit,
                         EventPage& page) = 0;
  virtual void OnEvents(std::function<void()> listener) = 0;
  virtual bool Fetching(uint64_t ticket) = 0;
  virtual std::vector<std::string> KvKinds()
      const = 0;  // names of the kinds of layers, as events number them
};

}  // namespace larder
