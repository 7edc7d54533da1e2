// An eviction method at work on one sequence: the private lanes that its rows are written to, the triggers,
// and the attention that the method asks for. The sequence may begin with rows of the shared cache, which are
// read where they lie until the method chooses; what it chooses of them is copied. Nothing of it is
// published.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "compute/column_sums.h"
#include "kv/evict/method.h"
#include "kv/lanes.h"
#include "model/model.h"
#include "model/rope.h"

namespace larder {

EvictModel EvictModelOf(const Model& model);

// What the drivers of an engine share.
struct EvictResources {
  EvictResources(Model& model, std::unique_ptr<PageSource> pages);
  LaneTable::RopeTables Ropes();  // for as many positions as the model was trained on

  Model& model;
  std::unique_ptr<PageSource> pages;
  ColumnScratch scratch;
  std::vector<int> layers;  // that see everything
  RopeTable rope;           // grown when somebody needs it
};

class EvictDriver {
 public:
  EvictDriver(EvictResources& resources, std::unique_ptr<EvictMethod> method, int64_t prompt_rows);

  // Of the prompt's tokens, how many may come from the cache.
  int64_t ReadableRows() const;
  // Rows [0, rows) of `prefix` are the first. kExhausted: nothing has changed.
  Status Begin(const TileProvider* prefix, int64_t rows);

  int64_t rows() const { return rows_; }  // that have been here, from the first on
  Status Reserve(int64_t more);           // beyond rows()
  RowStore* store() { return &lanes_; }
  int32_t PositionOf(int64_t row) const;  // for attention
  // The next row that no step may cross, after `computed`; 0: none.
  int64_t ChunkEnd(int64_t computed) const;

  bool TapsAllRows() const { return needs_.tap == ScoreTap::kAllRows; }
  // Attention of rows of this sequence, in order, in one layer; to be called while their queries and keys are
  // there.
  void Tap(int layer, std::span<const TapRow> rows);

  // Rows up to `end` have run; `tokens` are the sequence's. Runs the triggers.
  Status AfterRows(int64_t end, std::span<const int32_t> tokens);
  bool reads_prefix() const { return lanes_.borrows(); }

  uint64_t private_bytes() const { return lanes_.bytes(); }
  uint64_t shared_bytes() const { return lanes_.borrowed_bytes(); }
  uint64_t peak_bytes() const { return peak_bytes_; }  // private ones, since the beginning
  int64_t LongestLane() const;                         // entries

 private:
  class LastRows;
  AttentionShape ShapeOf(int layer) const;
  void RunLastRows(std::span<const int32_t> tokens);
  void DropWindows(int64_t end);

  EvictResources& resources_;
  Model& model_;
  std::unique_ptr<EvictMethod> method_;
  const EvictNeeds needs_;
  const int64_t prompt_rows_;
  const std::vector<int>& layers_;
  LaneTable lanes_;
  int64_t rows_ = 0;
  uint64_t peak_bytes_ = 0;
  std::vector<ColumnScores> scores_;  // [layer], while the prompt's end is being decided
};

// Feeds the rows of a step to the drivers that want all of them.
class TapHooks final : public ForwardHooks {
 public:
  TapHooks(int heads, int head_dim) : heads_(heads), head_dim_(head_dim) {}
  // Rows [first, first + count) of the step belong to this driver.
  void Add(EvictDriver* driver, size_t first, size_t count) { taps_.push_back({driver, first, count}); }
  bool empty() const { return taps_.empty(); }
  void Clear() { taps_.clear(); }

  bool WantsLse(int) const override { return !taps_.empty(); }
  void AfterQkv(int, std::span<const Row>, float* q, float*, float*) override { q_ = q; }
  void AfterAttention(int layer, std::span<const Row> rows, const float* lse) override;

 private:
  struct Tapped {
    EvictDriver* driver;
    size_t first, count;
  };
  std::vector<Tapped> taps_;
  std::vector<TapRow> rows_;
  const float* q_ = nullptr;
  const int heads_, head_dim_;
};

}  // namespace larder
