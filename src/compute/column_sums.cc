#include "compute/column_sums.h"

#include <cmath>
#include <cstring>
#include <vector>

#include "base/memory.h"
#include "compute/attention_math.h"
#include "compute/simd_targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "compute/column_sums.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"

#include "compute/simd_ops-inl.h"

#ifndef LARDER_COMPUTE_COLUMN_SUMS_
#define LARDER_COMPUTE_COLUMN_SUMS_
namespace larder {
namespace {

// The keys of a page as floats, [head_dim][64], and what is added to their scores.
struct KeyTile {
  alignas(64) float keys[kMaxHeadDim * kPageTokens];
  alignas(64) float bias[kPageTokens];
};

// One query's weights on a page go to one row of the target.
struct TapQuery {
  const float* q;
  float lse;
  uint64_t visible;
  float factor;                       // of a weight in the sum
  float *sums, *squares, *entropies;  // [64]; the last two may be null
};

}  // namespace
}  // namespace larder
#endif

HWY_BEFORE_NAMESPACE();
namespace larder {
namespace HWY_NAMESPACE {
namespace {

void AddWeightsOnTarget(const KeyTile& tile, int head_dim, float scale, const TapQuery& query) {
  constexpr int kBlocks = kPageTokens / 16;
  F16x scores[kBlocks];
  HWY_UNROLL(4)
  for (int b = 0; b < kBlocks; ++b) scores[b] = Zero();
  for (int d = 0; d < head_dim; ++d) {
    const F16x q = Splat(query.q[d]);
    const float* keys = tile.keys + int64_t{d} * kPageTokens;
    HWY_UNROLL(4)
    for (int b = 0; b < kBlocks; ++b) scores[b] = Fma(q, Load(keys + 16 * b), scores[b]);
  }
  const F16x scales = Splat(scale), lse = Splat(query.lse), factor = Splat(query.factor);
  for (int b = 0; b < kBlocks; ++b) {
    const F16x score = Fma(scores[b], scales, Load(tile.bias + 16 * b));
    const F16x log_weight = Sub(score, lse);
    const F16x weight = SelectBits(static_cast<uint16_t>(query.visible >> (16 * b)), Exp(log_weight), Zero());
    Store(Fma(weight, factor, Load(query.sums + 16 * b)), query.sums + 16 * b);
    if (query.squares != nullptr)
      Store(Fma(Mul(weight, weight), factor, Load(query.squares + 16 * b)), query.squares + 16 * b);
    if (query.entropies == nullptr) continue;
    // Below this the weight is 0, and so is the product, also of a masked entry's -inf.
    const F16x entropy = Mul(weight, Negate(Larger(log_weight, Splat(kExpLow))));
    Store(Fma(entropy, factor, Load(query.entropies + 16 * b)), query.entropies + 16 * b);
  }
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace larder
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace larder {
namespace {

HWY_EXPORT(AddWeightsOnTarget);

void AddWeightsReference(const KeyTile& tile, int head_dim, float scale, const TapQuery& query) {
  for (int i = 0; i < kPageTokens; ++i) {
    float score = 0;
    for (int d = 0; d < head_dim; ++d)
      score = std::fma(query.q[d], tile.keys[int64_t{d} * kPageTokens + i], score);
    score = std::fma(score, scale, tile.bias[i]);
    const float log_weight = score - query.lse;
    const float weight = (query.visible >> i & 1) != 0 ? ScalarExp(log_weight) : 0.0f;
    query.sums[i] = std::fma(weight, query.factor, query.sums[i]);
    if (query.squares != nullptr)
      query.squares[i] = std::fma(weight * weight, query.factor, query.squares[i]);
    if (query.entropies == nullptr) continue;
    const float entropy = weight * -(log_weight > kExpLow ? log_weight : kExpLow);
    query.entropies[i] = std::fma(entropy, query.factor, query.entropies[i]);
  }
}

void LoadKeys(const AttentionShape& shape, const KvPage& page, KeyTile& tile) {
  const int dim = shape.head_dim;
  if (shape.type == KvType::kF32) {
    std::memcpy(tile.keys, page.k, sizeof(float) * static_cast<size_t>(dim) * kPageTokens);
  } else {
    const auto* codes = static_cast<const int16_t*>(page.k);
    for (int pair = 0; pair < (dim + 1) / 2; ++pair) {
      float* even = tile.keys + int64_t{2} * pair * kPageTokens;
      float* odd = 2 * pair + 1 < dim ? even + kPageTokens : nullptr;
      const int16_t* from = codes + int64_t{pair} * 2 * kPageTokens;
      for (int i = 0; i < kPageTokens; ++i) {
        even[i] = static_cast<float>(from[2 * i]) * page.scales[i];
        if (odd != nullptr) odd[i] = static_cast<float>(from[2 * i + 1]) * page.scales[i];
      }
    }
  }
  // What lies behind the last entry is arbitrary memory and must not become a NaN in a sum.
  for (int d = 0; d < dim; ++d) {
    for (int i = page.entries; i < kPageTokens; ++i) tile.keys[int64_t{d} * kPageTokens + i] = 0;
  }
  for (int i = 0; i < kPageTokens; ++i)
    tile.bias[i] = page.logit_bias != nullptr && i < page.entries ? page.logit_bias[i] : 0.0f;
}

// One page of one KV head: all rows, all query heads of the group.
template <class AddWeights>
void AddPage(const AttentionShape& shape, const TileProvider& tiles, std::span<const TapRow> rows,
             const ColumnTarget& target, int kv_head, int64_t index, std::byte* scratch, KeyTile& tile,
             AddWeights&& add_weights) {
  const KvPage page = tiles.Page(shape.layer, kv_head, index, scratch);
  if (page.k == nullptr) return;
  const int group = shape.heads / shape.kv_heads;
  const bool each_head = target.sums.size() == static_cast<size_t>(shape.heads);
  bool loaded = false;
  for (const TapRow& row : rows) {
    const uint64_t visible = VisibleEntries(page, row.position, shape.window);
    if (visible == 0) continue;
    if (!loaded) LoadKeys(shape, page, tile);
    loaded = true;
    for (int h = kv_head * group; h < (kv_head + 1) * group; ++h) {
      const auto to = static_cast<size_t>(each_head ? h : kv_head);
      const int64_t at = index * kPageTokens;
      const auto optional = [&](std::span<float* const> wanted) {
        return wanted.empty() ? nullptr : wanted[to] + at;
      };
      add_weights(tile, shape.head_dim, shape.scale,
                  TapQuery{row.q + int64_t{h} * shape.head_dim, row.lse[h], visible,
                           each_head ? 1.0f : 1.0f / static_cast<float>(group), target.sums[to] + at,
                           optional(target.squares), optional(target.entropies)});
    }
  }
}

struct TapScratch {
  KeyTile tile;
  AlignedBuffer page;  // for a tile that is made on the way
};

void Prepare(TapScratch& scratch, const AttentionShape& shape, const TileProvider& tiles) {
  const size_t bytes = PageBytes(shape.type, shape.head_dim);
  if (!tiles.MakesTiles() || scratch.page.size() >= bytes) return;
  auto page = AlignedBuffer::Allocate(bytes);
  LARDER_CHECK(page.has_value());
  scratch.page = *std::move(page);
}

int64_t PagesOf(const AttentionShape& shape, const TileProvider& tiles, int kv_head) {
  return (tiles.Entries(shape.layer, kv_head) + kPageTokens - 1) / kPageTokens;
}

}  // namespace

struct ColumnScratch::Impl {
  std::vector<std::unique_ptr<TapScratch>> workers;
};
ColumnScratch::ColumnScratch() : impl_(std::make_unique<Impl>()) {}
ColumnScratch::~ColumnScratch() = default;

void ColumnSums(ThreadPool& pool, ColumnScratch& scratch, const AttentionShape& shape,
                const TileProvider& tiles, std::span<const TapRow> rows, const ColumnTarget& target) {
  LARDER_CHECK(shape.head_dim <= kMaxHeadDim);
  if (rows.empty()) return;
  auto& workers = scratch.impl().workers;
  while (workers.size() < static_cast<size_t>(pool.threads()))
    workers.push_back(std::make_unique<TapScratch>());
  for (auto& worker : workers) Prepare(*worker, shape, tiles);
  int64_t most = 0;
  for (int head = 0; head < shape.kv_heads; ++head) most = std::max(most, PagesOf(shape, tiles, head));
  const auto add = HWY_DYNAMIC_DISPATCH(AddWeightsOnTarget);
  pool.Run(most * shape.kv_heads, [&](int64_t item, int worker) {
    const int head = static_cast<int>(item % shape.kv_heads);
    const int64_t page = item / shape.kv_heads;
    if (page >= PagesOf(shape, tiles, head)) return;
    TapScratch& own = *workers[static_cast<size_t>(worker)];
    AddPage(shape, tiles, rows, target, head, page, own.page.data(), own.tile, add);
  });
}

void ColumnSumsReference(const AttentionShape& shape, const TileProvider& tiles, std::span<const TapRow> rows,
                         const ColumnTarget& target) {
  const auto scratch = std::make_unique<TapScratch>();
  Prepare(*scratch, shape, tiles);
  for (int head = 0; head < shape.kv_heads; ++head) {
    for (int64_t page = 0; page < PagesOf(shape, tiles, head); ++page)
      AddPage(shape, tiles, rows, target, head, page, scratch->page.data(), scratch->tile,
              AddWeightsReference);
  }
}

}  // namespace larder
#endif
