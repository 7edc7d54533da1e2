#include "larder/bench_report.h"

#include <fmt/core.h>

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>

namespace larder {
namespace {

bool SamePoint(const BenchPoint& a, const BenchPoint& b) {
  return a.decode == b.decode && a.length == b.length && a.sequences == b.sequences;
}

}  // namespace

double BenchReport::RatioOf(const BenchSeries& one) const {
  const bool own = one.engine == kOwnEngine;
  if (!own && !one.engine.starts_with(kOwnEngine)) return 0;
  double best = 0;
  for (const BenchSeries& other : series) {
    const bool compared = own ? !other.engine.starts_with(kOwnEngine) : other.engine == kOwnEngine;
    if (compared && SamePoint(other.point, one.point))
      best = std::max(best, other.TokensPerSecond(other.MedianSeconds()));
  }
  return best > 0 ? one.TokensPerSecond(one.MedianSeconds()) / best : 0;
}

double BenchReport::ShareOfRoofline(const BenchSeries& s) const {
  const double allowed =
      std::max(s.bytes / (roofline.read_gb_per_s * 1e9), s.macs / (roofline.byte_gmac_per_s * 1e9));
  return allowed / s.MedianSeconds();
}

std::string BenchReport::Warning() const {
  size_t disturbed = 0;
  const BenchSeries* worst = nullptr;
  for (const BenchSeries& s : series) {
    if (s.busy.Warning().empty()) continue;
    ++disturbed;
    if (worst == nullptr || s.busy.others() > worst->busy.others()) worst = &s;
  }
  if (worst == nullptr) return "";
  return fmt::format("{} of {} rows were disturbed, most {} at {}: {}", disturbed, series.size(),
                     worst->engine, worst->point.length, worst->busy.Warning());
}

void BenchReport::PrintTable() const {
  fmt::print("{}: {}, {} threads, {}, math {}, cache {}, weights {}\n", what, model, threads, simd, math,
             kv_type, weights);
  fmt::print("this machine: reads {:.1f} GB/s, {:.0f} GMAC/s in bytes, {:.0f} GMAC/s in floats\n",
             roofline.read_gb_per_s, roofline.byte_gmac_per_s, roofline.float_gmac_per_s);
  fmt::print("medians of {} interleaved rounds\n\n", rounds);
  size_t width = 6;
  for (const BenchSeries& s : series) width = std::max(width, s.engine.size());
  fmt::print("{:>8} {:>5}  {:<{}} {:>9} {:>17} {:>9} {:>7} {:>8} {:>6} {:>7}\n", "context", "seqs", "engine",
             width, "tokens/s", "(min..max)", "ms", "GB/s", "GMAC/s", "roof", "ratio");
  for (const BenchSeries& s : series) {
    const Spread time = SpreadOf(s.seconds);
    const double ratio = RatioOf(s);
    fmt::print("{:>8} {:>5}  {:<{}} {:>9.1f} {:>17} {:>9.1f} {:>7.1f} {:>8.1f} {:>5.0f}% {:>7}\n",
               s.point.length, s.point.sequences, s.engine, width, s.TokensPerSecond(time.median),
               fmt::format("({:.1f}..{:.1f})", s.TokensPerSecond(time.max), s.TokensPerSecond(time.min)),
               time.median * 1e3, s.bytes / time.median * 1e-9, s.macs / time.median * 1e-9,
               100 * ShareOfRoofline(s), ratio > 0 ? fmt::format("{:.2f}x", ratio) : "");
  }
  for (const std::string& line : not_measured) fmt::print("not measured: {}\n", line);
  fmt::print(
      "\nroof: share of what reading those bytes and multiplying so often would allow here; ratio: to the "
      "fastest peer, with another cache\nto that with the first\n");
  fmt::print("repeat: {}\n", ProgramCommandLine());
  std::fflush(stdout);
  if (const std::string warning = Warning(); !warning.empty()) fmt::print(stderr, "warning: {}\n", warning);
}

void BenchReport::PrintJson() const {
  using Json = nlohmann::ordered_json;
  for (const BenchSeries& s : series) {
    const Spread time = SpreadOf(s.seconds);
    const auto spread = [&](auto&& value) {  // the most time is the least speed
      const double a = value(time.min), b = value(time.max);
      return Json{{"median", value(time.median)}, {"min", std::min(a, b)}, {"max", std::max(a, b)}};
    };
    const double ratio = RatioOf(s);
    const bool own = s.engine == kOwnEngine || !s.engine.starts_with(kOwnEngine);
    const Json line = {
        {"bench", what},
        {"engine", s.engine},
        {"note", s.note},
        {"model", model},
        {"weights", weights},
        {"simd", simd},
        {"threads", threads},
        {"math", math},
        {"kv_type", kv_type},
        {"sequences", s.point.sequences},
        {"length", s.point.length},
        {"rounds", s.seconds.size()},
        {"tokens_per_s", spread([&](double t) { return s.TokensPerSecond(t); })},
        {"ms", spread([](double t) { return t * 1e3; })},
        {"gb_per_s", spread([&](double t) { return s.bytes / t * 1e-9; })},
        {"gmac_per_s", spread([&](double t) { return s.macs / t * 1e-9; })},
        {"share_of_roofline", ShareOfRoofline(s)},
        {own ? "ratio_to_best_peer" : "ratio_to_first_cache", ratio > 0 ? Json(ratio) : Json()},
        {"machine",
         {{"read_gb_per_s", roofline.read_gb_per_s},
          {"byte_gmac_per_s", roofline.byte_gmac_per_s},
          {"float_gmac_per_s", roofline.float_gmac_per_s}}},
        {"cores_used", s.busy.cores()},
        {"cores_of_others", s.busy.others()},
        {"load_before", s.busy.load_before()},
        {"warning", s.busy.Warning()},
        {"command", ProgramCommandLine()}};
    fmt::print("{}\n", line.dump(-1, ' ', false, Json::error_handler_t::replace));
  }
}

}  // namespace larder
