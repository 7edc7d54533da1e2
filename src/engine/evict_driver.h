// An eviction method at work on one sequence: the private lanes that its rows are written to, the triggers,
// and the attention that the method asks for. The sequence may begin with rows of the shared cache, which are
// read where they lie until the method chooses; what it chooses of them is copied. Nothing of it is
// published. Beside a codec full pages of what is left become codes, where the method allows it
// (EvictNeeds::BecomesCodes). Or it goes on from what another sequence has left (kv/evict/states.h).
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "compute/column_sums.h"
#include "engine/private_rows.h"
#include "kv/evict/method.h"
#include "kv/evict/states.h"
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

class EvictDriver final : public PrivateRows {
 public:
  // With a state, `method` is a copy of its method. To most methods the prompt is then over, and all rows are
  // tokens behind it: they decide for each, or never again. What compacts a prompt while it reads goes on
  // reading, up to the same multiples of its chunk.
  EvictDriver(EvictResources& resources, std::unique_ptr<EvictMethod> method, int64_t prompt_rows,
              std::shared_ptr<const EvictState> state = nullptr);
  ~EvictDriver() override;

  Status Begin(const TileProvider* prefix, int64_t rows) override;
  // Copies what is still borrowed, so that it can be left. kExhausted: there is no room.
  Status Settle() { return lanes_.Settle(); }
  // What is left of rows() rows, those of the prompt among them. Settled; after it this is only to be
  // destroyed.
  EvictLeft Leave();

  int64_t ReadableRows() const override;
  int32_t PositionOf(int64_t row) const override;
  int64_t ChunkEnd(int64_t computed) const override;
  ForwardHooks* HooksFor(int64_t computed) override;
  // Runs the triggers.
  Status AfterRows(int64_t end, std::span<const int32_t> tokens) override;

 private:
  class AllRows;
  class LastRows;
  void Tap(int layer, std::span<const TapRow> rows);
  Status RunLastRows(std::span<const int32_t> tokens, EvictView& view);

  EvictResources& resources_;
  std::unique_ptr<EvictMethod> method_;
  const EvictNeeds needs_;
  const bool becomes_codes_;                 // what is left does, where pages are full
  std::shared_ptr<const EvictState> state_;  // until its pages are copied
  const int64_t prompt_rows_;                // as the method sees it
  std::vector<int32_t> prompts_;             // EvictLeft::prompts
  const std::vector<int>& layers_;
  std::vector<ColumnScores> scores_;   // [layer], while the prompt's end is being decided
  std::unique_ptr<AllRows> all_rows_;  // if the method wants their attention
  std::vector<float*> sums_;           // scratch of Tap: a layer's lanes
};

}  // namespace larder
