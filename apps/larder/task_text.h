// Retrieval tasks: a context with facts in it, and questions that have one right answer each. Everything
// follows from a seed. Two languages:
//
//   symbols    what the model of scripts/make_retrieval.py reads: " kan Ri." is a fact, "? kan" asks for it
//   sentences  plain English, for models that were trained on text
//
//   kv         some facts among filler
//   multi      nothing but facts: which of them is asked for
//   vt         chains of two facts among filler; the answer is the rest of the chain
//   passkey    one fact at a given depth of filler, asked for once
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace larder {

struct TaskTurn {
  std::string question, answer;
};
struct TaskSession {
  std::string context;
  std::vector<TaskTurn> turns;
  std::string separator;  // between an answer and the next question
};

struct TaskOptions {
  std::string style = "sentences";
  int64_t tokens = 1024;  // of the context, at most
  int64_t turns = 5;      // passkey: 1, whatever this says
  uint64_t seed = 1;
  double depth = 0.5;  // passkey: filler before the fact, as a share of all; nothing else depends on it
};

inline constexpr std::string_view kTasks[] = {"kv", "multi", "vt", "passkey"};
inline constexpr double kPasskeyDepths[] = {0, 0.25, 0.5, 0.75, 1};

// The session `index` of a task. `count`: how many tokens a text has. kInvalid: the turns' facts do not fit
// into the context.
Result<TaskSession> MakeTaskSession(std::string_view task, const TaskOptions& options, uint64_t index,
                                    const std::function<int64_t(std::string_view)>& count);

}  // namespace larder
