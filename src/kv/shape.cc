#include "kv/shape.h"

#include <algorithm>
#include <utility>

#include "kv/codec/codec.h"

namespace larder {
namespace {

// Above these no model is known; below them no product of sizes overflows.
constexpr int kMaxHeads = 4096;
constexpr size_t kMaxLayers = 4096;

}  // namespace

Result<KvShape> KvShape::Create(const std::vector<int>& windows, int kv_heads, int head_dim, KvType type,
                                std::shared_ptr<const KvCodec> codec) {
  if (windows.empty() || windows.size() > kMaxLayers) {
    return Fail(ErrorKind::kInvalid, "a KV cache needs 1 to {} layers, the model has {}", kMaxLayers,
                windows.size());
  }
  if (kv_heads < 1 || kv_heads > kMaxHeads || head_dim < 1 || head_dim > kMaxHeadDim) {
    return Fail(ErrorKind::kInvalid,
                "a KV cache needs 1 to {} heads of 1 to {} elements, the model has {} of {}", kMaxHeads,
                kMaxHeadDim, kv_heads, head_dim);
  }
  KvShape shape;
  shape.kv_heads_ = kv_heads;
  shape.head_dim_ = head_dim;
  shape.type_ = type;
  shape.page_bytes_[0] = PageBytes(type, head_dim);
  if (codec != nullptr) LARDER_TRY(shape.TakeCodec(std::move(codec)));
  for (size_t layer = 0; layer < windows.size(); ++layer) {
    const int window = windows[layer];
    if (window < 0)
      return Fail(ErrorKind::kInvalid, "layer {} has a negative sliding window ({})", layer, window);
    auto kind = std::ranges::find(shape.kinds_, window, &KvKind::window);
    if (kind == shape.kinds_.end()) {
      if (shape.kinds_.size() == kMaxKvKinds) {
        return Fail(ErrorKind::kUnsupported, "the model has more than {} different attention windows",
                    kMaxKvKinds);
      }
      shape.kinds_.push_back({window == 0 ? "full" : fmt::format("window{}", window), window, {}});
      kind = shape.kinds_.end() - 1;
    }
    shape.kind_of_layer_.push_back(static_cast<int>(kind - shape.kinds_.begin()));
    shape.lane_of_layer_.push_back(static_cast<size_t>(kv_heads) * kind->layers.size());
    kind->layers.push_back(static_cast<int>(layer));
  }
  return shape;
}

// Forms are told apart by their sizes (kv/pool.h), so no two may be equal.
Status KvShape::TakeCodec(std::shared_ptr<const KvCodec> codec) {
  LARDER_CHECK(type_ == KvType::kI16);
  const size_t rows = page_bytes_[0], codes = codec->PageBytes(head_dim_);
  const size_t first = codec->sinks() > 0 ? FirstPageBytes(*codec, head_dim_) : codes;
  if (codes >= rows || first >= rows)
    return Fail(ErrorKind::kUnsupported,
                "{} saves nothing with heads of {} elements; take --kv-type f16 for this model",
                codec->name(), head_dim_);
  page_bytes_[static_cast<size_t>(KvForm::kCodes)] = codes;
  first_form_ = KvForm::kCodes;
  if (first > codes) {
    first_form_ = KvForm::kFirst;
    page_bytes_[static_cast<size_t>(KvForm::kFirst)] = first;
  }
  codec_ = std::move(codec);
  return {};
}

uint64_t KvShape::BytesPerToken() const {
  return page_bytes(FullForm(1)) / kPageTokens * static_cast<uint64_t>(kv_heads_) * kind_of_layer_.size();
}

}  // namespace larder
