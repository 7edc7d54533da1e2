// An engine without a model. Its tokens are bytes, plus a few control tokens; what it answers is a script.
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "serve/backend.h"

namespace larder::testing {

// Token = byte; 256 "<s>", 257 "</s>", 258 "<|im_start|>", 259 "<|im_end|>".
class ByteTokenizer final : public Tokenizer {
 public:
  explicit ByteTokenizer(bool add_bos);
  std::vector<int32_t> Encode(std::string_view text, EncodeOptions options) const override;
  std::string TokenBytes(int32_t token, bool special = false) const override;
  std::string Decode(std::span<const int32_t> tokens, bool special = false) const override;
};

// What happens to a request.
struct Script {
  std::vector<int32_t> tokens;    // of each choice, cut at max_tokens
  bool endless = false;           // again and again until cancelled
  bool reversed_choices = false;  // the last choice gets its tokens first
  FinishReason reason = FinishReason::kStop;
  std::string held_back;       // text of the choice's end
  std::optional<Error> error;  // after the tokens, instead of the end
  CacheReport report;
  int64_t cached_tokens = 0;
};
Script Say(std::string_view text);

class FakeBackend final : public ServeBackend {
 public:
  explicit FakeBackend(bool add_bos = false) : tokenizer_(add_bos) {}
  ~FakeBackend() override;

  // Set before the server runs.
  std::function<Script(const Request&)> script = [](const Request&) { return Say("Hello world"); };
  std::function<std::optional<Error>(const Request&)> refuse = [](const Request&) { return std::nullopt; };
  std::string template_source = "{{ messages }}";
  std::string id = "fake/model one";
  int64_t context_tokens = 4096;
  EngineStats stats;
  std::vector<KvBlockInfo> blocks;

  std::vector<Request> requests() const;  // submitted so far
  Request last() const { return requests().back(); }
  uint64_t cancelled() const;  // requests that ended by Cancel
  bool WaitCancelled(uint64_t count) const;
  bool WaitSubmitted(uint64_t count) const;
  std::string wiped;                     // tenant of the last Wipe
  std::string cleared;                   // tenant of the last ClearCache
  std::string rendered_context() const;  // of the last RenderChat

  const std::string& model_id() const override { return id; }
  std::string fingerprint() const override { return "fp_test"; }
  int64_t context() const override { return context_tokens; }
  const Tokenizer& tokenizer() const override { return tokenizer_; }
  const std::string& chat_template() const override { return template_source; }
  Result<std::string> RenderChat(std::string_view context_json) const override;
  Result<uint64_t> Submit(Request request, std::shared_ptr<RequestSink> sink) override;
  void Cancel(uint64_t id) override;
  bool Drain(int64_t timeout_ms) override;
  EngineStats Stats() const override { return stats; }
  std::vector<KvBlockInfo> Blocks(const std::string& tenant, size_t limit) override;
  uint64_t ClearCache(const std::string& tenant) override;
  std::function<HintAnswer(const Hint&)> answer_hint = [](const Hint& hint) {
    return HintAnswer{HintStatus::kAccepted, static_cast<int64_t>(hint.target.tokens.size()), ""};
  };
  std::vector<Hint> hints;  // applied so far
  std::vector<std::pair<std::string, int64_t>> lookup;
  std::vector<KvLeaseInfo> leases;
  std::function<EventPage(const std::string& tenant, bool all, const EventCursor&, size_t limit)> events =
      [](const std::string&, bool, const EventCursor& cursor, size_t) { return EventPage{.next = cursor}; };
  std::optional<ChunkInfo> FindChunk(Request) override { return std::nullopt; }
  std::map<std::string, std::vector<ChunkListing>> chunks;  // of each tenant, by their names
  bool chunks_pending = false;
  ChunkPage Chunks(const std::string& tenant, const std::optional<Digest>& after, size_t limit) override;
  Status RemoveChunk(const std::string& tenant, const Digest& name) override;
  std::map<std::string, std::vector<EvictStateListing>> states;
  std::vector<EvictStateListing> States(const std::string& tenant, const std::optional<Digest>& after,
                                        size_t limit) override;
  HintAnswer Apply(Hint hint) override {
    hints.push_back(hint);
    return answer_hint(hint);
  }
  std::vector<std::pair<std::string, int64_t>> Lookup(const std::string&, std::vector<int32_t>) override {
    return lookup;
  }
  std::vector<KvLeaseInfo> Leases(const std::string&, size_t) override { return leases; }
  int64_t CachedRows(const std::string&) override { return cleared.empty() ? 320 : 64; }
  EventPage Events(const std::string& tenant, bool all, const EventCursor& cursor, size_t limit) override {
    return events(tenant, all, cursor, limit);
  }
  std::function<bool(const EventCursor&, EventPage&)> events_now = [](const EventCursor& cursor,
                                                                      EventPage& page) {
    page.next = cursor;
    return true;
  };
  bool EventsNow(const std::string&, bool, const EventCursor& cursor, size_t, EventPage& page) override {
    return events_now(cursor, page);
  }
  void OnEvents(std::function<void()> listener) override {
    const std::lock_guard lock(mutex_);
    listener_ = std::move(listener);
  }
  void TellOfEvents() {
    const std::lock_guard lock(mutex_);
    if (listener_) listener_();
  }
  std::atomic<uint64_t> fetching = 0;  // the ticket that is under way
  bool Fetching(uint64_t ticket) override { return ticket == fetching; }
  std::vector<std::string> KvKinds() const override { return {"full", "window512"}; }
  Status Wipe(const std::string& tenant) override {
    wiped = tenant;
    return {};
  }

 private:
  void Play(uint64_t id, const Request& request, const std::shared_ptr<RequestSink>& sink);
  bool IsCancelled(uint64_t id) const;
  void Emit(const Request& request, int32_t choice, int32_t token, StreamDecoder& decoder,
            RequestSink& sink) const;

  ByteTokenizer tokenizer_;
  mutable std::mutex mutex_;
  mutable std::condition_variable changed_;
  mutable std::string rendered_;
  std::vector<Request> requests_;
  std::function<void()> listener_;
  std::map<uint64_t, bool> live_;  // id -> cancelled
  uint64_t cancelled_ = 0, next_id_ = 1;
  std::vector<std::jthread> players_;
};

}  // namespace larder::testing
