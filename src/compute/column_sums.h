// The score tap: what attention gives to each cached entry, summed over chosen query rows. It comes from a
// second pass of the queries over the keys, with the log-sum-exp that attention already has, so that no
// matrix of rows times entries ever exists. Scores are computed in floats from the keys as they are stored.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "compute/attention.h"
#include "compute/thread_pool.h"

namespace larder {

struct TapRow {
  const float* q;    // [heads * head_dim], already rotated
  const float* lse;  // [heads], as Attention left it
  int32_t position;
};

// Where the sums go: an array for each query head, or one for each KV head, which then gets the mean of its
// group's weights. Each has a number for every entry of its lane, with room for whole pages of 64.
struct ColumnTarget {
  std::span<float* const> sums;            // added to
  std::span<float* const> squares;         // the same of the squared weights; empty: not wanted
  std::span<float* const> entropies = {};  // of -p log p of each weight p; empty: not wanted
};

// Working memory of each thread, kept from call to call.
class ColumnScratch {
 public:
  ColumnScratch();
  ~ColumnScratch();
  struct Impl;
  Impl& impl() { return *impl_; }

 private:
  std::unique_ptr<Impl> impl_;
};

// Adds the softmax weights of `rows`, in their order, to the columns of `tiles`. All rows belong to one
// sequence, the one whose entries `tiles` shows. Order of arithmetic: for each entry the rows one after the
// other, so that rows given in several calls add up to the same bits as in one.
void ColumnSums(ThreadPool& pool, ColumnScratch& scratch, const AttentionShape& shape,
                const TileProvider& tiles, std::span<const TapRow> rows, const ColumnTarget& target);

// The same, plainly: equal bit for bit.
void ColumnSumsReference(const AttentionShape& shape, const TileProvider& tiles, std::span<const TapRow> rows,
                         const ColumnTarget& target);

}  // namespace larder
