// The inner loops of attention: queries times keys, softmax weights, weights times values, for a tile of
// queries and one page. Compiled once per target.
#if defined(LARDER_COMPUTE_ATTENTION_KERNELS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LARDER_COMPUTE_ATTENTION_KERNELS_INL_H_
#undef LARDER_COMPUTE_ATTENTION_KERNELS_INL_H_
#else
#define LARDER_COMPUTE_ATTENTION_KERNELS_INL_H_
#endif

#include <bit>

#include "compute/attention_math.h"
#include "compute/simd_ops-inl.h"

HWY_BEFORE_NAMESPACE();
namespace larder {
namespace HWY_NAMESPACE {

// One query (a row's head) at work: its vector, what it sees of the page, its running softmax.
struct Query {
  const float* q;
  const float* bias;  // of the page's entries, or null
  uint64_t visible;
  float* maximum;
  float* sum;
  float* values;  // [head_dim]
};

inline constexpr int kQueryTile = HWY_TARGET == HWY_SCALAR || HWY_TARGET == HWY_EMU128 ? 1 : 6;
inline constexpr int kBlock = 16;  // keys, or channels, that one F16x holds

// Blocks of 16 that a tile of `queries` works on at once: as many sums as registers allow, and enough of them
// to hide the latency of a multiply-add.
inline constexpr int BlocksAtOnce(int queries) {
#if HWY_TARGET == HWY_AVX3_DL || HWY_TARGET == HWY_AVX3
  return queries > 0 ? 4 : 0;
#elif HWY_TARGET == HWY_SCALAR || HWY_TARGET == HWY_EMU128
  return queries > 0 ? 1 : 0;
#else
  return queries == 1 ? 4 : queries <= 3 ? 2 : 1;
#endif
}

HWY_INLINE F16x LoadElements(const float* p) { return Load(p); }
HWY_INLINE F16x LoadElements(const uint16_t* p) { return LoadHalf(p); }
HWY_INLINE float LoadElement(float x) { return x; }
HWY_INLINE float LoadElement(uint16_t x) { return HalfToFloat(x); }

// scores[t][first_key ...] for kBlocks blocks of keys. keys: [head_dim][64].
template <class T, int kQueries, int kBlocks>
void ScoreBlocks(const Query* queries, const T* keys, int head_dim, int first_key,
                 float (*scores)[kPageTokens]) {
  const float* q[kQueries];
  HWY_UNROLL(8)
  for (int t = 0; t < kQueries; ++t) q[t] = queries[t].q;
  F16x sum[kQueries * kBlocks];
  HWY_UNROLL(32)
  for (int i = 0; i < kQueries * kBlocks; ++i) sum[i] = Zero();
  const T* key = keys + first_key;
  for (int d = 0; d < head_dim; ++d, key += kPageTokens) {
    HWY_UNROLL(8)
    for (int b = 0; b < kBlocks; ++b) {
      const F16x k = LoadElements(key + b * kBlock);
      HWY_UNROLL(8)
      for (int t = 0; t < kQueries; ++t) sum[t * kBlocks + b] = Fma(Splat(q[t][d]), k, sum[t * kBlocks + b]);
    }
  }
  HWY_UNROLL(8)
  for (int t = 0; t < kQueries; ++t) {
    HWY_UNROLL(8)
    for (int b = 0; b < kBlocks; ++b) Store(sum[t * kBlocks + b], scores[t] + first_key + b * kBlock);
  }
}

// Scores of the blocks up to the last visible key.
template <class T, int kQueries>
void Scores(const Query* queries, const T* keys, int head_dim, uint64_t visible_to_any,
            float (*scores)[kPageTokens]) {
  constexpr int kBlocks = BlocksAtOnce(kQueries);
  const int end = 64 - std::countl_zero(visible_to_any);
  int key = std::countr_zero(visible_to_any) / kBlock * kBlock;
  for (; key + (kBlocks - 1) * kBlock < end && key + kBlocks * kBlock <= kPageTokens;
       key += kBlocks * kBlock) {
    ScoreBlocks<T, kQueries, kBlocks>(queries, keys, head_dim, key, scores);
  }
  for (; key < end; key += kBlock) ScoreBlocks<T, kQueries, 1>(queries, keys, head_dim, key, scores);
}

// Turns a query's scores into weights (0 where it does not see), and brings its running softmax up to date
// except for the values that are about to be added.
inline void Softmax(const Query& query, float scale, int head_dim, float* scores) {
  F16x s[4];
  F16x largest = Splat(kMinusInfinity);
  for (int b = 0; b < 4; ++b) {
    F16x scaled = Mul(Load(scores + b * kBlock), Splat(scale));
    if (query.bias != nullptr) scaled = Add(scaled, Load(query.bias + b * kBlock));
    s[b] = SelectBits(static_cast<uint16_t>(query.visible >> (b * kBlock)), scaled, Splat(kMinusInfinity));
    largest = Larger(s[b], largest);
  }
  HWY_ALIGN float each[16];
  Store(largest, each);
  float maximum = *query.maximum;
  for (float value : each) maximum = value > maximum ? value : maximum;
  const F16x shift = Splat(ShiftOf(maximum));
  for (int b = 0; b < 4; ++b) {
    s[b] = Exp(Sub(s[b], shift));
    Store(s[b], scores + b * kBlock);
  }
  const float sum = SumLanes(Add(Add(Add(s[0], s[1]), s[2]), s[3]));
  const float correction = ScalarExp(*query.maximum - ShiftOf(maximum));
  *query.maximum = maximum;
  *query.sum = std::fma(*query.sum, correction, sum);
  if (correction == 1.0f) return;
  int d = 0;
  for (; d + kBlock <= head_dim; d += kBlock)
    Store(Mul(Load(query.values + d), Splat(correction)), query.values + d);
  for (; d < head_dim; ++d) query.values[d] *= correction;
}

// values[t][channel ...] += sum over keys [from, to) of weights[t][key] * v[key][channel ...].
template <class T, int kQueries, int kBlocks>
void AddValueBlocks(const Query* queries, const T* v, int head_dim, int channel, int from, int to,
                    const float (*weights)[kPageTokens]) {
  F16x sum[kQueries * kBlocks];
  HWY_UNROLL(8)
  for (int t = 0; t < kQueries; ++t) {
    HWY_UNROLL(8)
    for (int b = 0; b < kBlocks; ++b) sum[t * kBlocks + b] = Load(queries[t].values + channel + b * kBlock);
  }
  const T* value = v + static_cast<int64_t>(from) * head_dim + channel;
  for (int key = from; key < to; ++key, value += head_dim) {
    HWY_UNROLL(8)
    for (int b = 0; b < kBlocks; ++b) {
      const F16x x = LoadElements(value + b * kBlock);
      HWY_UNROLL(8)
      for (int t = 0; t < kQueries; ++t)
        sum[t * kBlocks + b] = Fma(Splat(weights[t][key]), x, sum[t * kBlocks + b]);
    }
  }
  HWY_UNROLL(8)
  for (int t = 0; t < kQueries; ++t) {
    HWY_UNROLL(8)
    for (int b = 0; b < kBlocks; ++b) Store(sum[t * kBlocks + b], queries[t].values + channel + b * kBlock);
  }
}

template <class T, int kQueries>
void AddValues(const Query* queries, const T* v, int head_dim, int from, int to,
               const float (*weights)[kPageTokens]) {
  constexpr int kBlocks = BlocksAtOnce(kQueries);
  int channel = 0;
  for (; channel + kBlocks * kBlock <= head_dim; channel += kBlocks * kBlock) {
    AddValueBlocks<T, kQueries, kBlocks>(queries, v, head_dim, channel, from, to, weights);
  }
  for (; channel + kBlock <= head_dim; channel += kBlock) {
    AddValueBlocks<T, kQueries, 1>(queries, v, head_dim, channel, from, to, weights);
  }
  for (; channel < head_dim; ++channel) {
    for (int t = 0; t < kQueries; ++t) {
      float sum = queries[t].values[channel];
      for (int key = from; key < to; ++key) {
        sum = std::fma(weights[t][key], LoadElement(v[static_cast<int64_t>(key) * head_dim + channel]), sum);
      }
      queries[t].values[channel] = sum;
    }
  }
}

// A tile of kQueries queries meets a page. What a query does not see never enters its sums, not even times
// zero: the slot may hold anything. Runs of keys that all see are done together, others query by query, in
// key order.
template <class T, int kQueries>
void PageTimesTile(const Query* queries, const T* k, const T* v, int head_dim, float scale) {
  alignas(64) float scores[kQueries][kPageTokens];
  uint64_t visible_to_any = 0, visible_to_all = ~uint64_t{0};
  for (int t = 0; t < kQueries; ++t) {
    visible_to_any |= queries[t].visible;
    visible_to_all &= queries[t].visible;
  }
  Scores<T, kQueries>(queries, k, head_dim, visible_to_any, scores);
  for (int t = 0; t < kQueries; ++t) Softmax(queries[t], scale, head_dim, scores[t]);
  for (int key = 0; key < kPageTokens && (visible_to_any >> key) != 0;) {
    if ((visible_to_all >> key & 1) != 0) {
      const int end = key + std::countr_one(visible_to_all >> key);
      AddValues<T, kQueries>(queries, v, head_dim, key, end, scores);
      key = end;
      continue;
    }
    for (int t = 0; t < kQueries; ++t) {
      if ((queries[t].visible >> key & 1) != 0)
        AddValues<T, 1>(queries + t, v, head_dim, key, key + 1, scores + t);
    }
    ++key;
  }
}

template <class T, int kQueries = kQueryTile>
void PageTimesQueries(int count, const Query* queries, const T* k, const T* v, int head_dim, float scale) {
  if (count == kQueries) return PageTimesTile<T, kQueries>(queries, k, v, head_dim, scale);
  if constexpr (kQueries > 1) PageTimesQueries<T, kQueries - 1>(count, queries, k, v, head_dim, scale);
}

HWY_INLINE void ToFloats(const uint16_t* from, int64_t n, float* to) {
  for (int64_t i = 0; i < n; i += kBlock) Store(LoadHalf(from + i), to + i);
}

}  // namespace HWY_NAMESPACE
}  // namespace larder
HWY_AFTER_NAMESPACE();

#endif
