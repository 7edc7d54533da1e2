// Everything is written, as soon as it is complete. What a restart or an eviction from memory can lose is
// then only what was computed in the last moments.
#include "store/admit/policy.h"

namespace larder {
namespace {

class AdmitAll final : public AdmitPolicy {
 public:
  std::string_view name() const override { return "all"; }
  bool Admit(const BlockMeta&) const override { return true; }
};

}  // namespace

Result<std::unique_ptr<AdmitPolicy>> CreateAdmitAll(std::string_view parameters) {
  Params params("all");
  LARDER_TRY(params.ParseList(parameters));
  return std::make_unique<AdmitAll>();
}

}  // namespace larder
