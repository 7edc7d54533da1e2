// Writes GGUF files, version 3: metadata entries as bytes, then tensors whose data comes piece by piece.
//
//   LARDER_ASSIGN(auto out, GgufOutput::Create(path, entries, tensors));
//   for each tensor, in order: LARDER_TRY(out->Append(bytes)) as often as needed
//   LARDER_TRY(out->Finish());
//
// The file appears under its name when Finish succeeds; before that nothing of it can be seen.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/file_writer.h"
#include "model/gguf.h"

namespace larder {

struct GgufEntry {
  std::string key;
  std::string value;  // type number and value, as they lie in a file
};

GgufEntry GgufUint32(std::string key, uint32_t value);
GgufEntry GgufText(std::string key, std::string_view value);
// All entries of a file, byte for byte.
std::vector<GgufEntry> EntriesOf(const GgufFile& file);
// Replaces the value of the entry with that key, or adds it at the end.
void SetEntry(std::vector<GgufEntry>& entries, GgufEntry entry);

struct GgufOutputTensor {
  std::string name;
  std::vector<uint64_t> shape;  // innermost first; the first is a multiple of the format's block
  TensorType type;
};

class GgufOutput {
 public:
  // Writes everything before the data. Data is aligned to what the entry general.alignment says, else to 32
  // bytes. kInvalid: a shape that the format cannot have, an alignment that is no power of two.
  static Result<std::unique_ptr<GgufOutput>> Create(const std::string& path,
                                                    std::span<const GgufEntry> entries,
                                                    std::span<const GgufOutputTensor> tensors);

  // The next bytes of the current tensor's data; kInvalid where it has no so many left.
  Status Append(std::span<const std::byte> bytes);
  // kInvalid unless all tensors are complete.
  Status Finish();

 private:
  GgufOutput() = default;
  Status Pad();
  Status NextTensor();

  std::unique_ptr<FileWriter> file_;
  uint64_t alignment_ = 32;
  std::vector<uint64_t> sizes_;  // bytes of the tensors
  size_t tensor_ = 0;            // the one that is being written
  uint64_t left_ = 0;            // of it
};

}  // namespace larder
