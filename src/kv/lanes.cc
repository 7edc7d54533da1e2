#include "kv/lanes.h"

#include <algorithm>
#include <utility>

#include "compute/ops.h"

namespace larder {

// Everything per entry is kept in whole pages of 64, as attention reads it.
struct LaneTable::Lane {
  int64_t length = 0;
  std::vector<std::byte*> pages;
  std::vector<int32_t> positions;  // [64 * pages]
  std::vector<float> logit_bias;   // [64 * pages], or empty while nobody set one
};

LaneTable::LaneTable(const KvShape* shape, PageSource* pages, PositionMode mode, RopeTables rope)
    : shape_(shape), source_(pages), mode_(mode), rope_(rope) {
  LARDER_CHECK(mode == PositionMode::kKeep || rope.positions > 0);
  for (int i = 0; i < shape->layers() * shape->kv_heads(); ++i) lanes_.push_back(std::make_unique<Lane>());
}

LaneTable::~LaneTable() {
  for (const auto& lane : lanes_) {
    for (std::byte* page : lane->pages) source_->Return(page);
  }
}

LaneTable::Lane& LaneTable::At(int layer, int kv_head) {
  return *lanes_[static_cast<size_t>(layer * shape_->kv_heads() + kv_head)];
}
const LaneTable::Lane& LaneTable::At(int layer, int kv_head) const {
  return *lanes_[static_cast<size_t>(layer * shape_->kv_heads() + kv_head)];
}

Status LaneTable::Append(int layer, int kv_head, const float* k, const float* v, int32_t position) {
  Lane& lane = At(layer, kv_head);
  if (mode_ == PositionMode::kCompact && lane.length >= rope_.positions) {
    return Fail(ErrorKind::kExhausted,
                "a lane of {} entries has used up all positions of the model; remove some first",
                lane.length);
  }
  const size_t slot = static_cast<size_t>(lane.length % kPageTokens);
  if (slot == 0) {
    LARDER_ASSIGN(std::byte * page, source_->Take());
    lane.pages.push_back(page);
    lane.positions.resize(lane.pages.size() * kPageTokens);
    if (!lane.logit_bias.empty()) lane.logit_bias.resize(lane.positions.size());
  }
  StoreKvRow(shape_->type(), shape_->head_dim(), k, v, lane.pages.back(), static_cast<int>(slot));
  lane.positions[static_cast<size_t>(lane.length)] = position;
  if (!lane.logit_bias.empty()) lane.logit_bias[static_cast<size_t>(lane.length)] = 0;
  ++lane.length;
  return {};
}

void LaneTable::Remove(int layer, int kv_head, int64_t entry) {
  Lane& lane = At(layer, kv_head);
  LARDER_CHECK(entry >= 0 && entry < lane.length);
  const auto move = [&](int64_t from, int64_t to) {
    CopyKvRows(shape_->type(), shape_->head_dim(), lane.pages[static_cast<size_t>(from / kPageTokens)],
               static_cast<int>(from % kPageTokens), lane.pages[static_cast<size_t>(to / kPageTokens)],
               static_cast<int>(to % kPageTokens), 1);
    lane.positions[static_cast<size_t>(to)] = lane.positions[static_cast<size_t>(from)];
    if (!lane.logit_bias.empty()) {
      lane.logit_bias[static_cast<size_t>(to)] = lane.logit_bias[static_cast<size_t>(from)];
    }
  };
  const int64_t last = lane.length - 1;
  if (mode_ == PositionMode::kKeep) {
    if (entry != last) move(last, entry);
  } else {
    for (int64_t i = entry; i < last; ++i) move(i + 1, i);
  }
  lane.length = last;
  if (last % kPageTokens == 0) {
    source_->Return(lane.pages.back());
    lane.pages.pop_back();
    lane.positions.resize(lane.pages.size() * kPageTokens);
    if (!lane.logit_bias.empty()) lane.logit_bias.resize(lane.positions.size());
  }
}

int64_t LaneTable::Length(int layer, int kv_head) const { return At(layer, kv_head).length; }

int32_t LaneTable::PositionOf(int layer, int kv_head, int64_t entry) const {
  const Lane& lane = At(layer, kv_head);
  LARDER_CHECK(entry >= 0 && entry < lane.length);
  return lane.positions[static_cast<size_t>(entry)];
}

void LaneTable::SetLogitBias(int layer, int kv_head, int64_t entry, float bias) {
  Lane& lane = At(layer, kv_head);
  LARDER_CHECK(entry >= 0 && entry < lane.length);
  if (lane.logit_bias.empty()) lane.logit_bias.resize(lane.positions.size());
  lane.logit_bias[static_cast<size_t>(entry)] = bias;
}

uint64_t LaneTable::bytes() const {
  uint64_t sum = sizeof(*this) + lanes_.capacity() * sizeof(lanes_[0]) + lanes_.size() * sizeof(Lane);
  for (const auto& lane : lanes_) {
    sum += lane->pages.size() * shape_->page_bytes() + lane->pages.capacity() * sizeof(std::byte*) +
           lane->positions.capacity() * sizeof(int32_t) + lane->logit_bias.capacity() * sizeof(float);
  }
  return sum;
}

int64_t LaneTable::Entries(int layer, int kv_head) const { return At(layer, kv_head).length; }

KvPage LaneTable::Page(int layer, int kv_head, int64_t page, std::byte* scratch) const {
  const Lane& lane = At(layer, kv_head);
  const size_t first = static_cast<size_t>(page * kPageTokens);
  const std::byte* stored = lane.pages[static_cast<size_t>(page)];
  if (MakesTiles()) {
    RotateInto(stored, first,
               static_cast<int>(std::min<int64_t>(kPageTokens, lane.length - page * kPageTokens)), scratch);
    stored = scratch;
  }
  KvPage out = StoredPage(shape_->type(), shape_->head_dim(), stored);
  out.entries = static_cast<int32_t>(std::min<int64_t>(kPageTokens, lane.length - page * kPageTokens));
  if (!lane.logit_bias.empty()) out.logit_bias = lane.logit_bias.data() + first;
  if (mode_ == PositionMode::kKeep) {
    out.positions = lane.positions.data() + first;
  } else {
    out.first_position = static_cast<int32_t>(first);
  }
  return out;
}

// The tile as attention wants it: each key rotated by its rank in the lane.
void LaneTable::RotateInto(const std::byte* stored, size_t first_rank, int entries,
                           std::byte* scratch) const {
  const int dim = shape_->head_dim();
  const size_t pairs = static_cast<size_t>(dim) / 2;
  std::vector<float> k(static_cast<size_t>(dim)), v(k.size());
  for (int i = 0; i < entries; ++i) {
    const size_t rank = first_rank + static_cast<size_t>(i);
    LoadKvRow(shape_->type(), dim, stored, i, k.data(), v.data());
    Rotate(k.data(), 1, dim, dim, rope_.cosines + rank * pairs, rope_.sines + rank * pairs);
    StoreKvRow(shape_->type(), dim, k.data(), v.data(), scratch, i);
  }
}

}  // namespace larder
