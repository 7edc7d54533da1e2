// From a GGUF file to one with other weight formats: which tensor gets which format, and the conversion.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "compute/thread_pool.h"
#include "model/gguf.h"

namespace larder {

struct QuantizationType {
  std::string_view name;  // "q4_k_m"
  TensorType matrices;    // of most matrices
  uint32_t file_type;     // general.file_type
  bool mixed;             // q4_k_m: some matrices get a better format
};

// Every name that can be written, in the order of the help.
std::vector<std::string> QuantizationNames();
const QuantizationType* FindQuantization(std::string_view name);  // nullptr: none of that name

// The format of each tensor of the file, in its order. Vectors (norms, biases) become F32. `pure`: all
// matrices get the type's format; else the output head, where a fine format pays most, gets Q6_K under the
// 4-bit types. Rows that are no whole number of blocks take the next finer format that fits.
std::vector<TensorType> PlanFormats(const GgufFile& file, const QuantizationType& type, bool pure);

// Reads `file`, writes `path`. A tensor whose format stays is copied byte for byte; any other is dequantised
// exactly and quantised. Metadata stays but for general.file_type and general.quantization_version. progress:
// 0..1.
Status QuantizeFile(const GgufFile& file, const std::string& path, const QuantizationType& type, bool pure,
                    ThreadPool& pool, const std::function<void(double)>& progress);

}  // namespace larder
