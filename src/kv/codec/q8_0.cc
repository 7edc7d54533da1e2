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

}  // namespace

Result<std::unique_ptr<KvCodec>> CreateQ80(std::string_view parameters, int head_dim) {
  LARDER_TRY(CheckCodedHead("q8_0", head_dim));
  LARDER_TRY(Params("q8_0").ParseList(parameters));
  return std::make_unique<Q80>();
}

}  // namespace larder
