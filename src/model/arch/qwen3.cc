// Qwen 3: no biases; every head of Q and K is normed before the rotation.
#include "model/arch/common.h"

namespace larder {

Result<ModelSpec> DescribeQwen3(const GgufFile& file) {
  LARDER_ASSIGN(ModelSpec spec, DescribeCommon(file));
  spec.qk_norm = true;
  return spec;
}

}  // namespace larder
