#include "larder/bench_figures.h"

#include <fmt/core.h>

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "base/params.h"
#include "compute/probe.h"

namespace larder {
namespace {

using Json = nlohmann::ordered_json;

// A label that is a number stays one.
Json LabelValue(const std::string& text) {
  const auto number = ParseNumbers(text, 0, int64_t{1} << 40);
  return number && number->size() == 1 ? Json(number->front()) : Json(text);
}

std::string Cell(const FigureValue& value) {
  if (value.single) return fmt::format("{:.{}f}", value.spread.median, value.digits);
  return fmt::format("{:.{}f} ({:.{}f}..{:.{}f})", value.spread.median, value.digits, value.spread.min,
                     value.digits, value.spread.max, value.digits);
}

}  // namespace

Result<std::vector<int64_t>> BenchSettings::Lengths(const std::string& otherwise, int64_t context,
                                                    int64_t reserve) const {
  std::string text = lengths.empty() ? otherwise : lengths;
  constexpr int64_t kFarEnough = 8192;  // further, a measurement takes minutes
  const std::string end = std::to_string(std::max<int64_t>(1, std::min(context, kFarEnough) - reserve));
  for (size_t at; (at = text.find("end")) != std::string::npos;) text.replace(at, 3, end);
  return ParseNumbers(text, 1, 1 << 24);
}

FigureValue RateOf(std::string name, const std::vector<double>& seconds, double amount, int digits) {
  const Spread time = SpreadOf(seconds);  // the most time is the least speed
  return {std::move(name), {amount / time.median, amount / time.max, amount / time.min}, digits};
}

FigureValue SpreadValue(std::string name, std::vector<double> samples, int digits) {
  return {std::move(name), SpreadOf(std::move(samples)), digits};
}

FigureValue SingleValue(std::string name, double value, int digits) {
  return {std::move(name), {value, value, value}, digits, true};
}

FigureReport BeginReport(std::string what, const Model& model, const BenchSettings& settings) {
  FigureReport report;
  report.what = std::move(what);
  report.model = model.name();
  report.weights = model.weights_digest().Hex().substr(0, 16) + ", " + FormatSize(model.weight_bytes());
  report.simd = SimdTargetName();
  report.math = settings.flags.math;
  report.kv_type = settings.flags.kv_type;
  report.rounds = settings.rounds;
  return report;
}

void FigureReport::Print(bool json) const { json ? PrintJson() : PrintTable(); }

void FigureReport::PrintTable() const {
  if (model.empty()) {
    fmt::print("{}: {}\n", what, subject);
  } else {
    fmt::print("{}: {}, {} threads, {}, math {}, cache {}, weights {}\n", what, model, threads, simd, math,
               kv_type, weights);
  }
  if (has_roofline)
    fmt::print("this machine: reads {:.1f} GB/s, {:.0f} GMAC/s in bytes, {:.0f} GMAC/s in floats\n",
               roofline.read_gb_per_s, roofline.byte_gmac_per_s, roofline.float_gmac_per_s);
  fmt::print("medians of {} interleaved rounds\n\n", rounds);
  // Columns are as wide as their widest cell; labels stand left, values right.
  std::vector<std::vector<std::string>> lines(1);
  if (!rows.empty()) {
    for (const auto& [name, text] : rows[0].labels) lines[0].push_back(name);
    for (const FigureValue& value : rows[0].values) lines[0].push_back(value.name);
  }
  for (const FigureRow& row : rows) {
    auto& line = lines.emplace_back();
    for (const auto& [name, text] : row.labels) line.push_back(text);
    for (const FigureValue& value : row.values) line.push_back(Cell(value));
  }
  std::vector<size_t> widths(lines[0].size());
  for (const auto& line : lines)
    for (size_t c = 0; c < line.size(); ++c) widths[c] = std::max(widths[c], line[c].size());
  const size_t labels = rows.empty() ? 0 : rows[0].labels.size();
  for (const auto& line : lines) {
    std::string out;
    for (size_t c = 0; c < line.size(); ++c)
      out += c < labels ? fmt::format("{:<{}}  ", line[c], widths[c])
                        : fmt::format("{:>{}}  ", line[c], widths[c]);
    fmt::print("{}\n", out.substr(0, out.find_last_not_of(' ') + 1));
  }
  if (!note.empty()) fmt::print("\n{}\n", note);
  fmt::print("repeat: {}\n", ProgramCommandLine());
  std::fflush(stdout);
  const auto disturbed = std::ranges::count_if(rows, [](const FigureRow& r) { return !r.warning.empty(); });
  const auto first = std::ranges::find_if(rows, [](const FigureRow& r) { return !r.warning.empty(); });
  if (first != rows.end())
    fmt::print(stderr, "warning: {} of {} rows were disturbed: {}\n", disturbed, rows.size(), first->warning);
}

void FigureReport::PrintJson() const {
  for (const FigureRow& row : rows) {
    Json line = {{"bench", what}};
    if (model.empty()) {
      line["subject"] = subject;
    } else {
      line.update({{"model", model},
                   {"weights", weights},
                   {"simd", simd},
                   {"threads", threads},
                   {"math", math},
                   {"kv_type", kv_type}});
    }
    line["rounds"] = rounds;
    for (const auto& [name, text] : row.labels) line[name] = LabelValue(text);
    for (const FigureValue& v : row.values) {
      if (v.single) {
        line[v.name] = v.spread.median;
      } else {
        line[v.name] = Json{{"median", v.spread.median}, {"min", v.spread.min}, {"max", v.spread.max}};
      }
    }
    if (has_roofline)
      line["machine"] = {{"read_gb_per_s", roofline.read_gb_per_s},
                         {"byte_gmac_per_s", roofline.byte_gmac_per_s},
                         {"float_gmac_per_s", roofline.float_gmac_per_s}};
    line["warning"] = row.warning;
    line["command"] = ProgramCommandLine();
    fmt::print("{}\n", line.dump(-1, ' ', false, Json::error_handler_t::replace));
  }
  std::fflush(stdout);
}

}  // namespace larder
