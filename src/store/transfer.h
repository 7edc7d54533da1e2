// Records from a tier to an archive and back.
#pragma once

#include <cstdint>
#include <functional>

#include "store/archive.h"
#include "store/tier.h"

namespace larder {

struct TransferReport {
  uint64_t records = 0, bytes = 0;  // carried over (import: or there already); of payload
  uint64_t damaged = 0;             // not sound, and left out
  uint64_t no_key = 0;              // import: sealed for a tenant that the keyring does not have
  uint64_t conflicts = 0;           // import: another payload is there under the name, and stays
  uint64_t refused = 0;             // import: no room, or an I/O error
  Status status;                    // why it ended early, or what the first refusal was
};

// Every record the tier lists. The archive is not finished.
TransferReport ExportRecords(Tier& tier, ArchiveWriter& archive);

// Every sound record; all of them are committed when it returns. `unsound` is called for what is damaged or
// has no key.
TransferReport ImportRecords(ArchiveReader& archive, Tier& tier,
                             const std::function<void(const ArchiveItem&)>& unsound);

}  // namespace larder
