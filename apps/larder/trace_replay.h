// A trace through the server's eviction and admission policies, block by block, without a model: which prompt
// tokens would have been found in memory or on disk, and what would have been written.
//
// As in the cache, a prompt finds its blocks from the first on; only blocks that nobody holds and nothing
// follows may go; a request holds its blocks until its end and then touches them from the last to the first.
// Requests run one after the other. A capacity is in blocks of the trace, short ones counted as whole ones.
#pragma once

#include <cstdint>
#include <string>

#include "base/result.h"
#include "larder/trace_file.h"

namespace larder {

// Rows of context at which a row's attention costs as much as all its weights; for SmolLM2-135M about 3,000.
inline constexpr double kReplayKnee = 4096;

struct ReplaySetup {
  uint64_t memory_blocks = 0;
  uint64_t disk_blocks = 0;    // 0: no disk
  std::string policy = "lru";  // of both
  std::string admit = "all";   // to the disk
};

struct ReplayFigures {
  int64_t blocks = 0, tokens = 0;          // of all prompts
  int64_t hit_blocks = 0, hit_tokens = 0;  // of these, found in memory or on disk
  int64_t disk_tokens = 0;                 // of these, found on disk only
  double work = 0, work_saved = 0;         // of computing all prompts, and of what was found
  int64_t written_tokens = 0;              // to disk
  int64_t evicted_blocks = 0;              // from memory
};

Result<ReplayFigures> Replay(const Trace& trace, const ReplaySetup& setup);

// What a cache of so many blocks could find at most (Belady, 1966): it knows the future and drops the block
// whose next use is farthest away, a new one too. Exact in blocks; in tokens a short last block may make it
// miss the best by a little.
ReplayFigures ReplayBelady(const Trace& trace, uint64_t capacity_blocks);

}  // namespace larder
