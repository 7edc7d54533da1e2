#include "model/forward.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "compute/kv_codes.h"
#include "compute/ops.h"
#include "model/attention_shape.h"

namespace larder {
namespace {

// Scratch only ever grows, so that a steady state allocates nothing.
float* Room(std::vector<float>& buffer, size_t n) {
  if (buffer.size() < n) buffer.resize(n);
  return buffer.data();
}

}  // namespace

ForwardPass::ForwardPass(const ModelSpec& spec, const ModelWeights& weights, KvType kv_type,
                         const KeyTransform& keys, ThreadPool& pool)
    : spec_(spec), weights_(weights), kv_type_(kv_type), keys_(keys), pool_(pool) {
  for (const RopeSpec& rope : spec.ropes) ropes_.emplace_back(rope, spec.rotary_dim);
}

// Small work on each row: several rows to an item, neighbours together.
template <class Body>
void ForwardPass::ForRows(int64_t rows, Body&& body) {
  constexpr int64_t kMaxRows = 16, kItemsPerThread = 4;
  const int64_t each = std::clamp<int64_t>(rows / (kItemsPerThread * pool_.threads()), 1, kMaxRows);
  pool_.Run((rows + each - 1) / each, [&](int64_t item, int) {
    for (int64_t r = item * each; r < std::min(rows, (item + 1) * each); ++r) body(r);
  });
}

void ForwardPass::Run(std::span<const Row> rows, float* hidden, ForwardHooks* hooks) {
  if (rows.empty()) return;
  int64_t positions = 0;
  for (const Row& row : rows) positions = std::max<int64_t>(positions, row.position + 1);
  for (RopeTable& rope : ropes_) rope.Grow(positions);
  Embed(rows);
  const int layers = static_cast<int>(spec_.layers.size());
  const size_t width = static_cast<size_t>(spec_.width);
  left_.assign(rows.size(), 0);
  for (int layer = 0; layer < layers; ++layer) {
    active_.clear();
    active_index_.clear();
    for (size_t r = 0; r < rows.size(); ++r) {
      if (left_[r] != 0) continue;
      if (layer < rows[r].enter_layer || (rows[r].leave_layer >= 0 && layer > rows[r].leave_layer)) continue;
      active_.push_back(rows[r]);
      active_index_.push_back(static_cast<int>(r));
    }
    if (active_.empty()) continue;
    if (active_.size() == rows.size()) {
      if (Layer(layer, rows, x_.data(), hooks)) left_ = leaves_;
      continue;
    }
    // Only some rows take part: they are gathered, run, and put back.
    float* packed = Room(packed_, active_.size() * width);
    for (size_t i = 0; i < active_.size(); ++i) {
      std::memcpy(packed + i * width, &x_[static_cast<size_t>(active_index_[i]) * width],
                  width * sizeof(float));
    }
    const bool some_leave = Layer(layer, active_, packed, hooks);
    for (size_t i = 0; i < active_.size(); ++i) {
      if (some_leave) left_[static_cast<size_t>(active_index_[i])] = leaves_[i];
      std::memcpy(&x_[static_cast<size_t>(active_index_[i]) * width], packed + i * width,
                  width * sizeof(float));
    }
  }
  if (hidden != nullptr) Finish(rows, hidden);
}

void ForwardPass::Embed(std::span<const Row> rows) {
  const size_t width = static_cast<size_t>(spec_.width);
  float* x = Room(x_, rows.size() * width);
  const GgufTensor& embedding = *weights_.embedding;
  const size_t row_bytes = embedding.bytes / static_cast<size_t>(embedding.rows());
  ForRows(static_cast<int64_t>(rows.size()), [&](int64_t r) {
    const Row& row = rows[static_cast<size_t>(r)];
    float* out = x + static_cast<size_t>(r) * width;
    if (row.input != nullptr) {
      std::memcpy(out, row.input, width * sizeof(float));
      return;
    }
    LARDER_CHECK(row.token >= 0 && row.token < spec_.vocabulary);
    DequantizeRow(embedding.format->type, embedding.data + static_cast<size_t>(row.token) * row_bytes,
                  spec_.width, out);
    if (spec_.embedding_scale != 1.0f) Scale(out, spec_.embedding_scale, spec_.width);
  });
}

bool ForwardPass::Layer(int layer, std::span<const Row> rows, float* x, ForwardHooks* hooks) {
  if (hooks != nullptr) hooks->BeforeLayer(layer, rows, x);
  ProjectQkv(layer, rows, x);
  if (hooks != nullptr) hooks->BeforeRotation(layer, rows, k_.data(), v_.data());
  RotateQk(layer, rows);
  if (hooks != nullptr) hooks->AfterQkv(layer, rows, q_.data(), k_.data(), v_.data());
  if (!keys_.nothing()) TransformKeys(layer, std::ssize(rows));
  StoreKv(layer, rows);
  if (hooks != nullptr && hooks->MayDismiss(layer)) {
    leaves_.assign(rows.size(), 0);
    hooks->Dismiss(layer, rows, leaves_);
    AfterStoreOf(layer, rows, x, hooks, [&](size_t r) { return leaves_[r] == 0; });
    return true;
  }
  const bool last = layer + 1 == static_cast<int>(spec_.layers.size());
  if (last && hooks == nullptr) {
    // Of the last layer, most rows of a prompt need only their keys and values.
    AfterStoreOf(layer, rows, x, nullptr, [&](size_t r) { return rows[r].wants_hidden; });
  } else {
    AfterStore(layer, rows, x, hooks);
  }
  return false;
}

template <class GoesOn>
void ForwardPass::AfterStoreOf(int layer, std::span<const Row> rows, float* x, ForwardHooks* hooks,
                               GoesOn&& goes_on) {
  const size_t width = static_cast<size_t>(spec_.width);
  const size_t q_width = static_cast<size_t>(spec_.heads) * static_cast<size_t>(spec_.head_dim);
  staying_.clear();
  staying_index_.clear();
  for (size_t r = 0; r < rows.size(); ++r) {
    if (!goes_on(r)) continue;
    staying_.push_back(rows[r]);
    staying_index_.push_back(r);
  }
  if (staying_.empty()) return;
  if (staying_.size() == rows.size()) return AfterStore(layer, rows, x, hooks);
  float* packed = Room(staying_x_, staying_.size() * width);
  for (size_t i = 0; i < staying_.size(); ++i) {
    std::memcpy(packed + i * width, x + staying_index_[i] * width, width * sizeof(float));
    std::memmove(&q_[i * q_width], &q_[staying_index_[i] * q_width], q_width * sizeof(float));
  }
  AfterStore(layer, staying_, packed, hooks);
  for (size_t i = 0; i < staying_.size(); ++i) {
    std::memcpy(x + staying_index_[i] * width, packed + i * width, width * sizeof(float));
  }
}

void ForwardPass::AfterStore(int layer, std::span<const Row> rows, float* x, ForwardHooks* hooks) {
  const LayerWeights& w = weights_.layers[static_cast<size_t>(layer)];
  const int n = static_cast<int>(rows.size());
  Attend(layer, rows, hooks);
  float* out = Room(projected_, rows.size() * static_cast<size_t>(spec_.width));
  const std::array targets = {MatMulTarget{&w.attention_out, out, spec_.width}};
  MatMul(pool_, matmul_scratch_, attended_.data(), int64_t{spec_.heads} * spec_.head_dim, n, targets);
  FeedForward(layer, n, out, x);
}

void ForwardPass::ProjectQkv(int layer, std::span<const Row> rows, const float* x) {
  const LayerWeights& w = weights_.layers[static_cast<size_t>(layer)];
  const size_t n = rows.size();
  const int64_t q_width = int64_t{spec_.heads} * spec_.head_dim,
                kv_width = int64_t{spec_.kv_heads} * spec_.head_dim;
  float* q = Room(q_, n * static_cast<size_t>(q_width));
  float* k = Room(k_, n * static_cast<size_t>(kv_width));
  float* v = Room(v_, n * static_cast<size_t>(kv_width));
  const auto normed = [&](int64_t r, float* to) {
    RmsNorm(x + r * spec_.width, w.attention_norm.data(), spec_.norm_eps, spec_.width, to);
  };
  const auto bias = [&](const std::vector<float>& b) { return b.empty() ? nullptr : b.data(); };
  const std::array targets = {MatMulTarget{&w.q, q, q_width, bias(w.q_bias)},
                              MatMulTarget{&w.k, k, kv_width, bias(w.k_bias)},
                              MatMulTarget{&w.v, v, kv_width, bias(w.v_bias)}};
  MatMul(pool_, matmul_scratch_, RowMaker(normed), static_cast<int>(n), targets);
  if (!spec_.qk_norm) return;
  ForRows(static_cast<int64_t>(n), [&](int64_t r) {
    for (int i = 0; i < spec_.heads; ++i) {
      float* head = q + r * q_width + i * spec_.head_dim;
      RmsNorm(head, w.q_norm.data(), spec_.norm_eps, spec_.head_dim, head);
    }
    for (int i = 0; i < spec_.kv_heads; ++i) {
      float* head = k + r * kv_width + i * spec_.head_dim;
      RmsNorm(head, w.k_norm.data(), spec_.norm_eps, spec_.head_dim, head);
    }
  });
}

void ForwardPass::RotateQk(int layer, std::span<const Row> rows) {
  const int64_t q_width = int64_t{spec_.heads} * spec_.head_dim,
                kv_width = int64_t{spec_.kv_heads} * spec_.head_dim;
  const RopeTable& rope = ropes_[static_cast<size_t>(spec_.layers[static_cast<size_t>(layer)].rope)];
  ForRows(std::ssize(rows), [&](int64_t r) {
    const int32_t position = rows[static_cast<size_t>(r)].position;
    float* row_q = &q_[static_cast<size_t>(r * q_width)];
    float* row_k = &k_[static_cast<size_t>(r * kv_width)];
    const float* cosines = rope.Cosines(position);
    const float* sines = rope.Sines(position);
    Rotate(row_q, spec_.heads, spec_.head_dim, spec_.rotary_dim, cosines, sines);
    if (!rows[static_cast<size_t>(r)].kv->keys_rotated()) return;
    Rotate(row_k, spec_.kv_heads, spec_.head_dim, spec_.rotary_dim, cosines, sines);
  });
}

void ForwardPass::TransformKeys(int layer, int64_t rows) {
  const int64_t q_width = int64_t{spec_.heads} * spec_.head_dim,
                kv_width = int64_t{spec_.kv_heads} * spec_.head_dim;
  ForRows(rows, [&](int64_t r) {
    TransformKey(keys_, layer * kv_width, kv_width, &k_[static_cast<size_t>(r * kv_width)]);
    if (keys_.rotation == 1) return;
    Hadamard(&q_[static_cast<size_t>(r * q_width)], q_width, keys_.rotation);
  });
}

void ForwardPass::StoreKv(int layer, std::span<const Row> rows) {
  ForRows(static_cast<int64_t>(rows.size()), [&](int64_t r) {
    const Row& row = rows[static_cast<size_t>(r)];
    if (!row.writes_kv) return;
    const size_t base = static_cast<size_t>(r) * static_cast<size_t>(spec_.kv_heads * spec_.head_dim);
    for (int head = 0; head < spec_.kv_heads; ++head) {
      const size_t at = base + static_cast<size_t>(head * spec_.head_dim);
      StoreKvRow(kv_type_, spec_.head_dim, &k_[at], &v_[at], row.kv->WritablePage(layer, head, row.position),
                 row.kv->WritableSlot(layer, head, row.position));
    }
  });
  completing_.clear();
  for (const Row& row : rows) {
    if (row.writes_kv && row.position % kPageTokens == kPageTokens - 1) completing_.push_back(&row);
  }
  if (completing_.empty()) return;
  pool_.Run(std::ssize(completing_) * spec_.kv_heads, [&](int64_t item, int) {
    const Row& row = *completing_[static_cast<size_t>(item / spec_.kv_heads)];
    row.kv->CompletePage(layer, static_cast<int>(item % spec_.kv_heads), row.position / kPageTokens);
  });
}

void ForwardPass::Attend(int layer, std::span<const Row> rows, ForwardHooks* hooks) {
  const size_t q_width = static_cast<size_t>(spec_.heads) * static_cast<size_t>(spec_.head_dim);
  float* out = Room(attended_, rows.size() * q_width);
  const bool wants_lse = hooks != nullptr && hooks->WantsLse(layer);
  float* lse = wants_lse ? Room(lse_, rows.size() * static_cast<size_t>(spec_.heads)) : nullptr;
  attention_rows_.clear();
  for (size_t r = 0; r < rows.size(); ++r) {
    attention_rows_.push_back({&q_[r * q_width], out + r * q_width,
                               wants_lse ? lse + r * static_cast<size_t>(spec_.heads) : nullptr,
                               rows[r].kv->ViewFor(rows[r].position), rows[r].position});
  }
  Attention(pool_, attention_scratch_, AttentionShapeOf(spec_, layer, kv_type_), attention_rows_);
  if (hooks != nullptr) hooks->AfterAttention(layer, rows, lse);
}

void ForwardPass::FeedForward(int layer, int rows, float* attended, float* x) {
  const LayerWeights& w = weights_.layers[static_cast<size_t>(layer)];
  const int64_t width = spec_.width;
  const auto add = [&](float* y, const std::vector<float>& post_norm, float* to) {
    if (spec_.post_norms) RmsNorm(y, post_norm.data(), spec_.norm_eps, width, y);
    AddTo(to, y, width);
  };
  const auto added_and_normed = [&](int64_t r, float* to) {
    float* row = x + r * width;
    add(attended + r * width, w.attention_post_norm, row);
    RmsNorm(row, w.feed_forward_norm.data(), spec_.norm_eps, width, to);
  };
  float* out = Room(fed_, static_cast<size_t>(rows) * static_cast<size_t>(width));
  GatedMatMul(pool_, matmul_scratch_, gated_scratch_, RowMaker(added_and_normed), rows,
              {&w.gate, &w.up, &w.down, spec_.activation}, out, width);
  ForRows(rows, [&](int64_t r) { add(out + r * width, w.feed_forward_post_norm, x + r * width); });
}

void ForwardPass::Finish(std::span<const Row> rows, float* hidden) {
  const int64_t width = spec_.width;
  int64_t next = 0;
  for (size_t r = 0; r < rows.size(); ++r) {
    if (!rows[r].wants_hidden) continue;
    RmsNorm(&x_[r * static_cast<size_t>(width)], weights_.output_norm.data(), spec_.norm_eps, width,
            hidden + next * width);
    ++next;
  }
}

void ForwardPass::Logits(const float* hidden, int rows, float* logits) {
  const std::array targets = {MatMulTarget{&weights_.head, logits, spec_.vocabulary}};
  MatMul(pool_, matmul_scratch_, hidden, spec_.width, rows, targets);
}

}  // namespace larder
