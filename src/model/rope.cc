#include "model/rope.h"

#include <bit>
#include <cmath>

namespace larder {

RopeTable::RopeTable(const RopeSpec& spec, int rotary_dim) : half_(rotary_dim / 2) {
  frequencies_.resize(static_cast<size_t>(half_));
  for (size_t i = 0; i < frequencies_.size(); ++i) {
    const double frequency = std::pow(spec.base, -2.0 * static_cast<double>(i) / rotary_dim) / spec.scale;
    frequencies_[i] = spec.factors.empty() ? frequency : frequency / static_cast<double>(spec.factors[i]);
  }
}

void RopeTable::Grow(int64_t positions) {
  if (positions <= positions_) return;
  constexpr int64_t kStep = 1024;
  const int64_t target = (positions + kStep - 1) / kStep * kStep;
  cosines_.resize(static_cast<size_t>(target * half_));
  sines_.resize(static_cast<size_t>(target * half_));
  for (int64_t p = positions_; p < target; ++p) {
    for (int64_t i = 0; i < half_; ++i) {
      const double angle = static_cast<double>(p) * frequencies_[static_cast<size_t>(i)];
      cosines_[static_cast<size_t>(p * half_ + i)] = static_cast<float>(std::cos(angle));
      sines_[static_cast<size_t>(p * half_ + i)] = static_cast<float>(std::sin(angle));
    }
  }
  positions_ = target;
}

Digest RopeDigest(const ModelSpec& spec) {
  FieldHasher hasher;
  hasher.Add("rotary_dim", static_cast<uint64_t>(spec.rotary_dim));
  for (const LayerSpec& layer : spec.layers) hasher.Add("layer", static_cast<uint64_t>(layer.rope));
  for (const RopeSpec& rope : spec.ropes) {
    hasher.Add("base", std::bit_cast<uint64_t>(rope.base)).Add("scale", std::bit_cast<uint64_t>(rope.scale));
    hasher.Add("factors", std::as_bytes(std::span(rope.factors)));
  }
  return hasher.Finish();
}

}  // namespace larder
