// What this machine can do, measured: memory reads and multiplications a second with all threads of a pool.
// The bounds that a benchmark's figures are compared with.
#pragma once

#include "base/result.h"
#include "compute/thread_pool.h"

namespace larder {

struct Roofline {
  double read_gb_per_s = 0;     // of memory that no cache holds
  double byte_gmac_per_s = 0;   // products of bytes, 4-bit weights
  double float_gmac_per_s = 0;  // fused multiply-adds of floats
};

// The best of several passes, about a second in all. kExhausted: a quarter of a GiB is needed for the reads.
Result<Roofline> MeasureRoofline(ThreadPool& pool);

}  // namespace larder
