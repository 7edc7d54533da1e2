// Entries of private lanes as codes. Whoever asks says what a lane is to become; one function makes it so.
#include <algorithm>
#include <utility>

#include "kv/codec/codec.h"
#include "kv/lane.h"

namespace larder {

// What becomes of a lane. Entries that are in none of these lists are dropped.
struct LaneTable::Layout {
  std::vector<int64_t> codes;   // pages of codes that stay
  std::vector<int32_t> encode;  // rows that become codes, in whole pages
  std::vector<int32_t> rows;    // rows that stay rows, ascending
  std::vector<int32_t> decode;  // codes that become rows, ascending; they follow the others

  // Entries by their new places.
  std::vector<int32_t> Order() const {
    std::vector<int32_t> order;
    for (const int64_t page : codes) {
      for (int64_t i = 0; i < kPageTokens; ++i) order.push_back(static_cast<int32_t>(page * kPageTokens + i));
    }
    for (const auto* list : {&encode, &rows, &decode}) order.insert(order.end(), list->begin(), list->end());
    return order;
  }
};

void LaneTable::SetCodec(std::shared_ptr<const KvCodec> codec) {
  LARDER_CHECK(coded_pages_ == 0);
  own_codec_ = std::move(codec);
}

const KvCodec* LaneTable::codec() const { return own_codec_ != nullptr ? own_codec_.get() : shape_->codec(); }

size_t LaneTable::PageBytesOf(const Lane& lane, size_t page) const {
  return static_cast<int64_t>(page) < lane.coded ? codec()->PageBytes(shape_->head_dim())
                                                 : shape_->page_bytes();
}

PageSource& LaneTable::SourceOf(const Lane& lane, size_t page) const {
  return static_cast<int64_t>(page) < lane.coded ? source_->OfSize(PageBytesOf(lane, page)) : *source_;
}

AlignedBuffer LaneTable::NewTile() const {
  Result<AlignedBuffer> tile = AlignedBuffer::Allocate(shape_->page_bytes());
  LARDER_CHECK(tile.has_value());
  return *std::move(tile);
}

int64_t LaneTable::CodedPages(int layer, int kv_head) const { return At(layer, kv_head).coded; }

TileSource LaneTable::Source(int layer, int kv_head, int64_t page) const {
  const Lane& lane = At(layer, kv_head);
  const Lane::Page& at = lane.pages[static_cast<size_t>(page)];
  if (at.gone) return {};
  // Rotated by rank, or with biases: nobody else's tile is the same.
  if (mode_ == PositionMode::kCompact || !lane.logit_bias.empty()) return {kNoSource};
  if (page >= lane.coded) return {Stored(layer, kv_head, page, nullptr).k};
  const int32_t* positions = lane.positions.data() + page * kPageTokens;
  return {at.own, codec()->t4(), *positions, at.straight ? nullptr : positions};
}

Status LaneTable::Demote(int layer, int kv_head, std::span<const int32_t> entries) {
  LARDER_CHECK(mode_ == PositionMode::kKeep && shape_->type() == KvType::kI16 && codec() != nullptr);
  const Lane& lane = At(layer, kv_head);
  if (lane.were_codes) return {};
  const int64_t first_row = lane.coded * kPageTokens;
  Layout layout;
  for (const int32_t entry : entries) {
    LARDER_CHECK(entry >= 0 && entry < lane.length);
    if (entry >= first_row && lane.positions[static_cast<size_t>(entry)] >= codec()->sinks())
      layout.encode.push_back(entry);
  }
  layout.encode.resize(layout.encode.size() / kPageTokens * kPageTokens);
  if (layout.encode.empty()) return {};
  std::ranges::sort(layout.encode);
  for (int64_t page = 0; page < lane.coded; ++page) layout.codes.push_back(page);
  for (auto entry = static_cast<int32_t>(first_row); entry < lane.length; ++entry) {
    if (!std::ranges::binary_search(layout.encode, entry)) layout.rows.push_back(entry);
  }
  return Rearrange(layer, kv_head, layout);
}

Status LaneTable::DemoteFullPages() {
  LARDER_CHECK(prefix_ == nullptr && reserved_ == 0);
  std::vector<int32_t> rows;
  for (int layer = 0; layer < shape_->layers(); ++layer) {
    for (int head = 0; head < shape_->kv_heads(); ++head) {
      Lane& lane = At(layer, head);
      ForgetGone(lane);
      rows.clear();
      for (int64_t entry = lane.coded * kPageTokens; entry < lane.length; ++entry)
        rows.push_back(static_cast<int32_t>(entry));
      LARDER_TRY(Demote(layer, head, rows));
    }
  }
  return {};
}

// Pages that a window has passed have no entries to arrange: the lane begins behind them.
void LaneTable::ForgetGone(Lane& lane) {
  const auto gone = std::ranges::find(lane.pages, false, &Lane::Page::gone) - lane.pages.begin();
  if (gone == 0) return;
  const auto erase = [&](auto& table, int64_t count) { table.erase(table.begin(), table.begin() + count); };
  erase(lane.pages, gone);
  erase(lane.positions, gone * kPageTokens);
  erase(lane.scores, gone * kPageTokens);
  if (!lane.logit_bias.empty()) erase(lane.logit_bias, gone * kPageTokens);
  lane.length -= gone * kPageTokens;
  coded_pages_ -= std::min(gone, lane.coded);
  lane.coded -= std::min(gone, lane.coded);
}

Status LaneTable::RemoveFromCodes(int layer, int kv_head, int64_t entry) {
  std::vector<int32_t> others;
  for (int64_t i = 0; i < At(layer, kv_head).length; ++i) {
    if (i != entry) others.push_back(static_cast<int32_t>(i));
  }
  return KeepAmongCodes(layer, kv_head, others);
}

Status LaneTable::KeepAmongCodes(int layer, int kv_head, std::span<const int32_t> entries) {
  const Lane& lane = At(layer, kv_head);
  Layout layout;
  for (size_t i = 0; i < entries.size();) {
    const int64_t page = entries[i] / kPageTokens;
    size_t end = i;
    while (end < entries.size() && entries[end] / kPageTokens == page) ++end;
    const auto kept = entries.subspan(i, end - i);
    i = end;
    if (page < lane.coded && kept.size() == kPageTokens) {
      layout.codes.push_back(page);
      continue;
    }
    auto& list = page < lane.coded ? layout.decode : layout.rows;
    list.insert(list.end(), kept.begin(), kept.end());
  }
  return Rearrange(layer, kv_head, layout);
}

// Rows move towards the beginning within the pages that they are in, so that only codes take more memory, and
// rows that were codes.
Status LaneTable::Rearrange(int layer, int kv_head, const Layout& layout) {
  LARDER_CHECK(reserved_ == 0);
  Lane& lane = At(layer, kv_head);
  const int dim = shape_->head_dim();
  const auto before = static_cast<size_t>(lane.coded);
  const size_t coded = layout.codes.size() + layout.encode.size() / kPageTokens,
               rows = layout.rows.size() + layout.decode.size(),
               row_pages = (rows + kPageTokens - 1) / kPageTokens;
  for (size_t page = before; page < std::min(before + row_pages, lane.pages.size()); ++page)
    LARDER_TRY(Own(layer, kv_head, static_cast<int64_t>(page)));
  LARDER_TRY(Grow(lane, static_cast<int64_t>(before * kPageTokens + rows)));
  Result<std::vector<std::byte*>> encoded = Encoded(layer, kv_head, layout.encode);
  if (!encoded) {
    Shrink(lane, lane.length);
    return std::unexpected(std::move(encoded).error());
  }

  size_t row = 0;
  const auto put = [&](const std::byte* page, int32_t entry) {
    CopyKvRows(shape_->type(), dim, page, entry % kPageTokens, lane.pages[before + row / kPageTokens].own,
               static_cast<int>(row % kPageTokens), 1);
    ++row;
  };
  for (const int32_t entry : layout.rows)
    put(static_cast<const std::byte*>(Stored(layer, kv_head, entry / kPageTokens, nullptr).k), entry);
  AlignedBuffer tile = layout.decode.empty() ? AlignedBuffer() : NewTile();
  int64_t decoded = -1;
  for (const int32_t entry : layout.decode) {
    if (std::exchange(decoded, entry / kPageTokens) != entry / kPageTokens)
      Stored(layer, kv_head, decoded, tile.data());
    put(tile.data(), entry);
  }

  Lane next;
  const std::vector<int32_t> order = layout.Order();
  next.length = std::ssize(order);
  next.coded = static_cast<int64_t>(coded);
  next.were_codes = lane.were_codes || !layout.decode.empty();
  next.Resize(coded + row_pages);
  if (!lane.logit_bias.empty()) next.logit_bias.resize(next.positions.size());
  for (size_t i = 0; i < order.size(); ++i) {
    const auto from = static_cast<size_t>(order[i]);
    next.positions[i] = lane.positions[from];
    next.scores[i] = lane.scores[from];
    if (!lane.logit_bias.empty()) next.logit_bias[i] = lane.logit_bias[from];
  }
  auto to = next.pages.begin();
  const auto take = [&](size_t page) { *to++ = std::exchange(lane.pages[page], {}); };
  for (const int64_t page : layout.codes) take(static_cast<size_t>(page));
  for (std::byte* page : *encoded) (to++)->own = page;
  for (size_t page = before; page < before + row_pages; ++page) take(page);
  for (size_t page = 0; page < lane.pages.size(); ++page) {
    if (lane.pages[page].own != nullptr) SourceOf(lane, page).Return(lane.pages[page].own);
  }
  for (size_t page = 0; page < next.pages.size(); ++page) next.Straighten(page);
  coded_pages_ += next.coded - lane.coded;
  lane = std::move(next);
  return {};
}

// New pages of codes of these rows. kExhausted: none.
Result<std::vector<std::byte*>> LaneTable::Encoded(int layer, int kv_head, std::span<const int32_t> entries) {
  std::vector<std::byte*> pages;
  if (entries.empty()) return pages;
  const int dim = shape_->head_dim();
  PageSource& source = source_->OfSize(codec()->PageBytes(dim));
  AlignedBuffer rows = NewTile();
  for (size_t i = 0; i < entries.size(); ++i) {
    const auto slot = static_cast<int>(i % kPageTokens);
    const KvPage from = Stored(layer, kv_head, entries[i] / kPageTokens, nullptr);
    CopyKvRows(shape_->type(), dim, static_cast<const std::byte*>(from.k), entries[i] % kPageTokens,
               rows.data(), slot, 1);
    if (slot != kPageTokens - 1) continue;
    Result<std::byte*> page = source.Take();
    if (!page) {
      for (std::byte* taken : pages) source.Return(taken);
      return std::unexpected(std::move(page).error());
    }
    codec()->Encode(dim, rows.data(), *page);
    pages.push_back(*page);
  }
  return pages;
}

}  // namespace larder
