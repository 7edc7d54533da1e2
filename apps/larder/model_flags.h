// The parameters that every command with a model takes, and loading it.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "base/params.h"
#include "model/model.h"

namespace larder {

struct ModelFlags {
  std::string model;
  int64_t threads = 0;
  std::string math = "fast";
  std::string kv_type = "f16";
  std::string key_means = "auto";
  std::string packed = "auto", packed_pages = "mapped";

  void Declare(Params& params);
  Result<std::unique_ptr<Model>> Load() const;
  // Where packed weights are kept.
  PackedOptions Packed() const;
  // The same, with packed weights kept elsewhere.
  Result<std::unique_ptr<Model>> LoadWith(PackedOptions packed_options) const;
  // The same file in another setting.
  Result<std::unique_ptr<Model>> LoadAs(const std::string& other_math,
                                        const std::string& other_kv_type) const;
};

void DeclareMath(Params& params, const std::string& prefix, std::string* value, std::string help);
void DeclareKvType(Params& params, const std::string& prefix, std::string* value, std::string help);

// Where key means are looked for and kept; "" without a home.
std::string KeyMeansFolder();

// A limit of 0 means half of the memory that is free now. It is taken only as the cache grows.
uint64_t KvLimitOrDefault(uint64_t limit);

}  // namespace larder
