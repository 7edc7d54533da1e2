// Does the scheduler keep its promises? In virtual time, over a cache that only counts rows.
#include "engine/scheduler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <map>
#include <random>

namespace larder {
namespace {

// Rows held by running sequences may not exceed the capacity; nothing is shared and released rows are
// forgotten.
class CountingCache final : public SchedulerCache {
 public:
  explicit CountingCache(int64_t capacity) : capacity_(capacity) {}
  Admission Admit(ScheduledSequence& s) override {
    s.num_computed = std::min(hits[s.id], s.num_tokens - 1);
    if (used_ + s.num_computed > capacity_) return Admission::kNoRoom;
    held_[s.id] = s.num_computed;
    used_ += s.num_computed;
    return Admission::kAdmitted;
  }
  bool Reserve(ScheduledSequence& s, int64_t rows) override {
    const int64_t need = s.num_computed + rows - held_[s.id];
    if (need <= 0) return true;
    if (used_ + need > capacity_) return false;
    used_ += need;
    held_[s.id] += need;
    return true;
  }
  void Release(ScheduledSequence& s) override {
    used_ -= held_[s.id];
    held_.erase(s.id);
  }
  int64_t used() const { return used_; }
  std::map<uint64_t, int64_t> hits;  // rows found at admission

 private:
  int64_t capacity_, used_ = 0;
  std::map<uint64_t, int64_t> held_;
};

class SchedulerTest : public ::testing::Test {
 protected:
  void Start(SchedulerOptions options, int64_t capacity, std::string_view policy = "fcfs") {
    cache_ = std::make_unique<CountingCache>(capacity);
    scheduler_ = std::make_unique<Scheduler>(options, *CreateSchedulePolicies(policy), cache_.get(), &clock_);
  }
  ScheduledSequence* Arrive(std::vector<int32_t> tokens, int32_t priority = 0,
                            const std::string& tenant = "t") {
    clock_.AdvanceNs(1000);
    tokens_.push_back(std::move(tokens));
    ScheduledSequence& s = sequences_.emplace_back();
    s.id = sequences_.size();
    s.request = s.id;
    s.priority = priority;
    s.arrival_ns = clock_.NowNs();
    s.tenant = tenant;
    s.tokens = &tokens_.back();
    s.num_tokens = static_cast<int64_t>(tokens_.back().size());
    scheduler_->Add(&s);
    return &s;
  }
  std::vector<int32_t> Unique(int64_t n) {
    std::vector<int32_t> out(static_cast<size_t>(n));
    for (auto& t : out) t = next_token_++;
    return out;
  }
  // Plans a step and does its work: computed rows advance, whoever computed its last token gets a new one.
  std::vector<Scheduler::Work> Step(double ms_per_row = 1.0) {
    auto plan = scheduler_->Plan();
    int64_t rows = 0;
    double context = 0;
    for (auto& [s, n] : plan) {
      EXPECT_GT(n, 0);
      rows += n;
      context += static_cast<double>(n * s->num_computed);
      s->num_computed += n;
      EXPECT_LE(s->num_computed, s->num_tokens);
      if (s->num_computed == s->num_tokens) {
        const_cast<std::vector<int32_t>*>(s->tokens)->push_back(next_token_++);
        ++s->num_tokens;
      }
    }
    if (rows > 0) scheduler_->Observe(rows, context, ms_per_row * static_cast<double>(rows));
    clock_.AdvanceNs(static_cast<int64_t>(ms_per_row * 1e6) * rows);
    return plan;
  }
  int64_t RowsOf(const std::vector<Scheduler::Work>& plan, const ScheduledSequence* s) {
    for (const auto& w : plan) {
      if (w.sequence == s) return w.rows;
    }
    return 0;
  }

  ManualClock clock_;
  std::unique_ptr<CountingCache> cache_;
  std::unique_ptr<Scheduler> scheduler_;
  std::deque<ScheduledSequence> sequences_;
  std::deque<std::vector<int32_t>> tokens_;
  int32_t next_token_ = 1;
};

TEST_F(SchedulerTest, LongPrefillIsCutByTheBudgetAndDecodeFollows) {
  Start({.max_running = 8, .max_batch_rows = 100, .step_ms = 60}, 10000);
  auto* a = Arrive(Unique(250));
  EXPECT_EQ(RowsOf(Step(), a), 100);
  EXPECT_EQ(RowsOf(Step(), a), 100);
  EXPECT_EQ(RowsOf(Step(), a), 50);
  EXPECT_EQ(RowsOf(Step(), a), 1);
}

TEST_F(SchedulerTest, PrefillBesideDecodersStaysBelowTheStepLimit) {
  Start({.max_running = 8, .max_batch_rows = 512, .step_ms = 60}, 100000);
  auto* decoder = Arrive(Unique(10));
  for (int i = 0; i < 20; ++i) Step();
  auto* prefill = Arrive(Unique(2000));
  for (int i = 0; i < 10; ++i) {
    const auto plan = Step();
    EXPECT_EQ(RowsOf(plan, decoder), 1) << "a decoder never misses a step";
    const int64_t rows = RowsOf(plan, prefill);
    EXPECT_GE(rows, 16);
    EXPECT_LE(rows, 75) << "one row costs a millisecond, the step may take 60";
  }
}

TEST_F(SchedulerTest, SlowMachineStillMakesProgressWithPrefill) {
  Start({.max_running = 8, .max_batch_rows = 512, .step_ms = 60}, 100000);
  Arrive(Unique(10));
  for (int i = 0; i < 20; ++i) Step(30.0);
  auto* prefill = Arrive(Unique(200));
  EXPECT_EQ(RowsOf(Step(30.0), prefill), 16);
}

TEST_F(SchedulerTest, FirstComeFirstServed) {
  Start({.max_running = 1, .max_batch_rows = 512, .step_ms = 60}, 10000);
  auto* a = Arrive(Unique(10));
  auto* b = Arrive(Unique(10));
  EXPECT_EQ(RowsOf(Step(), a), 10);
  EXPECT_EQ(RowsOf(Step(), b), 0);
  scheduler_->Remove(a);
  EXPECT_EQ(RowsOf(Step(), b), 10);
}

TEST_F(SchedulerTest, PriorityGoesFirstAndIsPreemptedLast) {
  Start({.max_running = 2, .max_batch_rows = 512, .step_ms = 60}, 100, "priority");
  auto* low = Arrive(Unique(49), 5);
  auto* high = Arrive(Unique(49), 1);
  auto plan = Step();
  ASSERT_EQ(plan.size(), 2u);
  EXPECT_EQ(plan[0].sequence, high);
  while (low->preemptions + high->preemptions == 0) Step();
  EXPECT_EQ(low->preemptions, 1);
  EXPECT_EQ(high->preemptions, 0);
  EXPECT_EQ(low->state, SequenceState::kWaiting);
}

TEST_F(SchedulerTest, PreemptionTakesTheYoungestAndReadmitsItFirst) {
  Start({.max_running = 3, .max_batch_rows = 512, .step_ms = 60}, 100);
  auto* a = Arrive(Unique(40));
  auto* b = Arrive(Unique(40));
  while (b->preemptions == 0) Step();
  EXPECT_EQ(a->preemptions, 0);
  auto* c = Arrive(Unique(40));
  Step();
  scheduler_->Remove(a);
  const auto plan = Step();
  ASSERT_GE(plan.size(), 1u);
  EXPECT_EQ(plan[0].sequence, b) << "it arrived before " << c->id;
}

TEST_F(SchedulerTest, SequenceLargerThanTheCacheIsReportedStuck) {
  Start({.max_running = 3, .max_batch_rows = 512, .step_ms = 60}, 100);
  auto* a = Arrive(Unique(101));
  EXPECT_TRUE(Step().empty());
  EXPECT_EQ(scheduler_->TakeStuck(), std::vector<ScheduledSequence*>{a});
  scheduler_->Remove(a);
  EXPECT_EQ(cache_->used(), 0);
}

TEST_F(SchedulerTest, SharedPrefixIsComputedOnce) {
  Start({.max_running = 8, .max_batch_rows = 64, .step_ms = 60}, 10000);
  const auto prompt = Unique(200);
  auto* a = Arrive(prompt);
  auto* b = Arrive(prompt);
  auto longer = prompt;
  longer.push_back(99999);
  auto* c = Arrive(longer);
  auto* stranger = Arrive(prompt, 0, "other tenant");
  for (int i = 0; i < 3; ++i) {
    const auto plan = Step();
    EXPECT_GT(RowsOf(plan, a), 0);
    EXPECT_EQ(RowsOf(plan, b) + RowsOf(plan, c), 0) << "waits while the first computes";
  }
  EXPECT_EQ(stranger->state, SequenceState::kWaiting) << "no budget was left for it";
  cache_->hits[b->id] = cache_->hits[c->id] = 200;
  while (a->num_computed < 200) Step();
  const auto plan = Step();
  EXPECT_EQ(RowsOf(plan, b), 1) << "a full hit computes one row";
  EXPECT_EQ(RowsOf(plan, c), 1);
  EXPECT_GT(RowsOf(plan, stranger), 1) << "nothing is shared with another tenant";
}

TEST_F(SchedulerTest, DecisionsAreLogged) {
  Start({.max_running = 8, .max_batch_rows = 512, .step_ms = 60}, 10000);
  auto* a = Arrive(Unique(10));
  Step();
  const auto log = scheduler_->Decisions(10);
  ASSERT_EQ(log.size(), 1u);
  EXPECT_EQ(log[0].hook, "admit");
  EXPECT_EQ(log[0].policy, "fcfs");
  EXPECT_EQ(log[0].sequence, a->id);
  EXPECT_EQ(log[0].detail, 10);
}

TEST(SchedulePolicies, UnknownNamesListTheKnown) {
  const auto result = CreateSchedulePolicies("fastest");
  ASSERT_FALSE(result);
  EXPECT_NE(result.error().message.find("fcfs, priority"), std::string::npos) << result.error().message;
  EXPECT_FALSE(CreateSchedulePolicies("fcfs:speed=3"));
}

TEST(StepCost, LearnsALinearMachine) {
  StepCost cost;
  std::mt19937 random(7);
  for (int i = 0; i < 200; ++i) {
    const int64_t rows = 1 + static_cast<int64_t>(random() % 200);
    const double context = static_cast<double>(rows) * static_cast<double>(random() % 4000);
    cost.Observe(rows, context, 3.0 + 0.5 * static_cast<double>(rows) + 2e-4 * context);
  }
  EXPECT_NEAR(cost.Predict(100, 100 * 2000.0), 3.0 + 50 + 40, 2.0);
  const int64_t rows = cost.RowsWithin(60, 1000, 10, 16, 512);
  EXPECT_NEAR(static_cast<double>(rows), 50.0 / 0.7, 8.0);
}

// Random arrivals, cancellations, sizes and both policies: nobody is lost, nothing leaks, all finish.
TEST_F(SchedulerTest, RandomLoadKeepsTheInvariants) {
  for (uint32_t seed = 0; seed < 20; ++seed) {
    std::mt19937 random(seed);
    sequences_.clear();
    tokens_.clear();
    Start({.max_running = 4, .max_batch_rows = 64, .step_ms = 40}, 400, seed % 2 == 0 ? "fcfs" : "priority");
    std::map<ScheduledSequence*, int64_t> target;
    int64_t arrivals = 0;
    for (int step = 0; step < 3000 && (arrivals < 60 || !target.empty()); ++step) {
      if (arrivals < 60 && random() % 4 == 0) {
        auto* s =
            Arrive(Unique(1 + static_cast<int64_t>(random() % 200)), static_cast<int32_t>(random() % 3));
        target[s] = s->num_tokens + static_cast<int64_t>(random() % 60);
        ++arrivals;
      }
      Step(0.1 + static_cast<double>(random() % 100) / 50);
      ASSERT_TRUE(scheduler_->TakeStuck().empty()) << "every sequence fits alone";
      ASSERT_LE(cache_->used(), 400);
      ASSERT_LE(scheduler_->running(), 4);
      for (auto it = target.begin(); it != target.end();) {
        if (it->first->num_tokens > it->second || random() % 200 == 0) {
          scheduler_->Remove(it->first);
          it = target.erase(it);
        } else {
          ++it;
        }
      }
      ASSERT_EQ(scheduler_->running() + scheduler_->waiting(), static_cast<int64_t>(target.size()));
    }
    EXPECT_TRUE(target.empty()) << "seed " << seed;
    EXPECT_EQ(cache_->used(), 0);
  }
}

}  // namespace
}  // namespace larder
