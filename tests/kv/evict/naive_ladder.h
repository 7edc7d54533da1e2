// LaCache's ladder as its specification words it, on plain lists of token numbers: every entry behind the
// start of a sweep is asked whether its layer keeps it. Where a fused sweep's last rung would reach behind
// its group it is moved back, as src/kv/evict/lacache.cc says.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace larder {

class NaiveLadder {
 public:
  struct Form {
    int64_t layers, slots, span, overlap, sinks = 4;
    bool contiguous = false;  // which layers share a rung
  };
  explicit NaiveLadder(const Form& form)
      : form_(form),
        slots_(form.slots),
        cursor_(form.sinks),
        lists_(static_cast<size_t>(form.layers)),
        A_(1 + Up(form.layers - form.span, form.span - form.overlap)),
        B_(std::min(Up(form.span, form.span - form.overlap), A_)),
        R_(A_ - B_) {}

  void Add(int32_t token) {
    for (auto& list : lists_) list.push_back(token);
  }
  // After every token, or when a prompt is here.
  void Compact() {
    if (Excess() <= 0) return;
    if (!raised_) slots_ += R_ / 2;
    raised_ = true;
    if (Excess() <= 0) return;
    const int64_t room = std::max<int64_t>(0, slots_ - cursor_ - form_.layers);
    if (Excess() <= room / B_ * R_) {
      const int64_t groups = Up(Excess(), R_);
      Sweep(cursor_, groups, A_, 1);
      cursor_ += groups * B_;
      return;
    }
    Sweep(cursor_, room / B_, A_, 1);
    const int64_t sweeps = Up(Excess(), (slots_ - form_.sinks - form_.layers) / B_ * R_);
    const int64_t width = A_ + (sweeps - 1) * (A_ - 1), groups = Up(Excess(), width - B_);
    Sweep(form_.sinks, groups, width, sweeps);
    cursor_ = form_.sinks + groups * B_;
  }

  const std::vector<int32_t>& Layer(int layer) const { return lists_[static_cast<size_t>(layer)]; }
  int64_t freed() const { return R_; }  // of a group

 private:
  static int64_t Up(int64_t a, int64_t b) { return (a + b - 1) / b; }
  int64_t Excess() const { return static_cast<int64_t>(lists_[0].size()) - slots_; }

  void Sweep(int64_t start, int64_t groups, int64_t width, int64_t step) {
    for (int64_t layer = 0; layer < form_.layers; ++layer) {
      const int64_t rungs = width - B_ + 1;
      int64_t rung = form_.contiguous ? layer * rungs / form_.layers : layer % rungs;
      rung = std::min(rung, width - 1 - step * (B_ - 1));
      auto& list = lists_[static_cast<size_t>(layer)];
      auto to = list.begin() + start;
      for (int64_t i = start; i < static_cast<int64_t>(list.size()); ++i) {
        const int64_t in_group = (i - start) % width - rung;
        const bool kept = in_group >= 0 && in_group % step == 0 && in_group / step < B_;
        if (i >= start + groups * width || kept) *to++ = list[static_cast<size_t>(i)];
      }
      list.erase(to, list.end());
    }
  }

  const Form form_;
  int64_t slots_, cursor_;
  bool raised_ = false;
  std::vector<std::vector<int32_t>> lists_;
  const int64_t A_, B_, R_;  // as in the paper: entries of a group, kept of it, freed
};

}  // namespace larder
