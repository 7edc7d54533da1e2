// Least frequently used: what fewer requests came back to goes first; among equals the least recently used.
// Keeps a system prompt that everybody shares through a burst of prompts nobody repeats; slow to forget what
// was popular once.
#include <algorithm>

#include "store/evict/use_history.h"

namespace larder {
namespace {

class Lfu final : public PolicyWithHistory {
 public:
  explicit Lfu(int64_t cap) : cap_(static_cast<uint64_t>(cap)) {}
  std::string_view name() const override { return "lfu"; }
  void Use(const BlockMeta& block, bool again, EvictRank& rank) override { Begin(block, rank); }

 private:
  void Begin(const BlockMeta& block, EvictRank& rank) override {
    rank.value = static_cast<double>(std::min(Uses(block, rank), cap_));
  }

  uint64_t cap_;
};

}  // namespace

Result<std::unique_ptr<EvictPolicy>> CreateLfu(std::string_view parameters) {
  int64_t cap = 1024;
  Params params("lfu");
  params.Int("cap", &cap, 1, 1'000'000,
             "uses beyond this count no further, so that old favourites compete by recency");
  LARDER_TRY(params.ParseList(parameters));
  return std::make_unique<Lfu>(cap);
}

}  // namespace larder
