// Finds stored chunks of text anywhere in a prompt, without markers. Chunks are cut in windows of 64 tokens
// that do not overlap, each found by a rolling hash; a prompt is hashed at every offset. A hash only says
// where to look: a match is what compares equal, token by token, as far as it goes in both directions.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <unordered_map>
#include <vector>

#include "base/hash.h"

namespace larder {

inline constexpr int64_t kChunkWindow = 64;  // the shortest match

struct ChunkMatch {
  int64_t begin, rows;  // of the prompt
  uint64_t chunk;       // as it was added
  int64_t first;        // row of the chunk that stands at `begin`
};

// The chunks of one tenant.
class ChunkIndex {
 public:
  // Tests weaken the hash to plant collisions; null: as it is.
  explicit ChunkIndex(std::function<uint64_t(uint64_t)> weaken = nullptr) : weaken_(std::move(weaken)) {}

  // `tokens` and `name` stay where they are until the chunk is removed. REQUIRES: `chunk` is new, at least
  // kChunkWindow tokens.
  void Add(uint64_t chunk, std::span<const int32_t> tokens, const Digest* name);
  void Remove(uint64_t chunk);
  bool empty() const { return chunks_.empty(); }

  // Matches that do not overlap, ascending. From the left: at the first offset where chunks match, the
  // longest match is taken (of equally long ones that of the lowest name), and the search goes on behind it.
  // What was added in which order does not matter.
  std::vector<ChunkMatch> Find(std::span<const int32_t> prompt) const;

 private:
  struct Chunk {
    std::span<const int32_t> tokens;
    const Digest* name;
  };
  struct Window {
    uint64_t chunk;
    int64_t first;  // token of the chunk
  };
  std::vector<uint64_t> Hashes(std::span<const int32_t> tokens) const;
  ChunkMatch Extend(std::span<const int32_t> prompt, int64_t offset, int64_t from,
                    const Window& window) const;
  bool Better(const ChunkMatch& a, const ChunkMatch& b) const;

  std::function<uint64_t(uint64_t)> weaken_;
  std::unordered_map<uint64_t, Chunk> chunks_;
  std::unordered_map<uint64_t, std::vector<Window>> windows_;  // by hash
};

}  // namespace larder
