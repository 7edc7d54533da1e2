// What was removed and must not come back, whatever is found on the disk: a record is dead if its name or its
// space was removed after it was born. Not thread-safe.
#pragma once

#include <map>
#include <unordered_map>

#include "store/disk/format.h"

namespace larder {

class Removals {
 public:
  // Past this many the oldest rule is one for all: what was born before is only known from the catalog.
  static constexpr size_t kLimit = 1 << 16;

  void Add(const LogEntry& entry);  // kRemove, kWipe, kFloor; others are ignored
  bool Covers(const RecordKey& key, const SpaceId& space, uint64_t born) const;
  // What was born before is not taken from segments when the catalog is lost.
  uint64_t floor() const { return floor_; }
  // Forgets single rules for a floor at `sequence`, if there are too many. REQUIRES: they have been applied.
  void Shorten(uint64_t sequence);
  uint64_t latest() const { return latest_; }  // sequence of any rule so far
  std::vector<LogEntry> Entries() const;
  size_t size() const { return names_.size() + spaces_.size(); }

 private:
  std::unordered_map<RecordKey, uint64_t, RecordKeyHash> names_;
  std::map<SpaceId, uint64_t> spaces_;
  uint64_t floor_ = 0, latest_ = 0;
};

}  // namespace larder
