#include "model/arch/common.h"

#include <algorithm>
#include <cmath>

namespace larder {
namespace {

// A size that some files give per layer. All layers must agree.
Result<int64_t> UniformInt(const GgufFile& file, const std::string& key, int64_t min, int64_t max) {
  if (auto single = file.Int(key, min, max)) return *single;
  auto list = file.Ints(key);
  if (!list || list->empty()) return file.Int(key, min, max);
  for (int64_t value : *list) {
    if (value != list->front()) {
      return Fail(ErrorKind::kUnsupported, "{} differs between layers ({} and {}), which is not supported",
                  key, list->front(), value);
    }
  }
  if (list->front() < min || list->front() > max) {
    return Fail(ErrorKind::kInvalid, "{} is {}; expected {} to {}", key, list->front(), min, max);
  }
  return list->front();
}

Status ReadRope(const GgufFile& file, const std::string& prefix, ModelSpec& spec) {
  RopeSpec rope;
  rope.base = file.FloatOr(prefix + "rope.freq_base", 10000.0);
  if (!(rope.base > 1.0) || !std::isfinite(rope.base)) {
    return Fail(ErrorKind::kInvalid, "{}rope.freq_base is {}; expected a number above 1", prefix, rope.base);
  }
  const std::string_view scaling = file.StringOr(prefix + "rope.scaling.type", "none");
  if (scaling == "linear") {
    rope.scale = file.FloatOr(prefix + "rope.scaling.factor", 1.0);
    if (!(rope.scale > 0.0) || !std::isfinite(rope.scale)) {
      return Fail(ErrorKind::kInvalid, "{}rope.scaling.factor is {}; expected a positive number", prefix,
                  rope.scale);
    }
  } else if (scaling != "none") {
    return Fail(ErrorKind::kUnsupported, "{}rope.scaling.type is '{}'; known are none and linear", prefix,
                scaling);
  }
  if (file.FindTensor("rope_freqs.weight") != nullptr) {
    LARDER_ASSIGN(const GgufTensor* factors, file.Tensor("rope_freqs.weight", {spec.rotary_dim / 2}));
    rope.factors.resize(static_cast<size_t>(spec.rotary_dim / 2));
    DequantizeRow(factors->format->type, factors->data, spec.rotary_dim / 2, rope.factors.data());
    for (float f : rope.factors) {
      if (!(f > 0.0f) || !std::isfinite(f)) {
        return Fail(ErrorKind::kInvalid, "rope_freqs.weight holds {}; every factor must be a positive number",
                    f);
      }
    }
  }
  spec.ropes.assign(1, rope);
  return {};
}

}  // namespace

Result<ModelSpec> DescribeCommon(const GgufFile& file) {
  ModelSpec spec;
  LARDER_ASSIGN(const std::string_view architecture, file.String("general.architecture"));
  spec.architecture = std::string(architecture);
  const std::string prefix = spec.architecture + ".";
  LARDER_ASSIGN(const int64_t layers, file.Int(prefix + "block_count", 1, 1024));
  LARDER_ASSIGN(const int64_t width, file.Int(prefix + "embedding_length", 16, 1 << 17));
  LARDER_ASSIGN(const int64_t feed_forward, UniformInt(file, prefix + "feed_forward_length", 16, 1 << 20));
  LARDER_ASSIGN(const int64_t heads, UniformInt(file, prefix + "attention.head_count", 1, 1024));
  int64_t kv_heads = heads;
  if (file.Find(prefix + "attention.head_count_kv") != nullptr) {
    LARDER_ASSIGN(kv_heads, UniformInt(file, prefix + "attention.head_count_kv", 1, 1024));
  }
  if (heads % kv_heads != 0) {
    return Fail(ErrorKind::kInvalid, "{}attention.head_count {} is no multiple of head_count_kv {}", prefix,
                heads, kv_heads);
  }
  const int64_t head_dim = file.IntOr(prefix + "attention.key_length", width / heads);
  if (head_dim < 2 || head_dim > 512 || head_dim % 2 != 0) {
    return Fail(ErrorKind::kUnsupported, "{}attention.key_length is {}; expected an even number up to 512",
                prefix, head_dim);
  }
  const int64_t value_dim = file.IntOr(prefix + "attention.value_length", head_dim);
  if (value_dim != head_dim) {
    return Fail(ErrorKind::kUnsupported, "{}attention.value_length {} differs from key_length {}", prefix,
                value_dim, head_dim);
  }
  const int64_t rotary = file.IntOr(prefix + "rope.dimension_count", head_dim);
  if (rotary < 2 || rotary > head_dim || rotary % 2 != 0) {
    return Fail(ErrorKind::kInvalid, "{}rope.dimension_count is {}; expected an even number up to {}", prefix,
                rotary, head_dim);
  }
  LARDER_ASSIGN(spec.context, file.Int(prefix + "context_length", 1, int64_t{1} << 30));
  const double eps = file.FloatOr(prefix + "attention.layer_norm_rms_epsilon", 1e-5);
  if (!(eps >= 0.0 && eps < 1.0)) {
    return Fail(ErrorKind::kInvalid, "{}attention.layer_norm_rms_epsilon is {}; expected 0 to 1", prefix,
                eps);
  }
  const GgufTensor* embedding = file.FindTensor("token_embd.weight");
  if (embedding == nullptr) return Fail(ErrorKind::kInvalid, "tensor token_embd.weight is missing");
  if (embedding->shape.size() != 2 || embedding->inner() != width) {
    return Fail(ErrorKind::kInvalid, "tensor token_embd.weight must be [{}, vocabulary]", width);
  }
  spec.width = static_cast<int>(width);
  spec.feed_forward = static_cast<int>(feed_forward);
  spec.heads = static_cast<int>(heads);
  spec.kv_heads = static_cast<int>(kv_heads);
  spec.head_dim = static_cast<int>(head_dim);
  spec.rotary_dim = static_cast<int>(rotary);
  spec.vocabulary = embedding->rows();
  spec.norm_eps = static_cast<float>(eps);
  spec.attention_scale = 1.0f / std::sqrt(static_cast<float>(head_dim));
  spec.tied_head = file.FindTensor("output.weight") == nullptr;
  spec.layers.resize(static_cast<size_t>(layers));
  LARDER_TRY(ReadRope(file, prefix, spec));
  return spec;
}

}  // namespace larder
