// A step beside the reading: rows whose prompt is still being read wait before each layer for its groups. If
// one does not come they go no further, since what they would read may still be written to.
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

  // A sequence of the step, where its rows read, and what brings those; null, or all here: it waits for
  // nothing.
  void Add(KvRestore* restore, uint64_t sequence, const RowStore* store) {
    if (restore != nullptr && restore->started()) waiting_.push_back({restore, sequence, store});
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
  bool MayDismiss(int) const override { return std::ranges::any_of(waiting_, &Waiting::failed); }
  void Dismiss(int, std::span<const Row> rows, std::span<uint8_t> leaves) override {
    for (size_t r = 0; r < rows.size(); ++r) {
      if (std::ranges::any_of(waiting_, [&](const Waiting& w) { return w.failed && w.store == rows[r].kv; }))
        leaves[r] = 1;
    }
  }

 private:
  struct Waiting {
    KvRestore* restore;
    uint64_t sequence;
    const RowStore* store;
    bool failed = false;
  };
  const KvShape& shape_;
  std::vector<Waiting> waiting_;
};

}  // namespace larder
