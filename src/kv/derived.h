// Room for what is derived from texts and kept beside the cache's blocks under names of its own: stored
// chunks (kv/reuse/chunks.h) and compressed states (kv/evict/states.h). All of it together takes at most half
// of the cache's limit, out of which its memory comes, and within that the object goes first that was not
// used for longest and that nobody holds, whichever store it is in.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "kv/page_source.h"

namespace larder {

// One that keeps such objects.
class DerivedStore {
 public:
  virtual ~DerivedStore() = default;
  // When the object was last used whose turn it is to go; nothing: all are held, or there is none.
  virtual std::optional<uint64_t> OldestUse() const = 0;
  virtual void DropOldest() = 0;                      // REQUIRES: there is one
  virtual void Clear(const std::string& tenant) = 0;  // of memory; "": of all
  virtual void Drop(const std::string& tenant) = 0;   // altogether; what is held ends with its holder
};

// One thread at a time, the engine's. Outlives its stores and their objects.
class DerivedRoom {
 public:
  static constexpr double kShare = 0.5;  // of the cache's limit

  // `budget`: of the cache, whose limit is `cache_bytes`.
  DerivedRoom(std::unique_ptr<RunBudget> budget, uint64_t cache_bytes);
  void Add(DerivedStore* store) { stores_.push_back(store); }
  void Remove(DerivedStore* store) { std::erase(stores_, store); }

  uint64_t limit_bytes() const { return limit_bytes_; }
  uint64_t Tick() { return ++clock_; }  // of uses

  // Counts bytes against the limit; older objects go for them. kExhausted: the rest is held.
  Status Take(uint64_t bytes);
  void Return(uint64_t bytes) { taken_ -= bytes; }
  // Pays for bytes out of the cache. Where there is no room, blocks that nobody holds have gone already;
  // older objects are next.
  Status Charge(uint64_t bytes);
  void Refund(uint64_t bytes) { budget_->Refund(bytes); }

  // false: all are held, or there is none.
  bool DropOldest();
  void Clear(const std::string& tenant);
  void Forget(const std::string& tenant);  // what is wiped
  // Whether the tenant was wiped after `tick`.
  bool ForgottenSince(const std::string& tenant, uint64_t tick) const;

 private:
  std::unique_ptr<RunBudget> budget_;
  const uint64_t limit_bytes_;
  uint64_t taken_ = 0, clock_ = 0;
  std::vector<DerivedStore*> stores_;
  std::map<std::string, uint64_t> forgotten_;  // by tenant: when
};

}  // namespace larder
