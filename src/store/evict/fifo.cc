// First in, first out: what was made longest ago goes first, used or not. The plainest there is, to compare
// with.
#include "store/evict/policy.h"

namespace larder {
namespace {

class Fifo final : public EvictPolicy {
 public:
  std::string_view name() const override { return "fifo"; }
  double Score(const BlockMeta& block) const override { return static_cast<double>(block.birth); }
};

}  // namespace

Result<std::unique_ptr<EvictPolicy>> CreateFifo(std::string_view parameters) {
  Params params("fifo");
  LARDER_TRY(params.ParseList(parameters));
  return std::make_unique<Fifo>();
}

}  // namespace larder
