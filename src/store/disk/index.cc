#include "store/disk/index.h"

#include <algorithm>

namespace larder {
namespace {

// Keys are pieces of SHA-256 where names come from Larder, but nothing makes them so.
uint64_t Mixed(uint64_t key) { return (key ^ (key >> 32)) * 0x9e3779b97f4a7c15u; }

}  // namespace

DiskIndex::DiskIndex() {
  names_.cells.assign(64, kNoSlot);
  parents_.cells.assign(64, kNoSlot);
}

uint64_t DiskIndex::HashIn(const Table& table, uint32_t slot) const {
  const IndexSlot& record = at(slot);
  return Mixed(&table == &parents_ ? record.parent : record.key.words[0]) >> 16;
}

size_t DiskIndex::HomeIn(const Table& table, uint32_t slot) const {
  return HashIn(table, slot) & (table.cells.size() - 1);
}

void DiskIndex::AddTo(Table& table, uint32_t slot) {
  if ((table.used + 1) * 4 > table.cells.size() * 3) {
    const std::vector<uint32_t> old = std::move(table.cells);
    table.cells.assign(old.size() * 2, kNoSlot);
    table.used = 0;
    for (const uint32_t moved : old) {
      if (moved != kNoSlot) AddTo(table, moved);
    }
  }
  size_t cell = HomeIn(table, slot);
  while (table.cells[cell] != kNoSlot) cell = (cell + 1) & (table.cells.size() - 1);
  table.cells[cell] = slot;
  ++table.used;
}

void DiskIndex::RemoveFrom(Table& table, uint32_t slot) {
  const size_t mask = table.cells.size() - 1;
  size_t hole = HomeIn(table, slot);
  while (table.cells[hole] != slot) hole = (hole + 1) & mask;
  // What follows and could not be found past the hole moves into it.
  for (size_t cell = (hole + 1) & mask; table.cells[cell] != kNoSlot; cell = (cell + 1) & mask) {
    const size_t home = HomeIn(table, table.cells[cell]);
    if (((cell - home) & mask) < ((cell - hole) & mask)) continue;
    table.cells[hole] = table.cells[cell];
    hole = cell;
  }
  table.cells[hole] = kNoSlot;
  --table.used;
}

uint32_t DiskIndex::Find(const RecordKey& key) const {
  const size_t mask = names_.cells.size() - 1;
  size_t cell = (Mixed(key.words[0]) >> 16) & mask;
  for (; names_.cells[cell] != kNoSlot; cell = (cell + 1) & mask) {
    if (at(names_.cells[cell]).key == key) return names_.cells[cell];
  }
  return kNoSlot;
}

size_t DiskIndex::ParentCell(uint64_t parent) const {
  const size_t mask = parents_.cells.size() - 1;
  size_t cell = (Mixed(parent) >> 16) & mask;
  while (parents_.cells[cell] != kNoSlot && at(parents_.cells[cell]).parent != parent)
    cell = (cell + 1) & mask;
  return cell;
}

uint32_t DiskIndex::ParentOf(uint32_t slot) const {
  const IndexSlot& record = at(slot);
  if (record.parent == 0) return kNoSlot;
  const size_t mask = names_.cells.size() - 1;
  size_t cell = (Mixed(record.parent) >> 16) & mask;
  for (; names_.cells[cell] != kNoSlot; cell = (cell + 1) & mask) {
    const IndexSlot& parent = at(names_.cells[cell]);
    if (parent.key.words[0] == record.parent && parent.born < record.born) return names_.cells[cell];
  }
  return kNoSlot;
}

bool DiskIndex::HasChildren(uint32_t slot) const {
  uint32_t child = parents_.cells[ParentCell(at(slot).key.words[0])];
  while (child != kNoSlot && ParentOf(child) != slot) child = at(child).older;
  return child != kNoSlot;
}

void DiskIndex::SetDepths() {
  std::vector<uint32_t> slots;
  for (uint32_t slot = 0; slot < slots_; ++slot) {
    if (at(slot).live) slots.push_back(slot);
  }
  std::sort(slots.begin(), slots.end(), [this](uint32_t a, uint32_t b) { return at(a).born < at(b).born; });
  for (const uint32_t slot : slots) SetDepth(slot);
}

void DiskIndex::SetDepth(uint32_t slot) {
  const uint32_t parent = ParentOf(slot);
  Mutable(slot).depth =
      static_cast<uint16_t>(parent == kNoSlot ? 0 : std::min<uint32_t>(at(parent).depth + 1, UINT16_MAX));
}

void DiskIndex::Use(uint32_t slot, uint64_t sequence) {
  IndexSlot& record = Mutable(slot);
  record.used = sequence;
  if (record.uses < UINT16_MAX) ++record.uses;
}

void DiskIndex::SetRank(uint32_t slot, const EvictRank& rank) {
  IndexSlot& record = Mutable(slot);
  record.rank = rank.value;
  record.rank_queue = rank.queue;
  record.rank_mark = rank.mark;
}

uint32_t DiskIndex::TakeSlot() {
  if (!free_.empty()) {
    const uint32_t slot = free_.back();
    free_.pop_back();
    return slot;
  }
  if (slots_ % kSlab == 0) slabs_.push_back(std::make_unique<Slab>(kSlab));
  return slots_++;
}

uint32_t DiskIndex::TakeSpace(const SpaceId& id) {
  const auto [found, added] = space_numbers_.try_emplace(id, 0);
  if (added) {
    const auto unused =
        std::find_if(spaces_.begin(), spaces_.end(), [](const Space& s) { return s.records == 0; });
    found->second = static_cast<uint32_t>(unused - spaces_.begin());
    if (unused == spaces_.end()) spaces_.emplace_back();
    spaces_[found->second].id = id;
  }
  ++spaces_[found->second].records;
  return found->second;
}

void DiskIndex::DropSpace(uint32_t number) {
  if (--spaces_[number].records == 0) space_numbers_.erase(spaces_[number].id);
}

uint32_t DiskIndex::Insert(const LogEntry& entry) {
  const uint32_t slot = TakeSlot();
  IndexSlot& record = Mutable(slot);
  record = {.key = entry.key,
            .parent = entry.parent,
            .digest = entry.digest,
            .born = entry.born,
            .used = entry.used,
            .space = TakeSpace(entry.space),
            .uses = static_cast<uint16_t>(entry.used > entry.born ? 2 : 1),  // the catalog has no more
            .live = true,
            .sealed = entry.sealed};
  Move(slot, entry.place);
  AddTo(names_, slot);
  SetDepth(slot);
  ++live_;
  if (record.parent == 0) return slot;
  const size_t cell = ParentCell(record.parent);
  if (parents_.cells[cell] == kNoSlot) {
    AddTo(parents_, slot);
  } else {
    record.older = parents_.cells[cell];
    Mutable(record.older).newer = slot;
    parents_.cells[cell] = slot;
  }
  return slot;
}

void DiskIndex::Erase(uint32_t slot) {
  IndexSlot& record = Mutable(slot);
  LARDER_CHECK(record.live);
  RemoveFrom(names_, slot);
  if (record.parent != 0) {
    if (record.newer != kNoSlot) {
      Mutable(record.newer).older = record.older;
    } else if (record.older != kNoSlot) {
      parents_.cells[ParentCell(record.parent)] = record.older;
    } else {
      RemoveFrom(parents_, slot);
    }
    if (record.older != kNoSlot) Mutable(record.older).newer = record.newer;
  }
  DropSpace(record.space);
  record.live = false;
  free_.push_back(slot);
  --live_;
}

void DiskIndex::Move(uint32_t slot, const RecordPlace& place) {
  IndexSlot& record = Mutable(slot);
  record.segment = place.segment;
  record.page = place.page;
  record.pages = place.pages;
  record.head_pages = place.head_pages;
}

LogEntry DiskIndex::EntryOf(uint32_t slot) const {
  const IndexSlot& record = at(slot);
  return {.type = LogEntryType::kPut,
          .sealed = record.sealed,
          .key = record.key,
          .place = record.place(),
          .parent = record.parent,
          .digest = record.digest,
          .born = record.born,
          .used = record.used,
          .space = SpaceOf(slot)};
}

std::vector<uint32_t> DiskIndex::ChildrenOf(uint64_t parent, size_t limit) const {
  std::vector<uint32_t> found;
  if (parent == 0) return found;
  // Sorted, because what a catalog is read back from has no order.
  for (uint32_t slot = parents_.cells[ParentCell(parent)]; slot != kNoSlot; slot = at(slot).older) {
    found.push_back(slot);
  }
  const size_t wanted = std::min(limit, found.size());
  std::partial_sort(found.begin(), found.begin() + static_cast<ptrdiff_t>(wanted), found.end(),
                    [this](uint32_t a, uint32_t b) { return at(a).born > at(b).born; });
  found.resize(wanted);
  return found;
}

uint64_t DiskIndex::bytes() const {
  return slabs_.size() * (kSlab * sizeof(IndexSlot) + sizeof(Slab)) + slabs_.capacity() * sizeof(void*) +
         (names_.cells.capacity() + parents_.cells.capacity() + free_.capacity()) * sizeof(uint32_t) +
         spaces_.capacity() * sizeof(Space) + space_numbers_.size() * 64;
}

}  // namespace larder
