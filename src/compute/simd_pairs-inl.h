// Products of 16-bit integers, two at a time into 32 bits, for 16 outputs: what attention is made of. A
// vector of pairs is 64 bytes, element 2 o + i belongs to output o and inner index i. Sums are exact while
// they fit 32 bits, so each target may take its own way:
//   AVX3_DL     vpdpwssd
//   AVX3, AVX2  vpmaddwd and an addition
//   others      plain loops
#if defined(LARDER_COMPUTE_SIMD_PAIRS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LARDER_COMPUTE_SIMD_PAIRS_INL_H_
#undef LARDER_COMPUTE_SIMD_PAIRS_INL_H_
#else
#define LARDER_COMPUTE_SIMD_PAIRS_INL_H_
#endif

#include <cstring>

#include "compute/simd_ops-inl.h"

HWY_BEFORE_NAMESPACE();
namespace larder {
namespace HWY_NAMESPACE {

#if HWY_TARGET == HWY_AVX3_DL || HWY_TARGET == HWY_AVX3

struct Pairs {
  __m512i v;
};
struct PairSum {
  __m512i v;
};
HWY_INLINE Pairs LoadPairs(const int16_t* p) { return {_mm512_loadu_si512(p)}; }
HWY_INLINE Pairs SplatPair(const int16_t* p) {
  int32_t bits;
  std::memcpy(&bits, p, sizeof bits);
  return {_mm512_set1_epi32(bits)};
}
HWY_INLINE PairSum NoPairs() { return {_mm512_setzero_si512()}; }
HWY_INLINE void AddPairs(PairSum& sum, Pairs x, Pairs y) {
#if HWY_TARGET == HWY_AVX3_DL
  // The target string of this Highway has no avx512vnni, though the target implies it; hence no intrinsic.
  asm("vpdpwssd %2, %1, %0" : "+v"(sum.v) : "v"(x.v), "v"(y.v));
#else
  sum.v = _mm512_add_epi32(sum.v, _mm512_madd_epi16(x.v, y.v));
#endif
}
HWY_INLINE F16x ToFloat(PairSum sum) { return F16x{{hn::Vec512<float>{_mm512_cvtepi32_ps(sum.v)}}}; }
// 32 bytes as 16-bit integers, of which Nibbles takes the low or the high four bits.
HWY_INLINE Pairs LoadBytes(const uint8_t* p) {
  return {_mm512_cvtepu8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
}
HWY_INLINE Pairs Nibbles(Pairs bytes, bool high) {
  return {high ? _mm512_srli_epi16(bytes.v, 4) : _mm512_and_si512(bytes.v, _mm512_set1_epi16(15))};
}
// Sums as integers, of any origin.
HWY_INLINE PairSum SumsOf(const uint16_t* p) {
  return {_mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
}
HWY_INLINE PairSum Times(PairSum a, int32_t b) { return {_mm512_mullo_epi32(a.v, _mm512_set1_epi32(b))}; }
HWY_INLINE PairSum SplatSum(int32_t a) { return {_mm512_set1_epi32(a)}; }
template <int kBits>
HWY_INLINE PairSum ShiftLess(PairSum a, PairSum b) {  // a * 2^kBits - b
  return {_mm512_sub_epi32(_mm512_slli_epi32(a.v, kBits), b.v)};
}
// The low 16 bits of each lane.
HWY_INLINE void StoreLow16(F16x a, int16_t* p) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(_mm512_castps_si512(a.v[0].raw)));
}

#elif HWY_TARGET == HWY_AVX2

struct Pairs {
  __m256i v[2];
};
struct PairSum {
  __m256i v[2];
};
HWY_INLINE Pairs LoadPairs(const int16_t* p) {
  const auto* v = reinterpret_cast<const __m256i*>(p);
  return {{_mm256_loadu_si256(v), _mm256_loadu_si256(v + 1)}};
}
HWY_INLINE Pairs SplatPair(const int16_t* p) {
  int32_t bits;
  std::memcpy(&bits, p, sizeof bits);
  const __m256i v = _mm256_set1_epi32(bits);
  return {{v, v}};
}
HWY_INLINE PairSum NoPairs() { return {{_mm256_setzero_si256(), _mm256_setzero_si256()}}; }
HWY_INLINE void AddPairs(PairSum& sum, Pairs x, Pairs y) {
  sum.v[0] = _mm256_add_epi32(sum.v[0], _mm256_madd_epi16(x.v[0], y.v[0]));
  sum.v[1] = _mm256_add_epi32(sum.v[1], _mm256_madd_epi16(x.v[1], y.v[1]));
}
HWY_INLINE F16x ToFloat(PairSum sum) {
  return F16x{
      {hn::Vec256<float>{_mm256_cvtepi32_ps(sum.v[0])}, hn::Vec256<float>{_mm256_cvtepi32_ps(sum.v[1])}}};
}
HWY_INLINE Pairs LoadBytes(const uint8_t* p) {
  const auto* v = reinterpret_cast<const __m128i*>(p);
  return {{_mm256_cvtepu8_epi16(_mm_loadu_si128(v)), _mm256_cvtepu8_epi16(_mm_loadu_si128(v + 1))}};
}
HWY_INLINE Pairs Nibbles(Pairs bytes, bool high) {
  const __m256i low = _mm256_set1_epi16(15);
  if (high) return {{_mm256_srli_epi16(bytes.v[0], 4), _mm256_srli_epi16(bytes.v[1], 4)}};
  return {{_mm256_and_si256(bytes.v[0], low), _mm256_and_si256(bytes.v[1], low)}};
}
HWY_INLINE PairSum SumsOf(const uint16_t* p) {
  const auto* v = reinterpret_cast<const __m128i*>(p);
  return {{_mm256_cvtepu16_epi32(_mm_loadu_si128(v)), _mm256_cvtepu16_epi32(_mm_loadu_si128(v + 1))}};
}
HWY_INLINE PairSum Times(PairSum a, int32_t b) {
  const __m256i splat = _mm256_set1_epi32(b);
  return {{_mm256_mullo_epi32(a.v[0], splat), _mm256_mullo_epi32(a.v[1], splat)}};
}
HWY_INLINE PairSum SplatSum(int32_t a) { return {{_mm256_set1_epi32(a), _mm256_set1_epi32(a)}}; }
template <int kBits>
HWY_INLINE PairSum ShiftLess(PairSum a, PairSum b) {
  return {{_mm256_sub_epi32(_mm256_slli_epi32(a.v[0], kBits), b.v[0]),
           _mm256_sub_epi32(_mm256_slli_epi32(a.v[1], kBits), b.v[1])}};
}
HWY_INLINE void StoreLow16(F16x a, int16_t* p) {
  const __m256i low = _mm256_set1_epi32(0xFFFF);
  const __m256i packed = _mm256_packus_epi32(_mm256_and_si256(_mm256_castps_si256(a.v[0].raw), low),
                                             _mm256_and_si256(_mm256_castps_si256(a.v[1].raw), low));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_permute4x64_epi64(packed, 0xD8));
}

#else

struct Pairs {
  int16_t v[32];
};
struct PairSum {
  uint32_t v[16];  // unsigned: what lies in unused slots may overflow, and nobody looks at it
};
HWY_INLINE Pairs LoadPairs(const int16_t* p) {
  Pairs out;
  std::memcpy(out.v, p, sizeof out.v);
  return out;
}
HWY_INLINE Pairs SplatPair(const int16_t* p) {
  Pairs out;
  for (int i = 0; i < 32; ++i) out.v[i] = p[i % 2];
  return out;
}
HWY_INLINE PairSum NoPairs() { return {}; }
HWY_INLINE void AddPairs(PairSum& sum, const Pairs& x, const Pairs& y) {
  for (int o = 0; o < 16; ++o) {
    sum.v[o] += static_cast<uint32_t>(x.v[2 * o] * y.v[2 * o]) +
                static_cast<uint32_t>(x.v[2 * o + 1] * y.v[2 * o + 1]);
  }
}
HWY_INLINE F16x ToFloat(const PairSum& sum) {
  float f[16];
  for (int o = 0; o < 16; ++o) f[o] = static_cast<float>(static_cast<int32_t>(sum.v[o]));
  return Load(f);
}
HWY_INLINE Pairs LoadBytes(const uint8_t* p) {
  Pairs out;
  for (int i = 0; i < 32; ++i) out.v[i] = p[i];
  return out;
}
HWY_INLINE Pairs Nibbles(Pairs bytes, bool high) {
  for (int16_t& v : bytes.v) v = static_cast<int16_t>(high ? v >> 4 : v & 15);
  return bytes;
}
HWY_INLINE PairSum SumsOf(const uint16_t* p) {
  PairSum out;
  for (int o = 0; o < 16; ++o) out.v[o] = p[o];
  return out;
}
HWY_INLINE PairSum Times(PairSum a, int32_t b) {
  for (uint32_t& v : a.v) v *= static_cast<uint32_t>(b);
  return a;
}
HWY_INLINE PairSum SplatSum(int32_t a) {
  PairSum out;
  for (uint32_t& v : out.v) v = static_cast<uint32_t>(a);
  return out;
}
template <int kBits>
HWY_INLINE PairSum ShiftLess(PairSum a, const PairSum& b) {
  for (int o = 0; o < 16; ++o) a.v[o] = (a.v[o] << kBits) - b.v[o];
  return a;
}
HWY_INLINE void StoreLow16(F16x a, int16_t* p) {
  float f[16];
  Store(a, f);
  for (int i = 0; i < 16; ++i) p[i] = static_cast<int16_t>(std::bit_cast<uint32_t>(f[i]) & 0xFFFFu);
}

#endif

// Nearest integers to x * to_code, ties to even; they fit 16 bits.
HWY_INLINE void StoreCodes16(F16x x, F16x to_code, int16_t* p) {
  StoreLow16(Fma(x, to_code, Splat(kRoundMagic)), p);
}

}  // namespace HWY_NAMESPACE
}  // namespace larder
HWY_AFTER_NAMESPACE();

#endif
