#include "compute/attention.h"
#include "compute/kv_codes.h"
#include "kv/codec/codec.h"

namespace larder {
namespace {

Status CheckCodedHead(std::string_view codec, int head_dim) {
  if (head_dim > 0 && head_dim % kCodedHeadStep == 0 && head_dim <= kMaxHeadDim) return {};
  return Fail(
      ErrorKind::kUnsupported,
      "{} codes heads of a multiple of {} elements up to {}, this model's have {}; take --kv-type f16", codec,
      kCodedHeadStep, kMaxHeadDim, head_dim);
}

}  // namespace

// One line a codec: the function in its file that describes it.
#define LARDER_KV_CODECS(CODEC) \
  CODEC(T4Codec)                \
  CODEC(Q80Codec)               \
  CODEC(Q40Codec)

#define LARDER_DECLARE(name) KvCodecEntry name();
LARDER_KV_CODECS(LARDER_DECLARE)
#undef LARDER_DECLARE

std::vector<KvCodecEntry> KvCodecs() {
#define LARDER_ENTRY(name) name(),
  return {LARDER_KV_CODECS(LARDER_ENTRY)};
#undef LARDER_ENTRY
}

std::string KvCodecNames() {
  std::string names;
  for (const KvCodecEntry& entry : KvCodecs()) {
    if (!names.empty()) names += ", ";
    names += entry.info.name;
  }
  return names;
}

Result<std::unique_ptr<KvCodec>> CreateKvCodec(std::string_view spec, int head_dim) {
  const size_t colon = spec.find(':');
  const std::string_view name = spec.substr(0, colon);
  const std::string_view parameters = colon == std::string_view::npos ? "" : spec.substr(colon + 1);
  for (const KvCodecEntry& entry : KvCodecs()) {
    if (entry.info.name != name) continue;
    LARDER_TRY(CheckCodedHead(name, head_dim));
    Params params{std::string(name)};
    return entry.create(params, parameters, head_dim);
  }
  return Fail(ErrorKind::kInvalid, "unknown KV codec \"{}\"; known are {}, and f16 and f32 without one", name,
              KvCodecNames());
}

}  // namespace larder
