// Segmented LRU (Karedla, Love, Wherry: Caching Strategies to Improve Disk System Performance, 1994): blocks
// are on probation until their second use and protected from then on; what is on probation goes first, each
// segment in the order of last use. Differs: uses before an eviction count, and the protected segment is cut
// back to its share when somebody must go, not at each use, so that a cache with room demotes nobody.
#include "store/evict/use_history.h"

namespace larder {
namespace {

constexpr uint8_t kProbation = 0, kProtected = 1;

class Slru final : public PolicyWithHistory {
 public:
  explicit Slru(double share) : share_(share) {}
  std::string_view name() const override { return "slru"; }

  void Use(const BlockMeta& block, bool again, EvictRank& rank) override {
    rank.value = static_cast<double>(block.last_use);
    if (again) rank.queue = kProtected;
  }
  int Queue(const std::array<uint64_t, kEvictQueues>& blocks) const override {
    const auto all = static_cast<double>(blocks[kProbation] + blocks[kProtected]);
    return static_cast<double>(blocks[kProtected]) > share_ * all ? kProtected : kProbation;
  }
  // The coldest protected block goes back on probation, and there it is as old as it is.
  bool Spare(const BlockMeta&, EvictRank& rank) override {
    if (rank.queue == kProbation) return false;
    rank.queue = kProbation;
    return true;
  }

 private:
  void Begin(const BlockMeta& block, EvictRank& rank) override {
    rank.value = static_cast<double>(block.last_use);
    rank.queue = Uses(block, rank) > 1 ? kProtected : kProbation;
  }

  double share_;
};

}  // namespace

Result<std::unique_ptr<EvictPolicy>> CreateSlru(std::string_view parameters) {
  double share = 0.5;
  Params params("slru");
  params.Float("protected", &share, 0, 1, "share of the blocks that may be protected");
  LARDER_TRY(params.ParseList(parameters));
  return std::make_unique<Slru>(share);
}

}  // namespace larder
