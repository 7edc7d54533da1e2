// A trace of requests: which blocks of prompt each one has, by the name of the whole prefix. The format is
// that of the Mooncake traces (FAST'25), one JSON object a line:
//   {"timestamp": 27482, "input_length": 6955, "output_length": 52, "hash_ids": [46, 47, ...]}
// timestamp in ms; equal ids mean equal text up to the end of that block; blocks have 512 tokens, the last
// may have fewer. A first line {"block_size": N} says another size.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace larder {

inline constexpr uint32_t kNoBlock = UINT32_MAX;

struct TraceBlock {
  uint32_t parent = kNoBlock;  // the block before it
  int64_t start = 0;           // tokens before it
  int64_t tokens = 0;
};

struct TraceRequest {
  int64_t timestamp_ms = 0;
  std::vector<uint32_t> blocks;  // indices into Trace::blocks; each one's parent is the one before
};

struct Trace {
  int64_t block_tokens = 512;
  std::vector<TraceBlock> blocks;
  std::vector<TraceRequest> requests;
};

// kInvalid, with the number of the line: not such a trace, times that go back, ids that are not names of
// prefixes. A trace of lengths alone says nothing about reuse and is refused.
Result<Trace> ParseTrace(std::string_view text);
Result<Trace> ReadTrace(const std::string& path);

}  // namespace larder
