// What happens to keys and queries between the rotary embedding and the cache, for codecs (kv/codec/codec.h).
#pragma once

#include <cstdint>
#include <vector>

#include "compute/kv_codes.h"

namespace larder {

// k becomes H (k - mean), q becomes H q, with H block-diagonal, Hadamard and orthogonal: each query's scores
// are what they were, less the query's product with the mean, which is the same for all keys. So weights and
// outputs of attention do not change; log-sum-exps are of the shifted scores.
struct KeyTransform {
  int rotation = 1;          // size of the blocks of H; divides the head
  std::vector<float> means;  // [layers][kv_heads][head_dim]; empty: none

  bool nothing() const { return rotation == 1 && means.empty(); }
};

// A part of a row's keys in one layer, whole heads of it: k [n] stands at `first` of all layers' keys, as
// means has them. With nothing to do it stays as it is.
inline void TransformKey(const KeyTransform& transform, int64_t first, int64_t n, float* k) {
  const float* mean = transform.means.empty() ? nullptr : transform.means.data() + first;
  for (int64_t i = 0; mean != nullptr && i < n; ++i) k[i] -= mean[i];
  if (transform.rotation != 1) Hadamard(k, n, transform.rotation);
}

}  // namespace larder
