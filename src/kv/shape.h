// What a model's KV cache looks like: kinds of layers, lanes, pages and blocks.
//
//   lane   one (layer, KV head)
//   page   64 tokens of one lane, K and V
//   block  the same 64 tokens across all lanes of one kind of layer: one contiguous run, layer-major
//   kind   layers that attend alike: all earlier tokens, or a sliding window
#pragma once

#include <cstddef>
#include <cstdint>
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

class KvShape {
 public:
  // windows[layer]: 0 or the window's length. kInvalid for an empty model or senseless sizes, kUnsupported
  // for more than kMaxKvKinds different windows.
  static Result<KvShape> Create(const std::vector<int>& windows, int kv_heads, int head_dim, KvType type);

  int layers() const { return static_cast<int>(kind_of_layer_.size()); }
  int kv_heads() const { return kv_heads_; }
  int head_dim() const { return head_dim_; }
  KvType type() const { return type_; }
  const std::vector<KvKind>& kinds() const { return kinds_; }
  int KindOf(int layer) const { return kind_of_layer_[static_cast<size_t>(layer)]; }
  size_t page_bytes() const { return page_bytes_; }
  size_t BlockBytes(int kind) const {
    return page_bytes_ * static_cast<size_t>(kv_heads_) * kinds_[static_cast<size_t>(kind)].layers.size();
  }
  // Offset of a lane's page inside a block of the lane's kind.
  size_t LaneOffset(int layer, int kv_head) const {
    return lane_offset_[static_cast<size_t>(layer)] + page_bytes_ * static_cast<size_t>(kv_head);
  }
  uint64_t BytesPerToken() const;  // all kinds, a page's share

 private:
  int kv_heads_ = 0, head_dim_ = 0;
  KvType type_ = KvType::kI16;
  size_t page_bytes_ = 0;
  std::vector<KvKind> kinds_;
  std::vector<int> kind_of_layer_;
  std::vector<size_t> lane_offset_;
};

// Everything besides tokens and tenant that decides a row's bits. Hashed into every block's name, field by
// field.
struct KvIdentity {
  Digest weights;
  Digest tokenizer;
  Digest rope;            // parameters and tables of the rotary embedding
  Digest numerics;        // math mode and probe (compute/probe.h)
  std::string codec;      // "i16", "f32"
  std::string adapter;    // empty: none
  std::string layer_map;  // empty: every layer reads its own lanes
};

}  // namespace larder
