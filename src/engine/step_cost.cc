#include <algorithm>
#include <cmath>
#include <utility>

#include "engine/scheduler.h"

namespace larder {
namespace {

constexpr double kDecay = 0.98;           // a step's weight halves after about 34 later ones
constexpr double kPairUnit = 1.0 / 1024;  // keeps the three features within a few orders of magnitude
constexpr double kRidge = 1e-6;

}  // namespace

void StepCost::Observe(int64_t rows, double row_context, double ms) {
  const std::array<double, 3> feature = {1.0, static_cast<double>(rows), row_context * kPairUnit};
  for (size_t i = 0; i < 3; ++i) {
    for (size_t j = 0; j < 3; ++j) normal_[i][j] = normal_[i][j] * kDecay + feature[i] * feature[j];
    moment_[i] = moment_[i] * kDecay + feature[i] * ms;
  }
  ++samples_;
  if (samples_ < 4) {
    per_row_ms_ = std::max(ms / static_cast<double>(rows), 1e-4);
  } else {
    Solve();
  }
}

// Gaussian elimination with pivoting on the ridge-regularised normal equations. Costs are never negative: a
// coefficient that comes out below zero is held at zero.
void StepCost::Solve() {
  auto a = normal_;
  auto b = moment_;
  for (size_t i = 0; i < 3; ++i) a[i][i] += kRidge * (1.0 + normal_[i][i]);
  for (size_t i = 0; i < 3; ++i) {
    size_t pivot = i;
    for (size_t r = i + 1; r < 3; ++r) {
      if (std::abs(a[r][i]) > std::abs(a[pivot][i])) pivot = r;
    }
    if (std::abs(a[pivot][i]) < 1e-12) return;
    std::swap(a[i], a[pivot]);
    std::swap(b[i], b[pivot]);
    for (size_t r = i + 1; r < 3; ++r) {
      const double factor = a[r][i] / a[i][i];
      for (size_t c = i; c < 3; ++c) a[r][c] -= factor * a[i][c];
      b[r] -= factor * b[i];
    }
  }
  std::array<double, 3> x{};
  for (size_t i = 3; i-- > 0;) {
    double sum = b[i];
    for (size_t c = i + 1; c < 3; ++c) sum -= a[i][c] * x[c];
    x[i] = sum / a[i][i];
  }
  fixed_ms_ = std::max(x[0], 0.0);
  per_row_ms_ = std::max(x[1], 1e-4);
  per_pair_ms_ = std::max(x[2], 0.0) * kPairUnit;
}

double StepCost::Predict(int64_t rows, double row_context) const {
  return rows == 0 ? 0.0 : fixed_ms_ + static_cast<double>(rows) * per_row_ms_ + row_context * per_pair_ms_;
}

int64_t StepCost::RowsWithin(double limit_ms, int64_t context, double other_ms, int64_t floor,
                             int64_t most) const {
  const auto cost = [&](int64_t rows) {
    const double n = static_cast<double>(rows);
    return other_ms + n * per_row_ms_ + n * (static_cast<double>(context) + n / 2) * per_pair_ms_;
  };
  int64_t low = std::min(floor, most), high = most;
  while (low < high) {
    const int64_t middle = (low + high + 1) / 2;
    if (cost(middle) <= limit_ms) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return low;
}

}  // namespace larder
