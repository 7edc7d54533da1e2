// The small operations, plainly.
#include <cmath>

#include "compute/ops.h"
#include "compute/scalar_math.h"

namespace larder::reference {

void RmsNorm(const float* x, const float* weight, float eps, int64_t n, float* out) {
  float partial[16] = {};
  for (int64_t i = 0; i < n; ++i) partial[i % 16] = std::fma(x[i], x[i], partial[i % 16]);
  const float factor = 1.0f / std::sqrt(SumTree(partial) / static_cast<float>(n) + eps);
  for (int64_t i = 0; i < n; ++i) out[i] = x[i] * factor * weight[i];
}

void Rotate(float* x, int heads, int head_dim, int rotary_dim, const float* cosines, const float* sines) {
  const int half = rotary_dim / 2;
  for (int head = 0; head < heads; ++head) {
    float* row = x + static_cast<int64_t>(head) * head_dim;
    for (int i = 0; i < half; ++i) {
      const float a = row[i], b = row[i + half];
      row[i] = std::fma(a, cosines[i], -(b * sines[i]));
      row[i + half] = std::fma(b, cosines[i], a * sines[i]);
    }
  }
}

void SiluMul(float* gate, const float* up, int64_t n) {
  for (int64_t i = 0; i < n; ++i) gate[i] = ScalarSilu(gate[i]) * up[i];
}

void GeluMul(float* gate, const float* up, int64_t n) {
  for (int64_t i = 0; i < n; ++i) gate[i] = ScalarGelu(gate[i]) * up[i];
}

float LogSumExp(const float* x, int64_t n) {
  float largest = x[0];
  for (int64_t i = 1; i < n; ++i) largest = x[i] > largest ? x[i] : largest;
  if (std::isinf(largest)) return largest;
  float partial[16] = {};
  for (int64_t i = 0; i < n; ++i) partial[i % 16] += ScalarExp(x[i] - largest);
  return largest + ScalarLog(SumTree(partial));
}

float Exp(float x) { return ScalarExp(x); }

}  // namespace larder::reference
