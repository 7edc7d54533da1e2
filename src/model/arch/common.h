// What all architectures read alike.
#pragma once

#include "model/spec.h"

namespace larder {

// Fills sizes, norms and one rotary embedding from `<architecture>.*`, checks their ranges and that they fit
// together. Layers are full-attention; the caller changes what its architecture does differently.
Result<ModelSpec> DescribeCommon(const GgufFile& file);

}  // namespace larder
