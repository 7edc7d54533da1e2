// Means of a model's keys, by layer, KV head and dimension, that a centring codec takes away. Found once by
// `larder calibrate` and kept in a small file (docs/formats/key-means.md); their digest is part of the
// codec's name, so blocks of other means are never mixed up.
#pragma once

#include <string>
#include <vector>

#include "base/hash.h"
#include "base/result.h"

namespace larder {

struct KeyMeans {
  Digest weights;  // of the model's file
  int layers = 0, kv_heads = 0, head_dim = 0;
  std::vector<float> values;  // [layers][kv_heads][head_dim], of keys after the rotary embedding

  Digest digest() const;
  Status Write(const std::string& path) const;
  // kNotFound; kCorrupt: cut off, damaged or senseless; kUnsupported: another version.
  static Result<KeyMeans> Read(const std::string& path);
};

}  // namespace larder
