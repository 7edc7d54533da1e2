// Sixteen floats as one value, whatever the vector width, with exactly rounded operations only: the building
// block of every kernel, so that kernels are written once and give the same bits on every target. (Highway's
// own MulAdd is not fused on targets without the instruction; here it always is.)
//
// No include guard in the usual sense: compiled once per target.
#if defined(LARDER_COMPUTE_SIMD_OPS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LARDER_COMPUTE_SIMD_OPS_INL_H_
#undef LARDER_COMPUTE_SIMD_OPS_INL_H_
#else
#define LARDER_COMPUTE_SIMD_OPS_INL_H_
#endif

#include <cmath>
#include <cstddef>
#include <cstdint>

#include "compute/half.h"
#include "compute/scalar_math.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace larder {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

#if HWY_TARGET == HWY_SCALAR || HWY_TARGET == HWY_EMU128

// Plain arrays: no vectors, or none with a fused multiply-add.
struct F16x {
  float v[16];
};

#define LARDER_EACH_LANE(expression)                    \
  F16x out;                                             \
  for (int i = 0; i < 16; ++i) out.v[i] = (expression); \
  return out

HWY_INLINE F16x Splat(float x) { LARDER_EACH_LANE(x); }
HWY_INLINE F16x Load(const float* p) { LARDER_EACH_LANE(p[i]); }
HWY_INLINE F16x LoadHalf(const uint16_t* p) { LARDER_EACH_LANE(HalfToFloat(p[i])); }
HWY_INLINE F16x Add(F16x a, F16x b) { LARDER_EACH_LANE(a.v[i] + b.v[i]); }
HWY_INLINE F16x Sub(F16x a, F16x b) { LARDER_EACH_LANE(a.v[i] - b.v[i]); }
HWY_INLINE F16x Mul(F16x a, F16x b) { LARDER_EACH_LANE(a.v[i] * b.v[i]); }
HWY_INLINE F16x Div(F16x a, F16x b) { LARDER_EACH_LANE(a.v[i] / b.v[i]); }
HWY_INLINE F16x Fma(F16x a, F16x b, F16x c) { LARDER_EACH_LANE(std::fma(a.v[i], b.v[i], c.v[i])); }
HWY_INLINE F16x Negate(F16x a) { LARDER_EACH_LANE(-a.v[i]); }
HWY_INLINE F16x Larger(F16x a, F16x b) { LARDER_EACH_LANE(a.v[i] > b.v[i] ? a.v[i] : b.v[i]); }
HWY_INLINE F16x Exp(F16x x) { LARDER_EACH_LANE(ScalarExp(x.v[i])); }
HWY_INLINE F16x Exp2(F16x x) { LARDER_EACH_LANE(ScalarExp2(x.v[i])); }
HWY_INLINE F16x SelectBits(uint16_t bits, F16x yes, F16x no) {
  LARDER_EACH_LANE((bits >> i & 1) ? yes.v[i] : no.v[i]);
}
#undef LARDER_EACH_LANE

HWY_INLINE void Store(F16x a, float* p) {
  for (int i = 0; i < 16; ++i) p[i] = a.v[i];
}
HWY_INLINE void StoreHalf(F16x a, uint16_t* p) {
  for (int i = 0; i < 16; ++i) p[i] = FloatToHalf(a.v[i]);
}

#else

using DF = hn::CappedTag<float, 16>;
using DU = hn::RebindToUnsigned<DF>;
using DH = hn::Rebind<hwy::float16_t, DF>;
inline constexpr size_t kLanes = HWY_MAX_BYTES / sizeof(float) < 16 ? HWY_MAX_BYTES / sizeof(float) : 16;
inline constexpr size_t kParts = 16 / kLanes;

struct F16x {
  hn::Vec<DF> v[kParts];
};

#define LARDER_EACH_PART(expression)                           \
  const DF df;                                                 \
  (void)df;                                                    \
  F16x out;                                                    \
  HWY_UNROLL(4)                                                \
  for (size_t i = 0; i < kParts; ++i) out.v[i] = (expression); \
  return out

HWY_INLINE F16x Splat(float x) { LARDER_EACH_PART(hn::Set(df, x)); }
HWY_INLINE F16x Load(const float* p) { LARDER_EACH_PART(hn::LoadU(df, p + i * kLanes)); }
HWY_INLINE F16x LoadHalf(const uint16_t* p) {
  LARDER_EACH_PART(
      hn::PromoteTo(df, hn::LoadU(DH(), reinterpret_cast<const hwy::float16_t*>(p) + i * kLanes)));
}
HWY_INLINE F16x Add(F16x a, F16x b) { LARDER_EACH_PART(hn::Add(a.v[i], b.v[i])); }
HWY_INLINE F16x Sub(F16x a, F16x b) { LARDER_EACH_PART(hn::Sub(a.v[i], b.v[i])); }
HWY_INLINE F16x Mul(F16x a, F16x b) { LARDER_EACH_PART(hn::Mul(a.v[i], b.v[i])); }
HWY_INLINE F16x Div(F16x a, F16x b) { LARDER_EACH_PART(hn::Div(a.v[i], b.v[i])); }
HWY_INLINE F16x Fma(F16x a, F16x b, F16x c) { LARDER_EACH_PART(hn::MulAdd(a.v[i], b.v[i], c.v[i])); }
HWY_INLINE F16x Negate(F16x a) { LARDER_EACH_PART(hn::Neg(a.v[i])); }
// a > b ? a : b, also where one is a NaN.
HWY_INLINE F16x Larger(F16x a, F16x b) {
#if HWY_ARCH_X86
  LARDER_EACH_PART(hn::Max(a.v[i], b.v[i]));  // of a pair with a NaN, this instruction takes the second
#else
  LARDER_EACH_PART(hn::IfThenElse(hn::Gt(a.v[i], b.v[i]), a.v[i], b.v[i]));
#endif
}
// Lane i from `yes` where bit i is set.
HWY_INLINE F16x SelectBits(uint16_t bits, F16x yes, F16x no) {
  const DU du;
  const auto lane_bits = hn::Shl(hn::Set(du, 1u), hn::Iota(du, 0));
  LARDER_EACH_PART(hn::IfThenElse(
      hn::RebindMask(df, hn::TestBit(hn::Set(du, static_cast<uint32_t>(bits) >> (i * kLanes)), lane_bits)),
      yes.v[i], no.v[i]));
}

// ScalarExp, lane by lane.
HWY_INLINE hn::Vec<DF> ExpPart(hn::Vec<DF> x) {
  const DF df;
  const DU du;
  const auto low = hn::Set(df, kExpLow);
  const auto high = hn::Set(df, kExpHigh);
  const auto one = hn::Set(df, 1.0f);
  const auto vanishes = hn::Lt(x, low);
  x = hn::IfThenElse(vanishes, low, x);
  x = hn::IfThenElse(hn::Gt(x, high), high, x);
  const auto magic = hn::Set(df, kRoundMagic);
  const auto shifted = hn::MulAdd(x, hn::Set(df, kLog2E), magic);
  const auto n = hn::Sub(shifted, magic);
  auto r = hn::MulAdd(n, hn::Set(df, -kLn2High), x);
  r = hn::MulAdd(n, hn::Set(df, -kLn2Low), r);
  auto p = hn::Set(df, kExp6);
  p = hn::MulAdd(p, r, hn::Set(df, kExp5));
  p = hn::MulAdd(p, r, hn::Set(df, kExp4));
  p = hn::MulAdd(p, r, hn::Set(df, kExp3));
  p = hn::MulAdd(p, r, hn::Set(df, kExp2));
  p = hn::MulAdd(p, r, one);
  p = hn::MulAdd(p, r, one);
  const auto power =
      hn::BitCast(df, hn::Add(hn::ShiftLeft<23>(hn::BitCast(du, shifted)), hn::Set(du, kOneBits)));
  return hn::IfThenZeroElse(vanishes, hn::Mul(p, power));
}
HWY_INLINE F16x Exp(F16x x) { LARDER_EACH_PART(ExpPart(x.v[i])); }

// ScalarExp2, lane by lane.
HWY_INLINE hn::Vec<DF> Exp2Part(hn::Vec<DF> x) {
  const DF df;
  const DU du;
  const auto magic = hn::Set(df, kRoundMagic);
  const auto shifted = hn::Add(x, magic);
  const auto r = hn::Sub(x, hn::Sub(shifted, magic));
  auto p = hn::Set(df, kPower5);
  p = hn::MulAdd(p, r, hn::Set(df, kPower4));
  p = hn::MulAdd(p, r, hn::Set(df, kPower3));
  p = hn::MulAdd(p, r, hn::Set(df, kPower2));
  p = hn::MulAdd(p, r, hn::Set(df, kPower1));
  p = hn::MulAdd(p, r, hn::Set(df, 1.0f));
  const auto power =
      hn::BitCast(df, hn::Add(hn::BitCast(du, p), hn::ShiftLeft<23>(hn::BitCast(du, shifted))));
  return hn::IfThenZeroElse(hn::Lt(x, hn::Set(df, kExp2Low)), power);
}
HWY_INLINE F16x Exp2(F16x x) { LARDER_EACH_PART(Exp2Part(x.v[i])); }
#undef LARDER_EACH_PART

HWY_INLINE void Store(F16x a, float* p) {
  HWY_UNROLL(4)
  for (size_t i = 0; i < kParts; ++i) hn::StoreU(a.v[i], DF(), p + i * kLanes);
}
HWY_INLINE void StoreHalf(F16x a, uint16_t* p) {
  HWY_UNROLL(4)
  for (size_t i = 0; i < kParts; ++i) {
    hn::StoreU(hn::DemoteTo(DH(), a.v[i]), DH(), reinterpret_cast<hwy::float16_t*>(p) + i * kLanes);
  }
}

#endif

HWY_INLINE F16x Zero() { return Splat(0.0f); }

#if HWY_TARGET == HWY_SCALAR || HWY_TARGET == HWY_EMU128

HWY_INLINE float SumLanes(F16x a) { return SumTree(a.v); }
HWY_INLINE float LargestLane(F16x a) {
  float largest = a.v[0];
  for (const float x : a.v) largest = x > largest ? x : largest;
  return largest;
}

#else

struct AddOp {
  template <class V>
  HWY_INLINE V operator()(V a, V b) const {
    return hn::Add(a, b);
  }
};
struct MaxOp {
  template <class V>
  HWY_INLINE V operator()(V a, V b) const {
    return hn::Max(a, b);
  }
};

// Sixteen lanes become one by halving, in the order of SumTree.
template <class Op, class V>
HWY_INLINE float Halve(Op op, V v) {
  using D = hn::DFromV<V>;
  if constexpr (hn::MaxLanes(D()) > 4) {
    const hn::Half<D> half;
    return Halve(op, op(hn::LowerHalf(half, v), hn::UpperHalf(half, v)));
  } else {
    v = op(v, hn::Shuffle1032(v));
    return hn::GetLane(op(v, hn::Shuffle2301(v)));
  }
}
template <class Op>
HWY_INLINE float Halve(Op op, F16x a) {
  HWY_UNROLL(2)
  for (size_t n = kParts / 2; n > 0; n /= 2) {
    for (size_t i = 0; i < n; ++i) a.v[i] = op(a.v[i], a.v[i + n]);
  }
  return Halve(op, a.v[0]);
}
HWY_INLINE float SumLanes(F16x a) { return Halve(AddOp(), a); }
// Of lanes that are no NaNs.
HWY_INLINE float LargestLane(F16x a) { return Halve(MaxOp(), a); }

#endif

}  // namespace HWY_NAMESPACE
}  // namespace larder
HWY_AFTER_NAMESPACE();

#endif
