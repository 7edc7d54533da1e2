// The outcome of a benchmark: a table for people, a line of JSON for each engine and point.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "compute/roofline.h"
#include "larder/bench_engine.h"

namespace larder {

// What Larder's own engines are called; those with another cache than the first have more behind it.
inline constexpr std::string_view kOwnEngine = "Larder";

// All rounds of one engine at one point.
struct BenchSeries {
  std::string engine;
  BenchPoint point;
  double macs = 0;
  std::vector<double> seconds;
  double bytes = 0;
  std::string note;
  BusyWatch busy;

  double TokensPerSecond(double s) const { return static_cast<double>(point.TokensProcessed()) / s; }
  double MedianSeconds() const { return SpreadOf(seconds).median; }
};

struct BenchReport {
  std::string what, model, weights, simd, math, kv_type;
  int threads = 0;
  int64_t rounds = 0;
  Roofline roofline;
  std::vector<BenchSeries> series;        // Larder's first at each point, then the peers'
  std::vector<std::string> not_measured;  // "llama.cpp: why"

  // Larder's speed over that of the fastest peer at the same point, and that of Larder with another cache
  // over Larder's; 0 without any.
  double RatioOf(const BenchSeries& one) const;
  // The time that the roofline allows over the time taken: the slower of reading the bytes and multiplying.
  double ShareOfRoofline(const BenchSeries& series) const;
  // A sentence about a busy machine; "" on a quiet one.
  std::string Warning() const;

  void PrintTable() const;
  void PrintJson() const;
};

}  // namespace larder
