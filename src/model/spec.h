// What a transformer looks like, as data. An architecture is one file in model/arch that fills this from a
// GGUF's metadata, and one line in model/arch/list.cc; the forward pass (model/forward.cc) knows only the
// spec.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "compute/ops.h"
#include "model/gguf.h"

namespace larder {

struct RopeSpec {
  double base = 10000.0;
  double scale = 1.0;          // positions are divided by this (linear scaling)
  std::vector<float> factors;  // [rotary_dim / 2] divides each frequency; empty: all 1
};

struct LayerSpec {
  int window = 0;  // 0: sees everything
  int rope = 0;    // index into ModelSpec::ropes
};

struct ModelSpec {
  std::string architecture;  // general.architecture
  int width = 0, heads = 0, kv_heads = 0, head_dim = 0, rotary_dim = 0, feed_forward = 0;
  int64_t vocabulary = 0, context = 0;
  float norm_eps = 1e-5f;
  float attention_scale = 0;  // 1 / sqrt(head_dim) unless the model says otherwise
  float embedding_scale = 1;
  Activation activation = Activation::kSilu;
  bool adjacent_rope = false;  // the file's Q and K rows are ordered for pairs (2i, 2i+1)
  bool qkv_bias = false;
  bool qk_norm = false;     // RMS norm of every head of Q and K
  bool post_norms = false;  // RMS norms after attention and after the feed-forward part
  bool tied_head = false;   // no output.weight: the embedding is the head
  std::vector<RopeSpec> ropes;
  std::vector<LayerSpec> layers;
};

struct ArchitectureEntry {
  std::string_view name;  // general.architecture
  Result<ModelSpec> (*describe)(const GgufFile& file);
};
std::span<const ArchitectureEntry> Architectures();
// kUnsupported lists the known architectures.
Result<ModelSpec> DescribeModel(const GgufFile& file);

}  // namespace larder
