// The numerics identity: what this build computes on this machine, as a digest. Part of the name of every
// cached block, so that rows computed by other arithmetic are never taken for ours.
#pragma once

#include <string>

#include "base/hash.h"
#include "compute/matmul.h"

namespace larder {

// Runs a fixed input through every kernel (matrix products in each form, attention, the small operations) and
// hashes the output bits together with the mode's name. Takes a few milliseconds.
Digest NumericsProbe(MathMode mode, ThreadPool& pool);

// Instruction set in use, for people: "AVX2", "AVX3_DL", ...
std::string SimdTargetName();

}  // namespace larder
