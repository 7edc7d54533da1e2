#include "larder/bench_form.h"

#include <cstdio>
#include <numeric>
#include <random>

#include <fmt/format.h>

#include "base/file.h"
#include "larder/scoring.h"

namespace larder {

void BenchFlags::Declare(Params& params) {
  params.Choice(
      "form", &form, {"quick", "full", "nightly"},
      "methods, tasks, stream: how much is measured where nothing else is said; quick: seconds with a "
      "tiny model, full: less than an hour on two cores");
  params.String("methods", &methods,
                "methods, tasks, stream: which, each with parameters of its own if it needs them, joined by "
                "'+': snapkv:window=16+kernel=5; codecs as --kv-type has them; snapkv@q4_0: both, full "
                "pages of what the method has left become codes; oracle knows what will be looked at; full; "
                "empty: those of the form");
  params.String("budgets", &budgets,
                "methods, tasks, stream: shares of the prompt, entries of a lane, or bytes; empty: those of "
                "the form");
  params.Int("sinks", &sinks, 0, 1 << 16, "methods, tasks: first tokens that every arm keeps");
  params.Int("last", &last, 0, 1 << 16, "methods, tasks: newest tokens that every arm keeps");
  params.String("report", &report, "methods, tasks: a page with plots, into this file");
}

Result<std::unique_ptr<Model>> LoadBase(const ModelFlags& flags) {
  if (flags.kv_type != "f16" && flags.kv_type != "f32") {
    return Fail(
        ErrorKind::kUnsupported,
        "methods are compared with a full cache of rows; leave --kv-type {} out, and name the codec in "
        "--methods",
        flags.kv_type);
  }
  return flags.Load();
}

Result<std::vector<std::unique_ptr<Model>>> LoadCodecs(const ModelFlags& flags,
                                                       const std::vector<Arm>& arms) {
  std::vector<std::unique_ptr<Model>> models;
  for (const std::string& codec : CodecsOf(arms)) {
    LARDER_ASSIGN(auto model, flags.LoadAs(flags.math, codec));
    models.push_back(std::move(model));
  }
  return models;
}

std::string RefusalLines(const Refusals& refused) {
  std::string lines;
  for (const auto& [method, reason] : refused) lines += fmt::format("not measured: {}: {}\n", method, reason);
  return lines;
}

Status WriteText(const std::string& where, const std::string& text) {
  if (where != "-") return WriteFileAtomically(where, text + "\n");
  fmt::print("{}\n", text);
  return {};
}

namespace {

// `of` makes a figure of the texts that were drawn.
template <typename Of>
Interval IntervalOf(size_t texts, const Of& of) {
  constexpr int kDraws = 1000;
  std::mt19937 random(1);
  std::vector<double> draws;
  std::vector<size_t> drawn(texts);
  for (int i = 0; i < kDraws; ++i) {
    for (size_t& text : drawn) text = random() % texts;
    draws.push_back(of(drawn));
  }
  return {Quantile(draws, 0.025), Quantile(draws, 0.975)};
}

double SumOf(const std::vector<double>& values, const std::vector<size_t>& drawn) {
  double sum = 0;
  for (const size_t text : drawn) sum += values[text];
  return sum;
}

}  // namespace

Interval Bootstrap(const std::vector<double>& values) {
  return IntervalOf(values.size(), [&](const std::vector<size_t>& drawn) {
    return SumOf(values, drawn) / static_cast<double>(drawn.size());
  });
}

Estimate PairedDifference(const std::vector<double>& a, const std::vector<double>& b) {
  LARDER_CHECK(a.size() == b.size());
  std::vector<double> differences;
  for (size_t i = 0; i < a.size(); ++i) differences.push_back(a[i] - b[i]);
  return {MeanOf(differences).mean, Bootstrap(differences)};
}

Estimate PairedRatio(const std::vector<double>& a, const std::vector<double>& b) {
  LARDER_CHECK(a.size() == b.size());
  const auto ratio = [&](const std::vector<size_t>& drawn) { return SumOf(a, drawn) / SumOf(b, drawn); };
  std::vector<size_t> all(a.size());
  std::iota(all.begin(), all.end(), size_t{0});
  return {ratio(all), IntervalOf(a.size(), ratio)};
}

}  // namespace larder
