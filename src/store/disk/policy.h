// Which record goes first when the disk is full. One method, one file; knows records by their slot in the
// index. Not thread-safe.
#pragma once

#include <cstdint>
#include <memory>

namespace larder {

class DiskPolicy {
 public:
  virtual ~DiskPolicy() = default;
  // A record came: just written, or read from the catalog, then in the order of last use.
  virtual void Add(uint32_t slot) = 0;
  virtual void Use(uint32_t slot) = 0;
  virtual void Remove(uint32_t slot) = 0;
  // The record to go first, and the one to go after `slot`; kNoSlot: there is none.
  virtual uint32_t First() const = 0;
  virtual uint32_t After(uint32_t slot) const = 0;
  virtual uint64_t bytes() const = 0;
};

// Least recently used first.
std::unique_ptr<DiskPolicy> MakeLruPolicy();

}  // namespace larder
