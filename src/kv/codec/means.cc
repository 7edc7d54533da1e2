#include "kv/codec/means.h"

#include <cmath>
#include <cstring>

#include "base/file.h"
#include "store/bytes.h"

namespace larder {
namespace {

constexpr std::string_view kMagic = "larder-keymeans\n";
constexpr uint32_t kVersion = 1;
constexpr uint32_t kMost = 4096;  // of layers, of heads, of dimensions
constexpr size_t kMostBytes = 64u << 20;

std::vector<std::byte> Body(const KeyMeans& means) {
  std::vector<std::byte> out;
  ByteWriter writer(out);
  writer.Bytes(std::as_bytes(std::span(kMagic)));
  writer.Number(kVersion);
  writer.Bytes(means.weights.bytes);
  for (const int n : {means.layers, means.kv_heads, means.head_dim}) writer.Number(static_cast<uint32_t>(n));
  for (const float value : means.values) writer.Number(std::bit_cast<uint32_t>(value));
  return out;
}

}  // namespace

Digest KeyMeans::digest() const { return Sha256(Body(*this)); }

Status KeyMeans::Write(const std::string& path) const {
  std::vector<std::byte> bytes = Body(*this);
  const Digest check = Sha256(bytes);
  ByteWriter(bytes).Bytes(check.bytes);
  return WriteFileAtomically(path, {reinterpret_cast<const char*>(bytes.data()), bytes.size()});
}

Result<KeyMeans> KeyMeans::Read(const std::string& path) {
  LARDER_ASSIGN(const std::string content, ReadFile(path, kMostBytes));
  const auto bytes = std::as_bytes(std::span(content));
  const auto damaged = [&](std::string_view why) {
    return Fail(ErrorKind::kCorrupt, "{} is no file of key means ({}); write it again with larder calibrate",
                path, why);
  };
  KeyMeans means;
  const size_t check_bytes = means.weights.bytes.size();
  if (bytes.size() < kMagic.size() + check_bytes || !content.starts_with(kMagic)) return damaged("no header");
  const auto body = bytes.first(bytes.size() - check_bytes);
  if (std::memcmp(Sha256(body).bytes.data(), bytes.data() + body.size(), check_bytes) != 0)
    return damaged("its checksum is wrong");
  ByteReader reader(body.subspan(kMagic.size()));
  const auto version = reader.Number<uint32_t>();
  if (reader.ok() && version != kVersion)
    return Fail(ErrorKind::kUnsupported,
                "{} has version {}, known is {}; write it again with larder calibrate", path, version,
                kVersion);
  reader.Bytes(means.weights.bytes);
  const auto layers = reader.Number<uint32_t>(), heads = reader.Number<uint32_t>(),
             dim = reader.Number<uint32_t>();
  if (!reader.ok() || layers > kMost || heads > kMost || dim > kMost) return damaged("senseless sizes");
  const uint64_t count = uint64_t{layers} * heads * dim;
  if (count == 0 || reader.left() != count * sizeof(float)) return damaged("it is cut off");
  means.layers = static_cast<int>(layers);
  means.kv_heads = static_cast<int>(heads);
  means.head_dim = static_cast<int>(dim);
  means.values.resize(count);
  for (float& value : means.values) {
    value = std::bit_cast<float>(reader.Number<uint32_t>());
    if (!std::isfinite(value)) return damaged("a mean is no number");
  }
  return means;
}

}  // namespace larder
