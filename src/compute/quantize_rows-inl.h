// Activations of a tile as signed bytes or 16-bit numbers with a scale for each group of 32 (packed.h): what
// QuantizeGroup gives, with the sums of the codes that the kernels need.
//
// No include guard in the usual sense: compiled once per target.
#if defined(LARDER_COMPUTE_QUANTIZE_ROWS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LARDER_COMPUTE_QUANTIZE_ROWS_INL_H_
#undef LARDER_COMPUTE_QUANTIZE_ROWS_INL_H_
#else
#define LARDER_COMPUTE_QUANTIZE_ROWS_INL_H_
#endif

#include <algorithm>

#include "compute/matmul_scratch.h"
#include "compute/packed.h"
#include "compute/simd_dot-inl.h"
#include "compute/simd_ops-inl.h"
#include "compute/simd_pairs-inl.h"

HWY_BEFORE_NAMESPACE();
namespace larder {
namespace HWY_NAMESPACE {

#if HWY_TARGET != HWY_SCALAR && HWY_TARGET != HWY_EMU128

inline constexpr size_t kGroupVectors = kActivationGroup / kLanes;

// The largest magnitude of a group as bits.
HWY_INLINE int32_t LargestBits(const float* x) {
  const DF df;
  const hn::RebindToSigned<DF> di;
  auto largest = hn::Zero(di);
  HWY_UNROLL(8)
  for (size_t i = 0; i < kGroupVectors; ++i) {
    const auto bits = hn::And(hn::BitCast(di, hn::LoadU(df, x + i * kLanes)),
                              hn::Set(di, static_cast<int32_t>(kMagnitudeBits)));
    largest = hn::Max(largest, bits);
  }
  return hn::GetLane(hn::MaxOfLanes(di, largest));
}

// ScaleOfGroup for each of `count` groups; what lies behind them, up to a vector, is overwritten.
template <class Code>
HWY_INLINE void ScalesOfGroups(const int32_t* largest_bits, int count, float* scales, float* to_codes) {
  const DF df;
  const hn::RebindToSigned<DF> di;
  const auto most = hn::Set(df, kLargestCode<Code>);
  for (int i = 0; i < count; i += static_cast<int>(kLanes)) {
    const auto bits = hn::Load(di, largest_bits + i);
    const auto largest = hn::BitCast(df, bits);
    const auto finite = hn::RebindMask(df, hn::Lt(bits, hn::Set(di, static_cast<int32_t>(kInfinityBits))));
    const auto counts = hn::And(finite, hn::Ge(largest, hn::Set(df, kSmallestActivation)));
    const auto scale = hn::IfThenElseZero(counts, hn::Div(largest, most));
    hn::Store(hn::IfThenElse(finite, scale, largest), df, scales + i);
    hn::Store(hn::IfThenElseZero(counts, hn::Div(most, largest)), df, to_codes + i);
  }
}

// CodeOf for a group; sums of its halves.
HWY_INLINE void CodesOfGroup(const float* x, float to_code, int8_t* codes, int32_t* sums) {
  if (to_code == 0.0f) {
    hwy::ZeroBytes<kActivationGroup>(codes);
    sums[0] = sums[1] = 0;
    return;
  }
  const DF df;
  const DU du;
  const hn::RebindToSigned<DF> di;
  const auto factor = hn::Set(df, to_code);
  const auto magic = hn::Set(df, kRoundMagic);
  hn::Vec<decltype(di)> integers[kGroupVectors];
  HWY_UNROLL(8)
  for (size_t i = 0; i < kGroupVectors; ++i) {
    const auto shifted = hn::MulAdd(hn::LoadU(df, x + i * kLanes), factor, magic);
    integers[i] = hn::BitCast(di, hn::Sub(hn::BitCast(du, shifted), hn::Set(du, kRoundMagicBits)));
  }
  StoreBytes(integers, codes, sums);
}

#else

inline int32_t LargestBits(const float* x) {
  uint32_t largest = 0;
  for (int i = 0; i < kActivationGroup; ++i) {
    largest = std::max(largest, std::bit_cast<uint32_t>(x[i]) & kMagnitudeBits);
  }
  return static_cast<int32_t>(largest);
}

template <class Code>
void ScalesOfGroups(const int32_t* largest_bits, int count, float* scales, float* to_codes) {
  for (int i = 0; i < count; ++i) {
    const GroupScale scale = ScaleOfGroup<Code>(static_cast<uint32_t>(largest_bits[i]));
    scales[i] = scale.scale;
    to_codes[i] = scale.to_code;
  }
}

inline void CodesOfGroup(const float* x, float to_code, int8_t* codes, int32_t* sums) {
  for (int i = 0; i < kActivationGroup; ++i) codes[i] = CodeOf<int8_t>(x[i], to_code);
  SumHalves(codes, sums);
}

#endif

// One group of each of a tile's rows, which begin at `x`, ldx apart.
HWY_INLINE void QuantizeGroupOfRows(const float* x, int64_t ldx, int64_t group, int rows,
                                    const WantedForms& wanted, const IntegerActivations& to) {
  HWY_ALIGN int32_t largest[kMaxTileRows] = {};
  HWY_ALIGN float scales[kMaxTileRows], to_codes[kMaxTileRows];
  int32_t sums[kMaxTileRows][2];
  for (int r = 0; r < rows; ++r) largest[r] = LargestBits(x + r * ldx);
  ScalesOfGroups<int8_t>(largest, rows, scales, to_codes);
  const int64_t at = group * rows;
  for (int r = 0; r < rows; ++r) {
    CodesOfGroup(x + r * ldx, to_codes[r], to.codes + (at + r) * kActivationGroup, sums[r]);
    to.scales[at + r] = scales[r];
  }
  for (int half = 0; wanted.by16 && half < 2; ++half) {
    for (int r = 0; r < rows; ++r) {
      to.by16.offsets[2 * at + half * rows + r] = -128 * sums[r][half];
      to.by16.scaled[2 * at + half * rows + r] = scales[r] * static_cast<float>(sums[r][half]);
    }
  }
  for (int r = 0; wanted.by32 && r < rows; ++r) {
    to.by32.offsets[at + r] = -128 * (sums[r][0] + sums[r][1]);
    to.by32.scaled[at + r] = scales[r] * static_cast<float>(sums[r][0] + sums[r][1]);
  }
}

// LargestBitsOf<int16_t>.
HWY_INLINE int32_t LargestWordBits(const float* x) {
  const F16x low = Load(x), high = Load(x + 16);
  const float sum = SumLanes(Add(Larger(low, Negate(low)), Larger(high, Negate(high))));
  return HWY_MAX(LargestBits(x), static_cast<int32_t>(std::bit_cast<uint32_t>(0.25f * sum) & kMagnitudeBits));
}

// The same as 16-bit numbers, without sums.
HWY_INLINE void WordsOfRows(const float* x, int64_t ldx, int64_t group, int rows, const WordActivations& to) {
  HWY_ALIGN int32_t largest[kMaxTileRows] = {};
  HWY_ALIGN float scales[kMaxTileRows], to_codes[kMaxTileRows];
  for (int r = 0; r < rows; ++r) largest[r] = LargestWordBits(x + r * ldx);
  ScalesOfGroups<int16_t>(largest, rows, scales, to_codes);
  const int64_t at = group * rows;
  for (int r = 0; r < rows; ++r) {
    int16_t* codes = to.codes + (at + r) * kActivationGroup;
    to.scales[at + r] = scales[r];
    if (to_codes[r] == 0.0f) {
      hwy::ZeroBytes<kActivationGroup * sizeof(int16_t)>(codes);
      continue;
    }
    for (int i = 0; i < kActivationGroup; i += 16) {
      StoreCodes16(Load(x + r * ldx + i), Splat(to_codes[r]), codes + i);
    }
  }
}

inline void WordTile(const float* x, int64_t ldx, int64_t inputs, int rows, const WordActivations& to) {
  for (int64_t group = 0; group < inputs / kActivationGroup; ++group) {
    WordsOfRows(x + group * kActivationGroup, ldx, group, rows, to);
  }
}

inline void QuantizeTile(const float* x, int64_t ldx, int64_t inputs, int rows, const WantedForms& wanted,
                         const IntegerActivations& to) {
  for (int64_t group = 0; group < inputs / kActivationGroup; ++group) {
    QuantizeGroupOfRows(x + group * kActivationGroup, ldx, group, rows, wanted, to);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace larder
HWY_AFTER_NAMESPACE();

#endif
