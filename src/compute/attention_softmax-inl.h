// Softmax over a span: what lies between scores and weighted values. Compiled once per target.
#if defined(LARDER_COMPUTE_ATTENTION_SOFTMAX_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LARDER_COMPUTE_ATTENTION_SOFTMAX_INL_H_
#undef LARDER_COMPUTE_ATTENTION_SOFTMAX_INL_H_
#else
#define LARDER_COMPUTE_ATTENTION_SOFTMAX_INL_H_
#endif

#include <bit>
#include <cstring>

#include "compute/attention_math.h"
#include "compute/simd_ops-inl.h"
#include "compute/simd_pairs-inl.h"

#ifndef LARDER_COMPUTE_ATTENTION_SPAN_
#define LARDER_COMPUTE_ATTENTION_SPAN_
namespace larder {

// A running softmax in memory.
struct SoftmaxRecord {
  static constexpr size_t kHeader =
      16;  // floats before the values: maximum, sum, seen, padding to a cache line
  // Room for whole vectors of values.
  static size_t Floats(int head_dim) { return kHeader + static_cast<size_t>((head_dim + 15) / 16 * 16); }

  float* base;
  float& maximum() const { return base[0]; }  // in units of log 2
  float& sum() const { return base[1]; }
  float& seen() const { return base[2]; }  // 0: no entry was visible so far
  float* values() const { return base + kHeader; }
  void Clear(int head_dim) const {
    std::memset(base, 0, Floats(head_dim) * sizeof(float));
    maximum() = kMinusInfinity;
  }
};

// One query (a row's head) at work on a span.
struct SpanQuery {
  const float* q;           // kF32
  const int16_t* codes;     // kI16: [head_dim], a zero behind an odd one
  float scale;              // from the sum of products (times the key's scale) to units of log 2
  const uint64_t* visible;  // [kSpanPages]
  const KvPage* pages;      // [kSpanPages], as the row's own provider gave them: for the bias
  SoftmaxRecord record;     // cleared
};

// The pages of a span that its queries share.
struct SpanPages {
  KvPage page[kSpanPages];  // k null: absent
  // kI16: scales of the entries, zero where there is none.
  alignas(64) float k_scales[kSpanEntries];
  alignas(64) float v_scales[kSpanEntries];
  bool finite;                         // kI16: all of v_scales
  const std::byte* coded[kSpanPages];  // kI16: the page is kT4 codes; null: it is a page
};

}  // namespace larder
#endif

HWY_BEFORE_NAMESPACE();
namespace larder {
namespace HWY_NAMESPACE {

inline constexpr int kBlock = 16;  // keys, or channels, that one F16x holds
inline constexpr int kPageBlocks = kPageTokens / kBlock;

// Which blocks of the span's entries a tile computes: of each page's four [first, end), and all of them again
// as runs [from, to) over the span, for loops that need not stop at pages.
struct TileBlocks {
  int first[kSpanPages], end[kSpanPages];
  int runs = 0;
  int from[kSpanPages], to[kSpanPages];

  // Pages in index order. `any`: the entries that a query of the tile sees.
  void SetPage(int page, uint64_t any) {
    first[page] = any == 0 ? 0 : std::countr_zero(any) / kBlock;
    end[page] = any == 0 ? 0 : (64 - std::countl_zero(any) + kBlock - 1) / kBlock;
    if (any == 0) return;
    const int begins = page * kPageBlocks + first[page];
    if (runs == 0 || to[runs - 1] != begins) from[runs++] = begins;
    to[runs - 1] = page * kPageBlocks + end[page];
  }
};

// Of one of the span's blocks, the entries that the query sees. Unsigned, so that the inner loops have no
// code for negative quotients.
HWY_INLINE uint16_t BitsOfBlock(const uint64_t* visible, int block) {
  const auto at = static_cast<unsigned>(block);
  return static_cast<uint16_t>(visible[at / kPageBlocks] >> (at % kPageBlocks * kBlock));
}

HWY_INLINE F16x AddBias(const KvPage& page, int block, F16x score) {
  if (page.logit_bias == nullptr) return score;
  return Fma(Load(page.logit_bias + block * kBlock), Splat(kLog2E), score);
}

// Brings sums of products to units of log 2, -inf where the query does not see; returns the largest.
template <KvType kType>
HWY_INLINE float ScaleScores(const SpanQuery& query, const SpanPages& span, const TileBlocks& blocks,
                             float* scores) {
  const F16x scale = Splat(query.scale);
  bool biased = false;
  for (int page = 0; page < kSpanPages; ++page) biased |= query.pages[page].logit_bias != nullptr;
  F16x largest = Splat(kMinusInfinity);
  for (int run = 0; run < blocks.runs; ++run) {
    for (int block = blocks.from[run]; block < blocks.to[run]; ++block) {
      const int at = block * kBlock;
      F16x s = Load(scores + at);
      s = Mul(s, kType == KvType::kI16 ? Mul(scale, Load(span.k_scales + at)) : scale);
      if (biased) s = AddBias(query.pages[block / kPageBlocks], block % kPageBlocks, s);
      const uint16_t visible = BitsOfBlock(query.visible, block);
      if (visible != 0xFFFF) s = SelectBits(visible, s, Splat(kMinusInfinity));
      largest = Larger(s, largest);
      Store(s, scores + at);
    }
  }
  return LargestLane(largest);
}

// A query's weights over the span, and for kI16 their codes; returns what a sum of products of those is
// worth.
template <KvType kType>
HWY_INLINE float Softmax(const SpanQuery& query, const SpanPages& span, const TileBlocks& blocks,
                         float* scores, int16_t* codes) {
  const float maximum = ScaleScores<kType>(query, span, blocks, scores);
  const F16x shift = Splat(ShiftOf(maximum));
  F16x sum = Zero(), largest = Zero(), poison = Zero();
  for (int run = 0; run < blocks.runs; ++run) {
    for (int block = blocks.from[run]; block < blocks.to[run]; ++block) {
      const int at = block * kBlock;
      const F16x weight = Exp2(Sub(Load(scores + at), shift));
      sum = Add(sum, weight);
      if constexpr (kType == KvType::kI16) {
        F16x scaled = Mul(weight, Load(span.v_scales + at));
        if (!span.finite) {  // what the query does not see must not reach it as zero times NaN
          scaled = SelectBits(BitsOfBlock(query.visible, block), scaled, Zero());
          poison = Add(poison, Sub(scaled, scaled));
        }
        largest = Larger(scaled, largest);
        Store(scaled, scores + at);
      } else {
        Store(weight, scores + at);
      }
    }
  }
  query.record.maximum() = maximum;
  query.record.sum() = SumLanes(sum);
  query.record.seen() = 1;
  if constexpr (kType == KvType::kF32) return 0.0f;
  const CodeScale scale = ScaleOfCodes(LargestLane(largest), kQueryCodeLimit);
  const F16x to_code = Splat(scale.to_code);
  for (int run = 0; run < blocks.runs; ++run) {
    for (int block = blocks.from[run]; block < blocks.to[run]; ++block) {
      StoreCodes16(Load(scores + block * kBlock), to_code, codes + block * kBlock);
    }
  }
  return scale.scale + SumLanes(poison);
}

}  // namespace HWY_NAMESPACE
}  // namespace larder
HWY_AFTER_NAMESPACE();

#endif
