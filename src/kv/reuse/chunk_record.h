// A stored chunk as a record of a tier (store/tier.h): what its metadata says.
// docs/formats/kv-chunks.md has it to the byte.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/hash.h"
#include "base/result.h"

namespace larder {

inline constexpr uint32_t kKvChunkRecord = 2;  // RecordHeader::kind

struct ChunkMetadata {
  Digest name;  // the chunk's
  int64_t prefix_rows = 0;
  std::vector<int32_t> tokens;  // at least kChunkWindow
};

std::vector<std::byte> EncodeChunkMetadata(const Digest& name, int64_t prefix_rows,
                                           std::span<const int32_t> tokens);
// kCorrupt, kUnsupported (another version).
Result<ChunkMetadata> DecodeChunkMetadata(std::span<const std::byte> metadata);

}  // namespace larder
