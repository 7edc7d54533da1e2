// Stored chunks in the life of a request: they are computed as requests of their own, whose rows are
// captured, and found in the prompts of others when these are admitted.
#include "engine/blending.h"

#include <algorithm>
#include <utility>

#include "engine/core_state.h"
#include "engine/evict_driver.h"

namespace larder {
namespace {

// Of requests that only the engine asked for.
class NobodysSink final : public RequestSink {
 public:
  void OnPromptLogprobs(std::vector<TokenOutput>) override {}
  void OnToken(TokenOutput) override {}
  void OnChoiceEnd(ChoiceEnd) override {}
  void OnFinish(const Usage&, const CacheReport&) override {}
  void OnError(const Error&) override {}
};

}  // namespace

ReuseModel ReuseModelOf(const Model& model) {
  return {.layers = static_cast<int>(model.spec().layers.size())};
}

std::string EngineCore::ReuseOf(const Request& request) const {
  if (!request.reuse.empty()) return request.reuse;
  return options_.reuse.empty() ? "prefix" : options_.reuse;
}

// Called by any thread.
Status EngineCore::ValidateChunks(const Request& request) const {
  LARDER_TRY(CreateReuseMethod(ReuseOf(request), ReuseModelOf(*model_)));
  LARDER_TRY(CheckCombination(ReuseOf(request), EvictOf(request)));
  const int64_t prompt = std::ssize(request.prompt);
  for (const PromptPart& part : request.parts) {
    if (part.begin < 0 || part.rows < 0 || part.begin > prompt - part.rows) {
      return larder::Fail(ErrorKind::kInvalid, "a part of {} tokens at {} is outside the prompt of {}",
                          part.rows, part.begin, prompt);
    }
  }
  if (request.chunk_from < 0) return {};
  if (request.chunk_from >= prompt) {
    return larder::Fail(ErrorKind::kInvalid, "the chunk has no tokens; give a text");
  }
  return chunks_->Check(prompt - request.chunk_from);
}

Digest EngineCore::ChunkName(const Request& request) const {
  const std::span<const int32_t> tokens(request.prompt);
  const auto from = static_cast<size_t>(request.chunk_from);
  return chunks_->Name(request.tenant, tokens.first(from), tokens.subspan(from));
}

ChunkInfo EngineCore::InfoOf(const Request& request) const {
  const int64_t tokens = std::ssize(request.prompt) - request.chunk_from;
  return {ChunkName(request).Hex(), chunks_->BytesFor(tokens)};
}

std::optional<ChunkInfo> EngineCore::FindChunk(const Request& request) const {
  if (!chunks_->Has(ChunkName(request))) return std::nullopt;
  return InfoOf(request);
}

ChunkPage EngineCore::ListChunks(const std::string& tenant, const std::optional<Digest>& after,
                                 size_t limit) const {
  return {chunks_->List(tenant, after, limit), chunk_tiers_ != nullptr && !chunk_tiers_->Listed(tenant)};
}

Result<std::optional<Digest>> EngineCore::ChunkRecord(const std::string& tenant, const Digest& name) const {
  const auto chunk = chunks_->Find(name);
  if (chunk == nullptr || chunk->tenant() != tenant) {
    return larder::Fail(ErrorKind::kNotFound, "there is no chunk {}; GET /v1/cache/chunks lists them",
                        name.Hex());
  }
  if (chunk_tiers_ == nullptr) return std::nullopt;
  return chunk_tiers_->RecordOf(tenant, name);
}

void EngineCore::SetSpace(const std::string& tenant, const SpaceId& space) {
  if (!cache_->SetSpace(tenant, space) || chunk_tiers_ == nullptr) return;
  // Another space than before: somebody else has wiped the tenant.
  if (chunk_tiers_->SetSpace(tenant, space)) ForgetDerived(tenant);
}

void EngineCore::Forget(const std::string& tenant) {
  cache_->Forget(tenant);
  if (chunk_tiers_ != nullptr) chunk_tiers_->Forget(tenant);
  ForgetDerived(tenant);
}

void EngineCore::ForgetDerived(const std::string& tenant) {
  LetWaitingGo(tenant, true);
  derived_->Forget(tenant);
}

// What computing so many rows of a prompt takes, for who may wait that long instead.
double EngineCore::RecomputeMs(int64_t rows) const {
  return options_.always_restore ? 1e9 : scheduler_->PredictMs(0, rows);
}

// Parts that nobody has stored or is storing are computed alone, behind what the tokenizer begins every text
// with: before a request that reads chunks, behind any other.
void EngineCore::StoreParts(Live& live) {
  const Tokenizer& tokenizer = model_->tokenizer();
  std::vector<int32_t> prefix;
  if (tokenizer.add_bos() && tokenizer.bos() != kNoToken) prefix.push_back(tokenizer.bos());
  for (const PromptPart& part : live.request.parts) {
    if (!chunks_->Check(part.rows)) continue;  // too short or too long to be one
    Request store;
    store.tenant = live.request.tenant;
    store.space = live.request.space;
    store.prompt = prefix;
    const auto begin = live.request.prompt.begin() + part.begin;
    store.prompt.insert(store.prompt.end(), begin, begin + part.rows);
    if (std::ssize(store.prompt) > context_) continue;
    store.chunk_from = std::ssize(prefix);
    store.max_tokens = 0;
    store.priority = live.request.priority;
    store.evict = "none";
    store.reuse = "prefix";
    if (chunks_->Has(ChunkName(store))) continue;
    const auto storing = std::ranges::find_if(requests_, [&](const auto& other) {
      const Request& r = other.second->request;
      return r.chunk_from == store.chunk_from && r.tenant == store.tenant && r.prompt == store.prompt;
    });
    if (live.reuse != nullptr)
      live.waits_for.push_back(storing != requests_.end() ? storing->first : next_own_request_);
    if (storing != requests_.end()) continue;
    live.report.blend.stored += part.rows;
    Add(next_own_request_++, std::move(store), std::make_shared<NobodysSink>());
  }
}

bool EngineCore::PartsStored(Live& live) {
  std::erase_if(live.waits_for, [&](Engine::RequestId id) { return !requests_.contains(id); });
  return live.waits_for.empty() && ChunksListed(live);
}

// Chunks that nobody knows yet spare at most the computing of the whole prompt.
bool EngineCore::ChunksListed(Live& live) {
  if (chunk_tiers_ == nullptr || live.reuse == nullptr || live.listed) return true;
  const std::string& tenant = live.request.tenant;
  const auto until = chunk_tiers_->WaitForLists(tenant, RecomputeMs(std::ssize(live.request.prompt)));
  if (until) {
    WakeBy(*until);
    return false;
  }
  live.listed = true;
  live.lists_late = !chunk_tiers_->Listed(tenant);
  return true;
}

// Finds the chunks in the prompt and begins to read those that are not in memory, behind what the prompt
// begins with, since blending begins with that. false: some are on their way. What there is no room for, and
// what could not be read, is computed. Blending begins when the layers are here with which it begins, unless
// somebody else runs, whom its waiting for the others would hold up.
bool EngineCore::FetchSpans(Choice& choice, std::span<const int32_t> wanted) {
  if (!std::exchange(choice.matched, true))
    choice.spans = chunks_->Match(choice.live->request.tenant, choice.live->request.prompt);
  if (choice.spans.empty()) return true;
  const int64_t before = BlendDriver::ReadableRows(model_->kv_shape(), choice.spans);
  Loading(choice, wanted.first(static_cast<size_t>(before)));
  const bool not_yet = choice.restore != nullptr && !choice.restore->asked();
  const int check_layer = choice.live->reuse->needs().check_layer;
  bool coming = false;
  std::erase_if(choice.spans, [&](const ChunkSpan& span) {
    if (span.chunk->ready()) return false;
    if (not_yet) {
      coming = true;
      return false;
    }
    const auto chunk = span.chunk->lost() ? nullptr : chunks_->Find(span.chunk->name());
    const bool reads = chunk == span.chunk && chunk_tiers_ != nullptr && chunk_tiers_->Want(chunk);
    coming |= reads && (scheduler_->running() > 0 || !chunk->HasLayer(check_layer));
    return !reads;
  });
  if (chunk_tiers_ != nullptr) {
    chunk_tiers_->ReadWanted(RecomputeMs(std::ssize(choice.live->request.prompt)));
  }
  return !coming;
}

// What the sequence keeps of its own while it runs. `reads`: it may have rows that it did not compute.
void EngineCore::MakeOwn(Choice& choice, bool reads) {
  Live& live = *choice.live;
  if (!live.evict.empty()) {
    auto method = CreateEvictMethod(live.evict, EvictModelOf(*model_));
    LARDER_CHECK(method.has_value());  // Validate has seen it
    if (reads) FindState(choice, **method);
    if (choice.state != nullptr) method = choice.state->method().Copy();
    choice.own =
        std::make_unique<EvictDriver>(*evict_, *std::move(method), live.usage.prompt_tokens, choice.state);
    return;
  }
  if (live.reuse == nullptr || !reads) return;
  if (choice.spans.empty()) return;
  choice.own = std::make_unique<BlendDriver>(*blend_, *live.reuse, choice.spans, live.usage.prompt_tokens);
}

// false: there is no room for the chunk.
bool EngineCore::BeginCapture(Choice& choice) {
  const Request& request = choice.live->request;
  if (request.chunk_from < 0 || choice.index > 0) return true;
  choice.live->report.chunk = InfoOf(request);
  if (chunks_->Has(ChunkName(request))) return true;
  const std::span<const int32_t> tokens(request.prompt);
  const auto from = static_cast<size_t>(request.chunk_from);
  auto chunk = chunks_->Begin(request.tenant, tokens.first(from), tokens.subspan(from));
  if (!chunk) return false;
  choice.capture =
      std::make_unique<ChunkCapture>(*model_, *std::move(chunk), choice.kv.get(), request.chunk_from);
  return true;
}

void EngineCore::FinishCapture(Choice& choice) {
  if (choice.capture == nullptr || choice.scheduled.num_computed < choice.live->usage.prompt_tokens) return;
  chunks_->Finish(choice.capture->chunk());
  if (chunk_tiers_ != nullptr) chunk_tiers_->Keep(choice.capture->chunk());
  choice.capture = nullptr;
}

void EngineCore::ReportBlend(Choice& choice) {
  if (choice.spans.empty()) return;
  Live& live = *choice.live;
  BlendReport& report = live.report.blend;
  report.method = ReuseOf(live.request);
  report.uses.clear();
  report.covered = 0;
  for (const ChunkSpan& span : choice.spans) {
    report.uses.push_back({span.chunk->name().Hex(), span.begin, span.rows});
    report.covered += span.rows;
  }
  live.report.read_chunks = choice.own->spared_rows();
  report.again = report.covered - live.report.read_chunks;
  report.fresh = live.usage.prompt_tokens - report.covered - live.report.read_memory;
  for (const auto& [tier, rows] : live.report.read_tiers) report.fresh -= rows;
}

}  // namespace larder
