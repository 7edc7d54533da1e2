#include "kv/lanes.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "compute/ops.h"
#include "kv/codec/codec.h"
#include "kv/lane.h"

namespace larder {
namespace {

size_t PagesFor(int64_t entries) { return static_cast<size_t>((entries + kPageTokens - 1) / kPageTokens); }

size_t IndexOf(const KvShape& shape, int layer, int kv_head) {
  return static_cast<size_t>(layer) * static_cast<size_t>(shape.kv_heads()) + static_cast<size_t>(kv_head);
}

}  // namespace

LaneTable::LaneTable(const KvShape* shape, PageSource* pages, PositionMode mode, RopeTables rope)
    : shape_(shape), source_(pages), mode_(mode), rope_(rope) {
  LARDER_CHECK(mode == PositionMode::kKeep || rope.positions > 0);
  for (int i = 0; i < shape->layers() * shape->kv_heads(); ++i) lanes_.push_back(std::make_unique<Lane>());
}

LaneTable::LaneTable(LaneTable&& other) noexcept = default;

LaneTable::~LaneTable() {
  room_ = 0;
  for (const auto& lane : lanes_) Shrink(*lane, 0);
}

LaneTable::Lane& LaneTable::At(int layer, int kv_head) { return *lanes_[IndexOf(*shape_, layer, kv_head)]; }
const LaneTable::Lane& LaneTable::At(int layer, int kv_head) const {
  return *lanes_[IndexOf(*shape_, layer, kv_head)];
}

// Pages for this many entries.
Status LaneTable::Grow(Lane& lane, int64_t entries) {
  const size_t before = lane.pages.size(), wanted = PagesFor(entries);
  for (size_t i = before; i < wanted; ++i) {
    auto page = source_->Take();
    if (!page) {
      while (lane.pages.size() > before) {
        source_->Return(lane.pages.back().own);
        lane.Resize(lane.pages.size() - 1);
      }
      return std::unexpected(page.error());
    }
    lane.Resize(i + 1);
    lane.pages[i].own = *page;
  }
  return {};
}

void LaneTable::Shrink(Lane& lane, int64_t entries) {
  const size_t wanted = PagesFor(std::max(entries, room_));
  for (size_t i = wanted; i < lane.pages.size(); ++i) {
    if (lane.pages[i].own != nullptr) SourceOf(lane, i).Return(lane.pages[i].own);
  }
  if (wanted < lane.pages.size()) lane.Resize(wanted);
  lane.coded = std::min(lane.coded, std::ssize(lane.pages));
  // When most of a lane has gone, as at a prompt's end, so does the memory of its tables. What comes and goes
  // around a page's border moves nothing.
  if (lane.pages.capacity() > 2 * (wanted + 1)) lane.ShrinkToFit();
}

Status LaneTable::Borrow(const TileProvider* prefix, int64_t rows) {
  LARDER_CHECK(mode_ == PositionMode::kKeep && prefix_ == nullptr && reserved_ == 0);
  const int64_t whole = rows / kPageTokens;
  prefix_ = prefix;
  const auto borrow = [&](int layer, int head) -> Status {
    Lane& lane = At(layer, head);
    LARDER_CHECK(lane.length == 0);
    lane.Resize(static_cast<size_t>(whole));
    for (int64_t i = 0; i < whole; ++i) {
      const KvPage page = prefix->Page(layer, head, i, nullptr);
      lane.pages[static_cast<size_t>(i)].gone = page.k == nullptr;
    }
    LARDER_TRY(Grow(lane, rows));
    for (int64_t i = 0; i < rows; ++i) lane.positions[static_cast<size_t>(i)] = static_cast<int32_t>(i);
    if (rows % kPageTokens != 0) {
      const KvPage tail = prefix->Page(layer, head, whole, nullptr);
      LARDER_CHECK(tail.k != nullptr);
      CopyKvRows(shape_->type(), shape_->head_dim(), static_cast<const std::byte*>(tail.k), 0,
                 lane.pages[static_cast<size_t>(whole)].own, 0, static_cast<int>(rows % kPageTokens));
    }
    lane.length = rows;
    return {};
  };
  for (int layer = 0; layer < shape_->layers(); ++layer) {
    for (int head = 0; head < shape_->kv_heads(); ++head) {
      if (Status status = borrow(layer, head); !status) {
        for (const auto& lane : lanes_) {
          Shrink(*lane, 0);
          lane->length = 0;
        }
        prefix_ = nullptr;
        return status;
      }
    }
  }
  return {};
}

Status LaneTable::Settle() {
  LARDER_CHECK(reserved_ == 0);
  for (int layer = 0; layer < shape_->layers(); ++layer) {
    for (int head = 0; head < shape_->kv_heads(); ++head) {
      Lane& lane = At(layer, head);
      for (size_t page = 0; page < lane.pages.size(); ++page) {
        if (!lane.pages[page].gone) LARDER_TRY(Own(layer, head, static_cast<int64_t>(page)));
      }
      lane.ShrinkToFit();
    }
  }
  prefix_ = nullptr;
  return {};
}

Status LaneTable::CopyFrom(const LaneTable& other) {
  LARDER_CHECK(mode_ == other.mode_ && lanes_.size() == other.lanes_.size() && other.prefix_ == nullptr);
  const auto copy = [&](const Lane& from, Lane& to) -> Status {
    LARDER_CHECK(to.length == 0 && to.pages.empty());
    to = from;
    for (Lane::Page& page : to.pages) page.own = nullptr;
    for (size_t i = 0; i < to.pages.size(); ++i) {
      if (from.pages[i].own == nullptr) continue;
      LARDER_ASSIGN(to.pages[i].own, SourceOf(to, i).Take());
      std::memcpy(to.pages[i].own, from.pages[i].own, PageBytesOf(to, i));
    }
    return {};
  };
  own_codec_ = other.own_codec_;
  for (size_t i = 0; i < lanes_.size(); ++i) {
    Status status = copy(*other.lanes_[i], *lanes_[i]);
    if (status) continue;
    for (const auto& lane : lanes_) {
      Shrink(*lane, 0);
      lane->length = 0;
    }
    return status;
  }
  coded_pages_ = other.coded_pages_;
  room_ = other.room_;
  return {};
}

bool LaneTable::borrows() const { return borrowed_bytes() > 0; }

Status LaneTable::Reserve(int64_t rows, int32_t position) {
  LARDER_CHECK(reserved_ == 0 && rows > 0);
  const Lane& first = *lanes_.front();
  if (mode_ == PositionMode::kCompact && first.length + rows > rope_.positions) {
    return Fail(ErrorKind::kExhausted,
                "a lane of {} entries has used up all positions of the model; remove some first",
                first.length);
  }
  size_t fewest = first.pages.size(), most = 0;
  for (const auto& lane : lanes_) {
    LARDER_CHECK(mode_ == PositionMode::kKeep || lane->length == first.length);
    fewest = std::min(fewest, lane->pages.size());
    most = std::max(most, PagesFor(lane->length + rows));
  }
  // Page by page over all lanes: what is kept ends in the first pages of each, and the runs that the later
  // ones come from go back whole.
  for (size_t pages = fewest + 1; pages <= most; ++pages) {
    for (const auto& lane : lanes_) {
      const int64_t wanted = std::min(lane->length + rows, static_cast<int64_t>(pages) * kPageTokens);
      if (Status status = Grow(*lane, wanted); !status) {
        for (const auto& grown : lanes_) Shrink(*grown, grown->length);
        return status;
      }
    }
  }
  for (const auto& lane : lanes_) {
    for (int64_t i = 0; i < rows; ++i) {
      const auto at = static_cast<size_t>(lane->length + i);
      lane->positions[at] = position + static_cast<int32_t>(i);
      lane->scores[at] = 0;
      if (!lane->logit_bias.empty()) lane->logit_bias[at] = 0;
      if (at % kPageTokens == 0) {
        lane->pages[at / kPageTokens].straight = true;
      } else {
        lane->pages[at / kPageTokens].straight &= lane->positions[at] == lane->positions[at - 1] + 1;
      }
    }
  }
  reserved_ = rows;
  first_reserved_ = mode_ == PositionMode::kKeep ? position : first.length;
  return {};
}

void LaneTable::Advance() {
  for (const auto& lane : lanes_) lane->length += reserved_;
  reserved_ = 0;
}

int64_t LaneTable::WritableIndex(const Lane& lane, int64_t position) const {
  LARDER_CHECK(position >= first_reserved_ && position < first_reserved_ + reserved_);
  return lane.length + position - first_reserved_;
}
std::byte* LaneTable::WritablePage(int layer, int kv_head, int64_t position) {
  Lane& lane = At(layer, kv_head);
  return lane.pages[static_cast<size_t>(WritableIndex(lane, position) / kPageTokens)].own;
}
int LaneTable::WritableSlot(int layer, int kv_head, int64_t position) const {
  return static_cast<int>(WritableIndex(At(layer, kv_head), position) % kPageTokens);
}

Status LaneTable::Append(int layer, int kv_head, const float* k, const float* v, int32_t position) {
  LARDER_CHECK(reserved_ == 0);
  Lane& lane = At(layer, kv_head);
  if (mode_ == PositionMode::kCompact && lane.length >= rope_.positions) {
    return Fail(ErrorKind::kExhausted,
                "a lane of {} entries has used up all positions of the model; remove some first",
                lane.length);
  }
  LARDER_TRY(Grow(lane, lane.length + 1));
  const auto at = static_cast<size_t>(lane.length);
  StoreKvRow(shape_->type(), shape_->head_dim(), k, v, lane.pages[at / kPageTokens].own,
             static_cast<int>(at % kPageTokens));
  lane.positions[at] = position;
  lane.scores[at] = 0;
  if (!lane.logit_bias.empty()) lane.logit_bias[at] = 0;
  ++lane.length;
  lane.Straighten(at / kPageTokens);
  return {};
}

// Makes a borrowed page this table's own.
Status LaneTable::Own(int layer, int kv_head, int64_t page) {
  Lane& lane = At(layer, kv_head);
  Lane::Page& at = lane.pages[static_cast<size_t>(page)];
  if (at.own != nullptr) return {};
  LARDER_CHECK(!at.gone);
  LARDER_ASSIGN(std::byte * own, source_->Take());
  const KvPage borrowed = prefix_->Page(layer, kv_head, page, nullptr);
  CopyKvRows(shape_->type(), shape_->head_dim(), static_cast<const std::byte*>(borrowed.k), 0, own, 0,
             kPageTokens);
  at.own = own;
  return {};
}

// To an own page.
void LaneTable::Move(int layer, int kv_head, int64_t from, int64_t to) {
  Lane& lane = At(layer, kv_head);
  const auto a = static_cast<size_t>(from), b = static_cast<size_t>(to);
  const KvPage page = Stored(layer, kv_head, from / kPageTokens, nullptr);
  LARDER_CHECK(page.k != nullptr);
  CopyKvRows(shape_->type(), shape_->head_dim(), static_cast<const std::byte*>(page.k),
             static_cast<int>(a % kPageTokens), lane.pages[b / kPageTokens].own,
             static_cast<int>(b % kPageTokens), 1);
  lane.positions[b] = lane.positions[a];
  lane.scores[b] = lane.scores[a];
  if (!lane.logit_bias.empty()) lane.logit_bias[b] = lane.logit_bias[a];
}

Status LaneTable::Remove(int layer, int kv_head, int64_t entry) {
  LARDER_CHECK(reserved_ == 0);
  Lane& lane = At(layer, kv_head);
  LARDER_CHECK(entry >= 0 && entry < lane.length);
  if (entry < lane.coded * kPageTokens) return RemoveFromCodes(layer, kv_head, entry);
  const int64_t last = lane.length - 1;
  LARDER_TRY(Own(layer, kv_head, entry / kPageTokens));
  LARDER_TRY(Own(layer, kv_head, last / kPageTokens));
  if (mode_ == PositionMode::kKeep) {
    if (entry != last) Move(layer, kv_head, last, entry);
  } else {
    for (int64_t i = entry; i < last; ++i) Move(layer, kv_head, i + 1, i);
  }
  lane.length = last;
  Shrink(lane, last);
  const int64_t touched = mode_ == PositionMode::kKeep ? entry / kPageTokens : last / kPageTokens;
  for (int64_t page = entry / kPageTokens; page <= touched; ++page) {
    if (static_cast<size_t>(page) < lane.pages.size()) lane.Straighten(static_cast<size_t>(page));
  }
  return {};
}

Status LaneTable::Keep(int layer, int kv_head, std::span<const int32_t> entries) {
  LARDER_CHECK(reserved_ == 0);
  Lane& lane = At(layer, kv_head);
  const auto kept = static_cast<int64_t>(entries.size());
  if (kept == lane.length) return {};
  if (lane.coded > 0) return KeepAmongCodes(layer, kv_head, entries);
  // Pages in front of the first entry that moves stay as they are; the others must be this table's own to be
  // written.
  int64_t still = 0;
  while (still < kept && entries[static_cast<size_t>(still)] == still) ++still;
  for (int64_t page = still / kPageTokens; page < static_cast<int64_t>(PagesFor(kept)); ++page) {
    LARDER_TRY(Own(layer, kv_head, page));
  }
  for (int64_t i = still; i < kept; ++i) {
    const int64_t from = entries[static_cast<size_t>(i)];
    LARDER_CHECK(from < lane.length && from >= i);
    Move(layer, kv_head, from, i);
  }
  lane.length = kept;
  Shrink(lane, kept);
  for (size_t page = 0; page < lane.pages.size(); ++page) lane.Straighten(page);
  return {};
}

void LaneTable::DropBefore(int layer, int64_t position) {
  for (int head = 0; head < shape_->kv_heads(); ++head) {
    Lane& lane = At(layer, head);
    const int64_t whole = lane.length / kPageTokens;
    for (int64_t page = 0; page < whole; ++page) {
      Lane::Page& at = lane.pages[static_cast<size_t>(page)];
      if (lane.positions[static_cast<size_t>((page + 1) * kPageTokens - 1)] >= position) break;
      if (at.own != nullptr) SourceOf(lane, static_cast<size_t>(page)).Return(std::exchange(at.own, nullptr));
      at.gone = true;
    }
  }
}

int64_t LaneTable::Length(int layer, int kv_head) const { return At(layer, kv_head).length; }

int32_t LaneTable::PositionOf(int layer, int kv_head, int64_t entry) const {
  return Positions(layer, kv_head)[static_cast<size_t>(entry)];
}
std::span<const int32_t> LaneTable::Positions(int layer, int kv_head) const {
  const Lane& lane = At(layer, kv_head);
  return {lane.positions.data(), static_cast<size_t>(lane.length)};
}
std::span<float> LaneTable::Scores(int layer, int kv_head) {
  Lane& lane = At(layer, kv_head);
  return {lane.scores.data(), static_cast<size_t>(lane.length + reserved_)};
}

void LaneTable::Load(int layer, int kv_head, int64_t entry, float* k, float* v) const {
  const Lane& lane = At(layer, kv_head);
  LARDER_CHECK(entry >= 0 && entry < lane.length);
  AlignedBuffer tile;
  if (entry / kPageTokens < lane.coded) tile = NewTile();
  const KvPage page = Stored(layer, kv_head, entry / kPageTokens, tile.data());
  LARDER_CHECK(page.k != nullptr);
  LoadKvRow(shape_->type(), shape_->head_dim(), static_cast<const std::byte*>(page.k),
            static_cast<int>(entry % kPageTokens), k, v);
}

void LaneTable::SetLogitBias(int layer, int kv_head, int64_t entry, float bias) {
  Lane& lane = At(layer, kv_head);
  LARDER_CHECK(entry >= 0 && entry < lane.length);
  if (lane.logit_bias.empty()) lane.logit_bias.resize(lane.positions.size());
  lane.logit_bias[static_cast<size_t>(entry)] = bias;
}

float LaneTable::LogitBias(int layer, int kv_head, int64_t entry) const {
  const Lane& lane = At(layer, kv_head);
  LARDER_CHECK(entry >= 0 && entry < lane.length);
  return lane.logit_bias.empty() ? 0 : lane.logit_bias[static_cast<size_t>(entry)];
}

int64_t LaneTable::Pages(int layer, int kv_head) const {
  return std::ranges::count(At(layer, kv_head).pages, false, &Lane::Page::gone);
}

uint64_t LaneTable::bytes() const {
  uint64_t sum = sizeof(*this) + lanes_.capacity() * sizeof(lanes_[0]) + lanes_.size() * sizeof(Lane);
  for (const auto& lane : lanes_) {
    for (size_t i = 0; i < lane->pages.size(); ++i)
      sum += lane->pages[i].own != nullptr ? PageBytesOf(*lane, i) : 0;
    sum += lane->pages.capacity() * sizeof(Lane::Page) + lane->positions.capacity() * sizeof(int32_t) +
           (lane->scores.capacity() + lane->logit_bias.capacity()) * sizeof(float);
  }
  return sum;
}

uint64_t LaneTable::borrowed_bytes() const {
  uint64_t sum = 0;
  for (const auto& lane : lanes_) {
    for (const Lane::Page& page : lane->pages)
      sum += page.own == nullptr && !page.gone ? shape_->page_bytes() : 0;
  }
  return sum;
}

int64_t LaneTable::Entries(int layer, int kv_head) const { return At(layer, kv_head).length + reserved_; }

// Rows as they lie in memory, codes decoded into `tile`; k null: let go of.
KvPage LaneTable::Stored(int layer, int kv_head, int64_t page, std::byte* tile) const {
  const Lane& lane = At(layer, kv_head);
  const Lane::Page& at = lane.pages[static_cast<size_t>(page)];
  if (at.own != nullptr && page < lane.coded) {
    codec()->Decode(shape_->head_dim(), at.own, tile);
    return StoredPage(shape_->type(), shape_->head_dim(), tile);
  }
  if (at.own != nullptr) return StoredPage(shape_->type(), shape_->head_dim(), at.own);
  return at.gone ? KvPage{} : prefix_->Page(layer, kv_head, page, nullptr);
}

KvPage LaneTable::Page(int layer, int kv_head, int64_t page, std::byte* scratch) const {
  const Lane& lane = At(layer, kv_head);
  const size_t first = static_cast<size_t>(page * kPageTokens);
  KvPage out = Stored(layer, kv_head, page, scratch);
  if (out.k == nullptr) return out;
  out.entries =
      static_cast<int32_t>(std::min<int64_t>(kPageTokens, lane.length + reserved_ - page * kPageTokens));
  if (mode_ == PositionMode::kCompact) {
    RotateInto(static_cast<const std::byte*>(out.k), first, out.entries, scratch);
    const int32_t entries = out.entries;
    out = StoredPage(shape_->type(), shape_->head_dim(), scratch);
    out.entries = entries;
  }
  if (!lane.logit_bias.empty()) out.logit_bias = lane.logit_bias.data() + first;
  if (mode_ == PositionMode::kCompact) {
    out.first_position = static_cast<int32_t>(first);
  } else if (lane.pages[static_cast<size_t>(page)].straight) {
    out.first_position = lane.positions[first];
    out.positions = nullptr;
  } else {
    out.positions = lane.positions.data() + first;
  }
  return out;
}

// The tile as attention wants it: each key rotated by its rank in the lane.
void LaneTable::RotateInto(const std::byte* stored, size_t first_rank, int entries,
                           std::byte* scratch) const {
  const int dim = shape_->head_dim(), rotary = rope_.rotary_dim > 0 ? rope_.rotary_dim : dim;
  LARDER_CHECK(dim <= kMaxHeadDim && rotary <= dim);
  const size_t pairs = static_cast<size_t>(rotary) / 2;
  float k[kMaxHeadDim], v[kMaxHeadDim];
  for (int i = 0; i < entries; ++i) {
    const size_t rank = first_rank + static_cast<size_t>(i);
    LoadKvRow(shape_->type(), dim, stored, i, k, v);
    Rotate(k, 1, dim, rotary, rope_.cosines + rank * pairs, rope_.sines + rank * pairs);
    StoreKvRow(shape_->type(), dim, k, v, scratch, i);
  }
}

}  // namespace larder
