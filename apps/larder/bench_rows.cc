#include "larder/bench_rows.h"

#include "engine/sampler.h"
#include "model/attention_shape.h"

namespace larder {
namespace {

std::vector<float> Noise(size_t n, uint64_t seed) {
  std::vector<float> out(n);
  for (size_t i = 0; i < n; ++i) out[i] = static_cast<float>(CounterUniform(seed, 0, i) * 2 - 1);
  return out;
}

}  // namespace

void WriteNoiseRows(const Model& model, RowStore& store, int64_t begin, int64_t end) {
  constexpr size_t kStarts = 1024;
  const KvShape& shape = model.kv_shape();
  const auto noise = Noise(static_cast<size_t>(shape.head_dim()) + kStarts + 1, 2);
  for (int64_t position = begin; position < end; ++position) {
    for (int layer = 0; layer < shape.layers(); ++layer) {
      for (int head = 0; head < shape.kv_heads(); ++head) {
        const size_t at = static_cast<size_t>(position * 7 + layer * 31 + head * 3) % kStarts;
        StoreKvRow(shape.type(), shape.head_dim(), &noise[at], &noise[at + 1],
                   store.WritablePage(layer, head, position), static_cast<int>(position % kPageTokens));
        if (position % kPageTokens == kPageTokens - 1)
          store.CompletePage(layer, head, position / kPageTokens);
      }
    }
  }
}

void DecodeAttention::Run(std::span<const TileProvider* const> stores, int64_t length) {
  const ModelSpec& spec = model_.spec();
  const size_t width = static_cast<size_t>(spec.heads) * static_cast<size_t>(spec.head_dim);
  if (q_.size() < width * stores.size()) {
    q_ = Noise(width * stores.size(), 3);
    out_.resize(q_.size());
  }
  std::vector<AttentionRow> rows;
  for (size_t i = 0; i < stores.size(); ++i)
    rows.push_back({&q_[i * width], &out_[i * width], nullptr, stores[i], static_cast<int32_t>(length - 1)});
  for (int layer = 0; layer < static_cast<int>(spec.layers.size()); ++layer) {
    Attention(model_.pool(), scratch_, AttentionShapeOf(spec, layer, model_.kv_shape().type()), rows);
  }
}

}  // namespace larder
