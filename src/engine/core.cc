#include "engine/core.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "engine/arrivals.h"
#include "kv/restore.h"
#include "kv/tiers.h"

namespace larder {
namespace {

// Logits of this many rows are computed at a time; bounds the buffer for large vocabularies.
constexpr size_t kLogitRows = 16;

}  // namespace

// One choice of a request: a sequence of its own.
struct EngineCore::Choice {
  Choice(Live* owner, int32_t number, const Tokenizer* tokenizer);

  Live* live;
  int32_t index;
  ScheduledSequence scheduled;
  std::vector<int32_t> tokens;         // prompt and output
  std::unique_ptr<KvSequence> kv;      // while running
  std::shared_ptr<KvRestore> restore;  // while waiting for rows from below memory, until they are held
  int32_t restores = 0;                // since it last ran
  OutputText text;
  TokenHistory history;
  bool done = false;
  int64_t prompt_scored = 0;  // prompt tokens whose log-probabilities are known

  int64_t generated() const;
};

struct EngineCore::Live {
  Engine::RequestId id;
  Request request;
  std::shared_ptr<RequestSink> sink;
  std::vector<std::unique_ptr<Choice>> choices;
  std::vector<TokenOutput> prompt_scores;
  bool prompt_reported = false;
  CacheReport report;
  Usage usage;
  int64_t arrival_ns, admitted_ns = 0, first_token_ns = 0;
  int64_t open_choices;
};

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
                          .notify = std::move(on_tiers),
                          .group_bytes = options.tier_group_bytes,
                          .admit = options.admit});
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
  const int64_t room = request.max_tokens == 0 ? 0 : 1;
  if (prompt + room > context_) {
    return larder::Fail(ErrorKind::kInvalid,
                        "This model's maximum context length is {} tokens, but the prompt has {}; shorten it",
                        context_, prompt);
  }
  if (request.n < 1) return larder::Fail(ErrorKind::kInvalid, "n is {}; at least 1 is needed", request.n);
  return {};
}

void EngineCore::Add(Engine::RequestId id, Request request, std::shared_ptr<RequestSink> sink) {
  auto live = std::make_unique<Live>();
  live->id = id;
  live->request = std::move(request);
  live->sink = std::move(sink);
  live->arrival_ns = clock_->NowNs();
  live->open_choices = live->request.n;
  const Request& r = live->request;
  if (r.space) cache_->SetSpace(r.tenant, *r.space);
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

SchedulerCache::Admission EngineCore::Admit(ScheduledSequence& sequence) {
  Choice& choice = ChoiceOf(sequence);
  const Request& request = choice.live->request;
  const bool scores_prompt = request.prompt_logprobs >= 0 && choice.index == 0;
  // Log-probabilities of the prompt need every prompt row's logits, so nothing is gained from rows that
  // exist.
  std::span<const int32_t> wanted(choice.tokens);
  if (!request.read_cache || scores_prompt) wanted = {};
  if (Loading(choice, wanted)) return Admission::kLoading;
  auto opened = cache_->Open(request.tenant, wanted, choice.restore.get());
  if (!opened) return Admission::kNoRoom;
  choice.kv = std::move(opened->sequence);
  sequence.num_computed = std::min(choice.kv->length(), sequence.num_tokens - 1);
  Live& live = *choice.live;
  if (live.admitted_ns == 0) live.admitted_ns = clock_->NowNs();
  if (choice.index == 0 && sequence.preemptions == 0) {
    ReportRead(choice, opened->outcome);
    if (!request.read_cache || scores_prompt) live.report.outcome.reason = MissReason::kRefused;
    ++misses_[static_cast<size_t>(live.report.outcome.reason)];
  }
  sequence.chunk_end = choice.restore == nullptr ? 0 : choice.restore->gap_end();
  if (sequence.chunk_end == 0 && (choice.restore == nullptr || choice.restore->done()))
    choice.restore = nullptr;
  return Admission::kAdmitted;
}

// Whether rows of this prompt are on their way from below memory.
bool EngineCore::Loading(Choice& choice, std::span<const int32_t> wanted) {
  // Who joined another's read asks again, since that one may have wanted less; but not for ever.
  constexpr int32_t kMostRestores = 3;
  if (options_.tiers.empty() || wanted.empty()) return false;
  while (choice.restore == nullptr && choice.restores < kMostRestores) {
    ++choice.restores;
    std::function<double(int64_t, int64_t)> recompute_ms;
    if (!options_.always_restore) {
      recompute_ms = [this](int64_t from, int64_t rows) { return scheduler_->PredictMs(from, rows); };
    }
    choice.restore = cache_->Restore(choice.live->request.tenant, wanted, std::move(recompute_ms));
    if (choice.restore == nullptr || !choice.restore->done()) break;
    if (choice.restore->joined()) choice.restore = nullptr;
  }
  if (choice.restore == nullptr) return false;
  // Computing beside the reading holds up whoever else runs, and they keep the machine busy anyway.
  if (choice.restore->started() && scheduler_->running() == 0) return false;
  if (!choice.restore->done()) return true;
  if (choice.restore->joined() && choice.restores < kMostRestores) {
    choice.restore = nullptr;
    return Loading(choice, wanted);
  }
  return false;
}

// Where the rows came from that are not computed; what came from a tier lies in memory by now.
void EngineCore::ReportRead(Choice& choice, const CacheOutcome& outcome) {
  CacheReport& report = choice.live->report;
  report.outcome = outcome;
  report.read_memory = choice.scheduled.num_computed;
  for (size_t tier = 0; tier < options_.tiers.size(); ++tier) {
    const int64_t landed = choice.restore == nullptr ? 0 : choice.restore->rows(tier);
    const int64_t rows = std::min(landed, report.read_memory);
    report.read_tiers.emplace_back(options_.tiers[tier]->name(), rows);
    report.read_memory -= rows;
  }
  const bool explained = outcome.reason == MissReason::kNone || outcome.reason == MissReason::kDiverged;
  if (!explained && choice.restore != nullptr && choice.restore->slow()) {
    report.outcome.reason = MissReason::kSlow;
  }
}

bool EngineCore::Reserve(ScheduledSequence& sequence, int64_t rows) {
  KvSequence& kv = *ChoiceOf(sequence).kv;
  const int64_t missing = sequence.num_computed + rows - kv.length();
  if (missing <= 0 || cache_->Reserve(kv, missing)) return true;
  // Who runs goes before who waits: what was brought up for the waiting goes again.
  bool any = !prefetches_.empty();
  prefetches_.clear();
  for (const auto& [id, choice] : choices_) {
    if (choice->kv == nullptr && choice->restore != nullptr) {
      choice->restore = nullptr;
      any = true;
    }
  }
  return any && cache_->Reserve(kv, missing).has_value();
}

void EngineCore::Release(ScheduledSequence& sequence) {
  Choice& choice = ChoiceOf(sequence);
  if (choice.kv != nullptr) cache_->Close(std::move(choice.kv));
  choice.restore = nullptr;
  choice.restores = 0;
  sequence.chunk_end = 0;
}

HintAnswer EngineCore::Apply(const Hint& hint) {
  if (hint.action == HintAction::kPrefetch) return BeginPrefetch(hint);
  return ApplyHint(*cache_, !options_.tiers.empty(), hint);
}

HintAnswer EngineCore::BeginPrefetch(const Hint& hint) {
  constexpr size_t kMostPrefetches = 64;
  const auto rejected = [](const char* why) { return HintAnswer{HintStatus::kRejected, 0, why}; };
  if (options_.tiers.empty()) return rejected("no tier below memory");
  if (hint.target.tokens.empty())
    return rejected("only a text can be prefetched: a prompt, messages or tokens");
  if (prefetches_.size() >= kMostPrefetches)
    return rejected("too many texts are being fetched; try again later");
  if (hint.space) cache_->SetSpace(hint.tenant, *hint.space);
  const auto asked = static_cast<int64_t>(hint.target.tokens.size());
  auto restore = cache_->Restore(hint.tenant, hint.target.tokens, nullptr, ReadPriority::kPrefetch);
  const bool comes = restore != nullptr;
  prefetches_.push_back({std::move(restore), hint, ++last_ticket_});
  if (comes) return {HintStatus::kDeferred, asked, "it is being looked for below", last_ticket_};
  TakePrefetched();
  if (cache_->Probe(hint.tenant, hint.target.tokens) < asked)
    return rejected("the tenant is kept in memory only");
  return {HintStatus::kAccepted, asked, ""};
}

bool EngineCore::Fetching(uint64_t ticket) const {
  return std::ranges::any_of(prefetches_, [&](const Prefetch& one) { return one.ticket == ticket; });
}

// What has arrived is guarded until it is used, softly: it may still go before others do.
void EngineCore::TakePrefetched() {
  std::erase_if(prefetches_, [this](const Prefetch& prefetch) {
    if (prefetch.restore != nullptr && !prefetch.restore->done()) return false;
    const Hint& hint = prefetch.hint;
    cache_->leases().Take(hint.tenant, hint.target,
                          {.holder = hint.holder,
                           .kind = LeaseKind::kFetched,
                           .ttl_ms = hint.ttl_ms,
                           .priority = hint.priority});
    return true;
  });
}

bool EngineCore::Step() {
  cache_->PollTiers();
  TakePrefetched();
  cache_->leases().Expire();
  const int64_t begin = clock_->NowNs();
  const std::vector<Scheduler::Work>& work = scheduler_->Plan();
  const std::vector<ScheduledSequence*> stuck = scheduler_->TakeStuck();
  std::vector<uint64_t> stuck_ids;
  for (const ScheduledSequence* sequence : stuck) stuck_ids.push_back(sequence->id);
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
  RunModel(work);
  scheduler_->Observe(rows, row_context, static_cast<double>(clock_->NowNs() - planned) / 1e6);
  ++stats_.steps;
  return true;
}

void EngineCore::RunModel(std::span<const Scheduler::Work> work) {
  rows_.clear();
  wanted_.clear();
  for (const Scheduler::Work& w : work) {
    Choice& choice = ChoiceOf(*w.sequence);
    const int64_t prompt = choice.live->usage.prompt_tokens;
    for (int64_t p = w.sequence->num_computed; p < w.sequence->num_computed + w.rows; ++p) {
      const bool samples = p + 1 == w.sequence->num_tokens && choice.live->request.max_tokens != 0;
      const bool scores = choice.live->request.prompt_logprobs >= 0 && choice.index == 0 && p + 1 < prompt &&
                          p >= choice.prompt_scored;
      Row row;
      row.token = choice.tokens[static_cast<size_t>(p)];
      row.position = static_cast<int32_t>(p);
      row.kv = choice.kv.get();
      row.writes_kv = p >= choice.kv->length();
      row.wants_hidden = samples || scores;
      rows_.push_back(row);
      if (row.wants_hidden) wanted_.push_back({&choice, p, samples, scores});
    }
  }
  ids_.clear();
  for (const Scheduler::Work& w : work) ids_.push_back(w.sequence->id);
  const size_t width = static_cast<size_t>(model_->spec().width),
               vocabulary = static_cast<size_t>(model_->spec().vocabulary),
               known = static_cast<size_t>(model_->tokenizer().size());
  if (hidden_.size() < wanted_.size() * width) hidden_.resize(wanted_.size() * width);
  int64_t begin_ns = clock_->NowNs();
  ArrivalHooks arrivals(model_->kv_shape());
  for (const Scheduler::Work& w : work) arrivals.Add(ChoiceOf(*w.sequence).restore.get(), w.sequence->id);
  model_->Forward(rows_, hidden_.data(), arrivals.empty() ? nullptr : &arrivals);
  int64_t model_ns = clock_->NowNs() - begin_ns;
  for (const Scheduler::Work& w : work) {
    Choice& choice = ChoiceOf(*w.sequence);
    if (arrivals.Failed(w.sequence->id)) {
      // What was computed from layers that never came is worthless; the rows that came are found again.
      std::erase_if(wanted_, [&](const WantedRow& row) { return row.choice == &choice; });
      scheduler_->Requeue(w.sequence);
      continue;
    }
    if (choice.restore != nullptr && choice.restore->started()) choice.restore = nullptr;  // all layers came
    AfterRows(w);
  }
  for (size_t begin = 0; begin < wanted_.size(); begin += kLogitRows) {
    const size_t n = std::min(kLogitRows, wanted_.size() - begin);
    if (logits_.size() < n * vocabulary) logits_.resize(n * vocabulary);
    begin_ns = clock_->NowNs();
    model_->Logits(&hidden_[begin * width], static_cast<int>(n), logits_.data());
    model_ns += clock_->NowNs() - begin_ns;
    // Looking through a vocabulary takes long enough to be worth all threads; what follows is bookkeeping.
    model_->pool().Run(static_cast<int64_t>(n), [&](int64_t i, int worker) {
      const size_t at = static_cast<size_t>(i);
      Judge(wanted_[begin + at], {&logits_[at * vocabulary], known}, judges_[static_cast<size_t>(worker)],
            judged_[at]);
    });
    for (size_t i = 0; i < n; ++i) {
      const WantedRow& row = wanted_[begin + i];
      if (row.scores) TakePromptScore(*row.choice, row.position, judged_[i]);
      if (row.samples) TakeToken(*row.choice, judged_[i]);
    }
  }
  stats_.model_us_last = static_cast<double>(model_ns) / 1e3;
  FinishEnded();
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

void EngineCore::AfterRows(const Scheduler::Work& work) {
  Choice& choice = ChoiceOf(*work.sequence);
  Live& live = *choice.live;
  const int64_t end = work.sequence->num_computed + work.rows;
  live.report.recomputed +=
      std::max<int64_t>(0, std::min(end, live.usage.prompt_tokens) - work.sequence->num_computed);
  const int64_t length = choice.kv->length();
  if (end > length) {
    cache_->Publish(
        *choice.kv,
        std::span(choice.tokens).subspan(static_cast<size_t>(length), static_cast<size_t>(end - length)));
    live.report.written += end - length;
  }
  work.sequence->num_computed = end;
  if (end == work.sequence->chunk_end) ContinueBehindGap(choice);
}

// A block that could not be read has been computed; those behind it were read and are taken now.
void EngineCore::ContinueBehindGap(Choice& choice) {
  std::array<int64_t, kMaxTiers> before;
  for (size_t tier = 0; tier < options_.tiers.size(); ++tier) before[tier] = choice.restore->rows(tier);
  cache_->Extend(*choice.kv, *choice.restore);
  ScheduledSequence& sequence = choice.scheduled;
  const int64_t computed = sequence.num_computed;
  sequence.num_computed = std::min(choice.kv->length(), sequence.num_tokens - 1);
  if (choice.index == 0 && sequence.preemptions == 0) {
    CacheReport& report = choice.live->report;
    int64_t gained = sequence.num_computed - computed;
    for (size_t tier = 0; tier < report.read_tiers.size(); ++tier) {
      const int64_t rows = std::min(choice.restore->rows(tier) - before[tier], gained);
      report.read_tiers[tier].second += rows;
      gained -= rows;
    }
    report.read_memory += gained;
  }
  sequence.chunk_end = choice.restore->gap_end();
  if (sequence.chunk_end == 0) choice.restore = nullptr;
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
  } else if (generated + 1 >= limit || static_cast<int64_t>(choice.tokens.size()) >= context_) {
    EndChoice(choice, FinishReason::kLength, choice.text.Finish(), "");
  }
}

void EngineCore::EndChoice(Choice& choice, FinishReason reason, std::string text, std::string matched) {
  choice.done = true;
  Live& live = *choice.live;
  if (choice.kv != nullptr && (reason == FinishReason::kStop || reason == FinishReason::kLength)) {
    for (LeaseReport& lease : RetainByHints(*cache_, *choice.kv, live.request.hints, choice.index == 0)) {
      live.report.leases.push_back(std::move(lease));
    }
  }
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
  live.usage.cached_tokens = live.report.read_memory;
  for (const auto& [tier, rows] : live.report.read_tiers) live.usage.cached_tokens += rows;
  stats_.prompt_tokens += static_cast<uint64_t>(live.usage.prompt_tokens);
  stats_.cached_tokens += static_cast<uint64_t>(live.usage.cached_tokens);
  ++stats_.requests_finished;
  const auto sink = live.sink;
  const Usage usage = live.usage;
  const CacheReport report = live.report;
  Forget(live);
  sink->OnFinish(usage, report);
}

void EngineCore::Fail(Live& live, const Error& error) {
  ++stats_.requests_failed;
  for (const auto& choice : live.choices) {
    if (!choice->done) scheduler_->Remove(&choice->scheduled);
  }
  const auto sink = live.sink;
  Forget(live);
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
  stats.attention_pages_read = model_->attention_pages_read();
  stats.kv = cache_->stats();
  stats.leases = cache_->leases().stats();
  stats.events = cache_->events().last("", true);
  for (size_t i = 0; i < misses_.size(); ++i) {
    if (misses_[i] > 0) stats.misses.emplace_back(MissReasonName(static_cast<MissReason>(i)), misses_[i]);
  }
}

}  // namespace larder
