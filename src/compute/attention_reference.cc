// Attention as attention.h defines it, one row, one head, one entry at a time.
#include <cmath>
#include <vector>

#include "base/memory.h"
#include "base/result.h"
#include "compute/attention.h"
#include "compute/attention_math.h"
#include "compute/half.h"

namespace larder {
namespace {

float Element(KvType type, const void* data, int64_t i) {
  return type == KvType::kF32 ? static_cast<const float*>(data)[i]
                              : HalfToFloat(static_cast<const uint16_t*>(data)[i]);
}

// A running softmax: largest score, sum of weights, weighted sum of values.
struct Running {
  explicit Running(int head_dim) : values(static_cast<size_t>(head_dim)) {}
  float maximum = kMinusInfinity;
  float sum = 0;
  std::vector<float> values;
};

void AddPage(const AttentionShape& shape, const KvPage& page, uint64_t visible, const float* q, Running& to) {
  float score[kPageTokens];
  float page_maximum = kMinusInfinity;
  for (int i = 0; i < kPageTokens; ++i) {
    score[i] = kMinusInfinity;
    if ((visible >> i & 1) == 0) continue;
    float s = 0;
    for (int d = 0; d < shape.head_dim; ++d)
      s = std::fma(q[d], Element(shape.type, page.k, d * kPageTokens + i), s);
    s *= shape.scale;
    if (page.logit_bias != nullptr) s += page.logit_bias[i];
    score[i] = s;
    page_maximum = s > page_maximum ? s : page_maximum;
  }
  const float maximum = page_maximum > to.maximum ? page_maximum : to.maximum;
  const float shift = ShiftOf(maximum);
  const float correction = ScalarExp(to.maximum - shift);
  float weight[kPageTokens], partial[16] = {};
  for (int i = 0; i < kPageTokens; ++i) {
    weight[i] = ScalarExp(score[i] - shift);
    partial[i % 16] = i < 16 ? weight[i] : partial[i % 16] + weight[i];
  }
  to.maximum = maximum;
  to.sum = std::fma(to.sum, correction, SumTree(partial));
  for (float& value : to.values) value *= correction;
  for (int i = 0; i < kPageTokens; ++i) {
    if ((visible >> i & 1) == 0) continue;
    for (int d = 0; d < shape.head_dim; ++d) {
      float& value = to.values[static_cast<size_t>(d)];
      value = std::fma(weight[i], Element(shape.type, page.v, int64_t{i} * shape.head_dim + d), value);
    }
  }
}

void AddSpan(const Running& span, Running& total) {
  const MergeWeights w = WeightsOf(total.maximum, span.maximum);
  total.maximum = w.maximum;
  total.sum = std::fma(total.sum, w.of_total, span.sum * w.of_addition);
  for (size_t d = 0; d < total.values.size(); ++d) {
    total.values[d] = std::fma(total.values[d], w.of_total, span.values[d] * w.of_addition);
  }
}

void OneHead(const AttentionShape& shape, const AttentionRow& row, int head, std::byte* tile) {
  const int kv_head = head / (shape.heads / shape.kv_heads);
  const float* q = row.q + int64_t{head} * shape.head_dim;
  const int64_t pages = (row.tiles->Entries(shape.layer, kv_head) + kPageTokens - 1) / kPageTokens;
  Running total(shape.head_dim);
  for (int64_t first = 0; first < pages; first += kSpanPages) {
    Running span(shape.head_dim);
    bool any = false;
    for (int64_t p = first; p < std::min<int64_t>(pages, first + kSpanPages); ++p) {
      const KvPage page = row.tiles->Page(shape.layer, kv_head, p, tile);
      const uint64_t visible = VisibleEntries(page, row.position, shape.window);
      if (visible == 0) continue;
      any = true;
      AddPage(shape, page, visible, q, span);
    }
    if (any) AddSpan(span, total);
  }
  const float inverse = InverseOfSum(total.sum);
  float* out = row.out + int64_t{head} * shape.head_dim;
  for (int d = 0; d < shape.head_dim; ++d) out[d] = total.values[static_cast<size_t>(d)] * inverse;
  if (row.lse != nullptr) row.lse[head] = LogSumExpOf(total.maximum, total.sum);
}

}  // namespace

void AttentionReference(const AttentionShape& shape, std::span<const AttentionRow> rows) {
  Result<AlignedBuffer> tile = AlignedBuffer::Allocate(PageBytes(shape.type, shape.head_dim));
  LARDER_CHECK(tile.has_value());
  for (const AttentionRow& row : rows) {
    for (int head = 0; head < shape.heads; ++head) OneHead(shape, row, head, tile->data());
  }
}

}  // namespace larder
