// The report of larder eval methods: JSON for programs, a page for people.
#include <algorithm>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "larder/equal_loss.h"
#include "larder/eval_methods.h"
#include "larder/plot.h"

namespace larder {
namespace {

using Json = nlohmann::ordered_json;

// A line a method.
Plot PlotOf(const MethodsResult& result, Fidelity ArmSummary::* which) {
  Plot plot{"mean KL to the full cache, nats a token", true, {}};
  for (const ArmSummary& s : result.arms) {
    auto line = std::ranges::find(plot.lines, s.arm.method, &PlotLine::name);
    if (line == plot.lines.end()) line = plot.lines.insert(line, {s.arm.method, {}});
    const Fidelity& f = s.*which;
    line->points.push_back({s.resident_bytes / static_cast<double>(result.full_bytes), f.kl_mean, f.kl_low,
                            f.kl_high,
                            fmt::format("{} {}: KL {:.4g}", s.arm.method, s.arm.budget, f.kl_mean)});
  }
  return plot;
}

std::string Cells(const Fidelity& f, const std::vector<std::string>& bases) {
  std::string html =
      fmt::format("<td>{:.5f}<td>{:.5f} .. {:.5f}<td>{:.5f}<td>{:.4f}<td>{:.2f} %<td>{:.4f}", f.kl_mean,
                  f.kl_low, f.kl_high, f.kl_median, f.kl_99, 100 * f.same_top, f.perplexity_ratio);
  for (const std::string& base : bases) {
    const auto difference = std::ranges::find(f.differences, base, &KlDifference::base);
    html += "<td>";
    if (difference == f.differences.end()) continue;
    const Estimate& kl = difference->kl;
    html += fmt::format("{:+.5f} ({:+.5f} .. {:+.5f})", kl.mean, kl.interval.low, kl.interval.high);
  }
  return html;
}

std::string BudgetOf(const Arm& arm) {
  return arm.entries == 0 ? arm.budget : fmt::format("{} ({})", arm.budget, arm.entries);
}

std::string Table(const MethodsResult& result) {
  std::string fidelity = "<th>KL mean<th>95 %<th>median<th>99 %<th>same first choice<th>perplexity ratio";
  for (const std::string& base : result.bases)
    fidelity += fmt::format("<th>KL less that of {}, 95 %", EscapeHtml(base));
  const size_t columns = 6 + result.bases.size();
  std::string html = fmt::format(
      "<table><tr><th><th><th colspan={0}>the text itself<th colspan={0}>greedy<th colspan=3>"
      "<th colspan=3>by itself</tr><tr><th>method<th>budget{1}{1}<th>entries<th>bytes<th>ms a choice"
      "<th>peak bytes<th>ms a prompt<th>tokens/s</tr>\n",
      columns, fidelity);
  const auto share = [&](double bytes) { return 100 * bytes / static_cast<double>(result.full_bytes); };
  for (const ArmSummary& s : result.arms) {
    html += fmt::format(
        "<tr><td>{}<td>{}{}{}<td>{:.0f}<td>{:.1f} %<td>{:.0f}<td>{:.1f} %<td>{:.0f}<td>{:.1f}</tr>\n",
        EscapeHtml(s.arm.method), EscapeHtml(BudgetOf(s.arm)), Cells(s.text, result.bases),
        Cells(s.greedy, result.bases), s.entries, share(s.resident_bytes), s.method_ms,
        share(static_cast<double>(s.alone.peak_bytes)), s.alone.prompt_ms, s.alone.tokens_per_s);
  }
  return html + "</table>\n";
}

// The survey's table: what a method is and what it takes, all of them at one loss.
std::string EqualLossTable(const MethodsResult& result) {
  std::string html = fmt::format(
      "<h2>Bytes at a divergence of {}</h2><p>Between the budgets that were measured, both axes logarithmic, "
      "on the text that really follows; the share of the full cache's bytes. Time is that of the smallest "
      "measured budget within the divergence, else of the largest.</p>\n<table><tr><th>leaf<th>method"
      "<th>memory<th>bytes<th>ms a token</tr>\n",
      kEqualKl);
  for (const EqualLoss& at : AtEqualLoss(result, kEqualKl)) {
    html += fmt::format("<tr><td>{}<td>{}<td>{}<td>{}<td>{:.2f}</tr>\n", at.leaf, EscapeHtml(at.method),
                        EscapeHtml(at.memory), ShownBytes(at), at.ms_per_token);
  }
  return html + "</table>\n";
}

Json EqualLossJson(const MethodsResult& result) {
  Json json = {{"kl", kEqualKl}, {"methods", Json::array()}};
  for (const EqualLoss& at : AtEqualLoss(result, kEqualKl)) {
    json["methods"].push_back({{"method", at.method},
                               {"leaf", at.leaf},
                               {"memory", at.memory},
                               {"shown", ShownBytes(at)},
                               {"reached", at.reach != EqualLoss::Reach::kNot},
                               {"at_most", at.reach == EqualLoss::Reach::kAtMost},
                               {"bytes", at.bytes},
                               {"kl", at.kl},
                               {"ms_per_token", at.ms_per_token}});
  }
  return json;
}

Json FidelityJson(const Fidelity& f) {
  Json json = {{"kl_mean", f.kl_mean},
               {"kl_low", f.kl_low},
               {"kl_high", f.kl_high},
               {"kl_median", f.kl_median},
               {"kl_99", f.kl_99},
               {"same_top", f.same_top},
               {"perplexity_ratio", f.perplexity_ratio},
               {"kl_documents", f.kl_documents},
               {"differences", Json::array()}};
  for (const KlDifference& d : f.differences) {
    json["differences"].push_back(
        {{"base", d.base}, {"kl", d.kl.mean}, {"low", d.kl.interval.low}, {"high", d.kl.interval.high}});
  }
  return json;
}

}  // namespace

std::string WindowsNote(const MethodsResult& result) {
  return fmt::format(
      "methods drop from {} of {} layers, which hold {:.0f} % of the full cache; the others see a window",
      result.evicting_layers, result.layers,
      100 * static_cast<double>(result.evicting_bytes) / static_cast<double>(result.full_bytes));
}

std::string MethodsJson(const MethodsResult& result) {
  Json json = {{"eval", "methods"},
               {"model", result.model},
               {"weights", result.weights},
               {"text", result.text},
               {"form", result.form},
               {"command", result.command},
               {"bases", result.bases},
               {"documents", result.documents},
               {"prompt_tokens", result.prompt_tokens},
               {"scored_tokens", result.scored_tokens},
               {"greedy_documents", result.greedy_documents},
               {"greedy_tokens", result.greedy_tokens},
               {"sinks", result.sinks},
               {"last", result.last},
               {"full_bytes", result.full_bytes},
               {"layers", result.layers},
               {"evicting_layers", result.evicting_layers},
               {"evicting_bytes", result.evicting_bytes},
               {"refused", result.refused},
               {"seconds", result.seconds},
               {"at_equal_loss", EqualLossJson(result)},
               {"arms", Json::array()}};
  for (const ArmSummary& s : result.arms) {
    json["arms"].push_back({{"method", s.arm.method},
                            {"budget", s.arm.budget},
                            {"budget_entries", s.arm.entries},
                            {"spec", s.arm.spec},
                            {"text", FidelityJson(s.text)},
                            {"greedy", FidelityJson(s.greedy)},
                            {"entries", s.entries},
                            {"private_bytes", s.private_bytes},
                            {"resident_bytes", s.resident_bytes},
                            {"peak_bytes", s.alone.peak_bytes},
                            {"prompt_ms", s.alone.prompt_ms},
                            {"tokens_per_s", s.alone.tokens_per_s},
                            {"method_ms", s.method_ms},
                            {"layers", Json::array()}});
    for (const LayerEntries& layer : s.layers) {
      json["arms"].back()["layers"].push_back({{"entries", layer.mean}, {"variation", layer.variation}});
    }
  }
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::string MethodsHtml(const MethodsResult& result) {
  std::string html = HtmlHead("Cache methods on " + result.model);
  html += fmt::format(
      "<p>Each of {} documents has a prompt of {} tokens. Every method keeps only part of what the model has "
      "cached about it, or keeps it in fewer bits, and the {} tokens that follow are read with what is left. "
      "The divergence (KL) tells how far the predictions are from those with the full cache: 0 is no "
      "difference, and lower is better at the same bytes. Eviction methods all keep the first {} and the "
      "newest "
      "{} tokens unless their name says otherwise. Budgets in parentheses are entries that were chosen so "
      "that "
      "all methods of a budget have equally many pages of 64, with room for the next token. Bars are 95 % of "
      "1,000 draws of the documents, and so are the errors of differences between two methods, which are "
      "taken "
      "document by document. "
      "<em>oracle</em> knows what will be looked at, and is the bound of methods that choose once.</p>\n",
      result.documents, result.prompt_tokens, result.scored_tokens, result.sinks, result.last);
  if (result.evicting_layers < result.layers) html += "<p>Windows: " + WindowsNote(result) + ".</p>\n";
  html += fmt::format("<p>{}</p>\n", EscapeHtml(RefusalLines(result.refused)));
  if (std::ranges::count(result.bases, kParts) > 0) {
    html +=
        "<p>A method with a codec behind @: full pages of what it has left become codes, and later ones when "
        "they are full. <em>Its parts</em> are the method and the codec alone, added up.</p>\n";
  }
  html += "<h2>On the text that really follows</h2>\n" + PlotSvg(PlotOf(result, &ArmSummary::text));
  html += fmt::format(
      "<h2>On what the full cache would write</h2><p>The full cache's own choices, cut where 16 tokens "
      "repeat "
      "earlier ones: {:.0f} tokens in each of {} documents.</p>\n",
      result.greedy_tokens, result.greedy_documents);
  if (result.greedy_documents > 0) html += PlotSvg(PlotOf(result, &ArmSummary::greedy));
  html += Table(result) + EqualLossTable(result);
  html += fmt::format(
      "<p>Bytes are of pages and tables that the allocator counted when scoring began, beside the full "
      "cache's {} bytes at the prompt's end. <em>By itself</em>: the first document alone, computed from its "
      "first token and continued token by token; the peak is the most that was held on the way. Made by "
      "<code>{}</code>, weights <code>{}</code>.</p>",
      result.full_bytes, EscapeHtml(result.command), result.weights);
  return html + "</html>";
}

}  // namespace larder
