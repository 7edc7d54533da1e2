// From floats to the blocks of GGUF's formats: the inverse of formats.h, with the formats' own conventions
// for scales.
#pragma once

#include <cstdint>
#include <span>

#include "base/result.h"
#include "compute/formats.h"

namespace larder {

// The formats that can be written: F32, F16, Q4_0, Q4_1, Q5_0, Q8_0, Q4_K, Q6_K.
bool CanQuantize(TensorType type);

// src[n], n a multiple of the format's block -> out[RowBytes]. kInvalid where an element is not finite.
// Scales beyond the range of a half are cut to its largest number.
Status QuantizeRow(TensorType type, const float* src, int64_t n, void* out);

}  // namespace larder
