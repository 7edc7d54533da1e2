// The KV codecs. One line each.
#include <array>

#include "compute/attention.h"
#include "compute/kv_codes.h"
#include "kv/codec/codec.h"

namespace larder {

Result<std::unique_ptr<KvCodec>> CreateT4(std::string_view parameters, int head_dim);
Result<std::unique_ptr<KvCodec>> CreateQ80(std::string_view parameters, int head_dim);
Result<std::unique_ptr<KvCodec>> CreateQ40(std::string_view parameters, int head_dim);

namespace {

constexpr std::array kCodecs = {
    KvCodecEntry{"t4", "4 bits, a scale and a zero point for each key and value; keys rotated and centred",
                 &CreateT4},
    KvCodecEntry{"q8_0", "8 bits, a scale for every 32 dimensions", &CreateQ80},
    KvCodecEntry{"q4_0", "4 bits, a scale for every 32 dimensions", &CreateQ40},
};

}  // namespace

std::span<const KvCodecEntry> KvCodecs() { return kCodecs; }

std::string KvCodecNames() {
  std::string names;
  for (const KvCodecEntry& entry : kCodecs) {
    if (!names.empty()) names += ", ";
    names += entry.name;
  }
  return names;
}

Result<std::unique_ptr<KvCodec>> CreateKvCodec(std::string_view spec, int head_dim) {
  const size_t colon = spec.find(':');
  const std::string_view name = spec.substr(0, colon);
  const std::string_view parameters = colon == std::string_view::npos ? "" : spec.substr(colon + 1);
  for (const KvCodecEntry& entry : kCodecs) {
    if (entry.name == name) return entry.create(parameters, head_dim);
  }
  return Fail(ErrorKind::kInvalid, "unknown KV codec \"{}\"; known are {}, and f16 and f32 without one", name,
              KvCodecNames());
}

Status CheckCodedHead(std::string_view codec, int head_dim) {
  if (head_dim > 0 && head_dim % kCodedHeadStep == 0 && head_dim <= kMaxHeadDim) return {};
  return Fail(
      ErrorKind::kUnsupported,
      "{} codes heads of a multiple of {} elements up to {}, this model's have {}; take --kv-type f16", codec,
      kCodedHeadStep, kMaxHeadDim, head_dim);
}

}  // namespace larder
