// Attention on pages of 4-bit codes (kv_codes.h, kT4) as they are: nibbles become 16-bit integers in
// registers, zero points enter once for each sum. All of it is integers, so the results are those of a page
// that was decoded first. For the few queries of a decode step; more share one decoded page. Compiled once
// per target.
#if defined(LARDER_COMPUTE_ATTENTION_CODED_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LARDER_COMPUTE_ATTENTION_CODED_INL_H_
#undef LARDER_COMPUTE_ATTENTION_CODED_INL_H_
#else
#define LARDER_COMPUTE_ATTENTION_CODED_INL_H_
#endif

#include "compute/attention_math.h"
#include "compute/kv_codes_math.h"
#include "compute/simd_pairs-inl.h"

HWY_BEFORE_NAMESPACE();
namespace larder {
namespace HWY_NAMESPACE {

inline constexpr int kZeroBits = 9;  // zero points are in 512ths of a code
static_assert(kZeroUnit == 1 << kZeroBits);

// sums[t * kBlocks + b] = sum over i of codes[i][block b] * y[t][i], as PairSums does for 16-bit pages.
// `block`: the first, counted from the beginning of a row; two are a chunk of 32 bytes. Even if kBlocks is.
template <int kQueries, int kBlocks>
HWY_INLINE void CodedPairSums(const uint8_t* row, int64_t row_bytes, int block,
                              const int16_t (*y)[kSpanEntries], int first, int pairs, const uint8_t* ahead,
                              PairSum* sums) {
  HWY_UNROLL(32)
  for (int i = 0; i < kQueries * kBlocks; ++i) sums[i] = NoPairs();
  const int16_t* codes = y[0] + first;
  row += block / 2 * 32;
  ahead += block / 2 * 32;
  for (int i = 0; i < pairs; ++i, row += row_bytes, ahead += row_bytes, codes += 2) {
    Pairs x[kBlocks];
    if constexpr (kBlocks == 1) {
      x[0] = Nibbles(LoadBytes(row), block % 2 != 0);
    } else {
      HWY_UNROLL(4)
      for (int b = 0; b < kBlocks; b += 2) {
        const Pairs bytes = LoadBytes(row + b * 16);
        x[b] = Nibbles(bytes, false);
        x[b + 1] = Nibbles(bytes, true);
      }
    }
    __builtin_prefetch(ahead);
    HWY_UNROLL(8)
    for (int t = 0; t < kQueries; ++t) {
      const Pairs splat = SplatPair(codes + t * kSpanEntries);
      HWY_UNROLL(8)
      for (int b = 0; b < kBlocks; ++b) AddPairs(sums[t * kBlocks + b], x[b], splat);
    }
  }
}

// Scores of kBlocks blocks of a page's keys: sum of q * (512 code - zero) = 512 (sum of q * code) - zero *
// (sum of q). `query_sums` [query][head_dim / 64, rounded up]: of the codes of each 64 dimensions.
template <int kQueries, int kBlocks>
void ScoreCodedBlocks(const std::byte* coded, const CodedLayout& layout, const uint8_t* ahead, int block,
                      const int16_t (*codes)[kSpanEntries],
                      const int32_t (*query_sums)[kMaxHeadDim / kDimsPerSum], float (*scores)[kSpanEntries],
                      int at) {
  const auto* keys = reinterpret_cast<const uint8_t*>(coded + layout.CodesAt(0));
  const auto* zeros = reinterpret_cast<const uint16_t*>(coded + layout.ZerosAt(0)) + block * 16;
  constexpr int kRowBytes = kPageTokens;  // two dimensions of 64 keys, half a byte each
  constexpr int kChunk = kDimsPerSum / 2;
  const int pairs = layout.head_dim / 2;
  for (int first = 0; first < pairs; first += kChunk) {
    PairSum sums[kQueries * kBlocks];
    CodedPairSums<kQueries, kBlocks>(keys + first * kRowBytes, kRowBytes, block, codes, 2 * first,
                                     HWY_MIN(kChunk, pairs - first), ahead + first * kRowBytes, sums);
    HWY_UNROLL(4)
    for (int b = 0; b < kBlocks; ++b) {
      const PairSum zero = SumsOf(zeros + b * 16);
      HWY_UNROLL(8)
      for (int t = 0; t < kQueries; ++t) {
        const F16x sum =
            ToFloat(ShiftLess<kZeroBits>(sums[t * kBlocks + b], Times(zero, query_sums[t][first / kChunk])));
        float* to = scores[t] + at + (block + b) * 16;
        Store(first == 0 ? sum : Add(Load(to), sum), to);
      }
    }
  }
}

// Sum of weights times zero points of a page's values.
HWY_INLINE int32_t WeightedZeros(const int16_t* weights, const uint16_t* zeros) {
  int32_t sum = 0;
  for (int e = 0; e < kPageTokens; ++e) sum += int32_t{weights[e]} * int32_t{zeros[e]};
  return sum;
}

// to[t][channel block ...] += weights times values of a page, all of its entries.
template <int kQueries, int kBlocks>
void AddCodedBlocks(const std::byte* coded, const CodedLayout& layout, const uint8_t* ahead, int block,
                    const int16_t (*weights)[kSpanEntries], int at, const int32_t* weighted_zeros,
                    const F16x* unscale, float* const* to) {
  const auto* values = reinterpret_cast<const uint8_t*>(coded + layout.CodesAt(1));
  PairSum sums[kQueries * kBlocks];
  CodedPairSums<kQueries, kBlocks>(values, layout.head_dim, block, weights, at, kPageTokens / 2, ahead, sums);
  HWY_UNROLL(8)
  for (int t = 0; t < kQueries; ++t) {
    HWY_UNROLL(4)
    for (int b = 0; b < kBlocks; ++b) {
      float* out = to[t] + (block + b) * 16;
      const F16x sum = ToFloat(ShiftLess<kZeroBits>(sums[t * kBlocks + b], SplatSum(weighted_zeros[t])));
      Store(Fma(sum, unscale[t], Load(out)), out);
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace larder
HWY_AFTER_NAMESPACE();

#endif
