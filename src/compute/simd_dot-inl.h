// The multiplication that Highway 1.0 lacks: unsigned or signed weight bytes times signed activation bytes,
// four at a time into 32 bits, for a panel of 16 outputs. Codes are 64 bytes: byte 4 o + i belongs to output
// o and inner index i. All sums are exact integers, so each target may take its own way:
//   AVX3_DL  vpdpbusd, one instruction for all of it; signed weights are offset by 128, which the start value
//   undoes AVX3, AVX2  vpmaddubsw; a 4-bit weight's pair sum is at most 2 * 15 * 127 = 3810, so a group of 32
//   (eight of them,
//            30480) is summed in 16 bits and widened once; for signed weights the sign moves to the
//            activation
//   others   plain loops (vdot where the compiler may use it)
#if defined(LARDER_COMPUTE_SIMD_DOT_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LARDER_COMPUTE_SIMD_DOT_INL_H_
#undef LARDER_COMPUTE_SIMD_DOT_INL_H_
#else
#define LARDER_COMPUTE_SIMD_DOT_INL_H_
#endif

#include <cstring>

#include "compute/formats.h"
#include "compute/simd_ops-inl.h"

HWY_BEFORE_NAMESPACE();
namespace larder {
namespace HWY_NAMESPACE {

#if HWY_TARGET == HWY_AVX3_DL || HWY_TARGET == HWY_AVX3

#define LARDER_DOT_PARTS 1
using CodesRaw = __m512i;
HWY_INLINE CodesRaw LoadRaw(const void* p) { return _mm512_loadu_si512(p); }
HWY_INLINE CodesRaw AndRaw(CodesRaw a, CodesRaw b) { return _mm512_and_si512(a, b); }
HWY_INLINE CodesRaw ShiftRight4Raw(CodesRaw a) { return _mm512_srli_epi16(a, 4); }
HWY_INLINE CodesRaw SplatByteRaw(int x) { return _mm512_set1_epi8(static_cast<char>(x)); }
HWY_INLINE CodesRaw SplatIntRaw(int32_t x) { return _mm512_set1_epi32(x); }

#elif HWY_TARGET == HWY_AVX2

#define LARDER_DOT_PARTS 2
using CodesRaw = __m256i;
HWY_INLINE CodesRaw LoadRaw(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
HWY_INLINE CodesRaw AndRaw(CodesRaw a, CodesRaw b) { return _mm256_and_si256(a, b); }
HWY_INLINE CodesRaw ShiftRight4Raw(CodesRaw a) { return _mm256_srli_epi16(a, 4); }
HWY_INLINE CodesRaw SplatByteRaw(int x) { return _mm256_set1_epi8(static_cast<char>(x)); }
HWY_INLINE CodesRaw SplatIntRaw(int32_t x) { return _mm256_set1_epi32(x); }

#endif

#ifdef LARDER_DOT_PARTS

// 64 weight bytes.
struct Codes {
  CodesRaw v[LARDER_DOT_PARTS];
};

HWY_INLINE Codes LoadCodes(const uint8_t* p) {
  Codes out;
  HWY_UNROLL(2)
  for (int i = 0; i < LARDER_DOT_PARTS; ++i) out.v[i] = LoadRaw(p + i * sizeof(CodesRaw));
  return out;
}
HWY_INLINE Codes LowNibbles(Codes c) {
  const CodesRaw mask = SplatByteRaw(15);
  HWY_UNROLL(2)
  for (int i = 0; i < LARDER_DOT_PARTS; ++i) c.v[i] = AndRaw(c.v[i], mask);
  return c;
}
HWY_INLINE Codes HighNibbles(Codes c) {
  HWY_UNROLL(2)
  for (int i = 0; i < LARDER_DOT_PARTS; ++i) c.v[i] = ShiftRight4Raw(c.v[i]);
  return LowNibbles(c);
}

HWY_INLINE int32_t LoadFour(const int8_t* x) {
  int32_t bits;
  std::memcpy(&bits, x, sizeof bits);
  return bits;
}

#endif

#if HWY_TARGET == HWY_AVX3_DL

// The sum of one group's products for 16 outputs. `offset` is -128 times the sum of the group's activations.
template <WeightForm kForm>
struct GroupSum {
  __m512i sum;

  GroupSum() = default;
  HWY_INLINE explicit GroupSum(int32_t offset)
      : sum(kForm == WeightForm::kS8 ? SplatIntRaw(offset) : _mm512_setzero_si512()) {}
  // Once per weight vector, before it meets any row.
  static HWY_INLINE Codes Prepare(Codes c) {
    if constexpr (kForm == WeightForm::kS8) c.v[0] = _mm512_xor_si512(c.v[0], SplatByteRaw(0x80));
    return c;
  }
  HWY_INLINE void Add(Codes w, const int8_t* x) {
    // The target string of this Highway has no avx512vnni, though the target implies it; hence no intrinsic.
    asm("vpdpbusd %2%{1to16%}, %1, %0"
        : "+v"(sum)
        : "v"(w.v[0]), "m"(*reinterpret_cast<const int8_t(*)[4]>(x)));
  }
  HWY_INLINE F16x ToFloat() const { return F16x{{hn::Vec512<float>{_mm512_cvtepi32_ps(sum)}}}; }
};

#elif HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX2

#if HWY_TARGET == HWY_AVX3
HWY_INLINE __m512i MulPairs(__m512i u, __m512i s) { return _mm512_maddubs_epi16(u, s); }
HWY_INLINE __m512i WidenPairs(__m512i a) { return _mm512_madd_epi16(a, _mm512_set1_epi16(1)); }
HWY_INLINE __m512i Add16(__m512i a, __m512i b) { return _mm512_add_epi16(a, b); }
HWY_INLINE __m512i Add32(__m512i a, __m512i b) { return _mm512_add_epi32(a, b); }
HWY_INLINE __m512i AbsBytes(__m512i a) { return _mm512_abs_epi8(a); }
HWY_INLINE __m512i WithSign(__m512i x, __m512i w) {  // where w = 0 the product is 0 whatever this is
  return _mm512_mask_sub_epi8(x, _mm512_movepi8_mask(w), _mm512_setzero_si512(), x);
}
HWY_INLINE hn::Vec<DF> IntToFloat(__m512i a) { return hn::Vec512<float>{_mm512_cvtepi32_ps(a)}; }
#else
HWY_INLINE __m256i MulPairs(__m256i u, __m256i s) { return _mm256_maddubs_epi16(u, s); }
HWY_INLINE __m256i WidenPairs(__m256i a) { return _mm256_madd_epi16(a, _mm256_set1_epi16(1)); }
HWY_INLINE __m256i Add16(__m256i a, __m256i b) { return _mm256_add_epi16(a, b); }
HWY_INLINE __m256i Add32(__m256i a, __m256i b) { return _mm256_add_epi32(a, b); }
HWY_INLINE __m256i AbsBytes(__m256i a) { return _mm256_abs_epi8(a); }
HWY_INLINE __m256i WithSign(__m256i x, __m256i w) { return _mm256_sign_epi8(x, w); }
HWY_INLINE hn::Vec<DF> IntToFloat(__m256i a) { return hn::Vec256<float>{_mm256_cvtepi32_ps(a)}; }
#endif

template <WeightForm kForm>
struct GroupSum {
  CodesRaw sum[LARDER_DOT_PARTS];  // kU4: 16-bit pair sums; kS8: 32-bit sums

  GroupSum() = default;
  HWY_INLINE explicit GroupSum(int32_t) {
    HWY_UNROLL(2)
    for (CodesRaw& s : sum) s = SplatIntRaw(0);
  }
  static HWY_INLINE Codes Prepare(Codes c) { return c; }
  HWY_INLINE void Add(Codes w, const int8_t* x) {
    const CodesRaw xs = SplatIntRaw(LoadFour(x));
    HWY_UNROLL(2)
    for (int i = 0; i < LARDER_DOT_PARTS; ++i) {
      if constexpr (kForm == WeightForm::kU4) {
        sum[i] = Add16(sum[i], MulPairs(w.v[i], xs));
      } else {  // |w| <= 128, |x| <= 127: a pair sum is at most 32512
        sum[i] = Add32(sum[i], WidenPairs(MulPairs(AbsBytes(w.v[i]), WithSign(xs, w.v[i]))));
      }
    }
  }
  HWY_INLINE F16x ToFloat() const {
    F16x out;
    HWY_UNROLL(2)
    for (int i = 0; i < LARDER_DOT_PARTS; ++i) {
      out.v[i] = IntToFloat(kForm == WeightForm::kU4 ? WidenPairs(sum[i]) : sum[i]);
    }
    return out;
  }
};

#else

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

template <WeightForm kForm>
struct GroupSum {
  int32_t sum[16] = {};

  GroupSum() = default;
  HWY_INLINE explicit GroupSum(int32_t) {}
  static HWY_INLINE Codes Prepare(Codes c) { return c; }
  HWY_INLINE void Add(const Codes& w, const int8_t* x) {
#if HWY_TARGET == HWY_NEON && defined(__ARM_FEATURE_DOTPROD)
    int32_t bits;
    std::memcpy(&bits, x, sizeof bits);
    const int8x16_t xs = vreinterpretq_s8_s32(vdupq_n_s32(bits));
    for (int q = 0; q < 4; ++q)
      vst1q_s32(sum + 4 * q, vdotq_s32(vld1q_s32(sum + 4 * q), vld1q_s8(w.v + 16 * q), xs));
#else
    for (int o = 0; o < 16; ++o) {
      for (int i = 0; i < 4; ++i) sum[o] += static_cast<int32_t>(w.v[4 * o + i]) * x[i];
    }
#endif
  }
  HWY_INLINE F16x ToFloat() const {
    float f[16];
    for (int o = 0; o < 16; ++o) f[o] = static_cast<float>(sum[o]);
    return Load(f);
  }
};

#endif
#undef LARDER_DOT_PARTS

}  // namespace HWY_NAMESPACE
}  // namespace larder
HWY_AFTER_NAMESPACE();

#endif
