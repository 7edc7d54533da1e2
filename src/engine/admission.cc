// What a sequence's rows need: what is cached of them, in memory and below, and room for the others.
#include <algorithm>
#include <utility>

#include "engine/blend_driver.h"
#include "engine/core_state.h"
#include "kv/tiers.h"

namespace larder {

SchedulerCache::Admission EngineCore::Admit(ScheduledSequence& sequence) {
  Choice& choice = ChoiceOf(sequence);
  // Nobody overtakes it, so that there is more room each time.
  if (choice.no_room_at == Ended() && scheduler_->running() > 0) return Admission::kNoRoom;
  const Request& request = choice.live->request;
  const bool scores_prompt = request.prompt_logprobs >= 0 && choice.index == 0;
  // Log-probabilities of the prompt need every prompt row's logits, so nothing is gained from rows that
  // exist.
  std::span<const int32_t> wanted(choice.tokens);
  if (!request.read_cache || scores_prompt) wanted = {};
  Live& live = *choice.live;
  if (!PartsStored(live)) return Admission::kLoading;
  if (live.reuse != nullptr && !wanted.empty() && !FetchSpans(choice, wanted)) return Admission::kLoading;
  MakeOwn(choice, !wanted.empty());
  if (choice.own != nullptr) {
    wanted = wanted.first(std::min(wanted.size(), static_cast<size_t>(choice.own->ReadableRows())));
  } else if (request.chunk_from >= 0) {
    wanted = wanted.first(std::min(wanted.size(), static_cast<size_t>(request.chunk_from)));
  }
  if (Loading(choice, wanted)) {
    choice.own = nullptr;
    return Admission::kLoading;
  }
  auto opened = cache_->Open(request.tenant, wanted, choice.restore.get());
  while (!opened && DropUnused(choice)) opened = cache_->Open(request.tenant, wanted, choice.restore.get());
  if (opened) {
    choice.kv = std::move(opened->sequence);
    sequence.num_computed = std::min(choice.kv->length(), sequence.num_tokens - 1);
  }
  if (!opened || !BeginOwn(choice) || !BeginCapture(choice)) {
    choice.own = nullptr;
    if (choice.kv != nullptr) cache_->Close(std::move(choice.kv));
    return Admission::kNoRoom;
  }
  if (live.admitted_ns == 0) live.admitted_ns = clock_->NowNs();
  if (choice.index == 0 && sequence.preemptions == 0) {
    ReportRead(choice, opened->outcome);
    if (!request.read_cache || scores_prompt) live.report.outcome.reason = MissReason::kRefused;
    if (!std::exchange(live.miss_counted, true)) ++misses_[static_cast<size_t>(live.report.outcome.reason)];
  }
  if (choice.index == 0 && choice.state == nullptr) live.report.state = {};  // it had to give way
  sequence.publishes = choice.own == nullptr;
  sequence.whole_rows = 0;
  if (choice.own != nullptr) {
    choice.restore = nullptr;  // what is behind a hole is computed again
    sequence.whole_rows = choice.own->WholeRows(sequence.num_computed);
  }
  // Only its first step is computed beside the reading, so that one has as many rows as blending's.
  if (choice.restore != nullptr && choice.restore->started())
    sequence.whole_rows = std::min(sequence.num_tokens - sequence.num_computed, kBlendPiece);
  sequence.chunk_end = choice.restore == nullptr ? 0 : choice.restore->gap_end();
  if (choice.own != nullptr) sequence.chunk_end = choice.own->ChunkEnd(sequence.num_computed);
  if (sequence.chunk_end == 0 && (choice.restore == nullptr || choice.restore->done()))
    choice.restore = nullptr;
  return Admission::kAdmitted;
}

// The sequence's first rows are those that were found. false: there is no room for them.
bool EngineCore::BeginOwn(Choice& choice) {
  if (choice.own == nullptr) return true;
  const int64_t rows = choice.kv->length();
  Status begun = choice.own->Begin(choice.kv.get(), rows);
  while (!begun && DropUnused(choice)) begun = choice.own->Begin(choice.kv.get(), rows);
  // A method chooses when the prompt's last row has run, so that one runs again in any case.
  choice.scheduled.num_computed = std::min(choice.own->rows(), choice.live->usage.prompt_tokens - 1);
  return begun.has_value();
}

// Whether rows of this prompt are on their way from below memory.
bool EngineCore::Loading(Choice& choice, std::span<const int32_t> wanted) {
  // Who joined another's read asks again, since that one may have wanted less; but not for ever.
  constexpr int32_t kMostRestores = 3;
  if (options_.tiers.empty() || wanted.empty()) return false;
  // A chunk that did not come makes more rows readable than were asked for.
  if (choice.restore != nullptr && choice.restore->done() && choice.restore->tokens().size() < wanted.size())
    choice.restore = nullptr;
  while (choice.restore == nullptr && choice.restores < kMostRestores) {
    ++choice.restores;
    std::function<double(int64_t, int64_t)> recompute_ms;
    if (!options_.always_restore) {
      // What those rows add: the others of the prompt, at least its last, are computed in any case.
      recompute_ms = [this, all = std::ssize(choice.tokens)](int64_t from, int64_t rows) {
        const int64_t rest = std::max<int64_t>(all - from - rows, 1);
        return scheduler_->PredictMs(from, all - from) - scheduler_->PredictMs(all - rest, rest);
      };
    }
    choice.restore = cache_->Restore(choice.live->request.tenant, wanted, std::move(recompute_ms),
                                     ReadPriority::kRequest, choice.layers_failed);
    if (choice.restore == nullptr || !choice.restore->done()) break;
    if (choice.restore->joined()) choice.restore = nullptr;
  }
  if (choice.restore == nullptr) return false;
  if (choice.restore->broken()) {
    choice.layers_failed = true;
    choice.restore = nullptr;
    return Loading(choice, wanted);
  }
  // Computing beside the reading holds up whoever else runs, and they keep the machine busy anyway.
  if (choice.restore->started() && scheduler_->running() == 0 && choice.own == nullptr) return false;
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
  if (choice.state != nullptr) {
    report.state = {choice.state->name().Hex(), choice.state->rows(), choice.own->LongestLane()};
    report.read_memory -= choice.state->rows();
  }
  // Admitted before, but there was no room to compute in: what came from below then is in memory by now.
  const auto before = std::exchange(report.read_tiers, {});
  for (size_t tier = 0; tier < options_.tiers.size(); ++tier) {
    int64_t landed = choice.restore == nullptr ? 0 : choice.restore->rows(tier);
    if (tier < before.size()) landed += before[tier].second;
    const int64_t rows = std::min(landed, report.read_memory);
    report.read_tiers.emplace_back(options_.tiers[tier]->name(), rows);
    report.read_memory -= rows;
  }
  const bool explained = outcome.reason == MissReason::kNone || outcome.reason == MissReason::kDiverged;
  const bool slow = choice.layers_failed || choice.live->lists_late ||
                    (choice.restore != nullptr && choice.restore->slow());
  if (!explained && slow) report.outcome.reason = MissReason::kSlow;
  // A state stands for rows that its method does not read.
  const bool reads_all = choice.own == nullptr || choice.state != nullptr ||
                         choice.own->ReadableRows() >= choice.live->usage.prompt_tokens;
  if (outcome.reason == MissReason::kNone && !reads_all) report.outcome.reason = MissReason::kMethod;
}

bool EngineCore::Reserve(ScheduledSequence& sequence, int64_t rows) {
  Choice& owner = ChoiceOf(sequence);
  const int64_t missing = sequence.num_computed + rows - owner.rows_present();
  const auto reserve = [&] {
    return owner.own != nullptr ? owner.own->Reserve(missing) : cache_->Reserve(*owner.kv, missing);
  };
  if (missing <= 0 || reserve()) return true;
  while (DropUnused(owner)) {
    if (reserve()) return true;
  }
  // With nobody to preempt it does without the state whose copy it has.
  if (scheduler_->running() == 1 && owner.state != nullptr) {
    owner.state = nullptr;
    if (DropUnused(owner) && reserve()) return true;
  }
  // Who runs goes before who waits: what was brought up for the waiting goes again.
  bool any = !prefetches_.empty();
  prefetches_.clear();
  for (const auto& [id, choice] : choices_) {
    if (choice->kv == nullptr && choice->restore != nullptr) {
      choice->restore = nullptr;
      any = true;
    }
  }
  return any && reserve().has_value();
}

// What is being written holds memory. Whoever waits for that hurries the tiers, and waits for no longer than
// computing it again would take; then what is not on its way to a tier yet is given up.
bool EngineCore::RoomComing() {
  if (!cache_->RoomComing() && (chunk_tiers_ == nullptr || !chunk_tiers_->busy())) return false;
  no_room_ = true;
  const int64_t now_ns = clock_->NowNs();
  if (!no_room_since_ns_) no_room_since_ns_ = now_ns;
  const int64_t rows = cache_->RowsBeingWritten() + (chunk_tiers_ ? chunk_tiers_->rows_being_written() : 0);
  const auto most_ns = static_cast<int64_t>(std::max(RecomputeMs(rows), kLeastWaitMs) * 1e6);
  const bool over = now_ns - *no_room_since_ns_ >= most_ns;
  for (Tier* tier : options_.tiers) over ? tier->DropPending() : tier->Hurry();
  if (over) no_room_since_ns_ = now_ns;
  WakeBy(*no_room_since_ns_ + most_ns);
  return true;
}

// After planning. Between two refusals of a request there may be steps that only look for its stored rows.
void EngineCore::NoteRoom(bool runs) {
  if (!std::exchange(no_room_, false) && (runs || unfinished() == 0)) no_room_since_ns_.reset();
}

void EngineCore::Release(ScheduledSequence& sequence) {
  Choice& choice = ChoiceOf(sequence);
  choice.own = nullptr;
  choice.capture = nullptr;
  if (choice.kv != nullptr) cache_->Close(std::move(choice.kv));
  choice.restore = nullptr;
  choice.restores = 0;
  sequence.chunk_end = 0;
  sequence.whole_rows = 0;
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
  if (hint.space) SetSpace(hint.tenant, *hint.space);
  const auto asked = static_cast<int64_t>(hint.target.tokens.size());
  auto restore = cache_->Restore(hint.tenant, hint.target.tokens, nullptr, ReadPriority::kPrefetch, true);
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

}  // namespace larder
