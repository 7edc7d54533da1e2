// A block as a record of a tier (store/tier.h): what its metadata says and how its layers are grouped.
// docs/formats/kv-blocks.md has it to the byte.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/result.h"
#include "kv/shape.h"

namespace larder {

inline constexpr uint32_t kKvBlockRecord = 1;  // RecordHeader::kind

std::vector<std::byte> EncodeBlockMetadata(std::span<const int32_t> tokens);
// The tokens, 1..64. kCorrupt, kUnsupported (another version).
Result<std::vector<int32_t>> DecodeBlockMetadata(std::span<const std::byte> metadata);

// Layers of a group: as few as make `least_bytes` and end on a page for direct I/O; the last group has what
// is left.
int LayersPerGroup(const KvShape& shape, int kind, KvForm form, uint64_t least_bytes);
// Bytes of each group of a block of this kind and form, in order; they lie one after another in the block.
std::vector<uint64_t> BlockGroupBytes(const KvShape& shape, int kind, KvForm form, uint64_t least_bytes);

}  // namespace larder
