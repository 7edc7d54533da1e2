#include "model/weights.h"

#include <algorithm>
#include <string>

#include "base/memory.h"

namespace larder {
namespace {

class Loader {
 public:
  Loader(const GgufFile& file, const ModelSpec& spec, MathMode math, ThreadPool& pool,
         const std::function<void(double)>& progress)
      : file_(file), spec_(spec), math_(math), pool_(pool), progress_(progress) {}

  Result<ModelWeights> Load() {
    LARDER_TRY(CheckMemory());
    ModelWeights w;
    LARDER_ASSIGN(w.embedding, file_.Tensor("token_embd.weight", {spec_.width, spec_.vocabulary}));
    LARDER_ASSIGN(w.output_norm, Vector("output_norm.weight", spec_.width));
    w.layers.resize(spec_.layers.size());
    for (size_t i = 0; i < w.layers.size(); ++i) LARDER_TRY(Layer(static_cast<int>(i), w.layers[i]));
    LARDER_ASSIGN(w.head, Pack(spec_.tied_head ? "token_embd.weight" : "output.weight", spec_.vocabulary,
                               spec_.width, {}));
    if (progress_) progress_(1.0);
    return w;
  }

 private:
  // The packed size is close to the file's; float mode needs four bytes an element. Refused before anything
  // is taken.
  Status CheckMemory() {
    uint64_t need = 0;
    for (const GgufTensor& tensor : file_.tensors()) {
      const uint64_t elements = static_cast<uint64_t>(tensor.inner()) * static_cast<uint64_t>(tensor.rows());
      need +=
          math_ == MathMode::kF32 || tensor.format->form == WeightForm::kF32 ? elements * 4 : tensor.bytes;
      total_elements_ += elements;
    }
    const uint64_t available = AvailableBytes();
    if (need > available) {
      return Fail(ErrorKind::kExhausted,
                  "the model's tensors need {} MiB of memory and {} MiB are available; use a smaller or more "
                  "strongly "
                  "quantised file",
                  need >> 20, available >> 20);
    }
    return {};
  }

  Result<std::vector<float>> Vector(const std::string& name, int64_t n) {
    LARDER_ASSIGN(const GgufTensor* tensor, file_.Tensor(name, {n}));
    std::vector<float> out(static_cast<size_t>(n));
    DequantizeRow(tensor->format->type, tensor->data, n, out.data());
    return out;
  }

  Result<Matrix> Pack(const std::string& name, int64_t outputs, int64_t inputs,
                      std::span<const int32_t> permutation) {
    LARDER_ASSIGN(const GgufTensor* tensor, file_.Tensor(name, {inputs, outputs}));
    auto packed =
        Matrix::Pack({tensor->format->type, tensor->data, outputs, inputs}, math_, pool_, permutation);
    if (!packed) return Fail(packed.error().kind, "tensor {}: {}", name, packed.error().message);
    done_elements_ += static_cast<uint64_t>(outputs) * static_cast<uint64_t>(inputs);
    if (progress_) progress_(static_cast<double>(done_elements_) / static_cast<double>(total_elements_ + 1));
    return packed;
  }

  Status Layer(int index, LayerWeights& w) {
    const std::string b = fmt::format("blk.{}.", index);
    const int64_t width = spec_.width, q_out = int64_t{spec_.heads} * spec_.head_dim,
                  kv_out = int64_t{spec_.kv_heads} * spec_.head_dim;
    std::vector<int32_t> q_order, k_order;
    if (spec_.adjacent_rope) {
      q_order = RotaryPermutation(spec_.heads, spec_.head_dim, spec_.rotary_dim);
      k_order = RotaryPermutation(spec_.kv_heads, spec_.head_dim, spec_.rotary_dim);
    }
    LARDER_ASSIGN(w.attention_norm, Vector(b + "attn_norm.weight", width));
    LARDER_ASSIGN(w.feed_forward_norm, Vector(b + "ffn_norm.weight", width));
    LARDER_ASSIGN(w.q, Pack(b + "attn_q.weight", q_out, width, q_order));
    LARDER_ASSIGN(w.k, Pack(b + "attn_k.weight", kv_out, width, k_order));
    LARDER_ASSIGN(w.v, Pack(b + "attn_v.weight", kv_out, width, {}));
    LARDER_ASSIGN(w.attention_out, Pack(b + "attn_output.weight", width, q_out, {}));
    LARDER_ASSIGN(w.gate, Pack(b + "ffn_gate.weight", spec_.feed_forward, width, {}));
    LARDER_ASSIGN(w.up, Pack(b + "ffn_up.weight", spec_.feed_forward, width, {}));
    LARDER_ASSIGN(w.down, Pack(b + "ffn_down.weight", width, spec_.feed_forward, {}));
    if (spec_.qkv_bias) {
      LARDER_ASSIGN(w.q_bias, Bias(b + "attn_q.bias", q_out, q_order));
      LARDER_ASSIGN(w.k_bias, Bias(b + "attn_k.bias", kv_out, k_order));
      LARDER_ASSIGN(w.v_bias, Bias(b + "attn_v.bias", kv_out, {}));
    }
    if (spec_.qk_norm) {
      LARDER_ASSIGN(w.q_norm, Vector(b + "attn_q_norm.weight", spec_.head_dim));
      LARDER_ASSIGN(w.k_norm, Vector(b + "attn_k_norm.weight", spec_.head_dim));
    }
    if (spec_.post_norms) {
      LARDER_ASSIGN(w.attention_post_norm, Vector(b + "post_attention_norm.weight", width));
      LARDER_ASSIGN(w.feed_forward_post_norm, Vector(b + "post_ffw_norm.weight", width));
    }
    return {};
  }

  Result<std::vector<float>> Bias(const std::string& name, int64_t n, std::span<const int32_t> order) {
    LARDER_ASSIGN(std::vector<float> bias, Vector(name, n));
    if (order.empty()) return bias;
    std::vector<float> out(bias.size());
    for (size_t i = 0; i < out.size(); ++i) out[i] = bias[static_cast<size_t>(order[i])];
    return out;
  }

  const GgufFile& file_;
  const ModelSpec& spec_;
  const MathMode math_;
  ThreadPool& pool_;
  const std::function<void(double)>& progress_;
  uint64_t total_elements_ = 0, done_elements_ = 0;
};

}  // namespace

uint64_t ModelWeights::bytes() const {
  uint64_t sum = head.bytes();
  for (const LayerWeights& w : layers) {
    sum += w.q.bytes() + w.k.bytes() + w.v.bytes() + w.attention_out.bytes() + w.gate.bytes() + w.up.bytes() +
           w.down.bytes();
  }
  return sum;
}

std::vector<int32_t> RotaryPermutation(int heads, int head_dim, int rotary_dim) {
  std::vector<int32_t> order(static_cast<size_t>(heads) * static_cast<size_t>(head_dim));
  const int half = rotary_dim / 2;
  for (int h = 0; h < heads; ++h) {
    for (int i = 0; i < head_dim; ++i) {
      const int from = i < half ? 2 * i : i < rotary_dim ? 2 * (i - half) + 1 : i;
      order[static_cast<size_t>(h * head_dim + i)] = h * head_dim + from;
    }
  }
  return order;
}

Result<ModelWeights> LoadWeights(const GgufFile& file, const ModelSpec& spec, MathMode math, ThreadPool& pool,
                                 const std::function<void(double)>& progress) {
  return Loader(file, spec, math, pool, progress).Load();
}

}  // namespace larder
