// Contexts that nobody computed: rows of noise in any row store, and attention over them in all layers.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kv/row_store.h"
#include "model/model.h"

namespace larder {

// Writes keys and values of noise into rows [begin, end) of all layers. REQUIRES: they may be written.
void WriteNoiseRows(const Model& model, RowStore& store, int64_t begin, int64_t end);

// Attention of one decoded token for each of some sequences, layer after layer as in a step, so that pages
// come from memory where they would.
class DecodeAttention {
 public:
  explicit DecodeAttention(Model& model) : model_(model) {}
  // `length` rows are in each of the stores; the last one asks.
  void Run(std::span<const TileProvider* const> stores, int64_t length);

 private:
  Model& model_;
  AttentionScratch scratch_;
  std::vector<float> q_, out_;
};

}  // namespace larder
