#include "engine/core.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "engine/arrivals.h"
#include "engine/blending.h"
#include "engine/core_state.h"
#include "engine/evict_driver.h"
#include "kv/tiers.h"

namespace larder {
namespace {

// Logits of this many rows are computed at a time; bounds the buffer for large vocabularies.
constexpr size_t kLogitRows = 16;

}  // namespace

EngineCore::Choice::Choice(Live* owner, int32_t number, const Tokenizer* tokenizer)
    : live(owner),
      index(number),
      tokens(owner->request.prompt),
      text(tokenizer, owner->request.stop, owner->request.skip_special, owner->request.min_tokens) {
  history.AddPrompt(tokens);
}

int64_t EngineCore::Choice::generated() const {
  return static_cast<int64_t>(tokens.size() - live->request.prompt.size());
}

Result<std::unique_ptr<EngineCore>> EngineCore::Create(Model* model, const EngineOptions& options,
                                                       Clock* clock, std::function<void()> on_tiers) {
  std::unique_ptr<EngineCore> core(new EngineCore(model, options, clock));
  LARDER_ASSIGN(core->cache_, KvCache::Create(model->kv_shape(), model->kv_identity(), options.cache, clock));
  core->cache_->SetTiers({.tiers = options.tiers,
                          .notify = on_tiers,
                          .group_bytes = options.tier_group_bytes,
                          .admit = options.admit});
  core->evict_ = std::make_unique<EvictResources>(*model, core->cache_->MakePageSource());
  core->derived_ = std::make_unique<DerivedRoom>(core->cache_->MakeBudget(), core->cache_->limit_bytes());
  core->chunks_ =
      std::make_unique<ChunkStore>(&model->kv_shape(), model->kv_identity(), core->derived_.get());
  core->states_ =
      std::make_unique<EvictStates>(&model->kv_shape(), model->kv_identity(), core->derived_.get());
  if (!options.tiers.empty()) {
    core->chunk_tiers_ =
        std::make_unique<ChunkTiers>(&model->kv_shape(), core->context_, core->chunks_.get(), options.tiers,
                                     options.tier_group_bytes, clock, std::move(on_tiers));
  }
  core->blend_ = std::make_unique<BlendResources>(*model, *core->evict_->pages);
  if (!options.evict.empty()) LARDER_TRY(CreateEvictMethod(options.evict, EvictModelOf(*model)));
  if (!options.reuse.empty()) LARDER_TRY(CreateReuseMethod(options.reuse, ReuseModelOf(*model)));
  LARDER_TRY(CheckCombination(options.reuse, options.evict));
  LARDER_ASSIGN(auto policies, CreateSchedulePolicies(options.policy));
  const SchedulerOptions scheduling{options.max_running, options.max_batch_rows, options.step_ms};
  core->judged_.resize(kLogitRows);
  core->judges_.resize(static_cast<size_t>(model->pool().threads()));
  core->scheduler_ = std::make_unique<Scheduler>(scheduling, std::move(policies),
                                                 static_cast<SchedulerCache*>(core.get()), clock);
  return core;
}

EngineCore::EngineCore(Model* model, const EngineOptions& options, Clock* clock)
    : model_(model), clock_(clock), options_(options) {
  context_ = options.context > 0 ? std::min(options.context, model->spec().context) : model->spec().context;
  for (int32_t token = 0; token < model->tokenizer().size(); ++token) {
    if (model->tokenizer().IsEndOfGeneration(token)) end_tokens_.push_back(token);
  }
}

EngineCore::~EngineCore() {
  before_end_ = [] {};  // its owner may be half gone
  while (!requests_.empty()) Cancel(requests_.begin()->first);
}

Status EngineCore::Validate(const Request& request) const {
  const int64_t prompt = static_cast<int64_t>(request.prompt.size());
  if (prompt == 0) return larder::Fail(ErrorKind::kInvalid, "the prompt is empty; give at least one token");
  for (int32_t token : request.prompt) {
    if (token < 0 || token >= model_->tokenizer().size()) {
      return larder::Fail(ErrorKind::kInvalid, "token {} is not in the vocabulary of {}", token,
                          model_->tokenizer().size());
    }
  }
  for (int32_t token : request.forced_output) {
    if (token < 0 || token >= model_->tokenizer().size()) {
      return larder::Fail(ErrorKind::kInvalid, "forced_output token {} is not in the vocabulary of {}", token,
                          model_->tokenizer().size());
    }
  }
  bool endless = false;
  if (const std::string evict = EvictOf(request); !evict.empty()) {
    LARDER_ASSIGN(const auto method, CreateEvictMethod(evict, EvictModelOf(*model_)));
    endless = method->needs().positions == PositionMode::kCompact && method->needs().chunk > 0;
  }
  if (request.keep_state && EvictOf(request).empty()) {
    return larder::Fail(
        ErrorKind::kInvalid,
        "keep_state keeps what an eviction method leaves, and this request has none; name one "
        "in larder.evict");
  }
  LARDER_TRY(ValidateChunks(request));
  const int64_t room = request.max_tokens == 0 ? 0 : 1;
  if (prompt + room > context_ && !endless) {
    return larder::Fail(ErrorKind::kInvalid,
                        "This model's maximum context length is {} tokens, but the prompt has {}; shorten it",
                        context_, prompt);
  }
  if (request.n < 1) return larder::Fail(ErrorKind::kInvalid, "n is {}; at least 1 is needed", request.n);
  return {};
}

std::string EngineCore::EvictOf(const Request& request) const {
  if (request.evict == "none") return "";
  return request.evict.empty() ? options_.evict : request.evict;
}

void EngineCore::Add(Engine::RequestId id, Request request, std::shared_ptr<RequestSink> sink) {
  auto live = std::make_unique<Live>();
  live->id = id;
  live->request = std::move(request);
  live->sink = std::move(sink);
  live->arrival_ns = clock_->NowNs();
  live->open_choices = live->request.n;
  const Request& r = live->request;
  live->evict = live->report.evict = EvictOf(r);
  if (!live->evict.empty()) {
    const auto method = CreateEvictMethod(live->evict, EvictModelOf(*model_));
    live->endless = method && (*method)->needs().positions == PositionMode::kCompact && r.max_tokens >= 0;
  }
  if (auto reuse = CreateReuseMethod(ReuseOf(r), ReuseModelOf(*model_)); reuse && (*reuse)->needs().chunks)
    live->reuse = *std::move(reuse);
  if (r.space) SetSpace(r.tenant, *r.space);
  live->begun = derived_->Tick();
  if (live->reuse != nullptr) StoreParts(*live);
  FollowHints(*cache_, r.tenant, r.hints, r.prompt);
  live->usage.prompt_tokens = static_cast<int64_t>(r.prompt.size());
  if (!r.forced_output.empty()) live->request.max_tokens = static_cast<int64_t>(r.forced_output.size());
  // Room for the answer, so that a step takes no memory; a long one may still grow.
  constexpr int64_t kReservedTokens = 16384;
  const int64_t prompt = live->usage.prompt_tokens;
  const int64_t longest = r.max_tokens < 0 ? context_ - prompt : std::min(r.max_tokens, context_ - prompt);
  const int64_t answer = std::clamp<int64_t>(longest, 0, kReservedTokens);
  for (int32_t i = 0; i < r.n; ++i) {
    auto choice = std::make_unique<Choice>(live.get(), i, &model_->tokenizer());
    choice->tokens.reserve(static_cast<size_t>(prompt + answer));
    choice->history.Reserve(std::min(answer, model_->spec().vocabulary));
    ScheduledSequence& s = choice->scheduled;
    s.id = next_sequence_++;
    s.request = id;
    s.priority = r.priority;
    s.arrival_ns = live->arrival_ns;
    s.num_tokens = static_cast<int64_t>(r.prompt.size());
    s.tenant = r.tenant;
    s.tokens = &choice->tokens;
    s.publishes = live->evict.empty();
    s.reads_cache = r.read_cache;
    choices_[s.id] = choice.get();
    scheduler_->Add(&s);
    live->choices.push_back(std::move(choice));
  }
  requests_[id] = std::move(live);
}

void EngineCore::Cancel(Engine::RequestId id) {
  const auto it = requests_.find(id);
  if (it == requests_.end()) return;
  Live& live = *it->second;
  ++stats_.requests_cancelled;
  for (const auto& choice : live.choices) {
    if (!choice->done) EndChoice(*choice, FinishReason::kCancelled, choice->text.Finish(), "");
  }
  FinishIfDone(live);
}

EngineCore::Choice& EngineCore::ChoiceOf(const ScheduledSequence& sequence) {
  return *choices_.at(sequence.id);
}

bool EngineCore::Step() {
  wake_ns_ = INT64_MAX;
  cache_->PollTiers();
  if (chunk_tiers_ != nullptr) chunk_tiers_->Poll();
  TakePrefetched();
  cache_->leases().Expire();
  const int64_t begin = clock_->NowNs();
  const std::vector<Scheduler::Work>& work = scheduler_->Plan();
  NoteRoom(!work.empty());
  std::vector<uint64_t> stuck_ids;
  for (const ScheduledSequence* sequence : scheduler_->TakeStuck()) stuck_ids.push_back(sequence->id);
  for (uint64_t id : stuck_ids) {
    const auto it = choices_.find(id);  // gone if its request failed with an earlier choice
    if (it == choices_.end()) continue;
    Fail(*it->second->live,
         Error{ErrorKind::kExhausted,
               fmt::format("the request needs more KV cache than the limit of {} bytes; raise --kv-limit",
                           cache_->limit_bytes())});
  }
  // A stuck sequence was alone, so nothing planned belongs to a request that just failed.
  if (work.empty()) return unfinished() > 0 && scheduler_->loading() == 0;
  const int64_t planned = clock_->NowNs();
  stats_.scheduling_us_last = static_cast<double>(planned - begin) / 1e3;
  double row_context = 0;
  int64_t rows = 0;
  for (const Scheduler::Work& w : work) {
    rows += w.rows;
    const double n = static_cast<double>(w.rows);
    row_context += n * (static_cast<double>(w.sequence->num_computed) + n / 2);
  }
  // Rows that leave on the way cost less than others, and those that wait for layers take longer, from which
  // nothing is learnt about those.
  const bool special = std::ranges::any_of(work, [](const auto& w) { return w.sequence->whole_rows > 0; });
  RunModel(work);
  if (!special) scheduler_->Observe(rows, row_context, static_cast<double>(clock_->NowNs() - planned) / 1e6);
  ++stats_.steps;
  return true;
}

// The step's rows, and which of them somebody wants logits of.
void EngineCore::BuildRows(std::span<const Scheduler::Work> work) {
  rows_.clear();
  wanted_.clear();
  ids_.clear();
  for (const Scheduler::Work& w : work) {
    ids_.push_back(w.sequence->id);
    Choice& choice = ChoiceOf(*w.sequence);
    const int64_t prompt = choice.live->usage.prompt_tokens;
    for (int64_t p = w.sequence->num_computed; p < w.sequence->num_computed + w.rows; ++p) {
      const bool samples = p + 1 == w.sequence->num_tokens && choice.live->request.max_tokens != 0;
      const bool scores = choice.live->request.prompt_logprobs >= 0 && choice.index == 0 && p + 1 < prompt &&
                          p >= choice.prompt_scored;
      Row row;
      row.token = choice.tokens[static_cast<size_t>(p)];
      row.position = choice.own != nullptr ? choice.own->PositionOf(p) : static_cast<int32_t>(p);
      row.kv = choice.store();
      row.writes_kv = p >= choice.rows_present();
      row.wants_hidden = samples || scores;
      rows_.push_back(row);
      if (row.wants_hidden) wanted_.push_back({&choice, p, samples, scores});
    }
  }
}

void EngineCore::RunRows(std::span<const Scheduler::Work> work) {
  const size_t width = static_cast<size_t>(model_->spec().width);
  if (hidden_.size() < wanted_.size() * width) hidden_.resize(wanted_.size() * width);
  const bool alone = scheduler_->running() == 1;
  const int64_t begin_ns = clock_->NowNs();
  ArrivalHooks arrivals(model_->kv_shape());
  hooks_.Clear();
  for (const Scheduler::Work& w : work) {
    Choice& choice = ChoiceOf(*w.sequence);
    arrivals.Add(choice.restore.get(), w.sequence->id, choice.store());
    if (choice.own != nullptr) hooks_.Add(choice.own->HooksFor(w.sequence->num_computed));
    hooks_.Add(choice.capture.get());
  }
  if (!arrivals.empty()) hooks_.Add(&arrivals);
  model_->Forward(rows_, hidden_.data(), hooks_.get());
  stats_.model_us_last = static_cast<double>(clock_->NowNs() - begin_ns) / 1e3;
  for (const Scheduler::Work& w : work) {
    Choice& choice = ChoiceOf(*w.sequence);
    const bool failed = arrivals.Failed(w.sequence->id);
    if (failed || (choice.own != nullptr && !choice.own->AllCame())) {
      choice.layers_failed |= failed;
      BeginAgain(choice);
      continue;
    }
    if (choice.restore != nullptr && choice.restore->started()) choice.restore = nullptr;  // all layers came
    if (Status status = AfterRows(w); !status) {
      if (status.error().kind == ErrorKind::kExhausted && (!alone || DropUnused(choice))) {
        WaitForRoom(choice);
      } else {
        broken_.emplace_back(choice.live->id, status.error());
      }
    }
  }
}

// What was computed from layers that never came is worthless; the rows that came are found again. How it
// began is counted when it does so for good.
void EngineCore::BeginAgain(Choice& choice) {
  DropWanted(choice);
  Live& live = *choice.live;
  if (choice.index == 0 && std::exchange(live.miss_counted, false))
    --misses_[static_cast<size_t>(live.report.outcome.reason)];
  if (choice.index == 0) live.report.read_tiers.clear();
  scheduler_->Requeue(&choice.scheduled);
}

// A method found no room for what it keeps: it begins again when somebody beside it has ended.
void EngineCore::WaitForRoom(Choice& choice) {
  DropWanted(choice);
  choice.no_room_at = Ended();
  scheduler_->Requeue(&choice.scheduled);
  ++choice.scheduled.preemptions;
}

void EngineCore::RunModel(std::span<const Scheduler::Work> work) {
  BuildRows(work);
  RunRows(work);
  FailBroken();
  JudgeRows();
  FinishEnded();
}

// Nobody looks at the logits of its rows any more. They keep their places: those behind them would otherwise
// get the states of their neighbours.
void EngineCore::DropWanted(const Choice& choice) {
  for (WantedRow& row : wanted_) {
    if (row.choice == &choice) row.choice = nullptr;
  }
}

// Logits of the wanted rows, and what they mean.
void EngineCore::JudgeRows() {
  const size_t width = static_cast<size_t>(model_->spec().width),
               vocabulary = static_cast<size_t>(model_->spec().vocabulary),
               known = static_cast<size_t>(model_->tokenizer().size());
  for (size_t begin = 0; begin < wanted_.size(); begin += kLogitRows) {
    const size_t n = std::min(kLogitRows, wanted_.size() - begin);
    if (logits_.size() < n * vocabulary) logits_.resize(n * vocabulary);
    const int64_t begin_ns = clock_->NowNs();
    model_->Logits(&hidden_[begin * width], static_cast<int>(n), logits_.data());
    stats_.model_us_last += static_cast<double>(clock_->NowNs() - begin_ns) / 1e3;
    // Looking through a vocabulary takes long enough to be worth all threads; what follows is bookkeeping.
    model_->pool().Run(static_cast<int64_t>(n), [&](int64_t i, int worker) {
      const size_t at = static_cast<size_t>(i);
      if (wanted_[begin + at].choice == nullptr) return;
      Judge(wanted_[begin + at], {&logits_[at * vocabulary], known}, judges_[static_cast<size_t>(worker)],
            judged_[at]);
    });
    for (size_t i = 0; i < n; ++i) {
      const WantedRow& row = wanted_[begin + i];
      if (row.choice == nullptr) continue;
      if (row.scores) TakePromptScore(*row.choice, row.position, judged_[i]);
      if (row.samples) TakeToken(*row.choice, judged_[i]);
    }
  }
}

// Requests whose method could not do its work end with its error.
void EngineCore::FailBroken() {
  for (const auto& [id, error] : std::exchange(broken_, {})) {
    const auto it = requests_.find(id);
    if (it == requests_.end()) continue;  // failed with another choice
    for (const auto& choice : it->second->choices) DropWanted(*choice);
    Fail(*it->second, error);
  }
}

// Requests that wanted no token end here; the others when their last choice ends.
void EngineCore::FinishEnded() {
  for (const uint64_t id : ids_) {
    const auto it = choices_.find(id);  // gone if its request ended with an earlier choice
    if (it == choices_.end()) continue;
    Choice& choice = *it->second;
    if (!choice.done && choice.live->request.max_tokens == 0 &&
        choice.scheduled.num_computed == choice.scheduled.num_tokens) {
      ReportPrompt(*choice.live);
      EndChoice(choice, FinishReason::kLength, "", "");
    }
    FinishIfDone(*choice.live);
  }
}

Status EngineCore::AfterRows(const Scheduler::Work& work) {
  Choice& choice = ChoiceOf(*work.sequence);
  Live& live = *choice.live;
  const int64_t end = work.sequence->num_computed + work.rows;
  live.report.recomputed +=
      std::max<int64_t>(0, std::min(end, live.usage.prompt_tokens) - work.sequence->num_computed);
  if (choice.own != nullptr) return AfterPrivateRows(choice, end);
  const int64_t length = choice.kv->length();
  if (end > length) {
    cache_->Publish(
        *choice.kv,
        std::span(choice.tokens).subspan(static_cast<size_t>(length), static_cast<size_t>(end - length)));
    live.report.written += end - length;
  }
  work.sequence->num_computed = end;
  work.sequence->whole_rows = 0;
  FinishCapture(choice);
  if (end == work.sequence->chunk_end) ContinueBehindGap(choice);
  return {};
}

// The method's triggers; what it no longer reads of the shared cache goes back.
Status EngineCore::AfterPrivateRows(Choice& choice, int64_t end) {
  Live& live = *choice.live;
  const HeldBlocks blocks = cache_->Held(*choice.kv);
  PrivateRows& own = *choice.own;
  const int64_t spared = own.spared_rows();
  LARDER_TRY(own.AfterRows(end, choice.tokens));
  live.report.recomputed -= own.spared_rows() - spared;
  if (!own.reads_prefix() && choice.kv->length() > 0) LARDER_TRY(cache_->Truncate(*choice.kv, 0));
  choice.scheduled.num_computed = end;
  choice.scheduled.chunk_end = own.ChunkEnd(end);
  choice.scheduled.whole_rows = own.WholeRows(end);
  if (choice.index == 0 && end == live.usage.prompt_tokens) {
    const bool reads = own.reads_prefix();
    live.report.held = {.private_bytes = own.private_bytes(),
                        .peak_private_bytes = own.peak_bytes(),
                        .shared_bytes = reads ? own.shared_bytes() : 0,
                        .reclaimable_bytes = reads ? std::min(blocks.alone, own.shared_bytes()) : 0,
                        .entries = own.LongestLane()};
    ReportBlend(choice);
  }
  return {};
}

// The first prompt token has nothing before it that could judge it.
void EngineCore::BeginPromptScores(Live& live) {
  if (!live.prompt_scores.empty()) return;
  TokenOutput first;
  first.token = live.request.prompt[0];
  first.logprob = std::numeric_limits<float>::quiet_NaN();
  live.prompt_scores.push_back(std::move(first));
}

// Once, before the first token and before any end.
void EngineCore::ReportPrompt(Live& live) {
  if (live.request.prompt_logprobs < 0 || live.prompt_reported) return;
  live.prompt_reported = true;
  BeginPromptScores(live);
  live.sink->OnPromptLogprobs(std::move(live.prompt_scores));
}

// Reads the choice only: rows of different choices are judged at the same time.
void EngineCore::Judge(const WantedRow& row, std::span<float> logits, JudgeScratch& scratch,
                       Judged& out) const {
  const Request& request = row.choice->live->request;
  if (row.scores) {
    out.token = request.prompt[static_cast<size_t>(row.position) + 1];
    out.logprobs = ComputeLogprobs(logits, out.token, request.prompt_logprobs);
  } else {
    if (request.logprobs >= 0) scratch.raw.assign(logits.begin(), logits.end());
    out.token = ChooseToken(*row.choice, logits, scratch);
    if (request.logprobs >= 0) out.logprobs = ComputeLogprobs(scratch.raw, out.token, request.logprobs);
  }
}

int32_t EngineCore::ChooseToken(const Choice& choice, std::span<float> logits, JudgeScratch& scratch) const {
  const Request& request = choice.live->request;
  const int64_t generated = choice.generated();
  if (!request.forced_output.empty()) return request.forced_output[static_cast<size_t>(generated)];
  scratch.banned.clear();
  if (generated < request.min_tokens) {
    scratch.banned = end_tokens_;
    scratch.banned.insert(scratch.banned.end(), request.stop_tokens.begin(), request.stop_tokens.end());
  }
  return Sample(logits, request.sampling, choice.history, static_cast<uint64_t>(choice.tokens.size()),
                static_cast<uint32_t>(choice.index), scratch.banned, &scratch.sampling);
}

void EngineCore::TakePromptScore(Choice& choice, int64_t position, Judged& judged) {
  Live& live = *choice.live;
  BeginPromptScores(live);
  TokenOutput out;
  out.token = judged.token;
  out.logprob = judged.logprobs.chosen;
  out.top = std::move(judged.logprobs.top);
  live.prompt_scores.push_back(std::move(out));
  choice.prompt_scored = position + 1;
}

void EngineCore::TakeToken(Choice& choice, Judged& judged) {
  Live& live = *choice.live;
  const Request& request = live.request;
  const int64_t generated = choice.generated();
  TokenOutput out;
  out.choice = choice.index;
  out.token = judged.token;
  if (request.logprobs >= 0) {
    out.logprob = judged.logprobs.chosen;
    out.top = std::move(judged.logprobs.top);
  }
  choice.tokens.push_back(out.token);
  choice.history.AddOutput(out.token);
  ++choice.scheduled.num_tokens;
  ++live.usage.completion_tokens;
  ++stats_.generation_tokens;
  if (live.first_token_ns == 0) {
    live.first_token_ns = clock_->NowNs();
    ReportPrompt(live);
  }
  const bool replay = !request.forced_output.empty();
  const bool stop_token = std::find(request.stop_tokens.begin(), request.stop_tokens.end(), out.token) !=
                          request.stop_tokens.end();
  const bool ends =
      !replay && ((!request.ignore_eos && model_->tokenizer().IsEndOfGeneration(out.token)) || stop_token);
  // A token that ends the answer is reported (clients count it) but is not part of the text.
  if (!ends) out.text = choice.text.Push(out.token);
  const bool stopped = !ends && choice.text.stopped();
  live.sink->OnToken(std::move(out));
  const int64_t limit = request.max_tokens < 0 ? std::numeric_limits<int64_t>::max() : request.max_tokens;
  if (ends) {
    EndChoice(choice, FinishReason::kStop, choice.text.Finish(), "");
  } else if (stopped) {
    EndChoice(choice, FinishReason::kStop, "", choice.text.matched());
  } else if (generated + 1 >= limit ||
             (!live.endless && static_cast<int64_t>(choice.tokens.size()) >= context_)) {
    EndChoice(choice, FinishReason::kLength, choice.text.Finish(), "");
  }
}

void EngineCore::EndChoice(Choice& choice, FinishReason reason, std::string text, std::string matched) {
  choice.done = true;
  Live& live = *choice.live;
  const bool answered = reason == FinishReason::kStop || reason == FinishReason::kLength;
  live.answered |= answered;
  if (choice.kv != nullptr && choice.own == nullptr && answered) {
    if (choice.index == 0) {
      const HeldBlocks blocks = cache_->Held(*choice.kv);
      live.report.held = {
          .shared_bytes = blocks.bytes, .reclaimable_bytes = blocks.alone, .entries = choice.kv->length()};
    }
    for (LeaseReport& lease : RetainByHints(*cache_, *choice.kv, live.request.hints, choice.index == 0)) {
      live.report.leases.push_back(std::move(lease));
    }
  }
  KeepState(choice);
  live.report.preemptions += choice.scheduled.preemptions;
  scheduler_->Remove(&choice.scheduled);
  stats_.preemptions += choice.scheduled.preemptions;
  --choice.live->open_choices;
  choice.live->sink->OnChoiceEnd({choice.index, reason, std::move(text), std::move(matched)});
}

void EngineCore::FinishIfDone(Live& live) {
  if (live.open_choices > 0) return;
  const int64_t now = clock_->NowNs();
  const int64_t admitted = live.admitted_ns == 0 ? now : live.admitted_ns;
  live.report.queue_ms = static_cast<double>(admitted - live.arrival_ns) / 1e6;
  if (live.first_token_ns != 0) {
    live.report.prefill_ms = static_cast<double>(live.first_token_ns - admitted) / 1e6;
    stats_.ttft_ms_sum += static_cast<double>(live.first_token_ns - live.arrival_ns) / 1e6;
  }
  live.usage.cached_tokens = live.report.read_memory + live.report.state.rows;
  for (const auto& [tier, rows] : live.report.read_tiers) live.usage.cached_tokens += rows;
  stats_.prompt_tokens += static_cast<uint64_t>(live.usage.prompt_tokens);
  stats_.cached_tokens += static_cast<uint64_t>(live.usage.cached_tokens);
  ++stats_.requests_finished;
  // An exact answer has no use for its parts, and does not wait for them.
  const bool wiped = derived_->ForgottenSince(live.request.tenant, live.begun);
  if (live.reuse == nullptr && live.answered && !wiped) StoreParts(live);
  const auto sink = live.sink;
  const Usage usage = live.usage;
  const CacheReport report = live.report;
  Forget(live);
  before_end_();
  sink->OnFinish(usage, report);
}

void EngineCore::Fail(Live& live, const Error& error) {
  ++stats_.requests_failed;
  for (const auto& choice : live.choices) {
    if (!choice->done) scheduler_->Remove(&choice->scheduled);
  }
  const auto sink = live.sink;
  Forget(live);
  before_end_();
  sink->OnError(error);
}

void EngineCore::Forget(Live& live) {
  for (const auto& choice : live.choices) choices_.erase(choice->scheduled.id);
  requests_.erase(live.id);
}

EngineStats EngineCore::Stats() const {
  EngineStats stats;
  ReadStats(stats);
  return stats;
}

void EngineCore::ReadStats(EngineStats& stats) const {
  stats = stats_;  // whose misses are empty
  stats.running = scheduler_->running();
  stats.waiting = scheduler_->waiting();
  stats.private_bytes = stats.borrowed_bytes = 0;
  for (const auto& [id, choice] : choices_) {
    if (choice->own == nullptr) continue;
    stats.private_bytes += choice->own->private_bytes();
    stats.borrowed_bytes += choice->own->shared_bytes();
  }
  stats.attention_pages_read = model_->attention_pages_read();
  stats.kv = cache_->stats();
  stats.leases = cache_->leases().stats();
  stats.chunks = chunks_->stats();
  stats.states = states_->stats();
  stats.events = cache_->events().last("", true);
  for (size_t i = 0; i < misses_.size(); ++i) {
    if (misses_[i] > 0) stats.misses.emplace_back(MissReasonName(static_cast<MissReason>(i)), misses_[i]);
  }
}

}  // namespace larder
