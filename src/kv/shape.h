// What a model's KV cache looks like: kinds of layers, lanes, pages and blocks.
//
//   lane   one (layer, KV head)
//   page   64 tokens of one lane, K and V
//   block  the same 64 tokens across all lanes of one kind of layer: one contiguous run, layer-major
//   kind   layers that attend alike: all earlier tokens, or a sliding window
//   form   how a block's pages lie in memory: as rows, or as a codec's codes
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/hash.h"
#include "base/result.h"
#include "compute/attention.h"

namespace larder {

inline constexpr int kMaxKvKinds =
    4;  // kinds of layers a model may have: everything, and up to three windows

struct KvKind {
  std::string name;         // "full", "window512"
  int window;               // 0: sees everything
  std::vector<int> layers;  // model layers of this kind, ascending
};

class KvCodec;

enum class KvForm : uint8_t {
  kRows,   // of the shape's type: every block without a codec; with one, while it is written and as a tail
  kCodes,  // with a codec: full blocks
  kFirst,  // with a codec that keeps sinks: the first block of a text, full; a plane behind each page
};
inline constexpr int kMaxKvForms = 3;

class KvShape {
 public:
  // windows[layer]: 0 or the window's length. kInvalid for an empty model or senseless sizes, kUnsupported
  // for more than kMaxKvKinds different windows, and for a codec that saves nothing. codec: null for none;
  // REQUIRES: kI16 with one.
  static Result<KvShape> Create(const std::vector<int>& windows, int kv_heads, int head_dim, KvType type,
                                std::shared_ptr<const KvCodec> codec = nullptr);

  int layers() const { return static_cast<int>(kind_of_layer_.size()); }
  int kv_heads() const { return kv_heads_; }
  int head_dim() const { return head_dim_; }
  KvType type() const { return type_; }
  const KvCodec* codec() const { return codec_.get(); }
  const std::vector<KvKind>& kinds() const { return kinds_; }
  int KindOf(int layer) const { return kind_of_layer_[static_cast<size_t>(layer)]; }
  size_t page_bytes(KvForm form = KvForm::kRows) const { return page_bytes_[static_cast<size_t>(form)]; }
  size_t BlockBytes(int kind, KvForm form = KvForm::kRows) const {
    return page_bytes(form) * static_cast<size_t>(kv_heads_) *
           kinds_[static_cast<size_t>(kind)].layers.size();
  }
  // Offset of a lane's page inside a block of the lane's kind.
  size_t LaneOffset(int layer, int kv_head, KvForm form = KvForm::kRows) const {
    return page_bytes(form) * (lane_of_layer_[static_cast<size_t>(layer)] + static_cast<size_t>(kv_head));
  }
  // The form of full blocks, by their index in a text; of others it is kRows.
  KvForm FullForm(int64_t index) const {
    if (codec_ == nullptr) return KvForm::kRows;
    return index == 0 ? first_form_ : KvForm::kCodes;
  }
  uint64_t BytesPerToken() const;  // all kinds, a full page's share

 private:
  Status TakeCodec(std::shared_ptr<const KvCodec> codec);

  int kv_heads_ = 0, head_dim_ = 0;
  KvType type_ = KvType::kI16;
  std::shared_ptr<const KvCodec> codec_;
  KvForm first_form_ = KvForm::kRows;    // of a text's first block, full
  size_t page_bytes_[kMaxKvForms] = {};  // 0: there is no such form
  std::vector<KvKind> kinds_;
  std::vector<int> kind_of_layer_;
  std::vector<size_t> lane_of_layer_;  // pages before the layer's first in a block
};

// Everything besides tokens and tenant that decides a row's bits. Hashed into every block's name, field by
// field.
struct KvIdentity {
  Digest weights;
  Digest tokenizer;
  Digest rope;            // parameters and tables of the rotary embedding
  Digest numerics;        // math mode and probe (compute/probe.h)
  std::string codec;      // "i16", "f32", or a codec's name and what else shaped its codes
  std::string adapter;    // empty: none
  std::string layer_map;  // empty: every layer reads its own lanes
};

}  // namespace larder
