// The one scheduler: which sequences get how many rows in the next step. Pure bookkeeping: time and cache
// come from outside, so that the same code runs in real time with the model and in virtual time in tests.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.h"
#include "base/result.h"

namespace larder {

enum class SequenceState : uint8_t { kWaiting, kRunning, kFinished };

// What the scheduler knows about one sequence (one choice of a request).
struct ScheduledSequence {
  uint64_t id = 0;
  uint64_t request = 0;
  int32_t priority = 0;  // lower runs first
  int64_t arrival_ns = 0;
  SequenceState state = SequenceState::kWaiting;
  int64_t num_tokens = 0;    // prompt + generated
  int64_t num_computed = 0;  // rows done
  int64_t chunk_end = 0;     // no step crosses this row; 0: none
  int64_t whole_rows = 0;    // its next step has exactly these, whatever the limits; 0: any number
  bool publishes = true;     // others may wait for its rows
  bool reads_cache = true;   // it has something from waiting for theirs
  int32_t preemptions = 0;
  std::string tenant;
  const std::vector<int32_t>* tokens = nullptr;  // owner: the engine
};

struct SchedulerDecision {
  int64_t at_ns;
  std::string_view hook;  // "admit", "preempt", "wait-for-prefix", "chunk", ...
  std::string policy;     // who decided
  uint64_t sequence;
  int64_t detail;  // rows, or the other sequence
};

// A policy answers or passes (nullopt / nullptr); the first in the list that answers wins, and the log names
// it.
class SchedulePolicy {
 public:
  virtual ~SchedulePolicy() = default;
  virtual std::string_view name() const = 0;
  // The waiting sequence to admit next.
  virtual ScheduledSequence* Head(std::span<ScheduledSequence* const> waiting, int64_t now_ns) {
    return nullptr;
  }
  // The running sequence to preempt so that `needy` can go on; may be `needy` itself.
  virtual ScheduledSequence* Victim(std::span<ScheduledSequence* const> running,
                                    const ScheduledSequence& needy) {
    return nullptr;
  }
};

struct SchedulePolicyEntry {
  std::string_view name;
  std::string_view help;
  Result<std::unique_ptr<SchedulePolicy>> (*create)(std::string_view parameters);
};
std::span<const SchedulePolicyEntry> SchedulePolicies();
Result<std::vector<std::unique_ptr<SchedulePolicy>>> CreateSchedulePolicies(
    std::string_view spec);  // "priority+fcfs"

// The cache as the scheduler sees it.
class SchedulerCache {
 public:
  virtual ~SchedulerCache() = default;
  enum class Admission : uint8_t {
    kAdmitted,
    kNoRoom,
    kLoading  // its prompt's rows are on their way from below memory; ask again
  };
  // Opens the sequence's hold; sets num_computed to the rows that need not be computed.
  virtual Admission Admit(ScheduledSequence& sequence) = 0;
  // Makes the next `rows` rows after num_computed writable. false: no room now, nothing changed.
  virtual bool Reserve(ScheduledSequence& sequence, int64_t rows) = 0;
  // After a refusal: room will come by itself soon, so nobody needs to give up anything for it.
  virtual bool RoomComing() { return false; }
  virtual void Release(ScheduledSequence& sequence) = 0;  // drops the hold; the rows stay cached
};

// Cost of a step, learnt from measured steps: fixed + rows * per_row + row_context * per_pair, where
// row_context is the sum over rows of the context each one sees. Exponentially weighted least squares, so
// that it follows a busy machine.
class StepCost {
 public:
  void Observe(int64_t rows, double row_context, double ms);
  double Predict(int64_t rows, double row_context) const;
  // The most rows in [floor, most] of a prefill at `context` that keep the step, with its other load, below
  // `limit_ms`.
  int64_t RowsWithin(double limit_ms, int64_t context, double other_ms, int64_t floor, int64_t most) const;

 private:
  void Solve();
  std::array<std::array<double, 3>, 3> normal_{};  // sum of weight * feature * feature
  std::array<double, 3> moment_{};                 // sum of weight * feature * ms
  double fixed_ms_ = 0, per_row_ms_ = 1.0,
         per_pair_ms_ = 0;  // until measured: a slow guess, so that the first step is short
  int64_t samples_ = 0;
};

struct SchedulerOptions {
  int64_t max_running = 64;
  int64_t max_batch_rows = 512;
  double step_ms = 60;
};

// Invariants: a sequence is in exactly one of waiting_ and running_; running sequences hold cache, waiting
// ones do not.
class Scheduler {
 public:
  Scheduler(SchedulerOptions options, std::vector<std::unique_ptr<SchedulePolicy>> policies,
            SchedulerCache* cache, Clock* clock);

  void Add(ScheduledSequence* sequence);     // state becomes kWaiting; the pointer is kept until Remove
  void Remove(ScheduledSequence* sequence);  // finished or cancelled, in any state; releases its hold

  // Back to the head of the queue, with nothing computed; the step that it was in changed nothing for it.
  void Requeue(ScheduledSequence* sequence);

  struct Work {
    ScheduledSequence* sequence;
    int64_t rows;  // [num_computed, num_computed + rows)
  };
  // The next step: sequences with one row to go first, then prefills by chunks, then admissions (none in a
  // step that preempted). Rows are reserved in the cache. The list is valid until the next call.
  const std::vector<Work>& Plan();
  // Sequences that cannot go on although nobody else runs: they need more than the cache's limit. Empties the
  // list.
  std::vector<ScheduledSequence*> TakeStuck();
  void Observe(int64_t rows, double row_context, double ms) { cost_.Observe(rows, row_context, ms); }

  int64_t running() const { return static_cast<int64_t>(running_.size()); }
  int64_t waiting() const { return static_cast<int64_t>(waiting_.size()); }
  // Sequences that at the last Plan waited for what comes by itself: their rows, or room.
  int64_t loading() const { return loading_; }
  // What computing rows [from, from + rows) alone would take.
  double PredictMs(int64_t from, int64_t rows) const;
  std::vector<SchedulerDecision> Decisions(size_t limit) const;  // oldest first

 private:
  struct Step;
  bool IsStuck();
  void PlanRunning(Step& step, bool decoders);
  void PlanAdmissions(Step& step);
  int64_t ChunkRows(const Step& step, const ScheduledSequence& sequence) const;
  bool ReserveOrPreempt(Step& step, ScheduledSequence& sequence, int64_t rows);
  void Preempt(Step& step, ScheduledSequence& victim);
  const ScheduledSequence* SharedWithRunning(const ScheduledSequence& candidate) const;
  void Log(std::string_view hook, std::string_view policy, uint64_t sequence, int64_t detail);

  const SchedulerOptions options_;
  const std::vector<std::unique_ptr<SchedulePolicy>> policies_;
  SchedulerCache* const cache_;
  Clock* const clock_;
  std::vector<ScheduledSequence*> running_, waiting_, stuck_;
  std::vector<Work> work_;                              // of the last Plan
  std::vector<ScheduledSequence*> order_, candidates_;  // scratch of Plan
  int64_t loading_ = 0;
  StepCost cost_;
  std::vector<SchedulerDecision> log_;  // a ring
  size_t log_next_ = 0;
};

}  // namespace larder
