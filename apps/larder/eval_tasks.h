// larder eval tasks: what methods do to retrieval. Sessions with one context and several questions, as
// SCBench has them, under two protocols:
//
//   directed  the method chooses when it has seen the context and the first question; the other questions
//             follow, each behind the right answer to the one before (golden history)
//   hidden    the method chooses when it has seen the context; every question is asked of that, by itself
//
// The right answer is given token by token, so its probability is known, and with it whether greedy choices
// would have written exactly it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "larder/bench_form.h"
#include "larder/method_arms.h"
#include "larder/task_text.h"

namespace larder {

// What one session did to one arm; answers are all of a turn's tokens.
struct TaskAnswer {
  double log_probability = 0;  // of the whole answer
  bool right = false;
};
struct SessionScore {
  std::vector<TaskAnswer> directed, hidden;  // [turn]
  uint64_t resident_bytes = 0, full_bytes = 0;
  int64_t context_tokens = 0, question_tokens = 0;  // the latter of all questions
};

struct TaskScore {
  double right = 0, low = 0, high = 0;  // share of answers, 95 % of the draws of sessions
  double log_probability = 0;           // of an answer, mean
  int64_t answers = 0;                  // 0: there is no such question
};
struct TaskCell {
  Arm arm;
  std::string task;
  std::optional<double> depth;     // passkey: of the fact
  TaskScore first, later, hidden;  // directed: the turn that the method has seen, and those after it
  double bytes = 0;                // resident at the first question's end, share of the full cache
};
// Prompt tokens of sessions with several questions: the context computed once, or again for each of them.
struct PrefillCost {
  int64_t shared = 0, again = 0;

  void Add(const SessionScore& session);
  std::string Shown() const;  // a sentence; "": there is no such session
};
struct TasksResult {
  std::string model, weights, style, form, command;
  int64_t sessions = 0, turns = 0, tokens = 0;
  double seconds = 0;
  Refusals refused;
  PrefillCost prefill;
  std::vector<TaskCell> cells;  // task by task
  // What the full cache can do: below this share of right answers only probabilities say anything.
  static constexpr double kAdmitted = 0.8;
};

// scores[session][arm].
TaskCell CellOf(const Arm& arm, const std::string& task, size_t index,
                const std::vector<std::vector<SessionScore>>& scores);
// One session through all arms.
Result<std::vector<SessionScore>> RunTaskSession(ArmRunner& runner, const TaskSession& session,
                                                 const Tokenizer& tokenizer);

class TasksEval {
 public:
  void Declare(Params& params);
  Status Run(const ModelFlags& model, const BenchFlags& bench, const std::string& json);

 private:
  Status Ask(ArmRunner& runner, const Tokenizer& tokenizer, const std::vector<std::string>& tasks,
             TasksResult& result);
  std::string tasks_ = "kv,multi,vt", style_ = "sentences";
  int64_t sessions_ = 0, turns_ = 0, tokens_ = 0, seed_ = 1;
};

std::string TasksJson(const TasksResult& result);
std::string TasksHtml(const TasksResult& result);

}  // namespace larder
