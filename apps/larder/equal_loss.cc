#include "larder/equal_loss.h"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "larder/survey.h"

namespace larder {
namespace {

constexpr double kLeast = 1e-6;  // what is smaller is taken for this

struct Point {
  double bytes, kl, ms;
};

// What all budgets of a method were measured to take and to lose, the most bytes first.
std::vector<Point> PointsOf(const MethodsResult& result, const std::string& method) {
  std::vector<Point> points;
  for (const ArmSummary& s : result.arms) {
    if (s.arm.method != method) continue;
    points.push_back({s.resident_bytes / static_cast<double>(result.full_bytes),
                      std::max(kLeast, s.text.kl_mean),
                      s.alone.tokens_per_s > 0 ? 1e3 / s.alone.tokens_per_s : 0});
  }
  std::ranges::stable_sort(points, std::ranges::greater(), &Point::bytes);
  return points;
}

// The leaves and the memory classes of what the arm is made of, each once.
void Describe(const Arm& arm, EqualLoss& out) {
  const auto add = [](std::string& list, std::string_view word) {
    const auto words = LeavesOf(list);
    if (std::ranges::find(words, word) == words.end()) list += (list.empty() ? "" : " ") + std::string(word);
  };
  for (const MethodInfo& info : InfosOf(arm)) {
    for (const std::string_view leaf : LeavesOf(info.leaf)) add(out.leaf, leaf);
    add(out.memory, info.memory);
  }
}

}  // namespace

std::vector<EqualLoss> AtEqualLoss(const MethodsResult& result, double kl) {
  std::vector<EqualLoss> out;
  for (const ArmSummary& s : result.arms) {
    if (std::ranges::find(out, s.arm.method, &EqualLoss::method) != out.end()) continue;
    const std::vector<Point> points = PointsOf(result, s.arm.method);
    EqualLoss at{.method = s.arm.method};
    Describe(s.arm, at);
    // From the most bytes down, so that a lucky small budget behind a worse larger one does not count.
    const auto beyond = std::ranges::find_if(points, [&](const Point& p) { return p.kl > kl; });
    const Point& last = beyond == points.begin() ? *beyond : *(beyond - 1);
    at.bytes = last.bytes, at.kl = last.kl, at.ms_per_token = last.ms;
    if (beyond == points.end()) {
      at.reach = EqualLoss::Reach::kAtMost;
    } else if (beyond != points.begin()) {
      at.reach = EqualLoss::Reach::kBetween;
      const double part = std::log(kl / last.kl) / std::log(beyond->kl / last.kl);
      at.bytes = last.bytes * std::pow(beyond->bytes / last.bytes, part);
      at.kl = kl;
    }
    out.push_back(std::move(at));
  }
  return out;
}

std::string ShownBytes(const EqualLoss& at) {
  if (at.reach == EqualLoss::Reach::kBetween) return fmt::format("{:.0f} %", 100 * at.bytes);
  if (at.reach == EqualLoss::Reach::kAtMost) return fmt::format("at most {:.0f} %", 100 * at.bytes);
  return fmt::format("not reached: {:.4f} with {:.0f} %", at.kl, 100 * at.bytes);
}

}  // namespace larder
