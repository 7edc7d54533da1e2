// The Hadamard transform: log2(block) stages of sums and differences, in natural order, then one factor. Each
// stage is the same additions in any vector width, so all targets give the same bits.
#include <cmath>

#include "base/result.h"
#include "compute/kv_codes.h"
#include "compute/simd_targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "compute/hadamard.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"

#include "compute/simd_ops-inl.h"

HWY_BEFORE_NAMESPACE();
namespace larder {
namespace HWY_NAMESPACE {
namespace {

// Stages of stride `from` and more; vectors of kWidth numbers, kWidth <= from.
template <int kWidth>
HWY_INLINE void WideStages(float* x, int block, int from, int end) {
  const hn::CappedTag<float, kWidth> d;
  for (int stride = from; stride < end; stride *= 2) {
    for (int base = 0; base < block; base += 2 * stride) {
      for (int i = base; i < base + stride; i += static_cast<int>(hn::Lanes(d))) {
        const auto a = hn::LoadU(d, x + i), b = hn::LoadU(d, x + i + stride);
        hn::StoreU(hn::Add(a, b), d, x + i);
        hn::StoreU(hn::Sub(a, b), d, x + i + stride);
      }
    }
  }
}

// Strides 1 and 2, inside vectors of four. REQUIRES: 4 divides block.
HWY_INLINE void NarrowStages(float* x, int block) {
#if HWY_TARGET == HWY_SCALAR
  WideStages<1>(x, block, 1, 4);
#else
  const hn::FixedTag<float, 4> d;
  const hn::FixedTag<uint32_t, 4> bits;
  alignas(16) static constexpr uint32_t kOdd[4] = {0, 1u << 31, 0, 1u << 31};
  alignas(16) static constexpr uint32_t kUpper[4] = {0, 0, 1u << 31, 1u << 31};
  const auto odd = hn::BitCast(d, hn::Load(bits, kOdd)), upper = hn::BitCast(d, hn::Load(bits, kUpper));
  for (int i = 0; i < block; i += 4) {
    auto v = hn::LoadU(d, x + i);
    v = hn::Add(hn::Shuffle2301(v), hn::Xor(v, odd));  // a + b, then a - b
    v = hn::Add(hn::Shuffle1032(v), hn::Xor(v, upper));
    hn::StoreU(v, d, x + i);
  }
#endif
}

void HadamardOnTarget(float* x, int64_t n, int block) {
  const float factor = 1.0f / std::sqrt(static_cast<float>(block));
  for (float* end = x + n; x < end; x += block) {
    if (block < 4) {
      WideStages<1>(x, block, 1, block);
    } else {
      NarrowStages(x, block);
      WideStages<4>(x, block, 4, HWY_MIN(block, 16));
      if (block > 16) WideStages<16>(x, block, 16, block);
    }
    for (int i = 0; i < block; ++i) x[i] *= factor;
  }
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace larder
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace larder {

HWY_EXPORT(HadamardOnTarget);

void Hadamard(float* x, int64_t n, int block) {
  LARDER_CHECK(block > 0 && (block & (block - 1)) == 0 && n % block == 0);
  HWY_DYNAMIC_DISPATCH(HadamardOnTarget)(x, n, block);
}

}  // namespace larder
#endif
