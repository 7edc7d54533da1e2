#include "engine/private_rows.h"

#include <algorithm>

#include "model/attention_shape.h"

namespace larder {

Status PrivateRows::Begin(const TileProvider* prefix, int64_t rows) {
  if (rows > 0) LARDER_TRY(lanes_.Borrow(prefix, rows));
  rows_ = rows;
  return {};
}

Status PrivateRows::Reserve(int64_t more) {
  return more > 0 ? lanes_.Reserve(more, static_cast<int32_t>(rows_)) : Status();
}

AttentionShape PrivateRows::ShapeOf(int layer) const {
  return AttentionShapeOf(model_.spec(), layer, model_.kv_shape().type());
}

void PrivateRows::TakeRows(int64_t end) {
  lanes_.Advance();
  rows_ = std::max(rows_, end);
  NotePeak();
}

void PrivateRows::DropWindows(int64_t end, int64_t again) {
  for (size_t layer = 0; layer < model_.spec().layers.size(); ++layer) {
    const int window = model_.spec().layers[layer].window;
    if (window > 0) lanes_.DropBefore(static_cast<int>(layer), end - window - again);
  }
}

int64_t PrivateRows::LongestLane() const {
  int64_t longest = 0;
  for (int layer = 0; layer < model_.kv_shape().layers(); ++layer) {
    if (model_.spec().layers[static_cast<size_t>(layer)].window > 0) continue;
    for (int head = 0; head < model_.spec().kv_heads; ++head)
      longest = std::max(longest, lanes_.Length(layer, head));
  }
  return longest;
}

}  // namespace larder
