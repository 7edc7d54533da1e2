// A sequence that keeps every row and masks what an eviction method would have dropped. Rules choose that as
// the papers say it, from attention that is summed in double precision. Nothing of what evicts is used: no
// lane tables, no column sums, no methods.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <span>
#include <utility>
#include <vector>

#include "base/memory.h"
#include "compute/ops.h"
#include "model/model.h"
#include "model/rope.h"

namespace larder::testing {

// Logits of each of the rows: [rows, vocabulary].
inline std::vector<float> LogitsOf(Model& model, std::vector<Row>& rows, ForwardHooks* hooks) {
  const auto width = static_cast<size_t>(model.spec().width),
             vocabulary = static_cast<size_t>(model.spec().vocabulary);
  for (Row& row : rows) row.wants_hidden = true;
  std::vector<float> hidden(rows.size() * width), logits(rows.size() * vocabulary);
  model.Forward(rows, hidden.data(), hooks);
  model.Logits(hidden.data(), static_cast<int>(rows.size()), logits.data());
  return logits;
}

// Over a cache of floats.
class MaskedSequence final : public RowStore, private ForwardHooks {
 public:
  // by_rank: keys are rotated by their rank among the rows that are kept, and a row attends from the rank
  // that it will have. Attention is summed of rows from `first_counted` on.
  MaskedSequence(Model& model, bool by_rank, int64_t first_counted)
      : model_(model),
        spec_(model.spec()),
        by_rank_(by_rank),
        first_counted_(first_counted),
        rope_(spec_.ropes[0], spec_.rotary_dim),
        lanes_(spec_.layers.size() * static_cast<size_t>(spec_.kv_heads)) {
    rope_.Grow(spec_.context);
    for (size_t layer = 0; layer < spec_.layers.size(); ++layer) {
      if (spec_.layers[layer].window == 0) layers_.push_back(static_cast<int>(layer));
    }
  }

  // Runs rows up to `end`, and returns their logits.
  std::vector<float> Run(std::span<const int32_t> tokens, int64_t end) {
    const auto rank = static_cast<int32_t>(At(0, 0).kept.size());
    std::vector<Row> rows;
    for (int64_t at = rows_; at < end; ++at) {
      Row row;
      row.token = tokens[static_cast<size_t>(at)];
      row.position = static_cast<int32_t>(by_rank_ ? rank + at - rows_ : at);
      row.kv = this;
      rows.push_back(row);
    }
    first_position_ = rows.front().position;
    for (Lane& lane : lanes_) Grow(lane, end);
    entries_ = end;
    std::vector<float> logits = LogitsOf(model_, rows, by_rank_ ? nullptr : this);
    rows_ = end;
    return logits;
  }

  int64_t rows() const { return rows_; }
  const std::vector<int>& layers() const { return layers_; }  // that see everything
  int kv_heads() const { return spec_.kv_heads; }
  // Rows, ascending. The others are masked from now on, and never return.
  const std::vector<int32_t>& Kept(int layer, int head) const { return At(layer, head).kept; }
  void Keep(int layer, int head, std::vector<int32_t> rows) {
    At(layer, head).kept = std::move(rows);
    Mask(At(layer, head));
  }
  // What each row has got of attention, the mean over the query heads of a group.
  const std::vector<double>& Sums(int layer, int head) const { return At(layer, head).sums; }

  std::byte* WritablePage(int layer, int head, int64_t position) override {
    return At(layer, head).pages[static_cast<size_t>(RowAt(position) / kPageTokens)].data();
  }
  int WritableSlot(int, int, int64_t position) const override {
    return static_cast<int>(RowAt(position) % kPageTokens);
  }
  bool keys_rotated() const override { return !by_rank_; }
  bool MakesTiles() const override { return by_rank_; }
  int64_t Entries(int, int) const override { return entries_; }
  KvPage Page(int layer, int head, int64_t page, std::byte* scratch) const override {
    const Lane& lane = At(layer, head);
    const auto first = static_cast<size_t>(page * kPageTokens);
    const std::byte* data = lane.pages[static_cast<size_t>(page)].data();
    const auto entries = static_cast<int32_t>(std::min<int64_t>(kPageTokens, entries_ - page * kPageTokens));
    if (by_rank_) {
      for (int i = 0; i < entries; ++i) Rotated(lane, data, first, i, scratch);
      data = scratch;
    }
    KvPage out = StoredPage(KvType::kF32, spec_.head_dim, data);
    out.entries = entries;
    out.positions = lane.positions.data() + first;
    out.logit_bias = lane.bias.data() + first;
    return out;
  }

 private:
  struct Lane {
    std::vector<AlignedBuffer> pages;
    std::vector<int32_t> kept;
    std::vector<int32_t> positions;  // by row; of those that are kept, in by_rank their ranks
    std::vector<float> bias;         // by row
    std::vector<double> sums;        // by row
  };
  Lane& At(int layer, int head) { return lanes_[IndexOf(layer, head)]; }
  const Lane& At(int layer, int head) const { return lanes_[IndexOf(layer, head)]; }
  size_t IndexOf(int layer, int head) const { return static_cast<size_t>(layer * spec_.kv_heads + head); }
  int64_t RowAt(int64_t position) const { return rows_ + position - first_position_; }

  void Grow(Lane& lane, int64_t end) {
    while (std::ssize(lane.pages) * kPageTokens < end)
      lane.pages.push_back(*AlignedBuffer::Allocate(PageBytes(KvType::kF32, spec_.head_dim)));
    lane.positions.resize(lane.pages.size() * kPageTokens);
    lane.bias.resize(lane.positions.size());
    lane.sums.resize(lane.positions.size());
    for (int64_t row = rows_; row < end; ++row) lane.kept.push_back(static_cast<int32_t>(row));
    Mask(lane);
  }
  void Mask(Lane& lane) const {
    std::ranges::fill(lane.bias, -std::numeric_limits<float>::infinity());
    std::ranges::fill(lane.positions, 0);
    for (size_t i = 0; i < lane.kept.size(); ++i) {
      const auto row = static_cast<size_t>(lane.kept[i]);
      lane.bias[row] = 0;
      lane.positions[row] = by_rank_ ? static_cast<int32_t>(i) : lane.kept[i];
    }
  }
  void Rotated(const Lane& lane, const std::byte* from, size_t first, int slot, std::byte* to) const {
    std::vector<float> k(static_cast<size_t>(spec_.head_dim)), v(k.size());
    LoadKvRow(KvType::kF32, spec_.head_dim, from, slot, k.data(), v.data());
    const int64_t rank = lane.positions[first + static_cast<size_t>(slot)];
    Rotate(k.data(), 1, spec_.head_dim, spec_.rotary_dim, rope_.Cosines(rank), rope_.Sines(rank));
    StoreKvRow(KvType::kF32, spec_.head_dim, k.data(), v.data(), to, slot);
  }

  bool WantsLse(int) const override { return true; }
  void AfterQkv(int, std::span<const Row>, float* q, float*, float*) override { q_ = q; }
  void AfterAttention(int layer, std::span<const Row> rows, const float*) override {
    if (!std::ranges::binary_search(layers_, layer)) return;
    const int group = spec_.heads / spec_.kv_heads;
    for (size_t r = 0; r < rows.size(); ++r) {
      if (rows[r].position < first_counted_) continue;
      for (int head = 0; head < spec_.heads; ++head) {
        const float* q = q_ + (r * static_cast<size_t>(spec_.heads) + static_cast<size_t>(head)) *
                                  static_cast<size_t>(spec_.head_dim);
        AddSoftmax(At(layer, head / group), q, rows[r].position, 1.0 / group);
      }
    }
  }
  void AddSoftmax(Lane& lane, const float* q, int32_t position, double share) const {
    std::vector<float> k(static_cast<size_t>(spec_.head_dim)), v(k.size());
    std::vector<double> weights;
    double sum = 0;
    for (const int32_t row : lane.kept) {
      if (row > position) break;
      LoadKvRow(KvType::kF32, spec_.head_dim, lane.pages[static_cast<size_t>(row / kPageTokens)].data(),
                row % kPageTokens, k.data(), v.data());
      double product = 0;
      for (size_t d = 0; d < k.size(); ++d) product += static_cast<double>(q[d]) * static_cast<double>(k[d]);
      weights.push_back(std::exp(product * static_cast<double>(spec_.attention_scale)));
      sum += weights.back();
    }
    for (size_t i = 0; i < weights.size(); ++i)
      lane.sums[static_cast<size_t>(lane.kept[i])] += share * weights[i] / sum;
  }

  Model& model_;
  const ModelSpec& spec_;
  const bool by_rank_;
  const int64_t first_counted_;
  RopeTable rope_;
  std::vector<int> layers_;
  std::vector<Lane> lanes_;
  int64_t rows_ = 0, entries_ = 0;  // that have been run; with those that run now
  int64_t first_position_ = 0;      // of those that run now
  const float* q_ = nullptr;
};

}  // namespace larder::testing
