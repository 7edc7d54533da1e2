// Attention of query rows over paged keys and values. Grouped-query heads, sliding windows, masks by
// position, entries with positions of their own, and tiles made on the way are one call.
//
// Order of arithmetic (the same for decode, prefill and any batch, so that a row's result depends on its own
// entries only): entries come in pages of 64 and spans of 512 (8 pages, aligned to entry index 0). A span has
// its scores, in units of log 2; their maximum; weights 2^(score - maximum), whose sum is 16 partial sums
// (entry mod 16) added in one fixed tree; and its weighted values. Spans are merged in index order. Pages
// without a visible entry are skipped.
//   kF32  a score is the sum over the head dimension in index order, fused; values are added entry by entry,
//   fused. kI16  keys and values are 14-bit integers with a scale for each row, about as precise as halves;
//   queries are
//         rounded to 13 bits with a scale for each head, weights (times the values' scales) to 12 bits with a
//         scale for each span. Products of 64 dimensions, or of a page's 64 entries, are exact sums of
//         integers; these become floats and are added in order.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "compute/thread_pool.h"

namespace larder {

inline constexpr int kPageTokens = 64;
inline constexpr int kSpanPages = 8;
inline constexpr int kSpanEntries = kPageTokens * kSpanPages;
inline constexpr int kMaxHeadDim = 512;

enum class KvType : uint8_t {
  kI16,  // 16 bits an element: 14-bit integers, a float scale for each row's key and value
  kF32,
};

// Bytes of one page of one lane, K and V and, for kI16, their scales; a multiple of 512.
size_t PageBytes(KvType type, int head_dim);

// One page of one lane, ready to be read. Keys, and for kI16 values, lie as vector lanes:
//   kF32  K [head_dim][64], V [64][head_dim]
//   kI16  K [ceil(head_dim / 2)][64][2] (two dimensions of a key are neighbours), V [32][head_dim][2] (two
//         entries' values are neighbours), scales [2][64] floats: of the keys, of the values
struct KvPage {
  const void* k = nullptr;  // null: the page is absent and must not be visible to the row
  const void* v = nullptr;
  const float* scales = nullptr;       // kI16
  const int32_t* positions = nullptr;  // [64] position of each entry; null: first_position + index
  int32_t first_position = 0;
  int32_t entries = 0;                // valid entries, 0..64
  const float* logit_bias = nullptr;  // [64] added to the scaled score; null: none
};

// What a tile is made from.
struct TileSource {
  const void* at = nullptr;  // null: the page is absent
  // `at` is a page of KvCodes::kT4 (compute/kv_codes.h), of 64 entries with these positions, without biases:
  // attention may read it as it is instead of asking for the tile.
  bool t4 = false;
  int32_t first_position = 0;  // with t4, as in KvPage
  const int32_t* positions = nullptr;
};

// Where a sequence's pages are found: pointers into the cache, or tiles made on the way (decoded,
// rematerialised, merged). Implementations must be safe to call from several threads at once during one
// Attention call.
class TileProvider {
 public:
  virtual ~TileProvider() = default;
  virtual int64_t Entries(int layer, int kv_head) const = 0;
  // Whether Page may use its scratch.
  virtual bool MakesTiles() const { return false; }
  // With MakesTiles: what Page would make the tile from. Providers with the same sources for all pages of a
  // span share one making of them; their pages differ in nothing but `entries`, which only a lane's last page
  // may have less than 64 of. kNoSource: never shared.
  virtual TileSource Source(int layer, int kv_head, int64_t page) const { return {kNoSource}; }
  static constexpr const void* kNoSource = &kPageTokens;
  // page in [0, ceil(Entries / 64)). `scratch`: PageBytes(type, head_dim) bytes, 64-aligned, for a tile made
  // on the way; not given (null) unless MakesTiles. Rows of other sequences whose provider returns the same
  // `k` pointers for the pages of a span share one read of them.
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
  int heads, kv_heads, head_dim;  // head_dim <= kMaxHeadDim
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

// Writes one row's key and value [head_dim] into slot 0..63 of a page. kI16: rounds to the nearest code, ties
// to even; a row with an infinity or NaN becomes NaN.
void StoreKvRow(KvType type, int head_dim, const float* k, const float* v, std::byte* page, int slot);
// Copies `rows` rows between pages of one type as they are.
void CopyKvRows(KvType type, int head_dim, const std::byte* from, int from_slot, std::byte* to, int to_slot,
                int rows);
// Reads a row back as floats.
void LoadKvRow(KvType type, int head_dim, const std::byte* page, int slot, float* k, float* v);

// A stored page as attention reads it: k, v and scales are set.
KvPage StoredPage(KvType type, int head_dim, const std::byte* page);

}  // namespace larder
