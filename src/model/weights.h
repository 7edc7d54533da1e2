// A model's tensors, repacked for the kernels.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "compute/matmul.h"
#include "model/gguf.h"
#include "model/packed_file.h"
#include "model/spec.h"

namespace larder {

struct LayerWeights {
  std::vector<float> attention_norm, feed_forward_norm;            // [width]
  std::vector<float> attention_post_norm, feed_forward_post_norm;  // [width], with post_norms
  std::vector<float> q_norm, k_norm;                               // [head_dim], with qk_norm
  std::vector<float> q_bias, k_bias, v_bias;                       // with qkv_bias
  Matrix q, k, v;        // [heads * head_dim | kv_heads * head_dim, width]
  Matrix attention_out;  // [width, heads * head_dim]
  Matrix gate, up;       // [feed_forward, width]
  Matrix down;           // [width, feed_forward]
};

struct ModelWeights {
  const GgufTensor* embedding = nullptr;  // [vocabulary, width], read row by row from the file
  std::vector<float> output_norm;         // [width]
  Matrix head;                            // [vocabulary, width]
  std::vector<LayerWeights> layers;
  std::unique_ptr<const PackedFile> packed;  // what the matrices view, or null: their own memory

  uint64_t bytes() const;  // of the matrices
};

// Checks every tensor's shape and that the packed form fits into memory, and packs. `made`, if not null, gets
// a line for every matrix; its bytes live as long as the result.
Result<ModelWeights> PackWeights(const GgufFile& file, const ModelSpec& spec, MathMode math, ThreadPool& pool,
                                 const std::function<void(double)>& progress,
                                 std::vector<PackedMatrix>* made = nullptr);
// The same in fast mode from what was packed before; never null.
Result<ModelWeights> MapWeights(const GgufFile& file, const ModelSpec& spec,
                                std::unique_ptr<const PackedFile> packed);

// Order that turns rotary pairs (2i, 2i + 1) into (i, i + rotary_dim / 2), for `heads` heads.
std::vector<int32_t> RotaryPermutation(int heads, int head_dim, int rotary_dim);

}  // namespace larder
