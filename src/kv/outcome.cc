#include "kv/outcome.h"

namespace larder {

std::string_view MissReasonName(MissReason reason) {
  switch (reason) {
    case MissReason::kNone:
      return "none";
    case MissReason::kNeverSeen:
      return "never seen";
    case MissReason::kDiverged:
      return "diverged";
    case MissReason::kEvicted:
      return "evicted";
    case MissReason::kOtherTenant:
      return "other tenant";
    case MissReason::kWindow:
      return "window";
    case MissReason::kCodec:
      return "codec";
    case MissReason::kCollision:
      return "collision";
    case MissReason::kRefused:
      return "refused";
    case MissReason::kSlow:
      return "slow";
    case MissReason::kMethod:
      return "method";
  }
  return "unknown";
}

}  // namespace larder
