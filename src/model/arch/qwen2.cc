// Qwen 2 and 2.5: llama's shape with biases on Q, K and V; rotary halves.
#include "model/arch/common.h"

namespace larder {

Result<ModelSpec> DescribeQwen2(const GgufFile& file) {
  LARDER_ASSIGN(ModelSpec spec, DescribeCommon(file));
  spec.qkv_bias = true;
  return spec;
}

}  // namespace larder
