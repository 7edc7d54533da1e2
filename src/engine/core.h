// The engine without its thread: requests in, steps of the model, tokens out. Single-threaded and
// deterministic, so that tests can drive it step by step.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "engine/engine.h"
#include "engine/hook_chain.h"
#include "engine/output.h"
#include "engine/sampler.h"
#include "engine/scheduler.h"
#include "kv/cache.h"
#include "kv/derived.h"
#include "kv/evict/states.h"
#include "kv/reuse/chunk_tiers.h"
#include "model/model.h"

namespace larder {

struct BlendResources;
struct EvictResources;

class EngineCore final : private SchedulerCache {
 public:
  // `on_tiers` is called from a tier's thread when Step has something to do again.
  static Result<std::unique_ptr<EngineCore>> Create(Model* model, const EngineOptions& options, Clock* clock,
                                                    std::function<void()> on_tiers = nullptr);
  ~EngineCore() override;

  // Errors as Engine::Submit. The sink hears of it from the next Step on.
  Status Validate(const Request& request) const;
  void Add(Engine::RequestId id, Request request, std::shared_ptr<RequestSink> sink);
  void Cancel(Engine::RequestId id);
  // One step of the model over whatever the scheduler chose. false: there is nothing to do, until something
  // is added or on_tiers was called, or wake_ns() is over.
  bool Step();
  // When the next step has something to do though nobody says so, by the clock; INT64_MAX: never.
  int64_t wake_ns() const { return wake_ns_; }

  int64_t context() const { return context_; }
  int64_t unfinished() const { return static_cast<int64_t>(requests_.size()); }
  EngineStats Stats() const;
  HintAnswer Apply(const Hint& hint);
  bool Fetching(uint64_t ticket) const;    // a prefetch is under way
  void ReadStats(EngineStats& out) const;  // the same, into memory that is kept
  KvCache& cache() { return *cache_; }
  ChunkStore& chunks() { return *chunks_; }
  EvictStates& states() { return *states_; }
  DerivedRoom& derived() { return *derived_; }  // that both are in
  // The chunk that a request with `chunk_from` stores, if it is here already.
  std::optional<ChunkInfo> FindChunk(const Request& request) const;
  ChunkPage ListChunks(const std::string& tenant, const std::optional<Digest>& after, size_t limit) const;
  // What the tiers call a chunk of the tenant; nothing: no tier has anything of it. kNotFound: no such chunk.
  Result<std::optional<Digest>> ChunkRecord(const std::string& tenant, const Digest& name) const;
  void Forget(const std::string& tenant);  // what is wiped
  // Of the tenant's records, as its requests bring it along. Another one than before wipes it here, too.
  void SetSpace(const std::string& tenant, const SpaceId& space);
  // Called before a sink hears that its request has ended, when the core counts it no more.
  void BeforeEnd(std::function<void()> told) { before_end_ = std::move(told); }
  const Scheduler& scheduler() const { return *scheduler_; }

 private:
  struct Choice;
  struct Live;
  struct WantedRow {
    Choice* choice;  // null: dropped after it ran
    int64_t position;
    bool samples;  // the sequence's last row
    bool scores;   // a prompt row whose logits judge the next prompt token
  };
  // What a wanted row's logits became.
  struct Judged {
    int32_t token;
    Logprobs logprobs;  // if asked for
  };
  // Working memory of one thread of the pool.
  struct JudgeScratch {
    SampleScratch sampling;
    std::vector<int32_t> banned;
    std::vector<float> raw;  // logits before Sample changes them
  };

  EngineCore(Model* model, const EngineOptions& options, Clock* clock);
  Admission Admit(ScheduledSequence& sequence) override;
  bool Loading(Choice& choice, std::span<const int32_t> wanted);
  void ContinueBehindGap(Choice& choice);
  std::string EvictOf(const Request& request) const;
  std::string ReuseOf(const Request& request) const;
  bool BeginOwn(Choice& choice);
  void MakeOwn(Choice& choice, bool reads);
  void FindState(Choice& choice, const EvictMethod& method);
  void KeepState(Choice& choice);
  bool BeginCapture(Choice& choice);
  void FinishCapture(Choice& choice);
  void StoreParts(Live& live);
  bool PartsStored(Live& live);
  bool ChunksListed(Live& live);
  double RecomputeMs(int64_t rows) const;
  void WakeBy(int64_t ns) { wake_ns_ = std::min(wake_ns_, ns); }
  bool FetchSpans(Choice& choice, std::span<const int32_t> wanted);
  void ReportBlend(Choice& choice);
  Digest ChunkName(const Request& request) const;
  ChunkInfo InfoOf(const Request& request) const;
  Status ValidateChunks(const Request& request) const;
  bool DropUnused(const Choice& needy);
  bool LetWaitingGo(const std::string& tenant, bool preempted);
  void ForgetDerived(const std::string& tenant);
  HintAnswer BeginPrefetch(const Hint& hint);
  void TakePrefetched();
  void ReportRead(Choice& choice, const CacheOutcome& outcome);
  bool Reserve(ScheduledSequence& sequence, int64_t rows) override;
  void Release(ScheduledSequence& sequence) override;
  bool RoomComing() override;
  void NoteRoom(bool runs);

  void RunModel(std::span<const Scheduler::Work> work);
  void BuildRows(std::span<const Scheduler::Work> work);
  void RunRows(std::span<const Scheduler::Work> work);
  void DropWanted(const Choice& choice);
  void BeginAgain(Choice& choice);
  void JudgeRows();
  void FinishEnded();
  Status AfterRows(const Scheduler::Work& work);
  void WaitForRoom(Choice& choice);
  // Requests that have ended in any way; when it changes, memory has come back.
  uint64_t Ended() const {
    return stats_.requests_finished + stats_.requests_cancelled + stats_.requests_failed;
  }
  Status AfterPrivateRows(Choice& choice, int64_t end);
  void FailBroken();
  void BeginPromptScores(Live& live);
  void ReportPrompt(Live& live);
  void Judge(const WantedRow& row, std::span<float> logits, JudgeScratch& scratch, Judged& out) const;
  int32_t ChooseToken(const Choice& choice, std::span<float> logits, JudgeScratch& scratch) const;
  void TakePromptScore(Choice& choice, int64_t position, Judged& judged);
  void TakeToken(Choice& choice, Judged& judged);
  void EndChoice(Choice& choice, FinishReason reason, std::string text, std::string matched);
  void FinishIfDone(Live& live);
  void Fail(Live& live, const Error& error);
  void Forget(Live& live);
  Choice& ChoiceOf(const ScheduledSequence& sequence);

  Model* const model_;
  Clock* const clock_;
  EngineOptions options_;
  int64_t context_ = 0;
  std::vector<int32_t> end_tokens_;
  std::unique_ptr<KvCache> cache_;
  std::unique_ptr<EvictResources> evict_;
  std::unique_ptr<DerivedRoom> derived_;
  std::unique_ptr<ChunkStore> chunks_;
  std::unique_ptr<EvictStates> states_;
  std::function<void()> before_end_ = [] {};
  std::unique_ptr<ChunkTiers> chunk_tiers_;  // null without tiers
  std::unique_ptr<BlendResources> blend_;
  std::vector<std::pair<Engine::RequestId, Error>> broken_;  // in this step: a method found no room
  // On their way up before anybody asked for them.
  struct Prefetch {
    std::shared_ptr<KvRestore> restore;
    Hint hint;
    uint64_t ticket;
  };
  std::vector<Prefetch> prefetches_;
  uint64_t last_ticket_ = 0;
  std::unique_ptr<Scheduler> scheduler_;
  std::unordered_map<Engine::RequestId, std::unique_ptr<Live>> requests_;
  std::unordered_map<uint64_t, Choice*> choices_;  // by ScheduledSequence::id
  uint64_t next_sequence_ = 1;
  // Requests of its own have ids that nobody else gives.
  Engine::RequestId next_own_request_ = Engine::RequestId{1} << 63;
  EngineStats stats_;
  int64_t wake_ns_ = INT64_MAX;
  // Since when there is no room because of what is being written; whether that was so in this step.
  std::optional<int64_t> no_room_since_ns_;
  bool no_room_ = false;
  std::array<uint64_t, 16> misses_{};  // by MissReason
  // Scratch of a step; grows to the largest one, so that a steady state allocates nothing.
  std::vector<Row> rows_;
  HookChain hooks_;
  std::vector<float> hidden_, logits_;
  std::vector<uint64_t> ids_;
  std::vector<WantedRow> wanted_;
  std::vector<Judged> judged_;
  std::vector<JudgeScratch> judges_;  // by worker
};

}  // namespace larder
