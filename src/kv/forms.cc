// Rows and codes: with a codec, what a sequence reads in which form, and when a block has which. Without one,
// a block is rows for ever.
#include <algorithm>
#include <utility>

#include "kv/cache_impl.h"
#include "kv/codec/codec.h"

namespace larder {

// --- reading

int64_t KvSequence::View::Entries(int /*layer*/, int /*kv_head*/) const {
  return std::min(sequence_->capacity_, (block_ + 1) * kPageTokens);
}
TileSource KvSequence::View::Source(int layer, int kv_head, int64_t page) const {
  return sequence_->SourceFor(block_, layer, kv_head, page);
}
KvPage KvSequence::View::Page(int layer, int kv_head, int64_t page, std::byte* scratch) const {
  return sequence_->PageFor(block_, layer, kv_head, page, scratch);
}

TileSource KvSequence::Source(int layer, int kv_head, int64_t page) const {
  return SourceFor(LastBlock(), layer, kv_head, page);
}

TileSource KvSequence::SourceFor(int64_t block, int layer, int kv_head, int64_t page) const {
  const bool t4 = page < block && shape_->codec()->t4() && shape_->FullForm(page) == KvForm::kCodes;
  return {At(block, layer, kv_head, page), t4, static_cast<int32_t>(page * kPageTokens)};
}

const std::byte* KvSequence::At(int64_t block, int layer, int kv_head, int64_t page) const {
  const bool coded = shape_->codec() != nullptr && page < block;
  const auto& table = (coded ? codes_ : blocks_)[static_cast<size_t>(shape_->KindOf(layer))];
  const std::byte* run = table[static_cast<size_t>(page)];
  if (run == nullptr) return nullptr;
  return run + shape_->LaneOffset(layer, kv_head, coded ? shape_->FullForm(page) : KvForm::kRows);
}

KvPage KvSequence::PageFor(int64_t block, int layer, int kv_head, int64_t page, std::byte* scratch) const {
  const std::byte* at = At(block, layer, kv_head, page);
  const int head_dim = shape_->head_dim();
  KvPage out;
  if (at != nullptr && (shape_->codec() == nullptr || page >= block)) {
    out = StoredPage(shape_->type(), head_dim, at);
  } else if (at != nullptr) {
    const KvForm form = shape_->FullForm(page);
    // Blocks lie far apart, and processors do not foresee the next one.
    const std::byte* ahead = page + 1 < block ? At(block, layer, kv_head, page + 1) : nullptr;
    for (size_t i = 0; ahead != nullptr && i < shape_->page_bytes(KvForm::kCodes); i += 64)
      __builtin_prefetch(ahead + i);
    const KvCodec& codec = *shape_->codec();
    form == KvForm::kFirst ? DecodeFirst(codec, head_dim, at, scratch) : codec.Decode(head_dim, at, scratch);
    out = StoredPage(shape_->type(), head_dim, scratch);
  }
  out.first_position = static_cast<int32_t>(page * kPageTokens);
  out.entries = static_cast<int32_t>(std::min<int64_t>(kPageTokens, capacity_ - page * kPageTokens));
  return out;
}

const TileProvider* KvSequence::ViewFor(int64_t position) {
  if (shape_->codec() == nullptr) return this;
  const auto block = static_cast<size_t>(position / kPageTokens);
  LARDER_CHECK(position < capacity_);
  for (const auto& rows : blocks_) LARDER_CHECK(rows[block] != nullptr);
  // The tables' growth made room for all of them, so that none moves.
  while (views_.size() <= block) views_.emplace_back(this, static_cast<int64_t>(views_.size()));
  return &views_[block];
}

void KvSequence::CompletePage(int layer, int kv_head, int64_t page) {
  const KvCodec* codec = shape_->codec();
  if (codec == nullptr) return;
  const auto kind = static_cast<size_t>(shape_->KindOf(layer));
  const KvForm form = shape_->FullForm(page);
  const std::byte* rows = blocks_[kind][static_cast<size_t>(page)] + shape_->LaneOffset(layer, kv_head);
  std::byte* to = codes_[kind][static_cast<size_t>(page)] + shape_->LaneOffset(layer, kv_head, form);
  if (form == KvForm::kFirst) return EncodeFirst(*codec, shape_->head_dim(), rows, to);
  codec->Encode(shape_->head_dim(), rows, to);
}

// --- keeping

// The sequence's tables for a block that it sees.
void KvCache::Impl::PointAt(KvSequence& sequence, size_t index, int kind) const {
  KvNode::Slot& slot = sequence.path_[index]->slots[static_cast<size_t>(kind)];
  const auto k = static_cast<size_t>(kind);
  if (shape.codec() == nullptr) {
    sequence.blocks_[k][index] = slot.block.data();
    return;
  }
  const bool sealed = sequence.path_[index]->sealed();
  sequence.blocks_[k][index] = (sealed ? slot.aside : slot.block).data();
  sequence.codes_[k][index] = (sealed ? slot.block : slot.aside).data();
}

void KvCache::Impl::PointAway(KvSequence& sequence, size_t index, int kind) const {
  const auto k = static_cast<size_t>(kind);
  sequence.blocks_[k][index] = nullptr;
  if (shape.codec() != nullptr) sequence.codes_[k][index] = nullptr;
}

// The path has a block more; PointAt follows where the sequence sees it.
void KvCache::Impl::ExtendPath(KvSequence& sequence, KvNode& node) const {
  sequence.path_.push_back(&node);
  for (auto& table : sequence.blocks_) table.push_back(nullptr);
  for (auto& table : sequence.codes_) table.push_back(nullptr);
}

void KvCache::Impl::ShortenPath(KvSequence& sequence) const {
  sequence.path_.pop_back();
  for (auto& table : sequence.blocks_) table.pop_back();
  for (auto& table : sequence.codes_) table.pop_back();
}

// Everybody who holds the node sees it where it lies now.
void KvCache::Impl::PointAllAt(const KvNode& node) {
  const auto index = static_cast<size_t>(node.depth);
  for (KvSequence* sequence : sequences) {
    if (sequence->path_.size() <= index || sequence->path_[index] != &node) continue;
    for (int kind = 0; kind < kinds(); ++kind) {
      if (static_cast<int64_t>(index) >= sequence->window_start_[static_cast<size_t>(kind)])
        PointAt(*sequence, index, kind);
    }
  }
}

// Where the codes of a block that its writer may fill now are to be made.
void KvCache::Impl::AddCodes(KvNode& node, BlockSet codes) {
  for (int kind = 0; kind < kinds(); ++kind) {
    const auto k = static_cast<size_t>(kind);
    node.slots[k].aside = std::move(codes[k]);
  }
  PointAllAt(node);
}

// A full block's codes are made: from here on it is codes. REQUIRES: its writer holds it.
void KvCache::Impl::TurnIntoCodes(KvNode& node) {
  for (int kind = 0; kind < kinds(); ++kind) {
    KvNode::Slot& slot = node.slots[static_cast<size_t>(kind)];
    LARDER_CHECK(slot.aside.size() > 0 && evictor.Held(node, kind));
    const uint64_t before = KindBytes(node, kind);
    slot.block.swap(slot.aside);
    leases.Shrunk(node, kind, before - KindBytes(node, kind));
  }
  PointAllAt(node);
  SettleAside(node);
}

// Whether a sequence ends inside the node: it reads its rows, and may want to go on from the middle.
bool KvCache::Impl::EndsInside(const KvNode& node) const {
  const auto index = static_cast<size_t>(node.depth);
  return std::ranges::any_of(sequences, [&](const KvSequence* sequence) {
    return sequence->path_.size() > index && sequence->path_[index] == &node &&
           sequence->length_ < node.start() + kPageTokens;
  });
}

// Gives up what nobody needs any more: a full block's rows, or room for codes that will not be made.
void KvCache::Impl::SettleAside(KvNode& node) {
  const auto has = [](const KvNode::Slot& slot) { return slot.aside.size() > 0; };
  if (shape.codec() == nullptr || std::ranges::none_of(node.slots, has)) return;
  const bool wanted = node.sealed()
                          ? EndsInside(node)
                          : node.writer != nullptr && node.writer->capacity_ >= node.start() + kPageTokens;
  if (wanted) return;
  for (int kind = 0; kind < kinds(); ++kind) {
    AlignedBuffer& aside = node.slots[static_cast<size_t>(kind)].aside;
    if (aside.size() > 0) pool.Return(kind, std::exchange(aside, {}));
  }
  PointAllAt(node);
}

// Of rows that a text has in common with what is cached: those that can be gone on from. A row reads its own
// block as rows, so the last row asked for, whose logits are wanted, must not lie in codes.
int64_t KvCache::Impl::RowsOutsideCodes(std::span<KvNode* const> path, int64_t rows, int64_t asked) const {
  if (shape.codec() == nullptr || rows == 0 || !path[BlocksFor(rows) - 1]->sealed()) return rows;
  const bool inside = rows % kPageTokens != 0 || rows == asked;
  return inside ? (rows - 1) / kPageTokens * kPageTokens : rows;
}

int64_t KvCache::Impl::ReusableRows(std::span<KvNode* const> path, int64_t rows, int64_t asked) const {
  return UsableRows(path, RowsOutsideCodes(path, rows, asked));
}

}  // namespace larder
