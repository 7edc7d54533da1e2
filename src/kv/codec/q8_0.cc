// q8_0: ggml's grouping of 32 elements with one scale, for keys and values of each token, as its CPU back end
// keeps them. The plain alternative that other codecs are measured against.
#include "base/params.h"
#include "compute/kv_codes.h"
#include "kv/codec/codec.h"

namespace larder {
namespace {

class Q80 final : public KvCodec {
 public:
  std::string name() const override { return "q8_0"; }
  size_t PageBytes(int head_dim) const override { return CodedPageBytes(KvCodes::kQ8, head_dim); }
  void Encode(int head_dim, const std::byte* rows, std::byte* coded) const override {
    EncodePage(KvCodes::kQ8, head_dim, rows, coded);
  }
  void Decode(int head_dim, const std::byte* coded, std::byte* rows) const override {
    DecodePage(KvCodes::kQ8, head_dim, coded, rows);
  }
};

Result<std::unique_ptr<KvCodec>> Create(Params& params, std::string_view parameters, int head_dim) {
  LARDER_TRY(params.ParseList(parameters));
  if (head_dim == 0) return std::unique_ptr<KvCodec>();  // only to describe it
  return std::make_unique<Q80>();
}

}  // namespace

KvCodecEntry Q80Codec() {
  return {{.name = "q8_0",
           .help = "8 bits, a scale for every 32 dimensions",
           .paper = "",
           .leaf = "A8",
           .memory = "O(n)",
           .needs = "heads of a multiple of 16"},
          Create};
}

}  // namespace larder
