// A small cache whose rows carry recognisable content: every key and value is a function of the tenant and of
// all tokens up to the row, so reading a sequence back proves that each of its rows is its own.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "kv/cache.h"

namespace larder {

inline constexpr int kTestHeadDim = 8;
inline constexpr int kTestHeads = 2;

struct KvSetup {
  std::vector<int> windows = {0, 0};  // per layer
  uint64_t limit_bytes = 64 << 20;
  std::string policy = "lru";
  int64_t resume_stride = 512;
  int64_t ghosts = 65536;
  int64_t events = 1024;
  double hard_lease_share = 0.25;
  std::function<Digest(const Digest&)> weaken_name = nullptr;
  bool codec = false;  // full blocks keep two dimensions of each row, and that as 16-bit rows have them
  int sinks = 0;       // and all of so many leading ones
};

class KvWorld {
 public:
  explicit KvWorld(KvSetup setup = {});

  std::unique_ptr<KvSequence> Open(const std::string& tenant, std::span<const int32_t> tokens);
  KvCache::Opened OpenFull(const std::string& tenant, std::span<const int32_t> tokens);
  // Reserves, writes and publishes rows for tokens; false if the cache has no room.
  bool Write(KvSequence& sequence, std::span<const int32_t> tokens);
  // Opens, writes what is missing, closes. Answers the rows that were there.
  int64_t Run(const std::string& tenant, std::span<const int32_t> tokens);

  // Every row that attention can still see, of every lane: the content of this sequence's own tokens? With a
  // codec, as a row after the last one reads them.
  testing::AssertionResult Reads(const KvSequence& sequence) const;
  testing::AssertionResult Sound() const;

  KvCache& cache() { return *cache_; }
  ManualClock& clock() { return clock_; }
  uint64_t BlockBytes() const;  // of all kinds

 private:
  ManualClock clock_;
  std::unique_ptr<KvCache> cache_;
};

// n tokens 1000*series, 1000*series + 1, ...
std::vector<int32_t> Text(int series, int n);
std::vector<int32_t> Join(std::span<const int32_t> a, std::span<const int32_t> b);
std::span<const int32_t> First(const std::vector<int32_t>& tokens, size_t n);

}  // namespace larder
