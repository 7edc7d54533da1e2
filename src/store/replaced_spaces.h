// Ids that tenants had until another server forgot them. The keyring's thread tells them
// (KeyringOptions::replaced) and must not wait; whoever next asks for a tenant's space wipes them from the
// tiers that are this process's own. Nobody finds their records any more; what cannot be wiped ages out.
#pragma once

#include <atomic>
#include <mutex>
#include <utility>
#include <vector>

#include "base/log.h"
#include "store/tier.h"

namespace larder {

class ReplacedSpaces {
 public:
  // From any thread; returns at once.
  void Add(const SpaceId& space) {
    const std::lock_guard lock(mutex_);
    spaces_.push_back(space);
    any_ = true;
  }

  // `tier` may be null.
  void WipeFrom(Tier* tier) {
    if (!any_) return;
    std::vector<SpaceId> spaces;
    {
      const std::lock_guard lock(mutex_);
      spaces.swap(spaces_);
      any_ = false;
    }
    for (const SpaceId& space : spaces) {
      if (tier == nullptr) continue;
      if (const Status wiped = tier->Wipe(space); !wiped) {
        LogWarn("records of a tenant that was forgotten elsewhere are still on the disk: {}",
                wiped.error().message);
      }
    }
  }

 private:
  std::mutex mutex_;
  std::vector<SpaceId> spaces_;  // guarded by mutex_
  std::atomic<bool> any_ = false;
};

}  // namespace larder
