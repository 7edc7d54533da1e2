// A step beside the reading: rows whose prompt is still being read wait before each layer for its groups.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "kv/restore.h"
#include "model/model.h"

namespace larder {

class ArrivalHooks final : public ForwardHooks {
 public:
  explicit ArrivalHooks(const KvShape& shape) : shape_(shape) {}

  // A sequence of the step and what brings its rows; null, or all here: it waits for nothing.
  void Add(KvRestore* restore, uint64_t sequence) {
    if (restore != nullptr && restore->started()) waiting_.push_back({restore, sequence});
  }
  bool empty() const { return waiting_.empty(); }
  // Whether a layer did not come: what the step computed for this sequence is worthless.
  bool Failed(uint64_t sequence) const {
    return std::ranges::any_of(waiting_,
                               [&](const Waiting& w) { return w.sequence == sequence && w.failed; });
  }
  void BeforeLayer(int layer, std::span<const Row>, float*) override {
    const int kind = shape_.KindOf(layer);
    const auto& layers = shape_.kinds()[static_cast<size_t>(kind)].layers;
    const auto index = static_cast<int>(std::ranges::lower_bound(layers, layer) - layers.begin());
    for (Waiting& w : waiting_) w.failed |= !w.failed && !w.restore->WaitForLayer(kind, index);
  }

 private:
  struct Waiting {
    KvRestore* restore;
    uint64_t sequence;
    bool failed = false;
  };
  const KvShape& shape_;
  std::vector<Waiting> waiting_;
};

}  // namespace larder
