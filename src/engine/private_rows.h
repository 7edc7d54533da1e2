// Rows of a sequence that are its own: written to private lanes, read by nobody else, and never published
// under an exact name. The sequence may begin with rows of the shared cache, which are read where they lie.
// Methods that shape a request's cache are kinds of it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <span>

#include "kv/lanes.h"
#include "model/model.h"

namespace larder {

class PrivateRows {
 public:
  virtual ~PrivateRows() = default;

  // Of the prompt's tokens, how many may come from the cache.
  virtual int64_t ReadableRows() const = 0;
  // Rows [0, rows) of `prefix` are the first. kExhausted: nothing has changed.
  virtual Status Begin(const TileProvider* prefix, int64_t rows);

  int64_t rows() const { return rows_; }  // that have been here, from the first on
  Status Reserve(int64_t more);           // beyond rows()
  LaneTable* store() { return &lanes_; }
  virtual int32_t PositionOf(int64_t row) const { return static_cast<int32_t>(row); }  // for attention
  // The next row that no step may cross, after `computed`; 0: none.
  virtual int64_t ChunkEnd(int64_t computed) const = 0;
  // Rows from `computed` on that must run in one step; 0: any number may.
  virtual int64_t WholeRows(int64_t computed) const { return 0; }
  // Hooks of the step that runs rows from `computed` on; null: none.
  virtual ForwardHooks* HooksFor(int64_t computed) { return nullptr; }
  // Whether all came that the step's rows read from below memory; if not, they are worthless. Waits for it.
  virtual bool AllCame() { return true; }
  // Rows up to `end` have run; `tokens` are the sequence's.
  virtual Status AfterRows(int64_t end, std::span<const int32_t> tokens) = 0;
  // Prompt rows so far that others stood in for in most layers.
  int64_t spared_rows() const { return spared_rows_; }
  bool reads_prefix() const { return lanes_.borrows(); }

  uint64_t private_bytes() const { return lanes_.bytes(); }
  uint64_t shared_bytes() const { return lanes_.borrowed_bytes(); }
  uint64_t peak_bytes() const { return peak_bytes_; }  // private ones, since the beginning
  int64_t LongestLane() const;                         // entries, of the layers that see everything

 protected:
  PrivateRows(Model& model, PageSource& pages, PositionMode mode, LaneTable::RopeTables ropes)
      : model_(model), lanes_(&model.kv_shape(), &pages, mode, ropes) {}
  AttentionShape ShapeOf(int layer) const;
  void TakeRows(int64_t end);  // they are written
  void NotePeak() { peak_bytes_ = std::max(peak_bytes_, lanes_.bytes()); }
  // Lets go of what windows have passed, but for `again` rows more.
  void DropWindows(int64_t end, int64_t again);

  Model& model_;
  LaneTable lanes_;
  int64_t rows_ = 0;
  int64_t spared_rows_ = 0;

 private:
  uint64_t peak_bytes_ = 0;
};

}  // namespace larder
