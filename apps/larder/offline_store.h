// The directory of a disk store, opened by an offline command: alone, with its keyring.
#pragma once

#include <memory>
#include <string>

#include "base/clock.h"
#include "store/disk/disk_tier.h"
#include "store/sealer.h"

namespace larder {

struct StoreFlags {
  std::string directory, store_key, keyring;
  uint64_t limit_bytes = 0;  // 0: nothing is evicted

  std::string KeyringPath() const { return keyring.empty() ? directory + "/keyring" : keyring; }
};

struct OpenedStore {
  SystemClock clock;
  std::unique_ptr<Keyring> keyring;  // null: the store has none
  std::unique_ptr<DiskTier> tier;    // goes first
};

// `create`: also where there is no store yet. `threads`: it reads and writes beside the caller; without them
// nothing happens to the store but what the caller asks for. kConflict: another process has it; kNotFound: no
// store there, or no keyring for the store key; kInvalid: it needs the store key, or has none.
Result<std::unique_ptr<OpenedStore>> OpenStore(const StoreFlags& flags, bool create, bool threads);

}  // namespace larder
