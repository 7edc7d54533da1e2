#include "kv/tiers.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <thread>

#include "kv/block_record.h"
#include "kv/cache_impl.h"

namespace larder {
namespace {

constexpr size_t kMostTouches = 4096;
constexpr int64_t kTouchDelayNs = 1'000'000'000;
// Before anything was measured: a modest disk.
constexpr double kFirstBytesPerMs = 400e3, kFirstFixedMs = 1;

}  // namespace

void KvTiers::Inbox::Post(std::function<void(KvTiers&)> answer) {
  std::lock_guard lock(mutex);
  answers.push_back(std::move(answer));
  if (notify) notify();
}

KvTiers::KvTiers(KvCache::Impl& cache, KvTiersOptions options)
    : cache_(cache),
      options_(std::move(options)),
      rates_(options_.tiers.size(), {kFirstBytesPerMs, kFirstFixedMs}) {
  LARDER_CHECK(options_.tiers.size() <= kMaxTiers);
  inbox_->notify = options_.notify;
  Listen();
}

KvTiers::~KvTiers() {
  for (const auto& restore : open_reads_) {
    for (const auto& reading : restore->readings_) {
      if (!reading->over) options_.tiers[reading->tier]->Cancel(reading->ticket);
    }
  }
  while (!writes_.empty() || !open_reads_.empty()) {
    if (!writes_.empty()) Flush();
    if (!Poll()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  FlushTouches();
  for (Tier* tier : options_.tiers) tier->ListenForRemovals(nullptr);
  {
    std::lock_guard lock(inbox_->mutex);
    inbox_->notify = nullptr;
  }
  for (KvRestore* restore : std::vector<KvRestore*>(restores_.begin(), restores_.end())) Abandon(*restore);
}

bool KvTiers::Poll() {
  std::vector<std::function<void(KvTiers&)>> answers;
  {
    std::lock_guard lock(inbox_->mutex);
    answers.swap(inbox_->answers);
  }
  for (const auto& answer : answers) answer(*this);
  DropAbandoned();
  if (!touches_.empty() && cache_.clock->NowNs() - touches_ns_ >= kTouchDelayNs) FlushTouches();
  return !answers.empty();
}

Digest KvTiers::RecordName(int kind, const Digest& block) const {
  return kind == cache_.name_kind ? block : cache_.names.OfKind(kind, block);
}

// --- down

void KvTiers::Computed(KvNode& node) {
  CountUse(node);
  Keep(node);
}

void KvTiers::Keep(KvNode& node) {
  const auto& tenant = *cache_.tenants[static_cast<size_t>(node.tenant)];
  if (!tenant.space || tenant.retired || node.rows == 0 || node.arriving != nullptr ||
      (node.sealed() && !node.indexed))
    return;
  const auto all = static_cast<uint8_t>((1u << options_.tiers.size()) - 1);
  if ((all & ~node.given) == 0) return;
  const auto missing = static_cast<uint8_t>(all & ~node.given & Wanting(node));
  if (missing == 0) return;
  node.given |= missing;
  ++node.writes;
  const uint64_t id = next_write_++;
  Write& write = writes_[id] = {.node = &node, .held = node.sealed(), .tiers = missing};
  if (write.held) HoldChain(node);
  for (int kind = 0; kind < cache_.kinds(); ++kind) {
    if (cache_.KindBytes(node, kind) > 0) KeepKind(id, write, kind);
  }
  if (write.left == 0) EndWrite(id);
}

void KvTiers::Offer(std::span<KvNode* const> path) {
  for (KvNode* node : path) {
    if (node->below != 0 || node->writes > 0) continue;
    node->given = 0;
    Keep(*node);
  }
}

BlockMeta KvTiers::MetaOf(const KvNode& node) const {
  BlockMeta meta = Evictor::Meta(node);
  const Digest name = node.sealed() ? node.name : cache_.names.Block(node.parent->name, node.published());
  std::memcpy(&meta.key, name.bytes.data(), sizeof meta.key);
  return meta;
}

void KvTiers::CountUse(const KvNode& node) {
  for (AdmitPolicy* admit : options_.admit) {
    if (admit != nullptr) admit->Use(MetaOf(node));
  }
}

uint8_t KvTiers::Wanting(const KvNode& node) const {
  uint8_t wanting = 0xff;
  for (size_t tier = 0; tier < options_.admit.size(); ++tier) {
    const AdmitPolicy* admit = options_.admit[tier];
    if (admit != nullptr && !admit->Admit(MetaOf(node))) wanting &= static_cast<uint8_t>(~(1u << tier));
  }
  return wanting;
}

// Two tails of the same tokens must have the same bytes: rows that are not published are zeros.
std::shared_ptr<const AlignedBuffer> KvTiers::CopyTail(const KvNode& node, int kind) const {
  const KvShape& shape = cache_.shape;
  auto copy = AlignedBuffer::Allocate(shape.BlockBytes(kind));
  if (!copy) return nullptr;
  std::fill_n(copy->data(), copy->size(), std::byte{});
  const std::byte* from = node.slots[static_cast<size_t>(kind)].block.data();
  for (const int layer : shape.kinds()[static_cast<size_t>(kind)].layers) {
    for (int head = 0; head < shape.kv_heads(); ++head) {
      const size_t lane = shape.LaneOffset(layer, head);
      CopyKvRows(shape.type(), shape.head_dim(), from + lane, 0, copy->data() + lane, 0, node.rows);
    }
  }
  return std::make_shared<AlignedBuffer>(*std::move(copy));
}

void KvTiers::KeepKind(uint64_t id, Write& write, int kind) {
  KvNode& node = *write.node;
  const Digest block = node.sealed() ? node.name : cache_.names.Block(node.parent->name, node.published());
  RecordHeader header;
  header.name = RecordName(kind, block);
  // Only one kind is listed among its parent's children; the others follow from its name.
  if (kind == cache_.name_kind) header.parent = node.parent->name;
  header.space = *cache_.tenants[static_cast<size_t>(node.tenant)]->space;
  header.kind = kKvBlockRecord;
  header.metadata = EncodeBlockMetadata(node.published());
  const KvForm form = node.sealed() ? cache_.shape.FullForm(node.depth) : KvForm::kRows;
  header.group_bytes = BlockGroupBytes(cache_.shape, kind, form, options_.group_bytes);

  RecordPayload payload;
  const std::byte* bytes = node.slots[static_cast<size_t>(kind)].block.data();
  if (!node.sealed()) {
    auto copy = CopyTail(node, kind);
    if (copy == nullptr) {
      write.refused = write.again = write.tiers;
      return;
    }
    bytes = copy->data();
    payload.owner = std::move(copy);
  }
  for (const uint64_t group : header.group_bytes) {
    payload.groups.emplace_back(bytes, group);
    bytes += group;
  }
  write.kinds |= 1u << kind;
  if (write.held && cache_.window(kind) > 0) cache_.HoldWindow(node, kind);
  for (size_t tier = 0; tier < options_.tiers.size(); ++tier) {
    if ((write.tiers >> tier & 1) == 0) continue;
    ++write.left;
    options_.tiers[tier]->Put(header, payload, [inbox = inbox_, id, kind, tier](Status status) {
      inbox->Post([id, kind, tier, status = std::move(status)](KvTiers& tiers) {
        tiers.Written(id, kind, tier, status);
      });
    });
  }
}

KvTiers::Below KvTiers::BelowOf(std::span<KvNode* const> path) const {
  Below below = Below::kAll;
  for (const KvNode* node : path) {
    if (node->below == 0 && (node->writes == 0 || node->refused)) return Below::kNotAll;
    if (node->writes > 0) below = Below::kBeingWritten;
  }
  return below;
}

void KvTiers::RowsChanged(KvNode& node) {
  node.given = node.below = 0;
  node.refused = false;
  if (node.writes == 0) return;
  for (auto& [id, write] : writes_) {
    if (write.node == &node) write.node = nullptr;
  }
  node.writes = 0;
}

void KvTiers::Written(uint64_t id, int kind, size_t tier, const Status& status) {
  Write& write = writes_.at(id);
  const auto bit = static_cast<uint8_t>(1u << tier);
  if (status) {
    TellStored(write, kind, tier);
  } else {
    write.refused |= bit;
    // What was dropped is tried again when it is next used. Removed or contradicted ones are not.
    const ErrorKind why = status.error().kind;
    if (why != ErrorKind::kConflict && why != ErrorKind::kCancelled) write.again |= bit;
  }
  if (--write.left == 0) EndWrite(id);
}

void KvTiers::EndWrite(uint64_t id) {
  const Write write = writes_.extract(id).mapped();
  if (write.node == nullptr) return;
  KvNode& node = *write.node;
  --node.writes;
  node.given &= static_cast<uint8_t>(~write.again);
  node.below |= static_cast<uint8_t>(write.tiers & ~write.refused);
  node.refused = node.below == 0;
  if (!write.held) return;
  for (int kind = 0; kind < cache_.kinds(); ++kind) {
    if (cache_.window(kind) > 0 && (write.kinds >> kind & 1) != 0) cache_.ReleaseWindow(node, kind);
  }
  const int32_t tenant = node.tenant;
  ReleaseChain(node);
  if (cache_.tenants[static_cast<size_t>(tenant)]->retired) cache_.DropTenantIfUnused(tenant);
}

// A node cannot go before its descendants, so what holds it holds its ancestors, too: then what nobody holds
// is what evicting can free.
void KvTiers::HoldChain(KvNode& node) {
  for (KvNode* at = &node; !cache_.IsRoot(*at); at = at->parent) cache_.Hold(*at);
}

void KvTiers::ReleaseChain(KvNode& node) {
  for (KvNode* at = &node; !cache_.IsRoot(*at); at = at->parent) cache_.Release(*at);
}

void KvTiers::Used(std::span<KvNode* const> path) {
  if (touches_.empty()) touches_ns_ = cache_.clock->NowNs();
  // From the last to the first, so that the first block of a text is the most recent below, too.
  for (size_t i = path.size(); i-- > 0;) {
    KvNode& node = *path[i];
    if (!node.sealed() || !node.indexed) continue;
    for (int kind = 0; kind < cache_.kinds(); ++kind) {
      if (cache_.KindBytes(node, kind) > 0) touches_.push_back(RecordName(kind, node.name));
    }
    CountUse(node);
    Keep(node);
  }
  if (touches_.size() >= kMostTouches) FlushTouches();
}

void KvTiers::FlushTouches() {
  if (touches_.empty()) return;
  for (Tier* tier : options_.tiers) tier->Touch(touches_);
  touches_.clear();
}

bool KvTiers::RoomComing() const {
  return !writes_.empty() ||
         std::ranges::any_of(open_reads_, [](const auto& read) { return read.use_count() == 1; });
}

int64_t KvTiers::RowsBeingWritten() const {
  int64_t rows = 0;
  for (const auto& [id, write] : writes_) rows += write.held ? write.node->rows : 0;
  return rows;
}

void KvTiers::Flush() {
  for (Tier* tier : options_.tiers) tier->Flush();
  Poll();
}

// --- figures

uint64_t KvTiers::landing_bytes() const {
  uint64_t bytes = 0;
  for (const KvRestore* restore : restores_) {
    for (const KvRestore::Block& block : restore->blocks_) {
      for (int kind = 0; kind < cache_.kinds(); ++kind) {
        bytes += cache_.pool.CostOf(kind, block.memory[static_cast<size_t>(kind)]);
      }
    }
    for (const auto& [kind, memory] : restore->late_) bytes += cache_.pool.CostOf(kind, memory);
  }
  return bytes;
}

uint64_t KvTiers::landing_metadata() const {
  uint64_t bytes = 0;
  for (const KvRestore* restore : restores_) bytes += restore->charged_metadata_;
  return bytes;
}

void KvTiers::VisitHolds(const std::function<void(const KvNode&, int)>& visit) const {
  const auto chain = [&](const KvNode* node) {
    for (; !cache_.IsRoot(*node); node = node->parent) visit(*node, -1);
  };
  for (const auto& [id, write] : writes_) {
    if (!write.held) continue;
    chain(write.node);
    for (int kind = 0; kind < cache_.kinds(); ++kind) {
      if (cache_.window(kind) > 0 && (write.kinds >> kind & 1) != 0) visit(*write.node, kind);
    }
  }
  for (const KvRestore* restore : restores_) {
    if (restore->held_ != nullptr) chain(restore->held_);
  }
}

}  // namespace larder
