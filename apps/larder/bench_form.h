// What the comparisons of larder eval have in common: the arms, and how much is measured.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/params.h"
#include "larder/arm.h"
#include "larder/model_flags.h"

namespace larder {

// How long a comparison runs: quick is for tests, full takes less than an hour on two cores, nightly does
// not. Each comparison has a table of its own, one line a form.
inline constexpr std::string_view kForms[] = {"quick", "full", "nightly"};
template <typename Form>
const Form& FormOf(const Form (&table)[std::size(kForms)], std::string_view form) {
  for (size_t i = 0; i + 1 < std::size(kForms); ++i) {
    if (form == kForms[i]) return table[i];
  }
  return table[std::size(kForms) - 1];
}

struct BenchFlags {
  std::string methods, budgets, report, form = "full";
  int64_t sinks = 4, last = 32;

  void Declare(Params& params);
};

// The model whose full cache the arms are held against: rows, no codec.
Result<std::unique_ptr<Model>> LoadBase(const ModelFlags& flags);
// The model again, once for each codec of the arms. Packed weights are mapped and shared.
Result<std::vector<std::unique_ptr<Model>>> LoadCodecs(const ModelFlags& flags, const std::vector<Arm>& arms);

// A line each: "not measured: lacache: ...".
std::string RefusalLines(const Refusals& refused);

// Text to standard output ("-") or into a file.
Status WriteText(const std::string& where, const std::string& text);

// The values that 95 % of the means of kDraws draws of as many values lie between; the same draws each time,
// so that arms are compared on the same texts. At least one value.
struct Interval {
  double low = 0, high = 0;
};
Interval Bootstrap(const std::vector<double>& values);

// The mean of a - b over the same texts. As many values in both, at least one.
struct Estimate {
  double mean = 0;
  Interval interval;
};
Estimate PairedDifference(const std::vector<double>& a, const std::vector<double>& b);
// The sum of `a` over that of `b`; both are drawn together.
Estimate PairedRatio(const std::vector<double>& a, const std::vector<double>& b);

}  // namespace larder
