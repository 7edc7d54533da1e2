// Attention of query rows over paged keys and values. Grouped-query heads, sliding windows, masks by
// position, entries with positions of their own, and tiles made on the way are one call.
//
// Order of arithmetic (the same for decode, prefill and any batch, so that a row's result depends on its own
// entries only): entries come in pages of 64; scores are sums over the head dimension in index order with
// fused multiply-adds; within a span of 512 entries (8 pages, spans aligned to entry index 0) a running
// maximum, sum and accumulator is updated page by page; span results are merged in index order. Pages without
// a visible entry are skipped. The sum of a page's probabilities is 16 partial sums (entry mod 16), added in
// one fixed tree.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "compute/thread_pool.h"

namespace larder {

inline constexpr int kPageTokens = 64;
inline constexpr int kSpanPages = 8;  // 512 entries

enum class KvType : uint8_t { kF16, kF32 };
inline constexpr size_t KvTypeBytes(KvType type) { return type == KvType::kF16 ? 2 : 4; }

// Bytes of one page of one lane (K and V): 2 * 64 * head_dim elements, rounded up to a multiple of 512.
size_t PageBytes(KvType type, int head_dim);

// One page of one lane, ready to be read. K is [head_dim][64] (keys as vector lanes), V is [64][head_dim].
struct KvPage {
  const void* k = nullptr;  // null: the page is absent and must not be visible to the row
  const void* v = nullptr;
  const int32_t* positions = nullptr;  // [64] position of each entry; null: first_position + index
  int32_t first_position = 0;
  int32_t entries = 0;                // valid entries, 0..64
  const float* logit_bias = nullptr;  // [64] added to the scaled score; null: none
};

// Where a sequence's pages are found: pointers into the cache, or tiles made on the way (decoded,
// rematerialised, merged). Implementations must be safe to call from several threads at once during one
// Attention call.
class TileProvider {
 public:
  virtual ~TileProvider() = default;
  virtual int64_t Entries(int layer, int kv_head) const = 0;
  // page in [0, ceil(Entries / 64)). `scratch`: PageBytes(type, head_dim) bytes, 64-aligned, for tiles made
  // on the way. Rows of other sequences whose provider returns the same `k` pointer for the same page share
  // one read of it.
  virtual KvPage Page(int layer, int kv_head, int64_t page, std::byte* scratch) const = 0;
};

struct AttentionRow {
  const float* q;  // [heads * head_dim], already rotated
  float* out;      // [heads * head_dim]
  float* lse;      // [heads] log-sum-exp of the scaled scores, or null
  const TileProvider* tiles;
  int32_t position;  // sees entries with position <= this (and > position - window)
};

struct AttentionShape {
  int layer;
  int heads, kv_heads, head_dim;
  float scale;
  int window;  // 0: no window
  KvType type;
};

class AttentionScratch {
 public:
  AttentionScratch();
  ~AttentionScratch();
  struct Impl;
  Impl& impl() { return *impl_; }
  // Pages (one lane's K and V) read from memory by all calls so far; a page shared by rows of one item counts
  // once.
  uint64_t pages_read() const;

 private:
  std::unique_ptr<Impl> impl_;
};

void Attention(ThreadPool& pool, AttentionScratch& scratch, const AttentionShape& shape,
               std::span<const AttentionRow> rows);

// The same, plainly: equal bit for bit.
void AttentionReference(const AttentionShape& shape, std::span<const AttentionRow> rows);

// Writes one row's key and value [head_dim] into slot 0..63 of a page, converting with round-to-nearest-even.
void StoreKvRow(KvType type, int head_dim, const float* k, const float* v, std::byte* page, int slot);
// Copies `rows` leading rows between pages of one type.
void CopyKvRows(KvType type, int head_dim, const std::byte* from, std::byte* to, int rows);
// Reads a row back as floats.
void LoadKvRow(KvType type, int head_dim, const std::byte* page, int slot, float* k, float* v);

// Where K and V begin inside a page.
inline const void* PageK(const std::byte* page) { return page; }
inline const void* PageV(const std::byte* page, KvType type, int head_dim) {
  return page + KvTypeBytes(type) * kPageTokens * static_cast<size_t>(head_dim);
}

}  // namespace larder
