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
  return hn::GetLane(hn::SumOfLanes(d, hn::Add(hn::Add(a, b), hn::Add(c, e))));
}

// Multiply-adds into twelve independent sums, so that latency hides. Returns the number of products; the
// values in `memory` (three vectors) are read again each time, as a kernel reads its weights from the nearest
// cache.
int64_t FloatMacsOnTarget(float* memory, int64_t loops) {
  const hn::ScalableTag<float> d;
  const size_t lanes = hn::Lanes(d);
  auto s0 = hn::Zero(d), s1 = s0, s2 = s0, s3 = s0, s4 = s0, s5 = s0, s6 = s0, s7 = s0, s8 = s0, s9 = s0;
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

// Products of bytes into independent sums, the quickest way that a target has: VNNI's four products an
// instruction; under AVX2 eight multiply instructions summed in 16 bits and widened once, which 4-bit weights
// allow; 16-bit products elsewhere.
int64_t ByteMacsOnTarget(float* memory, int64_t loops) {
#if HWY_TARGET == HWY_AVX3_DL || HWY_TARGET == HWY_AVX3
  constexpr int kSums = 12;
  auto* m = reinterpret_cast<__m512i*>(memory);
  __m512i sums[kSums] = {};
  const __m512i ones = _mm512_set1_epi16(1);
  for (int64_t i = 0; i < loops; ++i) {
    const __m512i w = _mm512_loadu_si512(m), x = _mm512_loadu_si512(m + 1);
    HWY_UNROLL(kSums)
    for (__m512i& sum : sums) {
#if HWY_TARGET == HWY_AVX3_DL  // an instruction that this Highway's target string does not name
      asm volatile("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(w), "v"(x));
#else
      sum = _mm512_add_epi32(sum, _mm512_madd_epi16(_mm512_maddubs_epi16(w, x), ones));
#endif
    }
    HWY_FENCE;
  }
  __m512i sum = ones;
  for (const __m512i& s : sums) sum = _mm512_add_epi32(sum, s);
  _mm512_storeu_si512(m + 2, sum);
  return loops * kSums * 64;
#elif HWY_TARGET == HWY_AVX2
  constexpr int kSums = 4, kGroup = 8;
  auto* m = reinterpret_cast<__m256i*>(memory);
  __m256i wide[kSums] = {};
  const __m256i ones = _mm256_set1_epi16(1);
  for (int64_t i = 0; i < loops; ++i) {
    __m256i narrow[kSums] = {};
    for (int k = 0; k < kGroup; ++k) {
      const __m256i w = _mm256_load_si256(m + (k & 1));
      HWY_UNROLL(kSums)
      for (int s = 0; s < kSums; ++s) {
        const __m256i x = _mm256_load_si256(m + 2 + s % 2);
        narrow[s] = _mm256_add_epi16(narrow[s], _mm256_maddubs_epi16(w, x));
      }
      HWY_FENCE;
    }
    HWY_UNROLL(kSums)
    for (int s = 0; s < kSums; ++s) wide[s] = _mm256_add_epi32(wide[s], _mm256_madd_epi16(narrow[s], ones));
  }
  __m256i sum = wide[0];
  for (int s = 1; s < kSums; ++s) sum = _mm256_add_epi32(sum, wide[s]);
  _mm256_store_si256(m + 4, sum);
  return loops * kSums * kGroup * 32;
#else
  const hn::ScalableTag<int16_t> d;
  const hn::Repartition<int32_t, decltype(d)> d32;
  auto* m = reinterpret_cast<int16_t*>(memory);
  const size_t lanes = hn::Lanes(d);
  auto a0 = hn::Zero(d32), a1 = a0, b0 = a0, b1 = a0, c0 = a0, c1 = a0, e0 = a0, e1 = a0;
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
  hn::Store(hn::BitCast(d, sum), d, m + 2 * lanes);
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
