#include "kv/derived.h"

#include <limits>
#include <utility>

#include "base/params.h"

namespace larder {

DerivedRoom::DerivedRoom(std::unique_ptr<RunBudget> budget, uint64_t cache_bytes)
    : budget_(std::move(budget)),
      limit_bytes_(static_cast<uint64_t>(kShare * static_cast<double>(cache_bytes))) {}

Status DerivedRoom::Take(uint64_t bytes) {
  if (bytes > limit_bytes_) {
    return Fail(ErrorKind::kExhausted,
                "{} are more than the {} of the cache that chunks and states may take; raise --kv-limit",
                FormatSize(bytes), FormatSize(limit_bytes_));
  }
  while (taken_ > limit_bytes_ - bytes) {
    if (!DropOldest())
      return Fail(ErrorKind::kExhausted, "the room for chunks and states is held by running requests");
  }
  taken_ += bytes;
  return {};
}

Status DerivedRoom::Charge(uint64_t bytes) {
  Status charged = budget_->Charge(bytes);
  while (!charged && DropOldest()) charged = budget_->Charge(bytes);
  return charged;
}

bool DerivedRoom::DropOldest() {
  DerivedStore* next = nullptr;
  uint64_t oldest = std::numeric_limits<uint64_t>::max();
  for (DerivedStore* store : stores_) {
    const std::optional<uint64_t> use = store->OldestUse();
    if (!use || *use >= oldest) continue;
    oldest = *use;
    next = store;
  }
  if (next == nullptr) return false;
  next->DropOldest();
  return true;
}

void DerivedRoom::Clear(const std::string& tenant) {
  for (DerivedStore* store : stores_) store->Clear(tenant);
}

void DerivedRoom::Forget(const std::string& tenant) {
  forgotten_[tenant] = Tick();
  for (DerivedStore* store : stores_) store->Drop(tenant);
}

bool DerivedRoom::ForgottenSince(const std::string& tenant, uint64_t tick) const {
  for (const std::string& who : {tenant, std::string()}) {
    const auto forgotten = forgotten_.find(who);
    if (forgotten != forgotten_.end() && forgotten->second > tick) return true;
  }
  return false;
}

}  // namespace larder
