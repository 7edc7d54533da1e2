#include "kv/reuse/chunk_index.h"

#include <algorithm>

#include "base/result.h"

namespace larder {
namespace {

constexpr uint64_t kBase = 0x9E3779B97F4A7C15ull;  // odd, with bits everywhere

uint64_t Power(uint64_t base, int64_t exponent) {
  uint64_t out = 1;
  for (int64_t i = 0; i < exponent; ++i) out *= base;
  return out;
}

uint64_t Symbol(int32_t token) { return static_cast<uint64_t>(static_cast<uint32_t>(token)) + 1; }

}  // namespace

// Of every run of 64 tokens, by its first: a polynomial in kBase, modulo 2^64.
std::vector<uint64_t> ChunkIndex::Hashes(std::span<const int32_t> tokens) const {
  std::vector<uint64_t> hashes;
  if (std::ssize(tokens) < kChunkWindow) return hashes;
  const uint64_t oldest = Power(kBase, kChunkWindow - 1);
  uint64_t hash = 0;
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (i >= kChunkWindow) hash -= oldest * Symbol(tokens[i - kChunkWindow]);
    hash = hash * kBase + Symbol(tokens[i]);
    if (i + 1 >= kChunkWindow) hashes.push_back(weaken_ ? weaken_(hash) : hash);
  }
  return hashes;
}

void ChunkIndex::Add(uint64_t chunk, std::span<const int32_t> tokens, const Digest* name) {
  LARDER_CHECK(std::ssize(tokens) >= kChunkWindow && !chunks_.contains(chunk));
  chunks_[chunk] = {tokens, name};
  const std::vector<uint64_t> hashes = Hashes(tokens);
  for (size_t first = 0; first < hashes.size(); first += kChunkWindow)
    windows_[hashes[first]].push_back({chunk, static_cast<int64_t>(first)});
}

void ChunkIndex::Remove(uint64_t chunk) {
  const auto it = chunks_.find(chunk);
  if (it == chunks_.end()) return;
  const std::vector<uint64_t> hashes = Hashes(it->second.tokens);
  for (size_t first = 0; first < hashes.size(); first += kChunkWindow) {
    const auto at = windows_.find(hashes[first]);
    if (at == windows_.end()) continue;  // the same hash came before
    std::erase_if(at->second, [&](const Window& window) { return window.chunk == chunk; });
    if (at->second.empty()) windows_.erase(at);
  }
  chunks_.erase(it);
}

// The longest match around `offset` that begins at `from` or later; without rows if the window is another.
ChunkMatch ChunkIndex::Extend(std::span<const int32_t> prompt, int64_t offset, int64_t from,
                              const Window& window) const {
  const std::span<const int32_t> tokens = chunks_.at(window.chunk).tokens;
  int64_t begin = offset, first = window.first;
  while (begin > from && first > 0 &&
         prompt[static_cast<size_t>(begin - 1)] == tokens[static_cast<size_t>(first - 1)]) {
    --begin;
    --first;
  }
  const auto [p, t] =
      std::mismatch(prompt.begin() + offset, prompt.end(), tokens.begin() + window.first, tokens.end());
  const int64_t end = p - prompt.begin();
  if (end < offset + kChunkWindow) return {offset, 0, window.chunk, window.first};
  return {begin, end - begin, window.chunk, first};
}

bool ChunkIndex::Better(const ChunkMatch& a, const ChunkMatch& b) const {
  if (a.rows != b.rows) return a.rows > b.rows;
  if (a.chunk != b.chunk) return *chunks_.at(a.chunk).name < *chunks_.at(b.chunk).name;
  return a.first < b.first;
}

std::vector<ChunkMatch> ChunkIndex::Find(std::span<const int32_t> prompt) const {
  std::vector<ChunkMatch> found;
  if (chunks_.empty()) return found;
  const std::vector<uint64_t> hashes = Hashes(prompt);
  int64_t from = 0;
  for (int64_t offset = 0; offset < std::ssize(hashes); ++offset) {
    const auto at = windows_.find(hashes[static_cast<size_t>(offset)]);
    if (at == windows_.end()) continue;
    ChunkMatch best{offset, 0, 0, 0};
    for (const Window& window : at->second) {
      const ChunkMatch match = Extend(prompt, offset, from, window);
      if (match.rows > 0 && (best.rows == 0 || Better(match, best))) best = match;
    }
    if (best.rows == 0) continue;
    found.push_back(best);
    from = best.begin + best.rows;
    offset = from - 1;
  }
  return found;
}

}  // namespace larder
