#include "kv/ghosts.h"

#include <algorithm>
#include <bit>
#include <cstring>

namespace larder {
namespace {

constexpr int kLookAt = 32;  // newest of a bucket

size_t BucketsFor(size_t capacity) { return std::bit_ceil(std::max<size_t>(capacity, 1)); }

}  // namespace

GhostList::GhostList(size_t capacity) : ring_(capacity), buckets_(BucketsFor(capacity)) {}

uint64_t GhostList::BytesFor(size_t capacity) {
  return capacity * sizeof(Ghost) + BucketsFor(capacity) * sizeof(uint64_t);
}

uint64_t GhostList::bytes() const {
  return ring_.capacity() * sizeof(Ghost) + buckets_.capacity() * sizeof(uint64_t);
}

uint64_t GhostList::Key(const Digest& parent, int32_t first) {
  std::array<std::byte, sizeof parent.bytes + sizeof first> text;
  std::memcpy(text.data(), parent.bytes.data(), sizeof parent.bytes);
  std::memcpy(text.data() + sizeof parent.bytes, &first, sizeof first);
  return Checksum64(text);
}

uint8_t GhostList::GroupHash(std::span<const int32_t> tokens) {
  return static_cast<uint8_t>(Checksum64(std::as_bytes(tokens)));
}

void GhostList::Add(const Digest& parent, std::span<const int32_t> tokens, int64_t wall_ms) {
  if (ring_.empty() || tokens.empty()) return;
  Ghost ghost{.key = Key(parent, tokens[0]), .number = ++last_, .wall_ms = wall_ms};
  ghost.rows = static_cast<uint8_t>(tokens.size());
  for (size_t at = 0; at < tokens.size(); at += kGroup) {
    ghost.groups[at / kGroup] = GroupHash(tokens.subspan(at, std::min<size_t>(kGroup, tokens.size() - at)));
  }
  uint64_t& newest = buckets_[ghost.key & (buckets_.size() - 1)];
  ghost.older = newest;
  newest = ghost.number;
  ring_[ghost.number % ring_.size()] = ghost;
}

// Rows on which the ghost and the text agree, as far as the kept bits tell.
int GhostList::Agreement(const Ghost& ghost, std::span<const int32_t> tokens) {
  const size_t rows = std::min<size_t>(ghost.rows, tokens.size());
  size_t at = 0;
  while (at < rows) {
    const size_t group = std::min<size_t>(kGroup, ghost.rows - at);
    // A text that ends inside a group cannot be checked against it: believe it.
    if (at + group > tokens.size()) return static_cast<int>(tokens.size());
    if (GroupHash(tokens.subspan(at, group)) != ghost.groups[at / kGroup]) break;
    at += group;
  }
  return static_cast<int>(std::max<size_t>(at, 1));  // the first token is part of the key
}

std::optional<int64_t> GhostList::Find(const Digest& parent, std::span<const int32_t> tokens,
                                       int agree) const {
  if (ring_.empty() || tokens.empty()) return std::nullopt;
  const uint64_t key = Key(parent, tokens[0]);
  uint64_t number = buckets_[key & (buckets_.size() - 1)];
  for (int looked = 0; number != 0 && looked < kLookAt; ++looked) {
    const Ghost& ghost = ring_[number % ring_.size()];
    if (ghost.number != number) break;
    if (ghost.key == key && Agreement(ghost, tokens) > agree) return ghost.wall_ms;
    number = ghost.older;
  }
  return std::nullopt;
}

}  // namespace larder
