#include "store/evict/use_history.h"

#include <algorithm>

namespace larder {
namespace {

constexpr int kUseBits = 3;
static_assert(UseHistory::kMostUses == (1 << kUseBits) - 1);

// Names are pieces of SHA-256 where they come from Larder, but nothing makes them so.
uint64_t Mixed(uint64_t name) {
  name = (name ^ (name >> 31)) * 0x9e3779b97f4a7c15u;
  return name ^ (name >> 29);
}

uint16_t NameBits(uint64_t name) { return static_cast<uint16_t>(Mixed(name) >> (64 - 16 + kUseBits)); }

}  // namespace

size_t UseHistory::Home(uint64_t name) const { return Mixed(name) & (buckets_.size() - 1); }

void UseHistory::Grow(uint64_t names) {
  // A name's bucket in the doubled table is one of two, and it is not known which: it is in both.
  while (buckets_.size() * kBucket < names) {
    std::vector<Bucket> doubled(buckets_.size() * 2);
    for (size_t i = 0; i < doubled.size(); ++i) doubled[i] = buckets_[i & (buckets_.size() - 1)];
    buckets_ = std::move(doubled);
  }
}

const uint16_t* UseHistory::Find(uint64_t name) const {
  const Bucket& bucket = buckets_[Home(name)];
  const auto at = std::find_if(bucket.begin(), bucket.end(), [bits = NameBits(name)](uint16_t entry) {
    return entry != 0 && entry >> kUseBits == bits;
  });
  return at == bucket.end() ? nullptr : &*at;
}

uint64_t UseHistory::Uses(uint64_t name) const {
  const uint16_t* entry = Find(name);
  return entry == nullptr ? 0 : *entry & kMostUses;
}

void UseHistory::Set(uint64_t name, uint64_t uses) {
  Bucket& bucket = buckets_[Home(name)];
  const uint16_t* entry = Find(name);
  // What was set last comes first; what was there before it moves up.
  const auto hole = entry == nullptr ? bucket.end() - 1 : bucket.begin() + (entry - bucket.data());
  std::move_backward(bucket.begin(), hole, hole + 1);
  const uint64_t kept = std::min(uses, kMostUses);
  bucket[0] = static_cast<uint16_t>(kept == 0 ? 0 : NameBits(name) << kUseBits | kept);
}

}  // namespace larder
