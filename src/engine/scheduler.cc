#include "engine/scheduler.h"

#include <algorithm>

namespace larder {
namespace {

constexpr size_t kLogSize = 4096;
// A prefill beside decoders always gets this much, however slow the machine is.
constexpr int64_t kMinChunk = 16;

int64_t CommonPrefix(const std::vector<int32_t>& a, const std::vector<int32_t>& b) {
  const auto [x, y] = std::mismatch(a.begin(), a.end(), b.begin(), b.end());
  return x - a.begin();
}

// Rows see themselves and everything before: the sum of that over rows [from, from + rows).
double RowContext(int64_t from, int64_t rows) {
  const double n = static_cast<double>(rows);
  return n * static_cast<double>(from) + n * (n + 1) / 2;
}

int64_t Remaining(const ScheduledSequence& s) { return s.num_tokens - s.num_computed; }

}  // namespace

struct Scheduler::Step {
  std::vector<Work>& work;
  int64_t budget;          // rows left; negative after rows that had to run together
  int64_t rows = 0;        // planned so far,
  double row_context = 0;  // and what they see together
  bool has_decoders = false;
  bool preempted = false;

  void Add(ScheduledSequence& sequence, int64_t count) {
    work.push_back({&sequence, count});
    budget -= count;
    rows += count;
    row_context += RowContext(sequence.num_computed, count);
  }
  void Drop(std::vector<Work>::iterator item) {
    budget += item->rows;
    rows -= item->rows;
    row_context -= RowContext(item->sequence->num_computed, item->rows);
    work.erase(item);
  }
};

Scheduler::Scheduler(SchedulerOptions options, std::vector<std::unique_ptr<SchedulePolicy>> policies,
                     SchedulerCache* cache, Clock* clock)
    : options_(options), policies_(std::move(policies)), cache_(cache), clock_(clock) {
  log_.reserve(kLogSize);
}

void Scheduler::Add(ScheduledSequence* sequence) {
  sequence->state = SequenceState::kWaiting;
  waiting_.push_back(sequence);
}

void Scheduler::Remove(ScheduledSequence* sequence) {
  if (sequence->state == SequenceState::kRunning) cache_->Release(*sequence);
  std::erase(running_, sequence);
  std::erase(waiting_, sequence);
  std::erase(stuck_, sequence);
  sequence->state = SequenceState::kFinished;
}

void Scheduler::Requeue(ScheduledSequence* sequence) {
  cache_->Release(*sequence);
  std::erase(running_, sequence);
  sequence->state = SequenceState::kWaiting;
  sequence->num_computed = 0;
  waiting_.insert(waiting_.begin(), sequence);
}

const std::vector<Scheduler::Work>& Scheduler::Plan() {
  work_.clear();
  loading_ = 0;
  Step step{.work = work_, .budget = options_.max_batch_rows};
  PlanRunning(step, true);
  PlanRunning(step, false);
  if (!step.preempted) PlanAdmissions(step);
  return work_;
}

void Scheduler::PlanRunning(Step& step, bool decoders) {
  // Preempting shortens running_, so it is walked by index over a copy of what was there.
  order_ = running_;
  for (ScheduledSequence* sequence : order_) {
    if (step.budget <= 0) return;
    const bool decodes = Remaining(*sequence) == 1;
    if (sequence->state != SequenceState::kRunning || decodes != decoders || Remaining(*sequence) == 0)
      continue;
    const int64_t rows = decodes ? 1 : ChunkRows(step, *sequence);
    if (!ReserveOrPreempt(step, *sequence, rows)) continue;
    step.Add(*sequence, rows);
    step.has_decoders |= decodes;
  }
}

int64_t Scheduler::ChunkRows(const Step& step, const ScheduledSequence& sequence) const {
  if (sequence.whole_rows > 0) return sequence.whole_rows;
  int64_t most = std::min(Remaining(sequence), step.budget);
  if (sequence.chunk_end > sequence.num_computed) {
    most = std::min(most, sequence.chunk_end - sequence.num_computed);
  }
  if (!step.has_decoders) return most;
  const double other_ms = cost_.Predict(step.rows, step.row_context);
  return cost_.RowsWithin(options_.step_ms, sequence.num_computed, other_ms, std::min(kMinChunk, most), most);
}

bool Scheduler::ReserveOrPreempt(Step& step, ScheduledSequence& sequence, int64_t rows) {
  while (!cache_->Reserve(sequence, rows)) {
    if (cache_->RoomComing()) {
      ++loading_;
      return false;
    }
    ScheduledSequence* victim = nullptr;
    for (const auto& policy : policies_) {
      victim = policy->Victim(running_, sequence);
      if (victim == nullptr) continue;
      Log("preempt", policy->name(), victim->id, static_cast<int64_t>(sequence.id));
      break;
    }
    if (victim == nullptr) victim = &sequence;
    if (victim == &sequence && running_.size() == 1) {
      stuck_.push_back(&sequence);
      return false;
    }
    Preempt(step, *victim);
    if (victim == &sequence) return false;
  }
  return true;
}

void Scheduler::Preempt(Step& step, ScheduledSequence& victim) {
  step.preempted = true;
  const auto planned =
      std::find_if(step.work.begin(), step.work.end(), [&](const Work& w) { return w.sequence == &victim; });
  if (planned != step.work.end()) step.Drop(planned);
  Requeue(&victim);
  ++victim.preemptions;
}

// A running sequence that is about to compute rows which the candidate needs too: waiting for it costs
// nothing, computing them twice would.
const ScheduledSequence* Scheduler::SharedWithRunning(const ScheduledSequence& candidate) const {
  if (!candidate.reads_cache) return nullptr;
  for (const ScheduledSequence* other : running_) {
    if (!other->publishes || Remaining(*other) <= 1 || other->tenant != candidate.tenant) continue;
    if (CommonPrefix(*other->tokens, *candidate.tokens) > other->num_computed) return other;
  }
  return nullptr;
}

double Scheduler::PredictMs(int64_t from, int64_t rows) const {
  double ms = 0;
  for (int64_t done = 0; done < rows; done += options_.max_batch_rows) {
    const int64_t chunk = std::min(options_.max_batch_rows, rows - done);
    ms += cost_.Predict(chunk, RowContext(from + done, chunk));
  }
  return ms;
}

// Nobody runs who will give back room, and none comes by itself. What is on its way up has room already, and
// gives it back when it has run.
bool Scheduler::IsStuck() {
  if (!running_.empty()) return false;
  if (cache_->RoomComing()) ++loading_;
  return loading_ == 0;
}

void Scheduler::PlanAdmissions(Step& step) {
  if (running() >= options_.max_running) return;
  candidates_ = waiting_;
  while (step.budget > 0 && !candidates_.empty() && running() < options_.max_running) {
    ScheduledSequence* head = nullptr;
    std::string_view author = "order";
    for (const auto& policy : policies_) {
      head = policy->Head(candidates_, clock_->NowNs());
      author = policy->name();
      if (head != nullptr) break;
    }
    if (head == nullptr) head = candidates_.front();
    std::erase(candidates_, head);
    if (const ScheduledSequence* other = SharedWithRunning(*head)) {
      Log("wait-for-prefix", author, head->id, static_cast<int64_t>(other->id));
      continue;
    }
    const SchedulerCache::Admission admission = cache_->Admit(*head);
    if (admission == SchedulerCache::Admission::kLoading) {
      ++loading_;
      Log("load", author, head->id, 0);
      continue;
    }
    if (admission == SchedulerCache::Admission::kNoRoom) {
      if (IsStuck()) stuck_.push_back(head);
      return;
    }
    // A full hit recomputes one row; anything else is a prefill.
    const int64_t rows = Remaining(*head) == 1 ? 1 : ChunkRows(step, *head);
    if (!cache_->Reserve(*head, rows)) {
      cache_->Release(*head);
      head->num_computed = 0;
      if (IsStuck()) stuck_.push_back(head);
      return;
    }
    std::erase(waiting_, head);
    head->state = SequenceState::kRunning;
    running_.push_back(head);
    step.Add(*head, rows);
    Log("admit", author, head->id, rows);
  }
}

std::vector<ScheduledSequence*> Scheduler::TakeStuck() { return std::exchange(stuck_, {}); }

void Scheduler::Log(std::string_view hook, std::string_view policy, uint64_t sequence, int64_t detail) {
  SchedulerDecision decision{clock_->NowNs(), hook, std::string(policy), sequence, detail};
  if (log_.size() < kLogSize) {
    log_.push_back(std::move(decision));
  } else {
    log_[log_next_] = std::move(decision);
  }
  log_next_ = (log_next_ + 1) % kLogSize;
}

std::vector<SchedulerDecision> Scheduler::Decisions(size_t limit) const {
  std::vector<SchedulerDecision> out;
  const size_t n = std::min(limit, log_.size());
  const size_t end = log_.size() < kLogSize ? log_.size() : log_next_ + kLogSize;
  for (size_t i = end - n; i < end; ++i) out.push_back(log_[i % kLogSize]);
  return out;
}

}  // namespace larder
