// The bound of everything that scores entries once: a method that knows what will be looked at.
#pragma once

#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "compute/column_sums.h"
#include "kv/evict/method.h"
#include "model/model.h"

namespace larder {

// Attention of the rows that will come: [layer][kv head][entry], the sum over these rows and the group's
// heads.
class FutureAttention {
 public:
  // Nothing yet, for texts of up to `entries` tokens.
  void Reset(const ModelSpec& spec, int64_t entries);
  // Adds the attention of rows of `tokens` from position `from` on; to be run over the full cache.
  class Capture;
  std::span<const float> Of(int layer, int kv_head) const {
    return sums_[static_cast<size_t>(layer)][static_cast<size_t>(kv_head)];
  }

 private:
  std::vector<std::vector<std::vector<float>>> sums_;
};

class FutureAttention::Capture final : public ForwardHooks {
 public:
  // All outlive this.
  Capture(FutureAttention& future, Model& model, ColumnScratch& scratch, const TileProvider& full,
          int64_t from)
      : future_(future), model_(model), scratch_(scratch), full_(full), from_(from) {}
  bool WantsLse(int) const override { return true; }
  void AfterQkv(int, std::span<const Row>, float* q, float*, float*) override { q_ = q; }
  void AfterAttention(int layer, std::span<const Row> rows, const float* lse) override;

 private:
  FutureAttention& future_;
  Model& model_;
  ColumnScratch& scratch_;
  const TileProvider& full_;
  const int64_t from_;
  const float* q_ = nullptr;
};

// `parameters`: budget, sinks, last. `future` outlives it and is filled before the prompt ends.
Result<std::unique_ptr<EvictMethod>> CreateOracle(std::string_view parameters, const FutureAttention& future);

}  // namespace larder
