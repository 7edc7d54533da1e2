// By expected reuse: blocks are sorted into classes, by how often they were used and by how far into their
// text they begin; for each class is counted how many were used again, and a block is written when enough of
// its class were. New blocks of a class nobody has come back to are not written; the class goes on being
// counted, so that a workload that changes changes the answer.
#include <algorithm>
#include <array>
#include <bit>

#include "store/admit/policy.h"
#include "store/evict/use_history.h"

namespace larder {
namespace {

constexpr size_t kUses = 4, kStarts = 10;
constexpr int64_t kFirstStart = 256;  // classes of start: below this, below twice this, ...
constexpr double kForget = 4096;      // uses of a class after which old ones count half

class AdmitReuse final : public AdmitPolicy {
 public:
  AdmitReuse(double least, int64_t names) : least_(least), seen_(static_cast<uint64_t>(names)) {}
  std::string_view name() const override { return "reuse"; }

  void Use(const BlockMeta& block) override {
    const uint64_t uses = seen_.Uses(block.key);
    if (uses > 0) ClassOf(std::min(uses, kUses) - 1, block).again += 1;
    Class& now = ClassOf(std::min(uses, kUses - 1), block);
    now.uses += 1;
    if (now.uses > kForget) now = {.uses = now.uses / 2, .again = now.again / 2};
    seen_.Set(block.key, uses + 1);
  }
  bool Admit(const BlockMeta& block) const override {
    const uint64_t uses = seen_.Uses(block.key);
    if (uses == 0) return false;
    const Class& now = classes_[std::min(uses, kUses) - 1][StartOf(block)];
    // One more that was used again: a class nothing is known of is written.
    return now.again + 1 >= least_ * (now.uses + 1);
  }
  uint64_t bytes() const override { return seen_.bytes(); }

 private:
  struct Class {
    double uses = 0, again = 0;
  };
  static size_t StartOf(const BlockMeta& block) {
    const auto start = static_cast<uint64_t>(std::max<int64_t>(block.start, 0) / kFirstStart);
    return std::min<size_t>(std::bit_width(start), kStarts - 1);
  }
  Class& ClassOf(size_t uses, const BlockMeta& block) { return classes_[uses][StartOf(block)]; }

  double least_;
  UseHistory seen_;
  std::array<std::array<Class, kStarts>, kUses> classes_{};  // by uses so far - 1, by start
};

}  // namespace

Result<std::unique_ptr<AdmitPolicy>> CreateAdmitReuse(std::string_view parameters) {
  double least = 0.25;
  int64_t names = int64_t{1} << 20;
  Params params("reuse");
  params.Float("least", &least, 0, 1, "share of blocks like this one that must have been used again");
  params.Int("names", &names, 1, int64_t{1} << 32, "blocks that are remembered, in two bytes each");
  LARDER_TRY(params.ParseList(parameters));
  return std::make_unique<AdmitReuse>(least, names);
}

}  // namespace larder
