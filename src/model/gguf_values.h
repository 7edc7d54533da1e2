// Metadata values: one typed number, string, truth value or array at a time.
#pragma once

#include <cstdint>
#include <string_view>

#include "base/result.h"
#include "model/gguf.h"
#include "model/gguf_reader.h"

namespace larder {

class GgufValueReader {
 public:
  explicit GgufValueReader(GgufReader& reader) : reader_(reader) {}

  // The value of `key`, of the file's type number `type`, at the reader's position.
  Result<GgufValue> Read(uint32_t type, std::string_view key);

 private:
  Result<bool> Bool(const GgufField& field);
  Result<GgufValue> Array(std::string_view key);
  template <class File, class Kept>
  Result<GgufValue> Numbers(uint64_t count, const GgufField& field);
  Result<GgufValue> Strings(uint64_t count, const GgufField& field);
  Result<GgufValue> Bools(uint64_t count, const GgufField& field);

  GgufReader& reader_;
  uint64_t array_elements_ = 0;
};

}  // namespace larder
