#include "kv/block_record.h"

#include <algorithm>

#include "base/file_system.h"
#include "store/bytes.h"
#include "store/tier.h"

namespace larder {
namespace {

constexpr uint32_t kMetadataVersion = 1;

}  // namespace

std::vector<std::byte> EncodeBlockMetadata(std::span<const int32_t> tokens) {
  std::vector<std::byte> out;
  ByteWriter writer(out);
  writer.Number(kMetadataVersion);
  writer.Number(static_cast<uint32_t>(tokens.size()));
  for (const int32_t token : tokens) writer.Number(static_cast<uint32_t>(token));
  return out;
}

Result<std::vector<int32_t>> DecodeBlockMetadata(std::span<const std::byte> metadata) {
  ByteReader reader(metadata);
  const auto version = reader.Number<uint32_t>();
  const auto rows = reader.Number<uint32_t>();
  if (!reader.ok()) return Fail(ErrorKind::kCorrupt, "a block's metadata is cut off");
  if (version != kMetadataVersion) {
    return Fail(ErrorKind::kUnsupported, "a block's metadata has version {}, known is {}", version,
                kMetadataVersion);
  }
  if (rows == 0 || rows > kPageTokens || reader.left() != rows * sizeof(uint32_t)) {
    return Fail(ErrorKind::kCorrupt, "a block's metadata of {} bytes speaks of {} tokens", metadata.size(),
                rows);
  }
  std::vector<int32_t> tokens(rows);
  for (int32_t& token : tokens) token = static_cast<int32_t>(reader.Number<uint32_t>());
  return tokens;
}

int LayersPerGroup(const KvShape& shape, int kind, KvForm form, uint64_t least_bytes) {
  const int layers = static_cast<int>(shape.kinds()[static_cast<size_t>(kind)].layers.size());
  const uint64_t layer_bytes = shape.BlockBytes(kind, form) / static_cast<uint64_t>(layers);
  const auto least =
      static_cast<int>(std::max((least_bytes + layer_bytes - 1) / layer_bytes,
                                (static_cast<uint64_t>(layers) + kMaxRecordGroups - 1) / kMaxRecordGroups));
  if (least >= layers) return layers;
  for (int n = least; n <= std::min(layers, 4 * least); ++n) {
    if (static_cast<uint64_t>(n) * layer_bytes % kDirectAlign == 0) return n;
  }
  return least;
}

std::vector<uint64_t> BlockGroupBytes(const KvShape& shape, int kind, KvForm form, uint64_t least_bytes) {
  const int layers = static_cast<int>(shape.kinds()[static_cast<size_t>(kind)].layers.size());
  const uint64_t layer_bytes = shape.BlockBytes(kind, form) / static_cast<uint64_t>(layers);
  const int step = LayersPerGroup(shape, kind, form, least_bytes);
  std::vector<uint64_t> groups;
  for (int first = 0; first < layers; first += step) {
    groups.push_back(static_cast<uint64_t>(std::min(step, layers - first)) * layer_bytes);
  }
  return groups;
}

}  // namespace larder
