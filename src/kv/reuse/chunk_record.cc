#include "kv/reuse/chunk_record.h"

#include "kv/reuse/chunk_index.h"
#include "store/bytes.h"

namespace larder {
namespace {

constexpr uint32_t kMetadataVersion = 1;

}  // namespace

std::vector<std::byte> EncodeChunkMetadata(const Digest& name, int64_t prefix_rows,
                                           std::span<const int32_t> tokens) {
  std::vector<std::byte> out;
  ByteWriter writer(out);
  writer.Number(kMetadataVersion);
  writer.Number(static_cast<uint32_t>(prefix_rows));
  writer.Number(static_cast<uint32_t>(tokens.size()));
  writer.Bytes(name.bytes);
  for (const int32_t token : tokens) writer.Number(static_cast<uint32_t>(token));
  return out;
}

Result<ChunkMetadata> DecodeChunkMetadata(std::span<const std::byte> metadata) {
  ByteReader reader(metadata);
  ChunkMetadata out;
  const auto version = reader.Number<uint32_t>();
  out.prefix_rows = reader.Number<uint32_t>();
  const auto rows = reader.Number<uint32_t>();
  reader.Bytes(out.name.bytes);
  if (!reader.ok()) return Fail(ErrorKind::kCorrupt, "a chunk's metadata is cut off");
  if (version != kMetadataVersion) {
    return Fail(ErrorKind::kUnsupported, "a chunk's metadata has version {}, known is {}", version,
                kMetadataVersion);
  }
  if (rows < kChunkWindow || reader.left() != rows * sizeof(uint32_t)) {
    return Fail(ErrorKind::kCorrupt, "a chunk's metadata of {} bytes speaks of {} tokens", metadata.size(),
                rows);
  }
  out.tokens.resize(rows);
  for (int32_t& token : out.tokens) token = static_cast<int32_t>(reader.Number<uint32_t>());
  return out;
}

}  // namespace larder
