// The hooks of a step, one after the other.
#pragma once

#include <algorithm>
#include <span>
#include <vector>

#include "model/model.h"

namespace larder {

class HookChain final : public ForwardHooks {
 public:
  void Clear() { hooks_.clear(); }
  void Add(ForwardHooks* hooks) {
    if (hooks != nullptr) hooks_.push_back(hooks);
  }
  // What the pass is to call: nothing, if nobody listens.
  ForwardHooks* get() { return hooks_.empty() ? nullptr : this; }

  void BeforeLayer(int layer, std::span<const Row> rows, float* x) override {
    for (ForwardHooks* hooks : hooks_) hooks->BeforeLayer(layer, rows, x);
  }
  void BeforeRotation(int layer, std::span<const Row> rows, const float* k, const float* v) override {
    for (ForwardHooks* hooks : hooks_) hooks->BeforeRotation(layer, rows, k, v);
  }
  void AfterQkv(int layer, std::span<const Row> rows, float* q, float* k, float* v) override {
    for (ForwardHooks* hooks : hooks_) hooks->AfterQkv(layer, rows, q, k, v);
  }
  bool MayDismiss(int layer) const override {
    return std::ranges::any_of(hooks_, [&](const ForwardHooks* hooks) { return hooks->MayDismiss(layer); });
  }
  void Dismiss(int layer, std::span<const Row> rows, std::span<uint8_t> leaves) override {
    for (ForwardHooks* hooks : hooks_) {
      if (hooks->MayDismiss(layer)) hooks->Dismiss(layer, rows, leaves);
    }
  }
  void AfterAttention(int layer, std::span<const Row> rows, const float* lse) override {
    for (ForwardHooks* hooks : hooks_) {
      if (hooks->WantsLse(layer)) hooks->AfterAttention(layer, rows, lse);
    }
  }
  bool WantsLse(int layer) const override {
    return std::ranges::any_of(hooks_, [&](const ForwardHooks* hooks) { return hooks->WantsLse(layer); });
  }

 private:
  std::vector<ForwardHooks*> hooks_;
};

}  // namespace larder
