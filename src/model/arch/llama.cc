// Llama 1 to 3, Mistral, SmolLM2 and the many models of their shape. Facts: GGUF keeps Q and K rows ordered
// for rotary pairs that lie side by side; Llama 3's frequency scaling arrives as the tensor
// rope_freqs.weight.
#include "model/arch/common.h"

namespace larder {

Result<ModelSpec> DescribeLlama(const GgufFile& file) {
  if (file.IntOr("llama.expert_count", 0) > 0) {
    return Fail(ErrorKind::kUnsupported, "llama.expert_count is {}; mixtures of experts are not supported",
                file.IntOr("llama.expert_count", 0));
  }
  LARDER_ASSIGN(ModelSpec spec, DescribeCommon(file));
  spec.adjacent_rope = true;
  spec.qkv_bias = file.FindTensor("blk.0.attn_q.bias") != nullptr;
  return spec;
}

}  // namespace larder
