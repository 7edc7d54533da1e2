// Exact reuse: rows of the same tokens behind the same tokens, found by the names of blocks (kv/cache.h).
#include "kv/reuse/method.h"

namespace larder {
namespace {

class Prefix final : public ReuseMethod {
 public:
  ReuseNeeds needs() const override { return {}; }
};

Result<std::unique_ptr<ReuseMethod>> Create(Params& params, std::string_view parameters, const ReuseModel&) {
  LARDER_TRY(params.ParseList(parameters));
  return std::make_unique<Prefix>();
}

}  // namespace

ReuseMethodEntry PrefixMethod() {
  return {{.name = "prefix",
           .help = "rows of the same text from its beginning, exact",
           .paper = "",
           .leaf = "C2",
           .memory = "O(n)",
           .needs = ""},
          Create};
}

}  // namespace larder
