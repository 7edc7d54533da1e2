#include "larder/eval_tasks.h"

#include <algorithm>
#include <cstdio>

#include <fmt/format.h>

#include "larder/measure.h"
#include "larder/terminal.h"

namespace larder {
namespace {

struct Form {
  int64_t sessions, turns, tokens;
  const char* budgets;
};
constexpr Form kTable[] = {
    {2, 2, 256, "0.5"}, {40, 5, 1024, "0.5,0.25,0.125"}, {100, 5, 1024, "0.5,0.25,0.125,0.0625"}};

std::vector<int32_t> TokensOf(const Tokenizer& tokenizer, const std::string& text) {
  return tokenizer.Encode(text, {.add_special = false, .parse_special = false});
}

// The tokens behind a context, and where in them the answers are.
struct Questions {
  std::vector<int32_t> tokens;
  std::vector<int64_t> targets;  // the answers' tokens
  std::vector<size_t> ends;      // of each answer in the targets
  int64_t first_question = 0;    // tokens

  void Add(const Tokenizer& tokenizer, const std::string& question, const std::string& answer) {
    const std::vector<int32_t> asked = TokensOf(tokenizer, question), said = TokensOf(tokenizer, answer);
    tokens.insert(tokens.end(), asked.begin(), asked.end());
    if (ends.empty()) first_question = std::ssize(tokens);
    for (const int32_t token : said) {
      targets.push_back(std::ssize(tokens));
      tokens.push_back(token);
    }
    ends.push_back(targets.size());
  }
  std::vector<TaskAnswer> Answers(const ArmDocument& document) const {
    std::vector<TaskAnswer> out;
    size_t begin = 0;
    for (const size_t end : ends) {
      TaskAnswer answer{0, true};
      for (size_t i = begin; i < end; ++i) {
        answer.log_probability -= document.tokens[i].candidate_nll;
        answer.right &= document.tokens[i].candidate_right;
      }
      out.push_back(answer);
      begin = end;
    }
    return out;
  }
};

TaskScore ScoreOf(const std::vector<std::vector<TaskAnswer>>& sessions) {
  TaskScore out;
  std::vector<double> right;
  for (const auto& session : sessions) {
    if (session.empty()) continue;
    right.push_back(0);
    for (const TaskAnswer& answer : session) {
      right.back() += answer.right / static_cast<double>(session.size());
      out.log_probability += answer.log_probability;
    }
    out.answers += std::ssize(session);
  }
  if (right.empty()) return out;
  const Interval interval = Bootstrap(right);
  out.low = interval.low, out.high = interval.high;
  out.right = MeanOf(right).mean;
  out.log_probability /= static_cast<double>(out.answers);
  return out;
}

// Each task, passkey at each of its depths.
std::vector<std::pair<std::string, std::optional<double>>> LinesOf(const std::vector<std::string>& tasks) {
  std::vector<std::pair<std::string, std::optional<double>>> lines;
  for (const std::string& task : tasks) {
    if (task != "passkey") {
      lines.emplace_back(task, std::nullopt);
    } else {
      for (const double depth : kPasskeyDepths) lines.emplace_back(task, depth);
    }
  }
  return lines;
}

void PrintTable(const TasksResult& r) {
  fmt::print("{}: {} sessions of {} turns, contexts of {} tokens, {}\n\n", r.model, r.sessions, r.turns,
             r.tokens, r.style);
  fmt::print("{:<12} {:<20} {:>7} {:>7} {:>20} {:>20} {:>20}\n", "task", "method", "budget", "bytes",
             "seen question", "later questions", "hidden questions");
  for (const TaskCell& c : r.cells) {
    const auto score = [](const TaskScore& s) {
      return s.answers == 0 ? "" : fmt::format("{:5.1f} % ({:.2f})", 100 * s.right, s.log_probability);
    };
    const std::string task = c.depth ? fmt::format("{} {}", c.task, *c.depth) : c.task;
    fmt::print("{:<12} {:<20} {:>7} {:>6.1f}% {:>20} {:>20} {:>20}\n", task, c.arm.method, c.arm.budget,
               100 * c.bytes, score(c.first), score(c.later), score(c.hidden));
  }
  fmt::print("\nright answers, and in parentheses the mean log-probability of the right one\n{}\n{}",
             r.prefill.Shown(), RefusalLines(r.refused));
}

}  // namespace

void PrefillCost::Add(const SessionScore& session) {
  const auto questions = std::ssize(session.hidden);
  if (questions < 2) return;
  shared += session.context_tokens + session.question_tokens;
  again += questions * session.context_tokens + session.question_tokens;
}

std::string PrefillCost::Shown() const {
  if (shared == 0) return "";
  return fmt::format(
      "prompt tokens of all questions: {} with each context computed once, {} with it again for every "
      "question, {:.2f} times as many",
      shared, again, static_cast<double>(again) / static_cast<double>(shared));
}

TaskCell CellOf(const Arm& arm, const std::string& task, size_t index,
                const std::vector<std::vector<SessionScore>>& scores) {
  std::vector<std::vector<TaskAnswer>> first, later, hidden;
  TaskCell cell{.arm = arm, .task = task, .depth = {}, .first = {}, .later = {}, .hidden = {}};
  for (const auto& session : scores) {
    const SessionScore& one = session[index];
    first.emplace_back(one.directed.begin(), one.directed.begin() + 1);
    later.emplace_back(one.directed.begin() + 1, one.directed.end());
    hidden.push_back(one.hidden);
    cell.bytes += static_cast<double>(one.resident_bytes) / static_cast<double>(one.full_bytes) /
                  static_cast<double>(scores.size());
  }
  cell.first = ScoreOf(first), cell.later = ScoreOf(later), cell.hidden = ScoreOf(hidden);
  return cell;
}

Result<std::vector<SessionScore>> RunTaskSession(ArmRunner& runner, const TaskSession& session,
                                                 const Tokenizer& tokenizer) {
  std::vector<SessionScore> out(runner.arms().size());
  std::vector<int32_t> context;
  if (tokenizer.add_bos() && tokenizer.bos() != kNoToken) context.push_back(tokenizer.bos());
  const std::vector<int32_t> text = TokensOf(tokenizer, session.context);
  context.insert(context.end(), text.begin(), text.end());
  LARDER_TRY(runner.Read(context));

  Questions all;
  for (const TaskTurn& turn : session.turns)
    all.Add(tokenizer, (all.ends.empty() ? "" : session.separator) + turn.question, turn.answer);
  LARDER_ASSIGN(const auto directed, runner.Run(all.tokens, all.first_question, all.targets));
  for (size_t arm = 0; arm < out.size(); ++arm) {
    out[arm].directed = all.Answers(directed[arm]);
    out[arm].resident_bytes = directed[arm].resident_bytes;
    out[arm].full_bytes = runner.full_bytes();
  }
  for (const TaskTurn& turn : session.turns) {
    Questions one;
    one.Add(tokenizer, turn.question, turn.answer);
    LARDER_ASSIGN(const auto hidden, runner.Run(one.tokens, 0, one.targets));
    for (size_t arm = 0; arm < out.size(); ++arm) {
      out[arm].hidden.push_back(one.Answers(hidden[arm]).front());
      out[arm].context_tokens = std::ssize(context);
      out[arm].question_tokens += one.first_question;
    }
  }
  return out;
}

void TasksEval::Declare(Params& params) {
  params.String("tasks", &tasks_, "tasks: which, of kv, multi, vt and passkey, separated by commas");
  params.Choice("style", &style_, {"sentences", "symbols"},
                "tasks: English, or the language of scripts/make_retrieval.py");
  params.Int("task-tokens", &tokens_, 0, 1 << 20, "tasks: of a context, at most; 0: as the form says");
  params.Int("sessions", &sessions_, 0, 1 << 20, "tasks: contexts of each task; 0: as the form says");
  params.Int("turns", &turns_, 0, 64, "tasks: questions of each context; 0: as the form says");
  params.Int("seed", &seed_, 0, int64_t{1} << 40, "tasks: of the contexts and questions");
}

Status TasksEval::Ask(ArmRunner& runner, const Tokenizer& tokenizer, const std::vector<std::string>& tasks,
                      TasksResult& result) {
  const auto count = [&](std::string_view text) {
    return std::ssize(TokensOf(tokenizer, std::string(text)));
  };
  ProgressBar bar("asking");
  const std::vector<std::pair<std::string, std::optional<double>>> lines = LinesOf(tasks);
  double done = 0;
  for (const auto& [task, depth] : lines) {
    TaskOptions options{style_, tokens_, turns_, static_cast<uint64_t>(seed_)};
    if (depth) options.depth = *depth;
    std::vector<std::vector<SessionScore>> scores;
    for (int64_t s = 0; s < sessions_; ++s) {
      LARDER_ASSIGN(const TaskSession session,
                    MakeTaskSession(task, options, static_cast<uint64_t>(s), count));
      LARDER_ASSIGN(auto one, RunTaskSession(runner, session, tokenizer));
      result.prefill.Add(one.front());
      scores.push_back(std::move(one));
      bar.Update(++done / static_cast<double>(sessions_ * std::ssize(lines)));
    }
    for (size_t arm = 0; arm < runner.arms().size(); ++arm) {
      result.cells.push_back(CellOf(runner.arms()[arm], task, arm, scores));
      result.cells.back().depth = depth;
    }
  }
  bar.Clear();
  return {};
}

Status TasksEval::Run(const ModelFlags& flags, const BenchFlags& bench, const std::string& json) {
  const Form& form = FormOf(kTable, bench.form);
  if (sessions_ == 0) sessions_ = form.sessions;
  if (turns_ == 0) turns_ = form.turns;
  if (tokens_ == 0) tokens_ = form.tokens;
  const std::string methods = bench.methods.empty()
                                  ? "full," + DefaultMethods({"h2o:decode=false", "t4:center=0"}, {"t4"})
                                  : bench.methods;
  const std::string budgets = bench.budgets.empty() ? form.budgets : bench.budgets;
  const std::vector<std::string> tasks = Split(tasks_, ',');
  for (const std::string& task : tasks) {
    if (std::ranges::find(kTasks, task) == std::end(kTasks))
      return Fail(ErrorKind::kInvalid, "'{}' is no task; known: {}", task, fmt::join(kTasks, ", "));
  }
  LARDER_ASSIGN(auto model, LoadBase(flags));
  Refusals refused;
  LARDER_ASSIGN(std::vector<Arm> arms, PlanArms(methods, budgets, bench.sinks, bench.last, *model, &refused));
  LARDER_ASSIGN(auto codecs, LoadCodecs(flags, arms));
  constexpr int64_t kTurnTokens = 64;
  LARDER_ASSIGN(auto runner, ArmRunner::Create(*model, std::move(arms), std::move(codecs),
                                               tokens_ + 1 + turns_ * kTurnTokens));
  TasksResult result{
      .model = model->name(),
      .weights = model->weights_digest().Hex(),
      .style = style_,
      .form = bench.form,
      .command = fmt::format(
          "larder eval tasks --tasks {} --style {} --methods {} --budgets {} --task-tokens {} "
          "--sessions {} --turns {} --sinks {} --last {} --seed {} --model FILE",
          tasks_, style_, methods, budgets, tokens_, sessions_, turns_, bench.sinks, bench.last, seed_),
      .sessions = sessions_,
      .turns = turns_,
      .tokens = tokens_,
      .refused = std::move(refused)};
  const Stopwatch watch;
  LARDER_TRY(Ask(*runner, model->tokenizer(), tasks, result));
  result.seconds = watch.WallSeconds();
  if (!bench.report.empty()) LARDER_TRY(WriteText(bench.report, TasksHtml(result)));
  if (!json.empty()) return WriteText(json, TasksJson(result));
  PrintTable(result);
  return {};
}

}  // namespace larder
