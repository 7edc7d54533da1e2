#include "serve/fake_backend.h"

#include <chrono>
#include <limits>
#include <nlohmann/json.hpp>

namespace larder::testing {
namespace {

constexpr std::string_view kControl[] = {"<s>", "</s>", "<|im_start|>", "<|im_end|>"};
constexpr auto kPatience = std::chrono::seconds(60);

float FakeLogprob(int32_t token) { return -0.125f - 0.1f * static_cast<float>(token % 7); }

std::vector<TokenLogprob> FakeTop(int32_t token, int32_t count) {
  std::vector<TokenLogprob> top;
  for (int32_t i = 0; i < count; ++i)
    top.push_back({(token + i) % 260, FakeLogprob(token) - static_cast<float>(i)});
  return top;
}

template <class Listing>
std::vector<Listing> PageOf(const std::vector<Listing>& all, const std::optional<Digest>& after,
                            size_t limit) {
  std::vector<Listing> page;
  for (const Listing& one : all) {
    if (page.size() < limit && (!after || one.name > *after)) page.push_back(one);
  }
  return page;
}

}  // namespace

ByteTokenizer::ByteTokenizer(bool add_bos) {
  size_ = 260;
  bos_ = 256;
  eos_ = 257;
  add_bos_ = add_bos;
  model_ = "gpt2";
}

std::vector<int32_t> ByteTokenizer::Encode(std::string_view text, EncodeOptions options) const {
  std::vector<int32_t> tokens;
  if (options.add_special && add_bos_) tokens.push_back(bos_);
  while (!text.empty()) {
    int32_t control = -1;
    for (int32_t i = 0; options.parse_special && i < 4; ++i) {
      if (text.starts_with(kControl[i])) control = i;
    }
    tokens.push_back(control >= 0 ? 256 + control : static_cast<uint8_t>(text.front()));
    text.remove_prefix(control >= 0 ? kControl[control].size() : 1);
  }
  return tokens;
}

std::string ByteTokenizer::TokenBytes(int32_t token, bool special) const {
  if (token < 256) return std::string(1, static_cast<char>(token));
  return special ? std::string(kControl[token - 256]) : std::string();
}

std::string ByteTokenizer::Decode(std::span<const int32_t> tokens, bool special) const {
  std::string text;
  for (const int32_t token : tokens) text += TokenBytes(token, special);
  return text;
}

Script Say(std::string_view text) {
  Script script;
  for (const char byte : text) script.tokens.push_back(static_cast<uint8_t>(byte));
  return script;
}

FakeBackend::~FakeBackend() {
  {
    const std::lock_guard lock(mutex_);
    for (auto& [id, cancelled] : live_) cancelled = true;
  }
  players_.clear();
}

std::vector<Request> FakeBackend::requests() const {
  const std::lock_guard lock(mutex_);
  return requests_;
}

uint64_t FakeBackend::cancelled() const {
  const std::lock_guard lock(mutex_);
  return cancelled_;
}

bool FakeBackend::WaitCancelled(uint64_t count) const {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, kPatience, [&] { return cancelled_ >= count; });
}

bool FakeBackend::WaitSubmitted(uint64_t count) const {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, kPatience, [&] { return requests_.size() >= count; });
}

std::string FakeBackend::rendered_context() const {
  const std::lock_guard lock(mutex_);
  return rendered_;
}

// ChatML, whatever the template's source says.
Result<std::string> FakeBackend::RenderChat(std::string_view context_json) const {
  {
    const std::lock_guard lock(mutex_);
    rendered_ = context_json;
  }
  if (template_source.empty())
    return Fail(ErrorKind::kUnsupported, "The model has no chat template; give one.");
  const auto context = nlohmann::json::parse(context_json);
  std::string text;
  for (const auto& message : context["messages"]) {
    text += fmt::format("<|im_start|>{}\n{}<|im_end|>\n", message["role"].get<std::string>(),
                        message["content"].get<std::string>());
  }
  if (context["add_generation_prompt"].get<bool>()) text += "<|im_start|>assistant\n";
  return text;
}

Result<uint64_t> FakeBackend::Submit(Request request, std::shared_ptr<RequestSink> sink) {
  if (std::optional<Error> error = refuse(request)) return std::unexpected(*error);
  const std::lock_guard lock(mutex_);
  const uint64_t id = next_id_++;
  live_[id] = false;
  requests_.push_back(request);
  players_.emplace_back([this, id, request, sink = std::move(sink)]() mutable {
    Play(id, request, sink);
    sink.reset();
    const std::lock_guard inner(mutex_);
    live_.erase(id);
    changed_.notify_all();
  });
  changed_.notify_all();
  return id;
}

bool FakeBackend::IsCancelled(uint64_t id) const {
  const std::lock_guard lock(mutex_);
  return live_.at(id);
}

void FakeBackend::Emit(const Request& request, int32_t choice, int32_t token, StreamDecoder& decoder,
                       RequestSink& sink) const {
  TokenOutput output{.choice = choice, .token = token, .text = "", .logprob = 0, .top = {}};
  if (token != tokenizer_.eos()) output.text = decoder.Push(token);
  if (request.logprobs >= 0) {
    output.logprob = FakeLogprob(token);
    output.top = FakeTop(token, request.logprobs);
  }
  sink.OnToken(std::move(output));
}

void FakeBackend::Play(uint64_t id, const Request& request, const std::shared_ptr<RequestSink>& sink) {
  Script script = this->script(request);
  if (!request.forced_output.empty()) script.tokens = request.forced_output;
  if (request.prompt_logprobs >= 0 && request.prompt.size() > 1) {
    std::vector<TokenOutput> scores;
    for (const int32_t token : request.prompt) {
      scores.push_back({.choice = 0,
                        .token = token,
                        .text = "",
                        .logprob = FakeLogprob(token),
                        .top = FakeTop(token, request.prompt_logprobs)});
    }
    scores.front().logprob = std::numeric_limits<float>::quiet_NaN();
    scores.front().top.clear();
    sink->OnPromptLogprobs(std::move(scores));
  }
  std::vector<StreamDecoder> decoders(static_cast<size_t>(request.n), StreamDecoder(&tokenizer_));
  const auto limit = request.max_tokens < 0 ? std::numeric_limits<int64_t>::max() : request.max_tokens;
  int64_t made = 0;
  bool cancelled = false;
  for (size_t i = 0; made < limit && (i < script.tokens.size() || script.endless); ++i, ++made) {
    if ((cancelled = IsCancelled(id))) break;
    for (int32_t c = 0; c < request.n; ++c) {
      const int32_t choice = script.reversed_choices ? request.n - 1 - c : c;
      Emit(request, choice, script.tokens[i % script.tokens.size()], decoders[static_cast<size_t>(choice)],
           *sink);
    }
    if (script.endless) std::this_thread::sleep_for(std::chrono::microseconds(200));
  }
  if (script.error && !cancelled) return sink->OnError(*script.error);
  const bool cut = made >= limit && script.reason != FinishReason::kCancelled;
  const FinishReason reason = cancelled ? FinishReason::kCancelled
                              : cut     ? FinishReason::kLength
                                        : script.reason;
  for (int32_t c = 0; c < request.n; ++c) {
    sink->OnChoiceEnd({.choice = c,
                       .reason = reason,
                       .text = decoders[static_cast<size_t>(c)].Finish() + script.held_back,
                       .matched_stop = ""});
  }
  const auto prompt = static_cast<int64_t>(request.prompt.size());
  sink->OnFinish(
      {.prompt_tokens = prompt, .completion_tokens = made * request.n, .cached_tokens = script.cached_tokens},
      script.report);
  if (!cancelled) return;
  const std::lock_guard lock(mutex_);
  ++cancelled_;
  changed_.notify_all();
}

void FakeBackend::Cancel(uint64_t id) {
  const std::lock_guard lock(mutex_);
  if (const auto found = live_.find(id); found != live_.end()) found->second = true;
}

bool FakeBackend::Drain(int64_t timeout_ms) {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, std::chrono::milliseconds(timeout_ms), [&] { return live_.empty(); });
}

std::vector<KvBlockInfo> FakeBackend::Blocks(const std::string& tenant, size_t limit) {
  std::vector<KvBlockInfo> found;
  for (const KvBlockInfo& block : blocks) {
    if (found.size() < limit) found.push_back(block);
  }
  return found;
}

ChunkPage FakeBackend::Chunks(const std::string& tenant, const std::optional<Digest>& after, size_t limit) {
  return {PageOf(chunks[tenant], after, limit), chunks_pending};
}

Status FakeBackend::RemoveChunk(const std::string& tenant, const Digest& name) {
  if (std::erase_if(chunks[tenant], [&](const auto& chunk) { return chunk.name == name; }) == 0)
    return Fail(ErrorKind::kNotFound, "there is no chunk {}", name.Hex());
  return {};
}

std::vector<EvictStateListing> FakeBackend::States(const std::string& tenant,
                                                   const std::optional<Digest>& after, size_t limit) {
  return PageOf(states[tenant], after, limit);
}

uint64_t FakeBackend::ClearCache(const std::string& tenant) {
  cleared = tenant;
  return 3;
}

}  // namespace larder::testing
