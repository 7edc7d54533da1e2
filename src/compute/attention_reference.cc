// Attention as attention.h defines it, one row, one head, one entry at a time.
#include <cmath>
#include <vector>

#include "base/memory.h"
#include "base/result.h"
#include "compute/attention.h"
#include "compute/attention_math.h"

namespace larder {
namespace {

// A running softmax: largest score, sum of weights, weighted sum of values.
struct Running {
  explicit Running(int head_dim) : values(static_cast<size_t>(head_dim)) {}
  float maximum = kMinusInfinity;
  float sum = 0;
  std::vector<float> values;
};

// A span's pages and what a row sees of them.
struct Span {
  KvPage page[kSpanPages];
  uint64_t visible[kSpanPages] = {};

  bool Sees(int entry) const { return (visible[entry / kPageTokens] >> (entry % kPageTokens) & 1) != 0; }
  const KvPage& PageOf(int entry) const { return page[entry / kPageTokens]; }
  int16_t Key(int entry, int d) const {
    return static_cast<const int16_t*>(
        PageOf(entry).k)[(d / 2 * kPageTokens + entry % kPageTokens) * 2 + d % 2];
  }
  int16_t Value(int entry, int d, int head_dim) const {
    const int slot = entry % kPageTokens;
    return static_cast<const int16_t*>(PageOf(entry).v)[(slot / 2 * head_dim + d) * 2 + slot % 2];
  }
};

// From the sum of a query's products with a key to units of log 2.
float ScoreOfFloats(const AttentionShape& shape, const Span& span, int entry, const float* q) {
  const float* keys = static_cast<const float*>(span.PageOf(entry).k);
  float s = 0;
  for (int d = 0; d < shape.head_dim; ++d) s = std::fma(q[d], keys[d * kPageTokens + entry % kPageTokens], s);
  return s * ScaleOfScores(shape);
}

float ScoreOfCodes(const AttentionShape& shape, const Span& span, int entry,
                   const std::vector<int16_t>& codes, float scale) {
  float s = 0;
  for (int first = 0; first < shape.head_dim; first += kDimsPerSum) {
    int32_t sum = 0;
    for (int d = first; d < std::min(shape.head_dim, first + kDimsPerSum); ++d) {
      sum += span.Key(entry, d) * codes[static_cast<size_t>(d)];
    }
    s = first == 0 ? static_cast<float>(sum) : s + static_cast<float>(sum);
  }
  return s * (scale * span.PageOf(entry).scales[entry % kPageTokens]);
}

void AddFloatValues(const AttentionShape& shape, const Span& span, const float* weight, Running& to) {
  for (int i = 0; i < kSpanEntries; ++i) {
    if (!span.Sees(i)) continue;
    const float* v = static_cast<const float*>(span.PageOf(i).v) + int64_t{i % kPageTokens} * shape.head_dim;
    for (int d = 0; d < shape.head_dim; ++d) {
      float& value = to.values[static_cast<size_t>(d)];
      value = std::fma(weight[i], v[d], value);
    }
  }
}

void AddCodedValues(const AttentionShape& shape, const Span& span, const float* weight, Running& to) {
  float scaled[kSpanEntries] = {}, largest = 0;
  bool finite = true;
  for (int i = 0; i < kSpanEntries; ++i) {
    if (!span.Sees(i)) continue;
    scaled[i] = weight[i] * span.PageOf(i).scales[kPageTokens + i % kPageTokens];
    largest = scaled[i] > largest ? scaled[i] : largest;
    finite = finite && std::isfinite(span.PageOf(i).scales[kPageTokens + i % kPageTokens]);
  }
  const CodeScale scale = ScaleOfCodes(largest, kQueryCodeLimit);
  const float unscale = finite ? scale.scale : std::numeric_limits<float>::quiet_NaN();
  for (int page = 0; page < kSpanPages; ++page) {
    if (span.visible[page] == 0) continue;
    for (int d = 0; d < shape.head_dim; ++d) {
      int32_t sum = 0;
      for (int i = page * kPageTokens; i < (page + 1) * kPageTokens; ++i) {
        if (span.Sees(i)) sum += Code16Of(scaled[i], scale.to_code) * span.Value(i, d, shape.head_dim);
      }
      float& value = to.values[static_cast<size_t>(d)];
      value = std::fma(static_cast<float>(sum), unscale, value);
    }
  }
}

Running OneSpan(const AttentionShape& shape, const Span& span, const float* q) {
  std::vector<int16_t> codes(static_cast<size_t>(shape.head_dim));
  const float scale = QuantizeRow16(q, shape.head_dim, kQueryCodeLimit, codes.data()) * ScaleOfScores(shape);
  Running to(shape.head_dim);
  float score[kSpanEntries];
  for (int i = 0; i < kSpanEntries; ++i) {
    score[i] = kMinusInfinity;
    if (!span.Sees(i)) continue;
    score[i] = shape.type == KvType::kF32 ? ScoreOfFloats(shape, span, i, q)
                                          : ScoreOfCodes(shape, span, i, codes, scale);
    const float* bias = span.PageOf(i).logit_bias;
    if (bias != nullptr) score[i] = std::fma(bias[i % kPageTokens], kLog2E, score[i]);
    to.maximum = score[i] > to.maximum ? score[i] : to.maximum;
  }
  const float shift = ShiftOf(to.maximum);
  float weight[kSpanEntries], partial[16] = {};
  for (int i = 0; i < kSpanEntries; ++i) {
    weight[i] = ScalarExp2(score[i] - shift);
    partial[i % 16] += weight[i];
  }
  to.sum = SumTree(partial);
  if (shape.type == KvType::kF32) {
    AddFloatValues(shape, span, weight, to);
  } else {
    AddCodedValues(shape, span, weight, to);
  }
  return to;
}

void AddSpan(const Running& span, Running& total) {
  const MergeWeights w = WeightsOf(total.maximum, span.maximum);
  total.maximum = w.maximum;
  total.sum = std::fma(total.sum, w.of_total, span.sum * w.of_addition);
  for (size_t d = 0; d < total.values.size(); ++d) {
    total.values[d] = std::fma(total.values[d], w.of_total, span.values[d] * w.of_addition);
  }
}

void OneHead(const AttentionShape& shape, const AttentionRow& row, int head, std::byte* tiles) {
  const int kv_head = head / (shape.heads / shape.kv_heads);
  const float* q = row.q + int64_t{head} * shape.head_dim;
  const int64_t pages = (row.tiles->Entries(shape.layer, kv_head) + kPageTokens - 1) / kPageTokens;
  Running total(shape.head_dim);
  for (int64_t first = 0; first < pages; first += kSpanPages) {
    Span span;
    bool any = false;
    for (int64_t p = first; p < std::min<int64_t>(pages, first + kSpanPages); ++p) {
      const size_t i = static_cast<size_t>(p - first);
      span.page[i] =
          row.tiles->Page(shape.layer, kv_head, p, tiles + i * PageBytes(shape.type, shape.head_dim));
      span.visible[i] = VisibleEntries(span.page[i], row.position, shape.window);
      any = any || span.visible[i] != 0;
    }
    if (any) AddSpan(OneSpan(shape, span, q), total);
  }
  const float inverse = InverseOfSum(total.sum);
  float* out = row.out + int64_t{head} * shape.head_dim;
  for (int d = 0; d < shape.head_dim; ++d) out[d] = total.values[static_cast<size_t>(d)] * inverse;
  if (row.lse != nullptr) row.lse[head] = LogSumExpOf(total.maximum, total.sum);
}

}  // namespace

void AttentionReference(const AttentionShape& shape, std::span<const AttentionRow> rows) {
  Result<AlignedBuffer> tiles = AlignedBuffer::Allocate(kSpanPages * PageBytes(shape.type, shape.head_dim));
  LARDER_CHECK(tiles.has_value());
  for (const AttentionRow& row : rows) {
    for (int head = 0; head < shape.heads; ++head) OneHead(shape, row, head, tiles->data());
  }
}

}  // namespace larder
