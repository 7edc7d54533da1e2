// Figures of any kind with their spread: a table for people, a line of JSON for each row.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "compute/roofline.h"
#include "larder/bench_settings.h"
#include "larder/measure.h"

namespace larder {

// Times of the same piece of work, and who else computed meanwhile.
struct TimedWork {
  explicit TimedWork(int threads) : busy(threads) {}
  std::vector<double> seconds;
  BusyWatch busy;

  double Median() const { return SpreadOf(seconds).median; }
};

// Runs work() and adds its time; not where `keep` is false (a round that warms).
template <class Work>
void AddTimed(TimedWork& to, bool keep, const Work& work) {
  const double busy = SystemBusySeconds();
  const Stopwatch watch;
  work();
  const double wall = watch.WallSeconds(), cpu = watch.CpuSeconds();
  if (!keep) return;
  to.seconds.push_back(wall);
  to.busy.Add(wall, cpu, SystemBusySeconds() - busy);
}

struct FigureValue {
  std::string name;  // with its unit: "gmac_per_s"
  Spread spread;
  int digits = 1;
  bool single = false;  // derived from medians: a number without a spread
};

// How much of `amount` is done a second.
FigureValue RateOf(std::string name, const std::vector<double>& seconds, double amount, int digits = 1);
FigureValue SpreadValue(std::string name, std::vector<double> samples, int digits = 1);
FigureValue SingleValue(std::string name, double value, int digits = 2);

struct FigureRow {
  std::vector<std::pair<std::string, std::string>> labels;  // the same names in all rows of a report
  std::vector<FigureValue> values;                          // likewise
  std::string warning;                                      // why they are not to be trusted, or ""
};

struct FigureReport {
  std::string what, model, weights, simd, math, kv_type;
  std::string subject;  // what was measured, where no model is
  int threads = 0;
  int64_t rounds = 0;
  bool has_roofline = false;
  Roofline roofline;
  std::string note;  // what the columns mean
  std::vector<FigureRow> rows;

  void Print(bool json) const;

 private:
  void PrintTable() const;
  void PrintJson() const;
};

// Everything of the head but the roofline.
FigureReport BeginReport(std::string what, const Model& model, const BenchSettings& settings);

}  // namespace larder
