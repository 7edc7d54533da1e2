// What happens to keys and queries between the rotary embedding and the cache, for codecs (kv/codec/codec.h).
#pragma once

#include <vector>

namespace larder {

// k becomes H (k - mean), q becomes H q, with H block-diagonal, Hadamard and orthogonal: each query's scores
// are what they were, less the query's product with the mean, which is the same for all keys. So weights and
// outputs of attention do not change; log-sum-exps are of the shifted scores.
struct KeyTransform {
  int rotation = 1;          // size of the blocks of H; divides the head
  std::vector<float> means;  // [layers][kv_heads][head_dim]; empty: none

  bool nothing() const { return rotation == 1 && means.empty(); }
};

}  // namespace larder
