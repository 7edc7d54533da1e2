#include "model/weights.h"

#include <algorithm>
#include <string>

#include "base/memory.h"

namespace larder {
namespace {

// Makes a matrix of a tensor: its rows in this order, if any is given.
using MakeMatrix = std::function<Result<Matrix>(const GgufTensor& tensor, int64_t outputs, int64_t inputs,
                                                std::span<const int32_t> order)>;

class Loader {
 public:
  Loader(const GgufFile& file, const ModelSpec& spec, MakeMatrix make)
      : file_(file), spec_(spec), make_(std::move(make)) {}

  Result<ModelWeights> Load() {
    ModelWeights w;
    LARDER_ASSIGN(w.embedding, file_.Tensor("token_embd.weight", {spec_.width, spec_.vocabulary}));
    LARDER_ASSIGN(w.output_norm, Vector("output_norm.weight", spec_.width));
    w.layers.resize(spec_.layers.size());
    for (size_t i = 0; i < w.layers.size(); ++i) LARDER_TRY(Layer(static_cast<int>(i), w.layers[i]));
    LARDER_ASSIGN(w.head, Make(spec_.tied_head ? "token_embd.weight" : "output.weight", spec_.vocabulary,
                               spec_.width, {}));
    return w;
  }

 private:
  Result<std::vector<float>> Vector(const std::string& name, int64_t n) {
    LARDER_ASSIGN(const GgufTensor* tensor, file_.Tensor(name, {n}));
    std::vector<float> out(static_cast<size_t>(n));
    DequantizeRow(tensor->format->type, tensor->data, n, out.data());
    return out;
  }

  Result<Matrix> Make(const std::string& name, int64_t outputs, int64_t inputs,
                      std::span<const int32_t> order) {
    LARDER_ASSIGN(const GgufTensor* tensor, file_.Tensor(name, {inputs, outputs}));
    auto matrix = make_(*tensor, outputs, inputs, order);
    if (!matrix) return Fail(matrix.error().kind, "tensor {}: {}", name, matrix.error().message);
    return matrix;
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
    LARDER_ASSIGN(w.q, Make(b + "attn_q.weight", q_out, width, q_order));
    LARDER_ASSIGN(w.k, Make(b + "attn_k.weight", kv_out, width, k_order));
    LARDER_ASSIGN(w.v, Make(b + "attn_v.weight", kv_out, width, {}));
    LARDER_ASSIGN(w.attention_out, Make(b + "attn_output.weight", width, q_out, {}));
    LARDER_ASSIGN(w.gate, Make(b + "ffn_gate.weight", spec_.feed_forward, width, {}));
    LARDER_ASSIGN(w.up, Make(b + "ffn_up.weight", spec_.feed_forward, width, {}));
    LARDER_ASSIGN(w.down, Make(b + "ffn_down.weight", width, spec_.feed_forward, {}));
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
  const MakeMatrix make_;
};

uint64_t Elements(const GgufTensor& tensor) {
  return static_cast<uint64_t>(tensor.inner()) * static_cast<uint64_t>(tensor.rows());
}

// The packed size is close to the file's; float mode needs four bytes an element. Refused before anything is
// taken.
Status CheckMemory(const GgufFile& file, MathMode math) {
  uint64_t need = 0;
  for (const GgufTensor& tensor : file.tensors()) {
    const bool floats = math == MathMode::kF32 || !tensor.format->IsInteger(tensor.inner());
    need += floats ? Elements(tensor) * 4 : tensor.bytes;
  }
  const uint64_t available = AvailableBytes();
  if (need <= available) return {};
  return Fail(ErrorKind::kExhausted,
              "the model's tensors need {} MiB of memory and {} MiB are available; use a smaller or more "
              "strongly quantised file",
              need >> 20, available >> 20);
}

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
      order[static_cast<size_t>(h) * static_cast<size_t>(head_dim) + static_cast<size_t>(i)] =
          h * head_dim + from;
    }
  }
  return order;
}

Result<ModelWeights> PackWeights(const GgufFile& file, const ModelSpec& spec, MathMode math, ThreadPool& pool,
                                 const std::function<void(double)>& progress,
                                 std::vector<PackedMatrix>* made) {
  LARDER_TRY(CheckMemory(file, math));
  uint64_t total = 1, done = 0;
  for (const GgufTensor& tensor : file.tensors()) total += Elements(tensor);
  const auto make = [&](const GgufTensor& tensor, int64_t outputs, int64_t inputs,
                        std::span<const int32_t> order) -> Result<Matrix> {
    LARDER_ASSIGN(Matrix matrix,
                  Matrix::Pack({tensor.format->type, tensor.data, outputs, inputs}, math, pool, order));
    done += Elements(tensor);
    if (progress) progress(static_cast<double>(done) / static_cast<double>(total));
    if (made != nullptr) {
      made->push_back({tensor.name, tensor.format->type, outputs, inputs, ChecksumOfOrder(order),
                       matrix.half_scales(), matrix.packed()});
    }
    return matrix;
  };
  LARDER_ASSIGN(ModelWeights weights, Loader(file, spec, make).Load());
  if (progress) progress(1.0);
  return weights;
}

Result<ModelWeights> MapWeights(const GgufFile& file, const ModelSpec& spec,
                                std::unique_ptr<const PackedFile> packed) {
  const auto make = [&](const GgufTensor& tensor, int64_t outputs, int64_t inputs,
                        std::span<const int32_t> order) {
    return packed->Get(tensor.name, tensor.format->type, outputs, inputs, order);
  };
  LARDER_ASSIGN(ModelWeights weights, Loader(file, spec, make).Load());
  weights.packed = std::move(packed);
  return weights;
}

}  // namespace larder
