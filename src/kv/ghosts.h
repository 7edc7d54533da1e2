// Remembers evicted blocks, in a fixed amount of memory, to tell "evicted" from "never seen". Explanations
// only: a few bits of hash per 8 tokens are kept, not the tokens.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "base/hash.h"
#include "compute/attention.h"

namespace larder {

class GhostList {
 public:
  explicit GhostList(size_t capacity);  // 0: remembers nothing

  // A block with these tokens after `parent` (the name of the block before it) was evicted at a time.
  void Add(const Digest& parent, std::span<const int32_t> tokens, int64_t wall_ms);
  // When a block was evicted that would have agreed with `tokens` after `parent` on more than `agree` rows.
  std::optional<int64_t> Find(const Digest& parent, std::span<const int32_t> tokens, int agree) const;

  uint64_t bytes() const;
  static uint64_t BytesFor(size_t capacity);

 private:
  static constexpr int kGroup = 8;  // tokens per stored byte of hash
  struct Ghost {
    uint64_t key = 0;     // of the parent and the first token
    uint64_t number = 0;  // 1, 2, ...; number % capacity is its place
    uint64_t older = 0;   // number of the one before it in its bucket; gone if its place has another number
    int64_t wall_ms = 0;
    uint8_t rows = 0;
    std::array<uint8_t, kPageTokens / kGroup> groups{};
  };
  static uint64_t Key(const Digest& parent, int32_t first);
  static uint8_t GroupHash(std::span<const int32_t> tokens);
  static int Agreement(const Ghost& ghost, std::span<const int32_t> tokens);

  std::vector<Ghost> ring_;
  std::vector<uint64_t> buckets_;  // newest number of each; the size is a power of two
  uint64_t last_ = 0;
};

}  // namespace larder
