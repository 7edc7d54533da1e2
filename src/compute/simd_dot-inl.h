// The multiplication that Highway 1.0 lacks: weight bytes times signed activation bytes, four at a time into
// 32 bits. Byte 4 o + i of a vector of codes belongs to output o and inner index i, so a register of codes
// has as many outputs as a register of floats. All sums are exact integers, so each target may take its own
// way:
//   AVX3_DL     vpdpbusd, one instruction for all of it; signed weights are offset by 128, which the start
//               value undoes
//   AVX3, AVX2  vpmaddubsw; a pair of 4-bit weights makes at most 2 * 15 * 127 = 3810, so a group of 32
//               is summed in 16 bits (eight pairs, 30480) and widened once; for signed weights the sign
//               moves to the activation
//   others      plain loops (vdot where the compiler may use it)
// 16-bit codes (kS16) come in pairs instead, four bytes as well: vpdpwssd, vpmaddwd.
#if defined(LARDER_COMPUTE_SIMD_DOT_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LARDER_COMPUTE_SIMD_DOT_INL_H_
#undef LARDER_COMPUTE_SIMD_DOT_INL_H_
#else
#define LARDER_COMPUTE_SIMD_DOT_INL_H_
#endif

#include <cstring>

#include "compute/formats.h"
#include "compute/packed.h"
#include "compute/simd_ops-inl.h"

#undef LARDER_DOT_X86
#if HWY_TARGET == HWY_AVX3_DL || HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX2
#define LARDER_DOT_X86 1
#else
#define LARDER_DOT_X86 0
#endif

HWY_BEFORE_NAMESPACE();
namespace larder {
namespace HWY_NAMESPACE {

// Of activations: four bytes or two 16-bit numbers.
HWY_INLINE int32_t LoadFour(const int8_t* x) {
  int32_t bits;
  std::memcpy(&bits, x, sizeof bits);
  return bits;
}

#if LARDER_DOT_X86

// The results of one register of codes.
using Outputs = hn::Vec<DF>;
inline constexpr int kRegisterOutputs = kLanes;
HWY_INLINE Outputs SplatOutputs(float x) { return hn::Set(DF(), x); }
HWY_INLINE Outputs LoadOutputs(const float* p) { return hn::LoadU(DF(), p); }
HWY_INLINE Outputs LoadHalfOutputs(const uint16_t* p) {
  return hn::PromoteTo(DF(), hn::LoadU(DH(), reinterpret_cast<const hwy::float16_t*>(p)));
}
HWY_INLINE void StoreOutputs(Outputs a, float* p) { hn::StoreU(a, DF(), p); }
HWY_INLINE Outputs Fma(Outputs a, Outputs b, Outputs c) { return hn::MulAdd(a, b, c); }
HWY_INLINE Outputs Mul(Outputs a, Outputs b) { return hn::Mul(a, b); }
HWY_INLINE Outputs Add(Outputs a, Outputs b) { return hn::Add(a, b); }

#if HWY_TARGET == HWY_AVX2
using Codes = __m256i;
HWY_INLINE Codes LoadCodes(const uint8_t* p) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
}
HWY_INLINE void StoreCodes(Codes a, uint8_t* p) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), a); }
HWY_INLINE Codes LowNibbles(Codes a) { return _mm256_and_si256(a, _mm256_set1_epi8(15)); }
HWY_INLINE Codes HighNibbles(Codes a) { return LowNibbles(_mm256_srli_epi16(a, 4)); }
HWY_INLINE Codes Offset128(Codes a) { return _mm256_xor_si256(a, _mm256_set1_epi8(-128)); }
HWY_INLINE Codes SplatInt(int32_t x) { return _mm256_set1_epi32(x); }
HWY_INLINE Codes MulPairs(Codes u, Codes s) { return _mm256_maddubs_epi16(u, s); }
HWY_INLINE Codes MulWords(Codes a, Codes b) { return _mm256_madd_epi16(a, b); }
HWY_INLINE Codes Widen(Codes a, int16_t by) { return MulWords(a, _mm256_set1_epi16(by)); }
HWY_INLINE Codes Add16(Codes a, Codes b) { return _mm256_add_epi16(a, b); }
HWY_INLINE Codes Add32(Codes a, Codes b) { return _mm256_add_epi32(a, b); }
HWY_INLINE Codes AbsBytes(Codes a) { return _mm256_abs_epi8(a); }
HWY_INLINE Codes WithSign(Codes x, Codes w) { return _mm256_sign_epi8(x, w); }
HWY_INLINE Outputs IntToFloat(Codes a) { return Outputs{_mm256_cvtepi32_ps(a)}; }
#else
using Codes = __m512i;
HWY_INLINE Codes LoadCodes(const uint8_t* p) { return _mm512_loadu_si512(p); }
HWY_INLINE void StoreCodes(Codes a, uint8_t* p) { _mm512_storeu_si512(p, a); }
HWY_INLINE Codes LowNibbles(Codes a) { return _mm512_and_si512(a, _mm512_set1_epi8(15)); }
HWY_INLINE Codes HighNibbles(Codes a) { return LowNibbles(_mm512_srli_epi16(a, 4)); }
HWY_INLINE Codes Offset128(Codes a) { return _mm512_xor_si512(a, _mm512_set1_epi8(-128)); }
HWY_INLINE Codes SplatInt(int32_t x) { return _mm512_set1_epi32(x); }
HWY_INLINE Codes MulPairs(Codes u, Codes s) { return _mm512_maddubs_epi16(u, s); }
HWY_INLINE Codes MulWords(Codes a, Codes b) { return _mm512_madd_epi16(a, b); }
HWY_INLINE Codes Widen(Codes a, int16_t by) { return MulWords(a, _mm512_set1_epi16(by)); }
HWY_INLINE Codes Add16(Codes a, Codes b) { return _mm512_add_epi16(a, b); }
HWY_INLINE Codes Add32(Codes a, Codes b) { return _mm512_add_epi32(a, b); }
HWY_INLINE Codes AbsBytes(Codes a) { return _mm512_abs_epi8(a); }
HWY_INLINE Codes WithSign(Codes x, Codes w) {  // where w = 0 the product is 0 whatever this is
  return _mm512_mask_sub_epi8(x, _mm512_movepi8_mask(w), _mm512_setzero_si512(), x);
}
HWY_INLINE Outputs IntToFloat(Codes a) { return Outputs{_mm512_cvtepi32_ps(a)}; }
#endif

// Keeps the compiler from turning a chain of additions into a tree, whose products would not fit the
// registers.
HWY_INLINE void KeepOrder(Codes& sum) { asm("" : "+v"(sum)); }

// Stores 32 integers of at most 127 as bytes and sums the first and the last 16 of them.
HWY_INLINE void StoreBytes(const hn::Vec<hn::RebindToSigned<DF>>* v, int8_t* to, int32_t* sums) {
#if HWY_TARGET == HWY_AVX2
  const __m256i mixed =
      _mm256_packs_epi16(_mm256_packs_epi32(v[0].raw, v[1].raw), _mm256_packs_epi32(v[2].raw, v[3].raw));
  const __m256i bytes = _mm256_permutevar8x32_epi32(mixed, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
#else
  const __m256i bytes = _mm256_inserti128_si256(_mm256_castsi128_si256(_mm512_cvtepi32_epi8(v[0].raw)),
                                                _mm512_cvtepi32_epi8(v[1].raw), 1);
#endif
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), bytes);
  const __m256i eights =
      _mm256_sad_epu8(_mm256_xor_si256(bytes, _mm256_set1_epi8(-128)), _mm256_setzero_si256());
  const __m256i halves = _mm256_add_epi64(eights, _mm256_unpackhi_epi64(eights, eights));
  sums[0] = _mm_cvtsi128_si32(_mm256_castsi256_si128(halves)) - 16 * 128;
  sums[1] = _mm_cvtsi128_si32(_mm256_extracti128_si256(halves, 1)) - 16 * 128;
}

#else

HWY_INLINE void SumHalves(const int8_t* codes, int32_t* sums) {
  for (int half = 0; half < 2; ++half) {
    sums[half] = 0;
    for (int k = 0; k < 16; ++k) sums[half] += codes[16 * half + k];
  }
}

#if HWY_TARGET != HWY_SCALAR && HWY_TARGET != HWY_EMU128
HWY_INLINE void StoreBytes(const hn::Vec<hn::RebindToSigned<DF>>* v, int8_t* to, int32_t* sums) {
  for (size_t i = 0; i < 32 / kLanes; ++i) {
    const hn::Rebind<int8_t, DF> d8;
    hn::StoreU(hn::DemoteTo(d8, v[i]), d8, to + i * kLanes);
  }
  SumHalves(to, sums);
}
#endif

using Outputs = F16x;
inline constexpr int kRegisterOutputs = 16;
HWY_INLINE Outputs SplatOutputs(float x) { return Splat(x); }
HWY_INLINE Outputs LoadOutputs(const float* p) { return Load(p); }
HWY_INLINE Outputs LoadHalfOutputs(const uint16_t* p) { return LoadHalf(p); }
HWY_INLINE void StoreOutputs(Outputs a, float* p) { Store(a, p); }

struct Codes {
  int8_t v[64];
};
HWY_INLINE Codes LoadCodes(const uint8_t* p) {
  Codes out;
  std::memcpy(out.v, p, sizeof out.v);
  return out;
}
HWY_INLINE Codes LowNibbles(Codes c) {
  for (int8_t& b : c.v) b = static_cast<int8_t>(b & 15);
  return c;
}
HWY_INLINE Codes HighNibbles(Codes c) {
  for (int8_t& b : c.v) b = static_cast<int8_t>(static_cast<uint8_t>(b) >> 4);
  return c;
}

#endif

// GroupSum: the sum of one group's products for the outputs of a register. `offset` is -128 times the sum of
// the group's activations. Prepare is done to a register of weights before it meets any row.
#if HWY_TARGET == HWY_AVX3_DL

template <WeightForm kForm>
struct GroupSum {
  Codes sum;

  GroupSum() = default;
  HWY_INLINE explicit GroupSum(int32_t offset)
      : sum(kForm == WeightForm::kS8 ? SplatInt(offset) : _mm512_setzero_si512()) {}
  static HWY_INLINE Codes Prepare(Codes w) { return kForm == WeightForm::kS8 ? Offset128(w) : w; }
  HWY_INLINE void Add(Codes w, const int8_t* x) {
    // The target string of this Highway has no avx512vnni, though the target implies it; hence no intrinsic.
    const auto& four = *reinterpret_cast<const int8_t(*)[4]>(x);
    if constexpr (kForm == WeightForm::kS16) {
      asm("vpdpwssd %2%{1to16%}, %1, %0" : "+v"(sum) : "v"(w), "m"(four));
    } else {
      asm("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(sum) : "v"(w), "m"(four));
    }
  }
  HWY_INLINE Outputs ToFloat() const { return IntToFloat(sum); }
};

#elif LARDER_DOT_X86

template <WeightForm kForm>
struct GroupSum {
  Codes sum;  // kU4: 16-bit sums of pairs; kS8, kS16: 32-bit sums

  GroupSum() = default;
  HWY_INLINE explicit GroupSum(int32_t) : sum(SplatInt(0)) {}
  static HWY_INLINE Codes Prepare(Codes w) { return w; }
  HWY_INLINE void Add(Codes w, const int8_t* x) {
    const Codes xs = SplatInt(LoadFour(x));
    if constexpr (kForm == WeightForm::kU4) {
      sum = Add16(sum, MulPairs(w, xs));
      KeepOrder(sum);
    } else if constexpr (kForm == WeightForm::kS16) {
      sum = Add32(sum, MulWords(w, xs));
      KeepOrder(sum);
    } else {  // |w| <= 128, |x| <= 127: the sum of a pair is at most 32512
      sum = Add32(sum, Widen(MulPairs(AbsBytes(w), WithSign(xs, w)), 1));
      KeepOrder(sum);
    }
  }
  HWY_INLINE Outputs ToFloat() const { return IntToFloat(kForm == WeightForm::kU4 ? Widen(sum, 1) : sum); }
};

#else

template <WeightForm kForm>
struct GroupSum {
  int32_t sum[16] = {};

  GroupSum() = default;
  HWY_INLINE explicit GroupSum(int32_t) {}
  static HWY_INLINE Codes Prepare(Codes c) { return c; }
  HWY_INLINE void Add(const Codes& w, const int8_t* x) {
    if constexpr (kForm == WeightForm::kS16) {
      int16_t pairs[32], two[2];
      std::memcpy(pairs, w.v, sizeof pairs);
      std::memcpy(two, x, sizeof two);
      for (int o = 0; o < 16; ++o) sum[o] += pairs[2 * o] * two[0] + pairs[2 * o + 1] * two[1];
      return;
    }
#if HWY_TARGET == HWY_NEON && defined(__ARM_FEATURE_DOTPROD)
    const int8x16_t xs = vreinterpretq_s8_s32(vdupq_n_s32(LoadFour(x)));
    for (int q = 0; q < 4; ++q)
      vst1q_s32(sum + 4 * q, vdotq_s32(vld1q_s32(sum + 4 * q), vld1q_s8(w.v + 16 * q), xs));
#else
    for (int o = 0; o < 16; ++o) {
      for (int i = 0; i < 4; ++i) sum[o] += static_cast<int32_t>(w.v[4 * o + i]) * x[i];
    }
#endif
  }
  HWY_INLINE Outputs ToFloat() const {
    float f[16];
    for (int o = 0; o < 16; ++o) f[o] = static_cast<float>(sum[o]);
    return Load(f);
  }
};

#endif

#if LARDER_DOT_X86
// Whether codes of this form are worth preparing once for several tiles of rows; 16-bit codes lie as they are
// taken, of them it is the scales.
template <WeightForm kForm>
inline constexpr bool kUnpacks = kForm != WeightForm::kS8 || HWY_TARGET == HWY_AVX3_DL;

// A unit's codes as GroupSum takes them: [group / 4][16 outputs][4].
template <WeightForm kForm>
HWY_INLINE void UnpackUnit(const uint8_t* unit, int group, uint8_t* to) {
  constexpr int kStep = static_cast<int>(sizeof(Codes));
  if constexpr (kForm == WeightForm::kU4) {
    for (int at = 0; at < group * 8; at += kStep) {
      const Codes pair = LoadCodes(unit + at);
      uint8_t* slice = to + at / 64 * 128 + at % 64;
      StoreCodes(LowNibbles(pair), slice);
      StoreCodes(HighNibbles(pair), slice + 64);
    }
  } else {
    for (int at = 0; at < group * 16; at += kStep) {
      StoreCodes(GroupSum<kForm>::Prepare(LoadCodes(unit + at)), to + at);
    }
  }
}
#endif

}  // namespace HWY_NAMESPACE
}  // namespace larder
HWY_AFTER_NAMESPACE();

#endif
