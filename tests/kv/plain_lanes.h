// Entries of lanes, laid out plainly page after page: what attention over a lane table is compared with.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "base/memory.h"
#include "compute/attention.h"

namespace larder {

class PlainLanes final : public TileProvider {
 public:
  PlainLanes(KvType type, int kv_heads, int head_dim)
      : type_(type), kv_heads_(kv_heads), head_dim_(head_dim) {}

  // The next lane, layer by layer and head by head, to which Append then adds.
  void BeginLane() { lanes_.emplace_back(); }
  // The page and the slot that the entry's row is to be written to.
  std::pair<std::byte*, int> Append(int32_t position, float bias) {
    Lane& lane = lanes_.back();
    const auto slot = static_cast<int>(lane.entries % kPageTokens);
    if (slot == 0) {
      lane.pages.push_back(*AlignedBuffer::Allocate(PageBytes(type_, head_dim_)));
      lane.positions.resize(lane.pages.size() * kPageTokens);
      lane.bias.resize(lane.positions.size());
    }
    lane.positions[static_cast<size_t>(lane.entries)] = position;
    lane.bias[static_cast<size_t>(lane.entries)] = bias;
    ++lane.entries;
    return {lane.pages.back().data(), slot};
  }

  int64_t Entries(int layer, int head) const override { return At(layer, head).entries; }
  KvPage Page(int layer, int head, int64_t page, std::byte*) const override {
    const Lane& lane = At(layer, head);
    KvPage out = StoredPage(type_, head_dim_, lane.pages[static_cast<size_t>(page)].data());
    out.positions = lane.positions.data() + page * kPageTokens;
    out.entries = static_cast<int32_t>(std::min<int64_t>(kPageTokens, lane.entries - page * kPageTokens));
    out.logit_bias = lane.bias.data() + page * kPageTokens;
    return out;
  }

 private:
  struct Lane {
    std::vector<AlignedBuffer> pages;
    std::vector<int32_t> positions;
    std::vector<float> bias;
    int64_t entries = 0;
  };
  const Lane& At(int layer, int head) const { return lanes_[static_cast<size_t>(layer * kv_heads_ + head)]; }

  KvType type_;
  int kv_heads_, head_dim_;
  std::vector<Lane> lanes_;
};

}  // namespace larder
