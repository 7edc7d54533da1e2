// A reuse method at work on one sequence: rows of stored chunks (kv/reuse/chunks.h) stand in for rows of its
// prompt, and some of these are computed again. Its rows are private and nothing of it is published.
//
// The covered rows are blended in pieces, between the first and the last covered row of every 2,048 rows of
// the prompt. A piece runs in one step: all its rows up to the check layer's keys and values; there, and in
// the layers behind it in which the method chooses again, those that it does not choose leave, and theirs of
// later layers come from the chunks. Other rows, and the prompt's last, always go on. What is not covered
// before, between and behind pieces is computed as ever. Chunks may still be read meanwhile: each layer waits
// for theirs.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "compute/column_sums.h"
#include "engine/private_rows.h"
#include "kv/reuse/chunks.h"
#include "kv/reuse/method.h"
#include "model/rope.h"

namespace larder {

inline constexpr int64_t kBlendPiece = 2048;

// What the drivers of an engine share.
struct BlendResources {
  explicit BlendResources(Model& model, PageSource& pages);
  Model& model;
  PageSource& pages;
  std::vector<RopeTable> ropes;  // as the model's
  ColumnScratch scratch;
};

// Writes the rows of a request that computes a chunk.
class ChunkCapture final : public ForwardHooks {
 public:
  // Rows of `store` from `first` on are the chunk's.
  ChunkCapture(Model& model, std::shared_ptr<StoredChunk> chunk, const RowStore* store, int64_t first)
      : model_(model), chunk_(std::move(chunk)), store_(store), first_(first) {}
  const std::shared_ptr<StoredChunk>& chunk() const { return chunk_; }
  void BeforeRotation(int layer, std::span<const Row> rows, const float* k, const float* v) override;

 private:
  Model& model_;
  std::shared_ptr<StoredChunk> chunk_;
  const RowStore* store_;
  const int64_t first_;
};

class BlendDriver final : public PrivateRows {
 public:
  // `spans`: not empty, ascending, without overlaps, of the prompt. `method` outlives this.
  BlendDriver(BlendResources& resources, const ReuseMethod& method, std::vector<ChunkSpan> spans,
              int64_t prompt_rows);
  ~BlendDriver() override;

  // Rows of a prompt with these chunks that may come from the cache: those before the first.
  static int64_t ReadableRows(const KvShape& shape, std::span<const ChunkSpan> spans);
  int64_t ReadableRows() const override { return ReadableRows(model_.kv_shape(), spans_); }
  int64_t ChunkEnd(int64_t computed) const override;
  int64_t WholeRows(int64_t computed) const override;
  ForwardHooks* HooksFor(int64_t computed) override;
  bool AllCame() override;
  Status AfterRows(int64_t end, std::span<const int32_t> tokens) override;

 private:
  class Hooks;
  struct Piece {
    int64_t begin, end;
  };
  struct Covered {
    const ChunkSpan* span;
    int64_t row;  // of the chunk
  };
  const Piece* PieceAt(int64_t begin) const;
  void BeginPiece(const Piece& piece);
  bool Chooses(int layer) const { return layer >= needs_.check_layer && layer <= needs_.last_check_layer; }
  void FindGoing(std::span<const Row> rows);
  void Measure(int layer, std::span<const Row> rows, const float* k, const float* v);
  void SumAttention(int layer, std::span<const Row> rows, const float* q, const float* lse);
  void Dismiss(int layer, std::span<uint8_t> leaves);
  void WaitForLayer(int layer);
  void FillLayers(int end);
  void FillRow(int layer, size_t covered);

  BlendResources& resources_;
  const ReuseMethod& method_;
  const ReuseNeeds needs_;
  const std::vector<ChunkSpan> spans_;
  const int64_t prompt_rows_;
  std::vector<Piece> pieces_;
  std::unique_ptr<Hooks> hooks_;

  // Of the piece that runs.
  const Piece* piece_ = nullptr;
  std::vector<Covered> covered_;
  std::vector<int32_t> positions_;  // [covered]
  std::vector<uint8_t> again_;      // of the covered rows: still computed
  std::vector<float> received_;     // attention, [position - the piece's begin]
  // Of the covered rows that are still computed, with what the method sees of them.
  std::vector<size_t> going_;    // which
  std::vector<size_t> step_at_;  // among the rows of the step
  std::vector<int32_t> going_positions_;
  std::vector<int64_t> in_span_;
  std::vector<float> deviations_, attention_;
  std::vector<uint8_t> goes_on_;
  int filled_ = 0;       // layers below this have their rows
  bool failed_ = false;  // chunks' rows that were on their way did not come
};

}  // namespace larder
