#include "store/disk/removals.h"

#include <algorithm>

namespace larder {

void Removals::Add(const LogEntry& entry) {
  switch (entry.type) {
    case LogEntryType::kRemove: {
      uint64_t& before = names_[entry.key];
      before = std::max(before, entry.sequence);
      break;
    }
    case LogEntryType::kWipe: {
      uint64_t& before = spaces_[entry.space];
      before = std::max(before, entry.sequence);
      break;
    }
    case LogEntryType::kFloor:
      floor_ = std::max(floor_, entry.sequence);
      break;
    default:
      return;
  }
  latest_ = std::max(latest_, entry.sequence);
}

bool Removals::Covers(const RecordKey& key, const SpaceId& space, uint64_t born) const {
  const auto name = names_.find(key);
  if (name != names_.end() && born < name->second) return true;
  const auto wiped = spaces_.find(space);
  return wiped != spaces_.end() && born < wiped->second;
}

void Removals::Shorten(uint64_t sequence) {
  if (size() <= kLimit) return;
  names_.clear();
  spaces_.clear();
  floor_ = std::max(floor_, sequence);
  latest_ = std::max(latest_, sequence);
}

std::vector<LogEntry> Removals::Entries() const {
  std::vector<LogEntry> entries;
  entries.reserve(size() + 1);
  if (floor_ > 0) entries.push_back({.type = LogEntryType::kFloor, .sequence = floor_});
  for (const auto& [key, before] : names_) {
    entries.push_back({.type = LogEntryType::kRemove, .key = key, .sequence = before});
  }
  for (const auto& [space, before] : spaces_) {
    entries.push_back({.type = LogEntryType::kWipe, .space = space, .sequence = before});
  }
  return entries;
}

}  // namespace larder
