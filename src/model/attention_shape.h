// How a layer of a model attends.
#pragma once

#include "compute/attention.h"
#include "model/spec.h"

namespace larder {

inline AttentionShape AttentionShapeOf(const ModelSpec& spec, int layer, KvType type) {
  return {layer,         spec.heads,           spec.kv_heads,
          spec.head_dim, spec.attention_scale, spec.layers[static_cast<size_t>(layer)].window,
          type};
}

}  // namespace larder
