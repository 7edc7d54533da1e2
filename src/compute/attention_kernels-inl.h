// The inner loops of attention: a tile of queries meets the pages of a span. Scores and weighted values, for
// floats and for 16-bit codes; the softmax between them is attention_softmax-inl.h. Compiled once per target.
#if defined(LARDER_COMPUTE_ATTENTION_KERNELS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LARDER_COMPUTE_ATTENTION_KERNELS_INL_H_
#undef LARDER_COMPUTE_ATTENTION_KERNELS_INL_H_
#else
#define LARDER_COMPUTE_ATTENTION_KERNELS_INL_H_
#endif

#include <bit>
#include <cstring>

#include "compute/attention_coded-inl.h"
#include "compute/attention_math.h"
#include "compute/attention_softmax-inl.h"
#include "compute/simd_ops-inl.h"
#include "compute/simd_pairs-inl.h"

HWY_BEFORE_NAMESPACE();
namespace larder {
namespace HWY_NAMESPACE {

// Queries of a tile, and blocks of 16 that it works on at once: as many sums as registers allow (GCC spills
// six queries of 16-bit codes with 16 registers), and enough of them to hide the latency of a multiply-add.
#if HWY_TARGET == HWY_AVX3_DL || HWY_TARGET == HWY_AVX3
inline constexpr int kQueryTile = 6;
inline constexpr int BlocksAtOnce(int) { return 4; }
#elif HWY_TARGET == HWY_SCALAR || HWY_TARGET == HWY_EMU128
inline constexpr int kQueryTile = 1;
inline constexpr int BlocksAtOnce(int) { return 1; }
#else
inline constexpr int kQueryTile = 4;
inline constexpr int BlocksAtOnce(int queries) { return queries == 1 ? 4 : queries == 2 ? 2 : 1; }
#endif

template <int kQueries>
struct TileSpace {
  alignas(64) float scores[kQueries][kSpanEntries];  // then weights
  // kI16: of the queries, then of the weights.
  alignas(64) int16_t codes[kQueries][kSpanEntries];
  int32_t query_sums[kQueries][kMaxHeadDim / kDimsPerSum];  // for coded pages
};
static_assert(kMaxHeadDim <= kSpanEntries);

// sums[t * kBlocks + b] = sum over i of x[i][block b] * y[t][i], pairs of 16-bit integers. `ahead`: where the
// next call will read, asked for early when the few queries leave the memory as the limit.
template <int kQueries, int kBlocks>
HWY_INLINE void PairSums(const int16_t* x, int64_t stride, const int16_t (*y)[kSpanEntries], int first,
                         int pairs, const int16_t* ahead, PairSum* sums) {
  HWY_UNROLL(32)
  for (int i = 0; i < kQueries * kBlocks; ++i) sums[i] = NoPairs();
  const int16_t* codes = y[0] + first;
  for (int i = 0; i < pairs; ++i, x += stride, codes += 2) {
    Pairs block[kBlocks];
    HWY_UNROLL(8)
    for (int b = 0; b < kBlocks; ++b) block[b] = LoadPairs(x + b * 2 * kBlock);
    if constexpr (kQueries <= 3) {
      HWY_UNROLL(8)
      for (int b = 0; b < kBlocks; ++b) __builtin_prefetch(ahead + b * 2 * kBlock);
      ahead += stride;
    }
    HWY_UNROLL(8)
    for (int t = 0; t < kQueries; ++t) {
      const Pairs splat = SplatPair(codes + t * kSpanEntries);
      HWY_UNROLL(8)
      for (int b = 0; b < kBlocks; ++b) AddPairs(sums[t * kBlocks + b], block[b], splat);
    }
  }
}

// Sums of products of codes for kBlocks blocks of keys, as floats.
template <int kQueries, int kBlocks>
void ScoreBlocks(const int16_t* keys, const int16_t* ahead, int head_dim, TileSpace<kQueries>& space,
                 int at) {
  const int pairs = (head_dim + 1) / 2;
  constexpr int kChunk = kDimsPerSum / 2;
  for (int first = 0; first < pairs; first += kChunk) {
    PairSum sums[kQueries * kBlocks];
    const int64_t offset = int64_t{first} * 2 * kPageTokens;
    PairSums<kQueries, kBlocks>(keys + offset, 2 * kPageTokens, space.codes, 2 * first,
                                HWY_MIN(kChunk, pairs - first), ahead + offset, sums);
    HWY_UNROLL(8)
    for (int t = 0; t < kQueries; ++t) {
      HWY_UNROLL(8)
      for (int b = 0; b < kBlocks; ++b) {
        float* to = space.scores[t] + at + b * kBlock;
        const F16x sum = ToFloat(sums[t * kBlocks + b]);
        Store(first == 0 ? sum : Add(Load(to), sum), to);
      }
    }
  }
}

// The same for floats.
template <int kQueries, int kBlocks>
void ScoreBlocks(const SpanQuery* queries, const float* keys, int head_dim, TileSpace<kQueries>& space,
                 int at) {
  F16x sum[kQueries * kBlocks];
  HWY_UNROLL(32)
  for (int i = 0; i < kQueries * kBlocks; ++i) sum[i] = Zero();
  for (int d = 0; d < head_dim; ++d, keys += kPageTokens) {
    HWY_UNROLL(8)
    for (int b = 0; b < kBlocks; ++b) {
      const F16x k = Load(keys + b * kBlock);
      HWY_UNROLL(8)
      for (int t = 0; t < kQueries; ++t) {
        sum[t * kBlocks + b] = Fma(Splat(queries[t].q[d]), k, sum[t * kBlocks + b]);
      }
    }
  }
  HWY_UNROLL(8)
  for (int t = 0; t < kQueries; ++t) {
    HWY_UNROLL(8)
    for (int b = 0; b < kBlocks; ++b) Store(sum[t * kBlocks + b], space.scores[t] + at + b * kBlock);
  }
}

// Scores of one page's blocks [block, end).
template <KvType kType, int kQueries, int kBlocks>
HWY_INLINE void ScorePage(const SpanQuery* queries, const KvPage& page, const void* ahead, int head_dim,
                          int block, int end, TileSpace<kQueries>& space, int at) {
  for (; block < end; block += kBlocks) {
    if constexpr (kType == KvType::kI16) {
      ScoreBlocks<kQueries, kBlocks>(static_cast<const int16_t*>(page.k) + block * 2 * kBlock,
                                     static_cast<const int16_t*>(ahead) + block * 2 * kBlock, head_dim, space,
                                     at + block * kBlock);
    } else {
      ScoreBlocks<kQueries, kBlocks>(queries, static_cast<const float*>(page.k) + block * kBlock, head_dim,
                                     space, at + block * kBlock);
    }
  }
}

// All blocks of a coded page. `ahead`: the codes that are read next.
template <int kQueries>
void ScoreCodedPage(const SpanPages& span, int page, int head_dim, TileSpace<kQueries>& space) {
  constexpr int kBlocks = BlocksAtOnce(kQueries);
  const CodedLayout layout(KvCodes::kT4, head_dim);
  const std::byte* coded = span.coded[page];
  const std::byte* next = page + 1 < kSpanPages && span.coded[page + 1] != nullptr
                              ? span.coded[page + 1]
                              : coded + layout.CodesAt(1);
  for (int block = 0; block < kPageBlocks; block += kBlocks) {
    ScoreCodedBlocks<kQueries, kBlocks>(coded, layout, reinterpret_cast<const uint8_t*>(next), block,
                                        space.codes, space.query_sums, space.scores, page * kPageTokens);
  }
}

template <int kQueries>
void AddCodedPage(const SpanQuery* queries, const SpanPages& span, int page, int head_dim,
                  const F16x* unscale, const TileSpace<kQueries>& space) {
  constexpr int kBlocks = BlocksAtOnce(kQueries);
  const CodedLayout layout(KvCodes::kT4, head_dim);
  const std::byte* coded = span.coded[page];
  const std::byte* next =
      page + 1 < kSpanPages && span.coded[page + 1] != nullptr ? span.coded[page + 1] : coded;
  const auto* ahead = reinterpret_cast<const uint8_t*>(next + layout.CodesAt(1));
  const auto* zeros = reinterpret_cast<const uint16_t*>(coded + layout.ZerosAt(1));
  const int at = page * kPageTokens;
  int32_t weighted[kQueries];
  float* to[kQueries];
  for (int t = 0; t < kQueries; ++t) {
    weighted[t] = WeightedZeros(space.codes[t] + at, zeros);
    to[t] = queries[t].record.values();
  }
  const int blocks = head_dim / kBlock;
  int block = 0;
  for (; block + kBlocks <= blocks; block += kBlocks)
    AddCodedBlocks<kQueries, kBlocks>(coded, layout, ahead, block, space.codes, at, weighted, unscale, to);
  for (; block < blocks; ++block)
    AddCodedBlocks<kQueries, 1>(coded, layout, ahead, block, space.codes, at, weighted, unscale, to);
}

template <KvType kType, int kQueries>
void Scores(const SpanQuery* queries, const SpanPages& span, const TileBlocks& blocks, int head_dim,
            TileSpace<kQueries>& space) {
  constexpr int kBlocks = BlocksAtOnce(kQueries);
  const void* ahead[kSpanPages];  // the keys of the next page, or the first page's values
  const void* next = nullptr;
  for (int page = kSpanPages - 1; page >= 0; --page) {
    if (blocks.first[page] >= blocks.end[page]) continue;
    ahead[page] = next;
    next = span.page[page].k;
  }
  const void* first_values = nullptr;
  for (int page = 0; page < kSpanPages && first_values == nullptr; ++page) {
    if (blocks.first[page] < blocks.end[page]) first_values = span.page[page].v;
  }
  for (int page = 0; page < kSpanPages; ++page) {
    const int first = blocks.first[page], end = blocks.end[page];
    if (first >= end) continue;
    if (kType == KvType::kI16 && span.coded[page] != nullptr) {
      ScoreCodedPage<kQueries>(span, page, head_dim, space);
      continue;
    }
    const void* then = ahead[page] == nullptr ? first_values : ahead[page];
    const int whole = first + (end - first) / kBlocks * kBlocks;
    ScorePage<kType, kQueries, kBlocks>(queries, span.page[page], then, head_dim, first, whole, space,
                                        page * kPageTokens);
    ScorePage<kType, kQueries, 1>(queries, span.page[page], then, head_dim, whole, end, space,
                                  page * kPageTokens);
  }
}

// values[t][channel ...] += weights times values of one page, entries [16 first, 16 end).
template <int kQueries, int kBlocks>
void AddValueBlocks(const SpanQuery* queries, const KvPage& page, const void* ahead, int head_dim,
                    int channel, int first, int end, int at, const F16x* unscale,
                    const TileSpace<kQueries>& space) {
  PairSum sums[kQueries * kBlocks];
  const int64_t offset = int64_t{first} * kBlock * head_dim + 2 * channel;
  PairSums<kQueries, kBlocks>(static_cast<const int16_t*>(page.v) + offset, int64_t{2} * head_dim,
                              space.codes, at + first * kBlock, (end - first) * kBlock / 2,
                              static_cast<const int16_t*>(ahead) + offset, sums);
  HWY_UNROLL(8)
  for (int t = 0; t < kQueries; ++t) {
    HWY_UNROLL(8)
    for (int b = 0; b < kBlocks; ++b) {
      float* to = queries[t].record.values() + channel + b * kBlock;
      Store(Fma(ToFloat(sums[t * kBlocks + b]), unscale[t], Load(to)), to);
    }
  }
}

// The last block of channels may reach beyond them: into the next entries' values or the page's scales, and
// into the padding of the records.
template <int kQueries>
void AddValues(const SpanQuery* queries, const SpanPages& span, const TileBlocks& blocks, int head_dim,
               const float* unscale, const TileSpace<kQueries>& space) {
  constexpr int kBlocks = BlocksAtOnce(kQueries);
  F16x factors[kQueries];
  for (int t = 0; t < kQueries; ++t) factors[t] = Splat(unscale[t]);
  for (int page = 0; page < kSpanPages; ++page) {
    const int first = blocks.first[page], end = blocks.end[page];
    if (first >= end) continue;
    if (span.coded[page] != nullptr) {
      AddCodedPage<kQueries>(queries, span, page, head_dim, factors, space);
      continue;
    }
    const KvPage& from = span.page[page];
    const void* ahead = page + 1 < kSpanPages && blocks.first[page + 1] < blocks.end[page + 1]
                            ? span.page[page + 1].v
                            : from.v;
    int channel = 0;
    for (; channel + kBlocks * kBlock <= head_dim; channel += kBlocks * kBlock) {
      AddValueBlocks<kQueries, kBlocks>(queries, from, ahead, head_dim, channel, first, end,
                                        page * kPageTokens, factors, space);
    }
    for (; channel < head_dim; channel += kBlock) {
      AddValueBlocks<kQueries, 1>(queries, from, ahead, head_dim, channel, first, end, page * kPageTokens,
                                  factors, space);
    }
  }
}

// The same for floats and the entries [from, to) of a page, which all of these queries see.
template <int kQueries, int kBlocks>
void AddFloatBlocks(const SpanQuery* queries, const float* v, int head_dim, int channel, int from, int to,
                    const float (*weights)[kSpanEntries], int at) {
  F16x sum[kQueries * kBlocks];
  HWY_UNROLL(8)
  for (int t = 0; t < kQueries; ++t) {
    HWY_UNROLL(8)
    for (int b = 0; b < kBlocks; ++b)
      sum[t * kBlocks + b] = Load(queries[t].record.values() + channel + b * kBlock);
  }
  const float* value = v + static_cast<int64_t>(from) * head_dim + channel;
  for (int entry = from; entry < to; ++entry, value += head_dim) {
    HWY_UNROLL(8)
    for (int b = 0; b < kBlocks; ++b) {
      const F16x x = Load(value + b * kBlock);
      HWY_UNROLL(8)
      for (int t = 0; t < kQueries; ++t) {
        sum[t * kBlocks + b] = Fma(Splat(weights[t][at + entry]), x, sum[t * kBlocks + b]);
      }
    }
  }
  HWY_UNROLL(8)
  for (int t = 0; t < kQueries; ++t) {
    HWY_UNROLL(8)
    for (int b = 0; b < kBlocks; ++b)
      Store(sum[t * kBlocks + b], queries[t].record.values() + channel + b * kBlock);
  }
}

template <int kQueries>
void AddFloatValues(const SpanQuery* queries, const float* v, int head_dim, int from, int to,
                    const float (*weights)[kSpanEntries], int at) {
  constexpr int kBlocks = BlocksAtOnce(kQueries);
  int channel = 0;
  for (; channel + kBlocks * kBlock <= head_dim; channel += kBlocks * kBlock) {
    AddFloatBlocks<kQueries, kBlocks>(queries, v, head_dim, channel, from, to, weights, at);
  }
  for (; channel + kBlock <= head_dim; channel += kBlock) {
    AddFloatBlocks<kQueries, 1>(queries, v, head_dim, channel, from, to, weights, at);
  }
  for (; channel < head_dim; ++channel) {
    for (int t = 0; t < kQueries; ++t) {
      float& sum = queries[t].record.values()[channel];
      for (int entry = from; entry < to; ++entry) {
        sum = std::fma(weights[t][at + entry], v[static_cast<int64_t>(entry) * head_dim + channel], sum);
      }
    }
  }
}

// What a query does not see never enters its sums, not even times zero: the slot may hold anything. Runs of
// entries that all see are done together, others query by query, in entry order.
template <int kQueries>
void AddFloatPage(const SpanQuery* queries, const float* v, int page, int head_dim,
                  const TileSpace<kQueries>& space) {
  uint64_t any = 0, all = ~uint64_t{0};
  for (int t = 0; t < kQueries; ++t) {
    any |= queries[t].visible[page];
    all &= queries[t].visible[page];
  }
  const int at = page * kPageTokens;
  for (int entry = 0; entry < kPageTokens && (any >> entry) != 0;) {
    if ((all >> entry & 1) != 0) {
      const int end = entry + std::countr_one(all >> entry);
      AddFloatValues<kQueries>(queries, v, head_dim, entry, end, space.scores, at);
      entry = end;
      continue;
    }
    for (int t = 0; t < kQueries; ++t) {
      if ((queries[t].visible[page] >> entry & 1) != 0)
        AddFloatValues<1>(queries + t, v, head_dim, entry, entry + 1, space.scores + t, at);
    }
    ++entry;
  }
}

// A tile of kQueries queries meets a span; each sees at least one entry of it.
template <KvType kType, int kQueries>
void SpanTimesTile(const SpanQuery* queries, const SpanPages& span, int head_dim) {
  TileSpace<kQueries> space;
  TileBlocks blocks;
  for (int page = 0; page < kSpanPages; ++page) {
    uint64_t any = 0;
    for (int t = 0; t < kQueries; ++t) any |= queries[t].visible[page];
    if (kType == KvType::kI16 && any != 0 && span.coded[page] != nullptr)
      any = ~uint64_t{0};  // read as a whole
    blocks.SetPage(page, any);
  }
  if constexpr (kType == KvType::kI16) {
    for (int t = 0; t < kQueries; ++t) {
      std::memcpy(space.codes[t], queries[t].codes,
                  static_cast<size_t>((head_dim + 1) / 2) * 2 * sizeof(int16_t));
      for (int first = 0; first < head_dim; first += kDimsPerSum) {
        int32_t sum = 0;
        for (int d = first; d < HWY_MIN(head_dim, first + kDimsPerSum); ++d) sum += space.codes[t][d];
        space.query_sums[t][first / kDimsPerSum] = sum;
      }
    }
  }
  Scores<kType, kQueries>(queries, span, blocks, head_dim, space);
  float unscale[kQueries];
  for (int t = 0; t < kQueries; ++t) {
    unscale[t] = Softmax<kType>(queries[t], span, blocks, space.scores[t], space.codes[t]);
  }
  if constexpr (kType == KvType::kI16) {
    AddValues<kQueries>(queries, span, blocks, head_dim, unscale, space);
  } else {
    for (int page = 0; page < kSpanPages; ++page) {
      if (blocks.first[page] >= blocks.end[page]) continue;
      AddFloatPage<kQueries>(queries, static_cast<const float*>(span.page[page].v), page, head_dim, space);
    }
  }
}

template <KvType kType, int kQueries = kQueryTile>
void SpanTimesQueries(int count, const SpanQuery* queries, const SpanPages& span, int head_dim) {
  if (count == kQueries) return SpanTimesTile<kType, kQueries>(queries, span, head_dim);
  if constexpr (kQueries > 1) SpanTimesQueries<kType, kQueries - 1>(count, queries, span, head_dim);
}

}  // namespace HWY_NAMESPACE
}  // namespace larder
HWY_AFTER_NAMESPACE();

#endif
