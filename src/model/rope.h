// Cosines and sines of the rotary embeddings, computed once in double precision and kept as floats.
#pragma once

#include <cstdint>
#include <vector>

#include "base/hash.h"
#include "model/spec.h"

namespace larder {

class RopeTable {
 public:
  RopeTable(const RopeSpec& spec, int rotary_dim);
  // Makes positions [0, positions) available. Not while others read.
  void Grow(int64_t positions);
  const float* Cosines(int64_t position) const {
    return cosines_.data() + position * half_;
  }  // [rotary_dim / 2]
  const float* Sines(int64_t position) const { return sines_.data() + position * half_; }
  int64_t positions() const { return positions_; }

 private:
  int64_t half_, positions_ = 0;
  std::vector<double> frequencies_;
  std::vector<float> cosines_, sines_;
};

// Identity of all rotary parameters of a model, for block names.
Digest RopeDigest(const ModelSpec& spec);

}  // namespace larder
