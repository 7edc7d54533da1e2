// After k hits: what k requests came back to is written. Names stay known for a while after their block has
// left memory, so that a block which is computed again counts as asked for again.
#include "store/admit/policy.h"
#include "store/evict/use_history.h"

namespace larder {
namespace {

class AdmitHits final : public AdmitPolicy {
 public:
  AdmitHits(int64_t hits, int64_t names)
      : hits_(static_cast<uint64_t>(hits)), seen_(static_cast<uint64_t>(names)) {}
  std::string_view name() const override { return "hits"; }
  void Use(const BlockMeta& block) override { seen_.Set(block.key, seen_.Uses(block.key) + 1); }
  bool Admit(const BlockMeta& block) const override { return seen_.Uses(block.key) > hits_; }
  uint64_t bytes() const override { return seen_.bytes(); }

 private:
  uint64_t hits_;
  UseHistory seen_;
};

}  // namespace

Result<std::unique_ptr<AdmitPolicy>> CreateAdmitHits(std::string_view parameters) {
  int64_t after = 1, names = int64_t{1} << 20;
  Params params("hits");
  params.Int("after", &after, 1, UseHistory::kMostUses - 1, "times a block must be asked for again");
  params.Int("names", &names, 1, int64_t{1} << 32, "blocks that are remembered, in two bytes each");
  LARDER_TRY(params.ParseList(parameters));
  return std::make_unique<AdmitHits>(after, names);
}

}  // namespace larder
