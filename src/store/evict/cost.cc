// By cost: what is cheap to compute again, large and rarely used goes first, and what was dear ages. The rule
// is GreedyDual-Size-Frequency (Cherkasova: Improving WWW Proxies Performance with GDSF Caching, 1998):
//   value = age + uses * cost / bytes
// where `age`, the value of the last block that went, is taken at each use, so that blocks nobody uses fall
// behind. Here `cost` is the time to compute the block's rows: a row costs its share of the weights, and its
// attention, which rises with the rows before it. Differs: uses before an eviction count.
#include <algorithm>

#include "store/evict/use_history.h"

namespace larder {
namespace {

constexpr double kRowsIfUnknown = 64;

class Cost final : public PolicyWithHistory {
 public:
  explicit Cost(int64_t knee) : knee_(static_cast<double>(knee)) {}
  std::string_view name() const override { return "cost"; }

  void Use(const BlockMeta& block, bool again, EvictRank& rank) override {
    if (again) Begin(block, rank);
  }
  void Leave(const BlockMeta& block, bool evicted, const EvictRank& rank) override {
    PolicyWithHistory::Leave(block, evicted, rank);
    if (evicted) age_ = std::max(age_, rank.value);
  }

 private:
  void Begin(const BlockMeta& block, EvictRank& rank) override {
    const double rows = block.rows > 0 ? block.rows : kRowsIfUnknown;
    const double cost = rows * (1 + (static_cast<double>(block.start) + rows / 2) / knee_);
    const auto bytes = static_cast<double>(std::max<uint64_t>(block.bytes, 1));
    rank.value = age_ + static_cast<double>(Uses(block, rank)) * cost / bytes;
  }

  double knee_;
  double age_ = 0;
};

}  // namespace

Result<std::unique_ptr<EvictPolicy>> CreateCost(std::string_view parameters) {
  int64_t knee = 32768;
  Params params("cost");
  params.Int("knee", &knee, 1, int64_t{1} << 30,
             "rows of context at which a row's attention costs as much as all its weights");
  LARDER_TRY(params.ParseList(parameters));
  return std::make_unique<Cost>(knee);
}

}  // namespace larder
