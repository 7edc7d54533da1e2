// What the kinds of `larder bench` share: their options, and which of them a kind reads.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"
#include "larder/measure.h"
#include "larder/model_flags.h"

namespace larder {

struct BenchSettings {
  ModelFlags flags;
  std::string lengths;  // "": the kind's own
  std::string rows = "1,8,64,512";
  int64_t rounds = 5, tokens = 32, sequences = 0;
  std::string disk = ".", records = "100000";  // store: where to write, and how many records to find again
  int64_t blocks = 256;                        // store
  int64_t turns = 8;                           // turns: of each conversation
  std::string redis;                           // restore: URL of a server to measure with; "": none
  std::string methods;                         // decode: eviction methods beside the full cache; "": none
  bool json = false;

  // The lengths asked for, else `otherwise`; "end" is the longest context that leaves room for `reserve`
  // tokens, at most 8192.
  Result<std::vector<int64_t>> Lengths(const std::string& otherwise, int64_t context, int64_t reserve) const;
};

// Each loads the model, measures and prints.
Status BenchMatMul(const BenchSettings& settings);     // matrix products of the model's shapes
Status BenchAttention(const BenchSettings& settings);  // attention of the model's shape
Status BenchMethods(const BenchSettings& settings);    // decoding behind what methods have left
Status BenchServe(const BenchSettings& settings);      // through HTTP, beside engine and model
Status BenchSchedule(const BenchSettings& settings);   // a step without the model
Status BenchLoad(const BenchSettings& settings);       // from nothing to a server that listens
Status BenchRestore(const BenchSettings& settings);    // a seen prompt, by where its rows are
Status BenchOverlap(const BenchSettings& settings);    // the same beside new rows, on slow tiers
Status BenchTurns(const BenchSettings& settings);      // conversations that memory does not hold
Status BenchBlend(const BenchSettings& settings);      // stored chunks on slow tiers
Status BenchPool(const BenchSettings& settings);       // the object pool, and large pages
Status BenchMemory(const BenchSettings& settings);     // pages, mapped ranges and buffers for keys and values
Status BenchStore(const BenchSettings& settings);      // the disk tier beside the bare disk
Status BenchNeighbour(const BenchSettings& settings);  // beside processes that compute

}  // namespace larder
