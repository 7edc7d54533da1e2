// Gemma 3: five of six layers see a sliding window and rotate with base 10,000; the sixth sees everything
// with the file's base. Heads of Q and K are normed, norms stand after attention and feed-forward too, the
// embedding is scaled by sqrt(width) and serves as the head. The file's norm weights include Gemma's "+ 1".
#include <cmath>

#include "model/arch/common.h"

namespace larder {

Result<ModelSpec> DescribeGemma3(const GgufFile& file) {
  constexpr int kPattern = 6;
  constexpr double kLocalBase = 10000.0;
  LARDER_ASSIGN(ModelSpec spec, DescribeCommon(file));
  LARDER_ASSIGN(const int64_t window, file.Int("gemma3.attention.sliding_window", 1, int64_t{1} << 30));
  if (file.FloatOr("gemma3.final_logit_softcapping", 0.0) > 0.0 ||
      file.FloatOr("gemma3.attn_logit_softcapping", 0.0) > 0.0) {
    return Fail(ErrorKind::kUnsupported,
                "gemma3.*_logit_softcapping is set; soft-capped logits are not supported");
  }
  spec.qk_norm = true;
  spec.post_norms = true;
  spec.activation = Activation::kGeluTanh;
  spec.embedding_scale = std::sqrt(static_cast<float>(spec.width));
  RopeSpec local;
  local.base = file.FloatOr("gemma3.rope.freq_base_swa", kLocalBase);
  spec.ropes.push_back(local);
  for (size_t i = 0; i < spec.layers.size(); ++i) {
    if ((i + 1) % kPattern == 0) continue;
    spec.layers[i].window = static_cast<int>(window);
    spec.layers[i].rope = 1;
  }
  return spec;
}

}  // namespace larder
