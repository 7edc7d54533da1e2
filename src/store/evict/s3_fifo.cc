// S3-FIFO (Yang, Zhang, Qiu, Yue, Rashmi: FIFO queues are all you need for cache eviction, SOSP 2023): a
// small queue that new blocks must leave with two uses behind them, a main queue where each use buys another
// round (three at most), and the names of those that left the small queue without, who enter the main queue
// when they come back. Most blocks are never used again; they pass through the small queue and harm nobody.
// Differs: the remembered names are as many as there are blocks, in two bytes each; a use is a request's.
#include <algorithm>

#include "store/evict/policy.h"
#include "store/evict/use_history.h"

namespace larder {
namespace {

constexpr uint8_t kSmall = 0, kMain = 1, kMostUses = 3, kUsesToStay = 2;

class S3Fifo final : public EvictPolicy {
 public:
  explicit S3Fifo(double small) : small_(small) {}
  std::string_view name() const override { return "s3-fifo"; }

  EvictRank Enter(const BlockMeta& block) override {
    left_.Grow(++blocks_);
    EvictRank rank{.value = ++clock_, .queue = kSmall};
    rank.mark = static_cast<uint8_t>(std::min<uint64_t>(block.uses - 1, kMostUses));
    if (block.key != 0 && left_.Uses(block.key) > 0) {
      left_.Set(block.key, 0);
      rank.queue = kMain;
    }
    return rank;
  }
  void Use(const BlockMeta&, bool again, EvictRank& rank) override {
    if (again) rank.mark = std::min<uint8_t>(rank.mark + 1, kMostUses);
  }
  void Leave(const BlockMeta& block, bool evicted, const EvictRank& rank) override {
    --blocks_;
    if (evicted && rank.queue == kSmall && block.key != 0) left_.Set(block.key, 1);
  }
  int Queue(const std::array<uint64_t, kEvictQueues>& blocks) const override {
    const auto all = static_cast<double>(blocks[kSmall] + blocks[kMain]);
    return static_cast<double>(blocks[kSmall]) >= small_ * all ? kSmall : kMain;
  }
  bool Spare(const BlockMeta&, EvictRank& rank) override {
    if (rank.mark < (rank.queue == kSmall ? kUsesToStay : 1)) return false;
    rank.mark = static_cast<uint8_t>(rank.queue == kSmall ? 0 : rank.mark - 1);
    rank.queue = kMain;
    rank.value = ++clock_;
    return true;
  }
  uint64_t bytes() const override { return left_.bytes(); }

 private:
  double small_;
  double clock_ = 0;  // of entries into a queue; exact up to 2^53
  uint64_t blocks_ = 0;
  UseHistory left_;
};

}  // namespace

Result<std::unique_ptr<EvictPolicy>> CreateS3Fifo(std::string_view parameters) {
  double small = 0.1;
  Params params("s3-fifo");
  params.Float("small", &small, 0, 1, "share of the blocks that the queue of new ones may have");
  LARDER_TRY(params.ParseList(parameters));
  return std::make_unique<S3Fifo>(small);
}

}  // namespace larder
