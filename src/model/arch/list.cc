// The architectures Larder knows: one line each. The line declares the function of model/arch/<name>.cc and
// lists it.
#include <array>

#include "model/spec.h"

#define LARDER_ARCHITECTURES(X) \
  X("llama", DescribeLlama)     \
  X("qwen2", DescribeQwen2)     \
  X("qwen3", DescribeQwen3)     \
  X("gemma3", DescribeGemma3)

namespace larder {

#define LARDER_DECLARE(name, describe) Result<ModelSpec> describe(const GgufFile& file);
LARDER_ARCHITECTURES(LARDER_DECLARE)
#undef LARDER_DECLARE

std::span<const ArchitectureEntry> Architectures() {
#define LARDER_LIST(name, describe) ArchitectureEntry{name, &describe},
  static constexpr std::array kEntries = {LARDER_ARCHITECTURES(LARDER_LIST)};
#undef LARDER_LIST
  return kEntries;
}

Result<ModelSpec> DescribeModel(const GgufFile& file) {
  LARDER_ASSIGN(const std::string_view name, file.String("general.architecture"));
  std::string known;
  for (const ArchitectureEntry& entry : Architectures()) {
    if (entry.name == name) return entry.describe(file);
    known += known.empty() ? "" : ", ";
    known += entry.name;
  }
  return Fail(ErrorKind::kUnsupported, "general.architecture is '{}'; known are {}", name, known);
}

}  // namespace larder
