// The elementary functions of every kernel, one value at a time. The vector forms in simd_ops-inl.h do the
// same operations in the same order; each is exactly rounded, so both give the same bits on every machine.
// The library's expf and logf are not used: their last bit depends on the processor.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

namespace larder {

// exp(x) = 2^n * exp(r), n = round(x / ln 2), |r| <= ln 2 / 2. Below kExpLow the result is exactly 0; above
// kExpHigh it stays at exp(kExpHigh), a finite number. A NaN stays a NaN.
inline constexpr float kExpLow = -87.0f;
inline constexpr float kExpHigh = 88.37f;
inline constexpr float kLog2E = 0x1.715476p+0f;
inline constexpr float kLn2 = 0x1.62e430p-1f;
inline constexpr float kLn2High = 0x1.62e430p-1f;
inline constexpr float kLn2Low = -0x1.05c610p-29f;  // ln 2 - kLn2High
// Adding this rounds to an integer (to even) and leaves it in the low bits of the mantissa.
inline constexpr float kRoundMagic = 12582912.0f;  // 1.5 * 2^23
inline constexpr uint32_t kRoundMagicBits = 0x4B400000u;
inline constexpr uint32_t kOneBits = 0x3F800000u;
// exp(r) = 1 + r + r^2 (kExp2 + kExp3 r + ...): least largest relative error, 3e-9 before rounding.
inline constexpr float kExp2 = 0x1.fffffcp-2f;
inline constexpr float kExp3 = 0x1.555492p-3f;
inline constexpr float kExp4 = 0x1.5558f2p-5f;
inline constexpr float kExp5 = 0x1.123a20p-7f;
inline constexpr float kExp6 = 0x1.6a23cep-10f;

inline float ScalarExp(float x) {
  const bool vanishes = x < kExpLow;
  if (vanishes) x = kExpLow;
  if (x > kExpHigh) x = kExpHigh;
  const float shifted = std::fma(x, kLog2E, kRoundMagic);
  const float n = shifted - kRoundMagic;
  float r = std::fma(n, -kLn2High, x);
  r = std::fma(n, -kLn2Low, r);
  float p = kExp6;
  p = std::fma(p, r, kExp5);
  p = std::fma(p, r, kExp4);
  p = std::fma(p, r, kExp3);
  p = std::fma(p, r, kExp2);
  p = std::fma(p, r, 1.0f);
  p = std::fma(p, r, 1.0f);
  const float power = std::bit_cast<float>((std::bit_cast<uint32_t>(shifted) << 23) + kOneBits);
  return vanishes ? 0.0f : p * power;
}

// 2^x for x <= 0, what softmaxes need: 2^n * 2^r, n = round(x), |r| <= 1/2. Below kExp2Low the result is
// exactly 0; 2^0 is exactly 1. A NaN stays a NaN. Least largest relative error of the polynomial: 9e-8.
inline constexpr float kExp2Low = -125.0f;
inline constexpr float kPower1 = 0x1.62e42ap-1f;
inline constexpr float kPower2 = 0x1.ebf9c2p-3f;
inline constexpr float kPower3 = 0x1.c6b6dap-5f;
inline constexpr float kPower4 = 0x1.3ce8b2p-7f;
inline constexpr float kPower5 = 0x1.5bd97ap-10f;

inline float ScalarExp2(float x) {
  if (x < kExp2Low) return 0.0f;
  const float shifted = x + kRoundMagic;
  const float r = x - (shifted - kRoundMagic);
  float p = kPower5;
  p = std::fma(p, r, kPower4);
  p = std::fma(p, r, kPower3);
  p = std::fma(p, r, kPower2);
  p = std::fma(p, r, kPower1);
  p = std::fma(p, r, 1.0f);
  return std::bit_cast<float>(std::bit_cast<uint32_t>(p) + (std::bit_cast<uint32_t>(shifted) << 23));
}

// Natural logarithm, computed in double: x = m 2^e with m in [sqrt(1/2), sqrt(2)), log m = 2 atanh((m - 1) /
// (m + 1)).
inline float ScalarLog(float x) {
  if (std::isnan(x) || x < 0) return std::numeric_limits<float>::quiet_NaN();
  if (x == 0) return -std::numeric_limits<float>::infinity();
  if (std::isinf(x)) return x;
  int exponent;
  double m = std::frexp(static_cast<double>(x), &exponent);  // exact, in [1/2, 1)
  if (m < 0.70710678118654752) {
    m *= 2;
    --exponent;
  }
  const double f = (m - 1) / (m + 1);
  const double s = f * f;
  double p = 1.0 / 15;
  for (int odd = 13; odd >= 1; odd -= 2) p = p * s + 1.0 / odd;
  return static_cast<float>(2 * f * p + exponent * 0.69314718055994531);
}

inline float ScalarSilu(float x) { return x / (1.0f + ScalarExp(-x)); }

// gelu(x) = x / 2 (1 + tanh u) = x / (1 + exp(-2u)), u = sqrt(2 / pi) (x + 0.044715 x^3); the constants below
// are those of -2u.
inline constexpr float kGeluLinear = -1.5957691216057308f;
inline constexpr float kGeluCubic = -0.071354816272600774f;

inline float ScalarGelu(float x) {
  const float inner = std::fma(kGeluCubic, x * x, kGeluLinear);
  return x / (1.0f + ScalarExp(inner * x));
}

// The one order in which 16 partial sums become one.
inline float SumTree(const float* partial) {
  float s[8];
  for (int i = 0; i < 8; ++i) s[i] = partial[i] + partial[i + 8];
  for (int i = 0; i < 4; ++i) s[i] += s[i + 4];
  return (s[0] + s[2]) + (s[1] + s[3]);
}

}  // namespace larder
