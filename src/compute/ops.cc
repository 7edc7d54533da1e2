#include "compute/ops.h"

#include <cmath>

#include "compute/scalar_math.h"
#include "compute/simd_targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "compute/ops.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"

#include "compute/simd_ops-inl.h"

HWY_BEFORE_NAMESPACE();
namespace larder {
namespace HWY_NAMESPACE {
namespace {

// What does not fill 16 lanes is done one value at a time: the same operations, hence the same bits.
constexpr int64_t kStep = 16;
HWY_INLINE int64_t WholeSteps(int64_t n) { return n / kStep * kStep; }

// Adds the last, partial step to the 16 partial sums: element i belongs to sum i mod 16.
template <class Term>
HWY_INLINE float FinishSum(F16x sums, int64_t from, int64_t n, Term add_to) {
  HWY_ALIGN float partial[16];
  Store(sums, partial);
  for (int64_t i = from; i < n; ++i) partial[i - from] = add_to(i, partial[i - from]);
  return SumTree(partial);
}

void RmsNormOnTarget(const float* x, const float* weight, float eps, int64_t n, float* out) {
  const int64_t whole = WholeSteps(n);
  F16x squares = Zero();
  for (int64_t i = 0; i < whole; i += kStep) {
    const F16x v = Load(x + i);
    squares = Fma(v, v, squares);
  }
  const float sum =
      FinishSum(squares, whole, n, [&](int64_t i, float s) HWY_ATTR { return std::fma(x[i], x[i], s); });
  const float factor = 1.0f / std::sqrt(sum / static_cast<float>(n) + eps);
  const F16x factors = Splat(factor);
  for (int64_t i = 0; i < whole; i += kStep) Store(Mul(Mul(Load(x + i), factors), Load(weight + i)), out + i);
  for (int64_t i = whole; i < n; ++i) out[i] = x[i] * factor * weight[i];
}

void RotateOnTarget(float* x, int heads, int head_dim, int rotary_dim, const float* cosines,
                    const float* sines) {
  const int64_t half = rotary_dim / 2;
  const int64_t whole = WholeSteps(half);
  for (int head = 0; head < heads; ++head) {
    float* first = x + static_cast<int64_t>(head) * head_dim;
    float* second = first + half;
    for (int64_t i = 0; i < whole; i += kStep) {
      const F16x a = Load(first + i), b = Load(second + i), c = Load(cosines + i), s = Load(sines + i);
      Store(Fma(a, c, Negate(Mul(b, s))), first + i);
      Store(Fma(b, c, Mul(a, s)), second + i);
    }
    for (int64_t i = whole; i < half; ++i) {
      const float a = first[i], b = second[i];
      first[i] = std::fma(a, cosines[i], -(b * sines[i]));
      second[i] = std::fma(b, cosines[i], a * sines[i]);
    }
  }
}

HWY_INLINE F16x Logistic(F16x x, F16x negative_exponent) {
  return Div(x, Add(Splat(1.0f), Exp(negative_exponent)));
}

void SiluMulOnTarget(float* gate, const float* up, int64_t n) {
  const int64_t whole = WholeSteps(n);
  for (int64_t i = 0; i < whole; i += kStep) {
    const F16x x = Load(gate + i);
    Store(Mul(Logistic(x, Negate(x)), Load(up + i)), gate + i);
  }
  for (int64_t i = whole; i < n; ++i) gate[i] = ScalarSilu(gate[i]) * up[i];
}

void GeluMulOnTarget(float* gate, const float* up, int64_t n) {
  const int64_t whole = WholeSteps(n);
  for (int64_t i = 0; i < whole; i += kStep) {
    const F16x x = Load(gate + i);
    const F16x inner = Fma(Splat(kGeluCubic), Mul(x, x), Splat(kGeluLinear));
    Store(Mul(Logistic(x, Mul(inner, x)), Load(up + i)), gate + i);
  }
  for (int64_t i = whole; i < n; ++i) gate[i] = ScalarGelu(gate[i]) * up[i];
}

void AddToOnTarget(float* x, const float* y, int64_t n) {
  const int64_t whole = WholeSteps(n);
  for (int64_t i = 0; i < whole; i += kStep) Store(Add(Load(x + i), Load(y + i)), x + i);
  for (int64_t i = whole; i < n; ++i) x[i] += y[i];
}

void ScaleOnTarget(float* x, float factor, int64_t n) {
  const int64_t whole = WholeSteps(n);
  const F16x factors = Splat(factor);
  for (int64_t i = 0; i < whole; i += kStep) Store(Mul(Load(x + i), factors), x + i);
  for (int64_t i = whole; i < n; ++i) x[i] *= factor;
}

// The largest value; which of two equal ones is no matter.
float LargestOnTarget(const float* x, int64_t n) {
  const int64_t whole = WholeSteps(n);
  F16x lanes = Splat(x[0]);
  for (int64_t i = 0; i < whole; i += kStep) lanes = Larger(Load(x + i), lanes);
  HWY_ALIGN float each[16];
  Store(lanes, each);
  float largest = each[0];
  for (float value : each) largest = value > largest ? value : largest;
  for (int64_t i = whole; i < n; ++i) largest = x[i] > largest ? x[i] : largest;
  return largest;
}

float SumOfExpOnTarget(const float* x, float largest, int64_t n) {
  const int64_t whole = WholeSteps(n);
  const F16x shift = Splat(largest);
  F16x sums = Zero();
  for (int64_t i = 0; i < whole; i += kStep) sums = Add(sums, Exp(Sub(Load(x + i), shift)));
  return FinishSum(sums, whole, n,
                   [&](int64_t i, float s) HWY_ATTR { return s + ScalarExp(x[i] - largest); });
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace larder
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace larder {

HWY_EXPORT(RmsNormOnTarget);
HWY_EXPORT(RotateOnTarget);
HWY_EXPORT(SiluMulOnTarget);
HWY_EXPORT(GeluMulOnTarget);
HWY_EXPORT(AddToOnTarget);
HWY_EXPORT(ScaleOnTarget);
HWY_EXPORT(LargestOnTarget);
HWY_EXPORT(SumOfExpOnTarget);

void RmsNorm(const float* x, const float* weight, float eps, int64_t n, float* out) {
  HWY_DYNAMIC_DISPATCH(RmsNormOnTarget)(x, weight, eps, n, out);
}

void Rotate(float* x, int heads, int head_dim, int rotary_dim, const float* cosines, const float* sines) {
  HWY_DYNAMIC_DISPATCH(RotateOnTarget)(x, heads, head_dim, rotary_dim, cosines, sines);
}

void SiluMul(float* gate, const float* up, int64_t n) { HWY_DYNAMIC_DISPATCH(SiluMulOnTarget)(gate, up, n); }
void GeluMul(float* gate, const float* up, int64_t n) { HWY_DYNAMIC_DISPATCH(GeluMulOnTarget)(gate, up, n); }
void AddTo(float* x, const float* y, int64_t n) { HWY_DYNAMIC_DISPATCH(AddToOnTarget)(x, y, n); }
void Scale(float* x, float factor, int64_t n) { HWY_DYNAMIC_DISPATCH(ScaleOnTarget)(x, factor, n); }

int64_t ArgMax(const float* x, int64_t n) {
  const float largest = HWY_DYNAMIC_DISPATCH(LargestOnTarget)(x, n);
  for (int64_t i = 0; i < n; ++i) {
    if (x[i] == largest) return i;
  }
  return 0;  // x[0] is a NaN, and nothing is larger than that
}

float LogSumExp(const float* x, int64_t n) {
  const float largest = HWY_DYNAMIC_DISPATCH(LargestOnTarget)(x, n);
  if (std::isinf(largest)) return largest;  // all -inf, or one +inf
  return largest + ScalarLog(HWY_DYNAMIC_DISPATCH(SumOfExpOnTarget)(x, largest, n));
}

}  // namespace larder
#endif
