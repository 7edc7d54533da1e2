// The report of larder eval tasks: JSON for programs, a page for people.
#include <algorithm>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "larder/eval_tasks.h"
#include "larder/plot.h"

namespace larder {
namespace {

using Json = nlohmann::ordered_json;

std::vector<std::string> TasksOf(const TasksResult& result) {
  std::vector<std::string> tasks;
  for (const TaskCell& cell : result.cells) {
    if (std::ranges::find(tasks, cell.task) == tasks.end()) tasks.push_back(cell.task);
  }
  return tasks;
}

Plot PlotOf(const TasksResult& result, const std::string& task, TaskScore TaskCell::* which) {
  Plot plot{"share of right answers", false, {}};
  for (const TaskCell& cell : result.cells) {
    if (cell.task != task) continue;
    auto line = std::ranges::find(plot.lines, cell.arm.method, &PlotLine::name);
    if (line == plot.lines.end()) line = plot.lines.insert(line, {cell.arm.method, {}});
    const TaskScore& score = cell.*which;
    line->points.push_back(
        {cell.bytes, score.right, score.low, score.high,
         fmt::format("{} {}: {:.1f} %", cell.arm.method, cell.arm.budget, 100 * score.right)});
  }
  return plot;
}

bool HasDepths(const TasksResult& result, const std::string& task) {
  return std::ranges::any_of(result.cells,
                             [&](const TaskCell& cell) { return cell.task == task && cell.depth; });
}

std::string Table(const TasksResult& result, const std::string& task) {
  std::string html = fmt::format(
      "<table><tr><th>method<th>budget{}<th>bytes<th>seen question<th>log p<th>later questions<th>log p"
      "<th>hidden questions<th>log p</tr>\n",
      HasDepths(result, task) ? "<th>depth" : "");
  for (const TaskCell& cell : result.cells) {
    if (cell.task != task) continue;
    html += fmt::format("<tr><td>{}<td>{}{}<td>{:.1f} %", EscapeHtml(cell.arm.method),
                        EscapeHtml(cell.arm.budget), cell.depth ? fmt::format("<td>{}", *cell.depth) : "",
                        100 * cell.bytes);
    for (const TaskScore* s : {&cell.first, &cell.later, &cell.hidden}) {
      html += s->answers == 0 ? "<td><td>"
                              : fmt::format("<td>{:.1f} % ({:.1f} .. {:.1f})<td>{:.3f}", 100 * s->right,
                                            100 * s->low, 100 * s->high, s->log_probability);
    }
    html += "</tr>\n";
  }
  return html + "</table>\n";
}

Json ScoreJson(const TaskScore& s) {
  if (s.answers == 0) return nullptr;
  return {{"right", s.right}, {"low", s.low}, {"high", s.high}, {"log_probability", s.log_probability}};
}

}  // namespace

std::string TasksJson(const TasksResult& result) {
  Json json = {{"eval", "tasks"},
               {"model", result.model},
               {"weights", result.weights},
               {"style", result.style},
               {"form", result.form},
               {"command", result.command},
               {"sessions", result.sessions},
               {"turns", result.turns},
               {"tokens", result.tokens},
               {"admitted", TasksResult::kAdmitted},
               {"seconds", result.seconds},
               {"refused", result.refused},
               {"prefill_tokens", {{"shared", result.prefill.shared}, {"again", result.prefill.again}}},
               {"cells", Json::array()}};
  for (const TaskCell& cell : result.cells) {
    json["cells"].push_back({{"task", cell.task},
                             {"method", cell.arm.method},
                             {"budget", cell.arm.budget},
                             {"bytes", cell.bytes},
                             {"first", ScoreJson(cell.first)},
                             {"later", ScoreJson(cell.later)},
                             {"hidden", ScoreJson(cell.hidden)}});
    if (cell.depth) json["cells"].back()["depth"] = *cell.depth;
  }
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::string TasksHtml(const TasksResult& result) {
  std::string html = HtmlHead("Retrieval with cache methods on " + result.model);
  html += fmt::format(
      "<p>{} sessions a task, contexts of {} tokens, {} questions each. <em>Seen</em>: the method chose when "
      "it "
      "had read the context and the first question; this is the answer to that question. <em>Later</em>: the "
      "answers to the questions that came after, each behind the right answer to the one before. "
      "<em>Hidden</em>: the method chose when it had read the context alone, and each question is asked of "
      "that. An answer is right if greedy choices would have written exactly it. Where the full cache itself "
      "is "
      "right in less than {:.0f} % of the answers, only the probabilities (log p, mean of an answer) say "
      "anything about methods. Bars are 95 % of 1,000 draws of the sessions.</p>\n",
      result.sessions, result.tokens, result.turns, 100 * TasksResult::kAdmitted);
  html +=
      fmt::format("<p>{}</p>\n<p>{}</p>\n", result.prefill.Shown(), EscapeHtml(RefusalLines(result.refused)));
  for (const std::string& task : TasksOf(result)) {
    if (HasDepths(result, task)) {
      html += fmt::format(
          "<h2>{}</h2>\n<p>One fact, its depth from 0 (at the context's beginning) to 1 (at its "
          "end).</p>\n{}",
          EscapeHtml(task), Table(result, task));
      continue;
    }
    html += fmt::format("<h2>{}</h2>\n<h3>Seen question</h3>\n{}<h3>Hidden questions</h3>\n{}{}",
                        EscapeHtml(task), PlotSvg(PlotOf(result, task, &TaskCell::first)),
                        PlotSvg(PlotOf(result, task, &TaskCell::hidden)), Table(result, task));
  }
  html += fmt::format("<p>Made by <code>{}</code>, weights <code>{}</code>.</p>", EscapeHtml(result.command),
                      result.weights);
  return html + "</html>";
}

}  // namespace larder
