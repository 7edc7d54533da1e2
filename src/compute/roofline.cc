#include "compute/roofline.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>

#include "base/memory.h"
#include "compute/simd_targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "compute/roofline.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace larder {
namespace HWY_NAMESPACE {
namespace {
namespace hn = hwy::HWY_NAMESPACE;

// The sum of 64-bit words, n a multiple of 1024 bytes: a load a vector and one cheap operation.
uint64_t ReadOnTarget(const std::byte* p, size_t n) {
  const hn::ScalableTag<uint64_t> d;
  const size_t lanes = hn::Lanes(d), step = 4 * lanes;
  const auto* words = reinterpret_cast<const uint64_t*>(p);
  auto a = hn::Zero(d), b = a, c = a, e = a;
  for (size_t i = 0; i + step <= n / sizeof(uint64_t); i += step) {
    a = hn::Add(a, hn::Load(d, words + i));
    b = hn::Add(b, hn::Load(d, words + i + lanes));
    c = hn::Add(c, hn::Load(d, words + i + 2 * lanes));
    e = hn::Add(e, hn::Load(d, words + i + 3 * lanes));
  }
  HWY_ALIGN uint64_t each[HWY_MAX_BYTES / sizeof(uint64_t)];
  hn::Store(hn::Add(hn::Add(a, b), hn::Add(c, e)), d, each);
  uint64_t total = 0;
  for (size_t i = 0; i < lanes; ++i) total += each[i];
  return total;
}

// Multiply-adds into ten independent sums, so that latency hides. `memory` is all zeros, which the compiler
// must not know: the sums start from different places in it, or equal ones would be computed once. Weights
// are read again each time, as a kernel reads them from the nearest cache. Returns the number of products.
int64_t FloatMacsOnTarget(float* memory, int64_t loops) {
  const hn::ScalableTag<float> d;
  const size_t lanes = hn::Lanes(d);
  const auto start = [&](size_t k) { return hn::Load(d, memory + (4 + k) * lanes); };
  auto s0 = start(0), s1 = start(1), s2 = start(2), s3 = start(3), s4 = start(4), s5 = start(5),
       s6 = start(6), s7 = start(7), s8 = start(8), s9 = start(9);
  for (int64_t i = 0; i < loops; ++i) {
    const auto w0 = hn::Load(d, memory), w1 = hn::Load(d, memory + lanes);
    const auto x = hn::Load(d, memory + 2 * lanes);
    s0 = hn::MulAdd(w0, x, s0), s1 = hn::MulAdd(w1, x, s1), s2 = hn::MulAdd(w0, x, s2),
    s3 = hn::MulAdd(w1, x, s3);
    s4 = hn::MulAdd(w0, x, s4), s5 = hn::MulAdd(w1, x, s5), s6 = hn::MulAdd(w0, x, s6),
    s7 = hn::MulAdd(w1, x, s7);
    s8 = hn::MulAdd(w0, x, s8), s9 = hn::MulAdd(w1, x, s9);
    HWY_FENCE;
  }
  const auto t0 =
      hn::Add(hn::Add(hn::Add(s0, s1), hn::Add(s2, s3)), hn::Add(hn::Add(s4, s5), hn::Add(s6, s7)));
  hn::Store(hn::Add(t0, hn::Add(s8, s9)), d, memory + 3 * lanes);
  return loops * 10 * static_cast<int64_t>(lanes);
}

#if HWY_TARGET == HWY_AVX3_DL
HWY_INLINE void AddProducts(__m512i w, const __m512i* x, __m512i& sum) {
  asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(w), "m"(*x));  // not named by this Highway's target string
}
#elif HWY_TARGET == HWY_AVX3
HWY_INLINE void AddProducts(__m512i w, const __m512i* x, __m512i& sum) {
  const __m512i pairs = _mm512_maddubs_epi16(w, _mm512_load_si512(x));
  sum = _mm512_add_epi32(sum, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)));
}
#elif HWY_TARGET == HWY_AVX2
// Eight multiply instructions summed in 16 bits and widened once, which 4-bit weights allow.
HWY_INLINE void AddProducts(const __m256i* m, __m256i& sum) {
  __m256i narrow = _mm256_setzero_si256();
  HWY_UNROLL(8)
  for (int k = 0; k < 8; ++k) {
    narrow = _mm256_add_epi16(narrow,
                              _mm256_maddubs_epi16(_mm256_load_si256(m + k % 2), _mm256_load_si256(m + 2)));
  }
  sum = _mm256_add_epi32(sum, _mm256_madd_epi16(narrow, _mm256_set1_epi16(1)));
}
#endif

// Products of bytes into independent sums, the quickest way that a target has; 16-bit products elsewhere. The
// sums have names because the compiler keeps an array of them in memory.
int64_t ByteMacsOnTarget(float* memory, int64_t loops) {
#if HWY_TARGET == HWY_AVX3_DL || HWY_TARGET == HWY_AVX3
  auto* m = reinterpret_cast<__m512i*>(memory);
  __m512i s0 = m[9], s1 = m[10], s2 = m[11], s3 = m[12], s4 = m[13], s5 = m[14], s6 = m[15], s7 = m[16];
  for (int64_t i = 0; i < loops; ++i) {
    const __m512i w = m[0];
    AddProducts(w, m + 1, s0), AddProducts(w, m + 2, s1), AddProducts(w, m + 3, s2),
        AddProducts(w, m + 4, s3);
    AddProducts(w, m + 5, s4), AddProducts(w, m + 6, s5), AddProducts(w, m + 7, s6),
        AddProducts(w, m + 8, s7);
    HWY_FENCE;
  }
  const __m512i low = _mm512_add_epi32(_mm512_add_epi32(s0, s1), _mm512_add_epi32(s2, s3));
  const __m512i high = _mm512_add_epi32(_mm512_add_epi32(s4, s5), _mm512_add_epi32(s6, s7));
  _mm512_store_si512(m + 17, _mm512_add_epi32(low, high));
  return loops * 8 * 64;
#elif HWY_TARGET == HWY_AVX2
  auto* m = reinterpret_cast<__m256i*>(memory);
  __m256i s0 = _mm256_setzero_si256(), s1 = s0, s2 = s0, s3 = s0;
  for (int64_t i = 0; i < loops; ++i) {
    AddProducts(m, s0);
    HWY_FENCE;
    AddProducts(m, s1);
    HWY_FENCE;
    AddProducts(m, s2);
    HWY_FENCE;
    AddProducts(m, s3);
    HWY_FENCE;
  }
  _mm256_store_si256(m + 4, _mm256_add_epi32(_mm256_add_epi32(s0, s1), _mm256_add_epi32(s2, s3)));
  return loops * 4 * 8 * 32;
#else
  const hn::ScalableTag<int16_t> d;
  const hn::Repartition<int32_t, decltype(d)> d32;
  auto* m = reinterpret_cast<int16_t*>(memory);
  const size_t lanes = hn::Lanes(d);
  const size_t wide = hn::Lanes(d32);
  const auto start = [&](size_t k) {
    return hn::Load(d32, reinterpret_cast<const int32_t*>(memory) + (8 + k) * wide);
  };
  auto a0 = start(0), a1 = start(1), b0 = start(2), b1 = start(3), c0 = start(4), c1 = start(5),
       e0 = start(6), e1 = start(7);
  for (int64_t i = 0; i < loops; ++i) {
    const auto w = hn::Load(d, m), x = hn::Load(d, m + lanes);
    a0 = hn::ReorderWidenMulAccumulate(d32, w, x, a0, a1),
    b0 = hn::ReorderWidenMulAccumulate(d32, w, x, b0, b1);
    c0 = hn::ReorderWidenMulAccumulate(d32, w, x, c0, c1),
    e0 = hn::ReorderWidenMulAccumulate(d32, w, x, e0, e1);
    HWY_FENCE;
  }
  const auto sum =
      hn::Add(hn::Add(hn::Add(a0, a1), hn::Add(b0, b1)), hn::Add(hn::Add(c0, c1), hn::Add(e0, e1)));
  hn::Store(sum, d32, reinterpret_cast<int32_t*>(memory) + 16 * wide);
  return loops * 4 * static_cast<int64_t>(lanes);
#endif
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace larder
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace larder {
namespace {

HWY_EXPORT(ReadOnTarget);
HWY_EXPORT(FloatMacsOnTarget);
HWY_EXPORT(ByteMacsOnTarget);

using Clock = std::chrono::steady_clock;

// The most of `amount()` a second over several passes of all threads.
template <class Pass>
double BestRate(Pass pass) {
  constexpr int kPasses = 12;
  double best = 0;
  for (int i = 0; i < kPasses; ++i) {
    const auto start = Clock::now();
    const double amount = pass();
    best = std::max(best, amount / std::chrono::duration<double>(Clock::now() - start).count());
  }
  return best * 1e-9;
}

template <class Kernel>
double MacRate(ThreadPool& pool, AlignedBuffer& memory, Kernel kernel) {
  constexpr int64_t kLoops = 20000, kItems = 64;
  constexpr size_t kBytes = 4096;  // for each thread
  return BestRate([&] {
    std::atomic<int64_t> macs = 0;
    pool.Run(kItems, [&](int64_t, int worker) {
      macs += kernel(memory.as<float>() + static_cast<size_t>(worker) * kBytes / sizeof(float), kLoops);
    });
    return static_cast<double>(macs);
  });
}

}  // namespace

Result<Roofline> MeasureRoofline(ThreadPool& pool) {
  constexpr size_t kReadBytes = 256u << 20, kPiece = 1u << 20;
  Roofline roofline;
  LARDER_ASSIGN(AlignedBuffer memory, AlignedBuffer::Allocate(kReadBytes));
  std::fill_n(memory.data(), memory.size(), std::byte{1});  // zero pages share one
  std::atomic<uint64_t> sink = 0;
  roofline.read_gb_per_s = BestRate([&] {
    pool.Run(kReadBytes / kPiece, [&](int64_t i, int) {
      sink += HWY_DYNAMIC_DISPATCH(ReadOnTarget)(memory.data() + static_cast<size_t>(i) * kPiece, kPiece);
    });
    return static_cast<double>(kReadBytes);
  });
  std::fill_n(memory.data(), memory.size(), std::byte{0});  // no denormals, no overflow
  roofline.float_gmac_per_s = MacRate(pool, memory, [](float* m, int64_t loops) {
    return HWY_DYNAMIC_DISPATCH(FloatMacsOnTarget)(m, loops);
  });
  roofline.byte_gmac_per_s = MacRate(
      pool, memory, [](float* m, int64_t loops) { return HWY_DYNAMIC_DISPATCH(ByteMacsOnTarget)(m, loops); });
  return roofline;
}

}  // namespace larder
#endif
