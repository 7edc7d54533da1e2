// Least recently used: what was touched longest ago goes first. Of one chain the suffix is touched before the
// prefix, so plain LRU never cuts a prefix away under its suffix.
#include "store/evict/policy.h"

namespace larder {
namespace {

class Lru final : public EvictPolicy {
 public:
  std::string_view name() const override { return "lru"; }
};

}  // namespace

Result<std::unique_ptr<EvictPolicy>> CreateLru(std::string_view parameters) {
  Params params("lru");
  LARDER_TRY(params.ParseList(parameters));
  return std::make_unique<Lru>();
}

}  // namespace larder
