// A sequence's life between Open and Close: taking blocks, publishing rows, sealing, letting windows pass.
#include <algorithm>
#include <limits>

#include "kv/cache_impl.h"

namespace larder {

KvSequence::KvSequence(KvCache* cache, const KvShape* shape, int32_t root)
    : cache_(cache),
      shape_(shape),
      root_(root),
      blocks_(shape->kinds().size()),
      codes_(shape->codec() == nullptr ? 0 : shape->kinds().size()),
      window_start_(shape->kinds().size()) {}

KvSequence::~KvSequence() {
  if (cache_ != nullptr) cache_->impl_->CloseSequence(*this);
}

const std::string& KvSequence::tenant() const {
  return cache_->impl_->tenants[static_cast<size_t>(root_)]->name;
}

int64_t KvSequence::Entries(int /*layer*/, int /*kv_head*/) const { return capacity_; }

KvPage KvSequence::Page(int layer, int kv_head, int64_t page, std::byte* scratch) const {
  return PageFor(LastBlock(), layer, kv_head, page, scratch);
}

std::byte* KvSequence::WritablePage(int layer, int kv_head, int64_t position) {
  LARDER_CHECK(position >= length_ && position < capacity_);
  std::byte* block =
      blocks_[static_cast<size_t>(shape_->KindOf(layer))][static_cast<size_t>(position / kPageTokens)];
  return block + shape_->LaneOffset(layer, kv_head);
}

Status KvCache::Impl::Reserve(KvSequence& sequence, int64_t rows) {
  LARDER_CHECK(rows >= 0);
  if (rows > std::numeric_limits<int32_t>::max() - sequence.length_) {
    return Fail(ErrorKind::kInvalid, "a sequence of {} and {} more tokens is longer than positions can count",
                sequence.length_, rows);
  }
  const int64_t target = sequence.length_ + rows;
  if (target <= sequence.capacity_) return {};

  const int64_t offset = sequence.length_ % kPageTokens;
  KvNode* tail = offset > 0 ? sequence.path_[static_cast<size_t>(sequence.length_ / kPageTokens)] : nullptr;
  const bool take_over = tail != nullptr && tail->writer == nullptr && tail->rows == offset;
  const bool copy = tail != nullptr && tail->writer != &sequence && !take_over;
  const size_t have = sequence.path_.size();
  const size_t more = BlocksFor(target) - std::min(have, BlocksFor(target));
  const uint64_t blocks = more + copy;
  // Blocks that will be full: their codes are made before anything is published.
  const int64_t first_full = sequence.capacity_ / kPageTokens;
  const int64_t full = shape.codec() == nullptr ? 0 : target / kPageTokens - first_full;
  const uint64_t tables = target > sequence.table_rows_
                              ? SequenceCost(TableRows(target)) - SequenceCost(sequence.table_rows_)
                              : 0;
  LARDER_ASSIGN(std::vector<BlockSet> taken,
                TakeForRows(blocks, first_full, full, blocks * node_cost + tables));
  GrowTables(sequence, target);
  size_t next = 0;
  if (copy) CopyTail(sequence, std::move(taken[next++]));
  if (take_over) tail->writer = &sequence;
  while (next < blocks) AppendBlock(sequence, std::move(taken[next++]));
  sequence.capacity_ = target;
  for (int64_t i = first_full; i < first_full + full; ++i)
    AddCodes(*sequence.path_[static_cast<size_t>(i)], std::move(taken[next++]));
  return {};
}

// Makes room for `rows` blocks of rows, for the codes of blocks [first_full, first_full + full) of a text and
// for `metadata` bytes, and takes the blocks, in this order.
Result<std::vector<KvCache::Impl::BlockSet>> KvCache::Impl::TakeForRows(uint64_t rows, int64_t first_full,
                                                                        int64_t full, uint64_t metadata) {
  std::vector<KvForm> forms(rows, KvForm::kRows);
  for (int64_t i = first_full; i < first_full + full; ++i) forms.push_back(shape.FullForm(i));
  BlockCounts counts{};
  for (size_t kind = 0; kind < static_cast<size_t>(kinds()); ++kind) {
    for (const KvForm form : forms) ++counts[kind][static_cast<size_t>(form)];
  }
  LARDER_TRY(MakeRoom(counts, metadata));
  std::vector<BlockSet> taken;
  for (const KvForm form : forms) {
    auto set = TakeBlocks(form);
    if (!set) {
      for (BlockSet& other : taken) ReturnBlocks(std::move(other));
      return std::unexpected(std::move(set).error());
    }
    taken.push_back(*std::move(set));
  }
  return taken;
}

void KvCache::Impl::GrowTables(KvSequence& sequence, int64_t rows) {
  if (rows <= sequence.table_rows_) return;
  const int64_t table_rows = TableRows(rows);
  metadata_bytes += SequenceCost(table_rows) - SequenceCost(sequence.table_rows_);
  sequence.table_rows_ = table_rows;
  sequence.tokens_.reserve(static_cast<size_t>(table_rows));
  sequence.path_.reserve(static_cast<size_t>(table_rows / kPageTokens));
  for (auto* tables : {&sequence.blocks_, &sequence.codes_}) {
    for (auto& table : *tables) table.reserve(static_cast<size_t>(table_rows / kPageTokens));
  }
  if (shape.codec() != nullptr) sequence.views_.reserve(static_cast<size_t>(table_rows / kPageTokens));
}

// The sequence ends inside a block that is not its to append to: gives it a block of its own with the same
// rows.
void KvCache::Impl::CopyTail(KvSequence& sequence, BlockSet blocks) {
  const size_t index = static_cast<size_t>(sequence.length_ / kPageTokens);
  const int rows = static_cast<int>(sequence.length_ % kPageTokens);
  KvNode& shared = *sequence.path_[index];
  for (int layer = 0; layer < shape.layers(); ++layer) {
    const size_t kind = static_cast<size_t>(shape.KindOf(layer));
    for (int head = 0; head < shape.kv_heads(); ++head) {
      const size_t lane = shape.LaneOffset(layer, head);
      CopyKvRows(shape.type(), shape.head_dim(), sequence.blocks_[kind][index] + lane, 0,
                 blocks[kind].data() + lane, 0, rows);
    }
  }
  totals.copied_rows += static_cast<uint64_t>(rows);

  KvNode& own = NewNode(shared.tenant, shared.depth, std::move(blocks));
  tree.Append(own, shared.published().first(static_cast<size_t>(rows)));
  tree.Attach(*shared.parent, own);
  Hold(own);
  own.writer = &sequence;
  sequence.path_[index] = &own;
  for (int kind = 0; kind < kinds(); ++kind) {
    PointAt(sequence, index, kind);
    if (window(kind) > 0) HoldWindow(own, kind);
  }
  // Texts part here: others may want to go on from the same row.
  AddResume(shared, rows);
  AddResume(own, rows);
  for (int kind = 0; kind < kinds(); ++kind) {
    if (window(kind) > 0) ReleaseWindow(shared, kind);
  }
  SettleAside(shared);
  Release(shared);
}

void KvCache::Impl::AppendBlock(KvSequence& sequence, BlockSet blocks) {
  KvNode& node = NewNode(sequence.root_, static_cast<int32_t>(sequence.path_.size()), std::move(blocks));
  Hold(node);
  node.writer = &sequence;
  ExtendPath(sequence, node);
  for (int kind = 0; kind < kinds(); ++kind) {
    PointAt(sequence, sequence.path_.size() - 1, kind);
    if (window(kind) > 0) HoldWindow(node, kind);
  }
}

void KvCache::Impl::Publish(KvSequence& sequence, std::span<const int32_t> tokens) {
  LARDER_CHECK(sequence.length_ + static_cast<int64_t>(tokens.size()) <= sequence.capacity_);
  while (!tokens.empty()) {
    const size_t index = static_cast<size_t>(sequence.length_ / kPageTokens);
    KvNode& node = *sequence.path_[index];
    LARDER_CHECK(node.writer == &sequence);
    const auto part = tokens.first(std::min(tokens.size(), static_cast<size_t>(kPageTokens - node.rows)));
    tokens = tokens.subspan(part.size());
    tree.Append(node, part);
    if (tiers != nullptr) tiers->RowsChanged(node);
    sequence.tokens_.insert(sequence.tokens_.end(), part.begin(), part.end());
    sequence.length_ += static_cast<int64_t>(part.size());
    if (node.parent == nullptr) {
      KvNode& parent = index > 0 ? *sequence.path_[index - 1] : root(sequence.root_);
      // The second child makes its parent's end a place where texts part.
      if (!IsRoot(parent) && !parent.children.empty()) AddResume(parent, kPageTokens);
      tree.Attach(parent, node);
    }
    if (node.sealed()) Seal(sequence, index);
  }
  AdvanceWindows(sequence);
}

void KvCache::Impl::Seal(KvSequence& sequence, size_t index) {
  KvNode& node = *sequence.path_[index];
  node.writer = nullptr;
  node.name = names.Block(node.parent->name, node.published());
  node.content = ContentHash(node.parent->content, node.published());
  ++totals.sealed_blocks;
  if (shape.codec() != nullptr) TurnIntoCodes(node);
  KvNode* kept = tree.ExtendingSibling(node);  // of a full block: the same tokens, sealed before
  if (kept != nullptr && kept->arriving != nullptr) {
    // Not yet good to move over to; its read may fail. This one stays without a name beside it.
    kept = &node;
  } else if (kept != nullptr) {
    MoveOver(node, *kept);
  } else {
    kept = &node;
    // A name that other tokens have already: the block stays without one, and is found among its siblings.
    if (tree.Insert(node) != nullptr) ++totals.collisions;
    TellStored(node, ResidentKinds(node));
  }
  Supersede(*kept);
  if (tiers != nullptr) tiers->Computed(*kept);
}

// Somebody else sealed the same block before: whoever holds `own`, at whatever row, uses that one instead.
// Then there is never a second place where the text's continuation could be.
void KvCache::Impl::MoveOver(KvNode& own, KvNode& other) {
  const size_t index = static_cast<size_t>(own.depth);
  const std::vector<uint64_t> leased = leases.Detach(own);
  std::vector<KvSequence*> movers;
  for (KvSequence* sequence : sequences) {
    if (sequence->path_.size() > index && sequence->path_[index] == &own) movers.push_back(sequence);
  }
  const auto sees = [&](const KvSequence& sequence, size_t kind) {
    return static_cast<int64_t>(index) >= sequence.window_start_[kind];
  };
  for (KvSequence* sequence : movers) {
    Hold(other);
    sequence->path_[index] = &other;
    Release(own);
  }
  if (tiers != nullptr) tiers->MoveHolds(own, other);
  for (int kind = 0; kind < kinds(); ++kind) {
    const size_t k = static_cast<size_t>(kind);
    AlignedBuffer rows = std::exchange(own.slots[k].aside, {});  // beside codes, of who ends inside
    if (window(kind) > 0) {
      for (const KvSequence* sequence : movers) {
        if (sees(*sequence, k)) ReleaseWindow(own, kind);
      }
      // Its window block may have been evicted meanwhile; ours has the same bits.
      if (KindBytes(other, kind) == 0 && KindBytes(own, kind) > 0)
        PutBlock(other, kind, TakeBlock(own, kind));
      for (const KvSequence* sequence : movers) {
        if (sees(*sequence, k)) HoldWindow(other, kind);
      }
    }
    if (rows.size() > 0 && other.slots[k].aside.size() == 0) {
      other.slots[k].aside = std::move(rows);
    } else if (rows.size() > 0) {
      pool.Return(kind, std::move(rows));
    }
  }
  PointAllAt(other);
  evictor.Update(other);
  leases.Attach(leased, other);
  InheritResume(own, other);
  FreeNode(own);
  ++totals.deduplicated_blocks;
}

// Takes what follows the sequence's last full block and is here by now. Rows gained.
int64_t KvCache::Impl::ExtendByHits(KvSequence& sequence, std::span<const int32_t> tokens) {
  const int64_t before = sequence.length_;
  std::vector<KvNode*> found;
  const KvNode* last = sequence.path_.back();
  int rows = kPageTokens;  // of the last one found
  for (auto rest = tokens.subspan(static_cast<size_t>(before)); !rest.empty() && rows == kPageTokens;) {
    const auto chunk = rest.first(std::min(rest.size(), static_cast<size_t>(kPageTokens)));
    const KvTree::Agreement next = tree.LongestChild(*last, chunk);
    if (next.rows == 0 || next.child->arriving != nullptr) break;
    found.push_back(next.child);
    last = next.child;
    rows = next.rows;
    rest = rest.subspan(static_cast<size_t>(rows));
  }
  const auto end = [&] { return found.back()->start() + rows; };
  const auto usable = [&] {
    return ReusableRows(found, end() - before, std::ssize(tokens) - before) == end() - before &&
           WindowsComplete(*found.back(), rows);
  };
  while (!found.empty() && !usable()) {
    found.pop_back();
    rows = kPageTokens;
  }
  if (found.empty()) return 0;
  // Held before room is made, or they might be what goes.
  for (KvNode* node : found) Hold(*node);
  const auto target = before + static_cast<int64_t>(found.size() - 1) * kPageTokens + rows;
  const uint64_t tables = target > sequence.table_rows_
                              ? SequenceCost(TableRows(target)) - SequenceCost(sequence.table_rows_)
                              : 0;
  if (!MakeRoom({}, tables)) {
    for (size_t i = found.size(); i-- > 0;) Release(*found[i]);
    return 0;
  }
  GrowTables(sequence, target);
  for (KvNode* node : found) {
    ExtendPath(sequence, *node);
    for (int kind = 0; kind < kinds(); ++kind) {
      const bool resident = KindBytes(*node, kind) > 0;
      // Windows that are not here lie before the new end's; AdvanceWindows must find nothing to let go of.
      if (window(kind) > 0 && resident) HoldWindow(*node, kind);
      PointAt(sequence, sequence.path_.size() - 1, kind);
    }
  }
  const auto gained = tokens.subspan(static_cast<size_t>(before), static_cast<size_t>(target - before));
  sequence.tokens_.insert(sequence.tokens_.end(), gained.begin(), gained.end());
  sequence.length_ = sequence.capacity_ = target;
  AdvanceWindows(sequence);
  Touch(found, true);
  return target - before;
}

void KvCache::Impl::AdvanceWindows(KvSequence& sequence) {
  for (int kind = 0; kind < kinds(); ++kind) {
    if (window(kind) == 0) continue;
    int64_t& start = sequence.window_start_[static_cast<size_t>(kind)];
    const int64_t first = WindowStart(sequence.length_, window(kind)) / kPageTokens;
    for (; start < first; ++start) {
      KvNode& node = *sequence.path_[static_cast<size_t>(start)];
      if (KindBytes(node, kind) > 0) ReleaseWindow(node, kind);
      PointAway(sequence, static_cast<size_t>(start), kind);
    }
  }
}

void KvCache::Impl::ReleasePath(KvSequence& sequence, size_t from) {
  while (sequence.path_.size() > from) {
    const size_t index = sequence.path_.size() - 1;
    KvNode& node = *sequence.path_[index];
    if (node.writer == &sequence) node.writer = nullptr;
    ShortenPath(sequence);
    SettleAside(node);
    for (int kind = 0; kind < kinds(); ++kind) {
      const auto start = sequence.window_start_[static_cast<size_t>(kind)];
      if (window(kind) > 0 && static_cast<int64_t>(index) >= start) ReleaseWindow(node, kind);
    }
    Release(node);
    if (node.rows == 0) FreeNode(node);
  }
}

// The opposite: holds the windows of a shorter length again. REQUIRES: they are complete.
void KvCache::Impl::RewindWindows(KvSequence& sequence, int64_t length) {
  for (int kind = 0; kind < kinds(); ++kind) {
    if (window(kind) == 0) continue;
    const size_t k = static_cast<size_t>(kind);
    const int64_t first = WindowStart(length, window(kind)) / kPageTokens;
    int64_t& start = sequence.window_start_[k];
    for (start = std::min(start, static_cast<int64_t>(sequence.path_.size())); start > first;) {
      const size_t index = static_cast<size_t>(--start);
      HoldWindow(*sequence.path_[index], kind);
      PointAt(sequence, index, kind);
    }
  }
}

Status KvCache::Impl::Truncate(KvSequence& sequence, int64_t length) {
  LARDER_CHECK(length >= 0 && length <= sequence.length_);
  const size_t keep = BlocksFor(length);
  KvNode* tail = keep > 0 ? sequence.path_[keep - 1] : nullptr;
  if (tail != nullptr && !WindowsComplete(*tail, static_cast<int>(length - tail->start()))) {
    return Fail(ErrorKind::kInvalid,
                "cannot go back to token {}: a layer with a sliding window no longer has the rows before it; "
                "close the "
                "sequence and open it again",
                length);
  }
  if (tail != nullptr && tail->sealed() && length % kPageTokens != 0 && shape.codec() != nullptr &&
      tail->slots[static_cast<size_t>(name_kind)].aside.size() == 0) {
    return Fail(
        ErrorKind::kInvalid,
        "cannot go back to token {}: its block is kept as codes; go back to a multiple of {}, or close "
        "the sequence and open it again",
        length, kPageTokens);
  }
  const size_t published = BlocksFor(sequence.length_);
  KvNode* left = published > keep ? sequence.path_[published - 1] : nullptr;
  ReleasePath(sequence, keep);
  if (left != nullptr) SettleTail(*left);
  RewindWindows(sequence, length);
  // Rows that it published and others may see are no longer its to write over.
  if (tail != nullptr && tail->writer == &sequence && tail->start() + tail->rows > length)
    tail->writer = nullptr;
  sequence.tokens_.resize(static_cast<size_t>(length));
  sequence.length_ = sequence.capacity_ = length;
  if (tail != nullptr) SettleAside(*tail);
  return {};
}

}  // namespace larder
