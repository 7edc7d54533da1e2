#include "kv/cache.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "kv/cache_impl.h"

namespace larder {
namespace {

constexpr size_t kShownTokens = 16;  // of each side where texts part

size_t GhostsFor(const KvCacheOptions& options) {
  // At most a 64th of the memory, however many were asked for.
  const uint64_t affordable = options.limit_bytes / 64 / GhostList::BytesFor(1);
  return static_cast<size_t>(std::clamp<int64_t>(options.ghosts, 0, static_cast<int64_t>(affordable)));
}

size_t EventsFor(const KvCacheOptions& options) {
  const uint64_t affordable = options.limit_bytes / 256 / KvEvents::BytesFor(1);
  return static_cast<size_t>(std::clamp<int64_t>(options.events, 1, static_cast<int64_t>(affordable + 1)));
}

size_t NodesFor(const KvCacheOptions& options, uint64_t block_cost) {
  // A table that is too small only makes chains longer.
  return static_cast<size_t>(
      std::min(options.limit_bytes / block_cost, options.limit_bytes / 256 / sizeof(KvNode*)));
}

// What a tenant's names begin with: its space where it has one, so that they end with it.
std::string RootText(const std::string& tenant, const std::optional<SpaceId>& space) {
  if (!space) return tenant;
  std::string text = "space:";
  for (const uint8_t byte : *space) text += fmt::format("{:02x}", byte);
  return text;
}

int NameKind(const KvShape& shape) {
  const auto& kinds = shape.kinds();
  const auto full = std::ranges::find(kinds, 0, &KvKind::window);
  return full == kinds.end() ? 0 : static_cast<int>(full - kinds.begin());
}

}  // namespace

KvCache::Impl::Impl(KvCache* owner, KvShape kv_shape, const KvIdentity& identity, KvCacheOptions kv_options,
                    Clock* kv_clock, std::unique_ptr<EvictPolicy> policy)
    : cache(owner),
      shape(std::move(kv_shape)),
      options(std::move(kv_options)),
      clock(kv_clock),
      names(shape, identity, options.weaken_name),
      pool(shape, options.limit_bytes),
      tree(NodesFor(options, pool.Cost(NameKind(shape), shape.FullForm(1)))),
      evictor(&shape, std::move(policy), options.resume_stride),
      ghosts(GhostsFor(options)),
      events(EventsFor(options)),
      leases(*this, options.hard_lease_share),
      name_kind(NameKind(shape)),
      node_cost(NodeCost(kinds())) {
  metadata_bytes = sizeof(Impl) + tree.bytes() + ghosts.bytes() + events.bytes() + kEvictOrderBytes;
}

KvCache::Impl::~Impl() {
  LARDER_CHECK(sequences.empty());
  tiers.reset();
  for (const auto& tenant : tenants) {
    if (tenant != nullptr) ClearBelow(tenant->root);
  }
}

Result<std::unique_ptr<KvCache>> KvCache::Create(KvShape shape, const KvIdentity& identity,
                                                 KvCacheOptions options, Clock* clock) {
  LARDER_ASSIGN(auto policy, CreateEvictPolicy(options.policy));
  auto cache = std::unique_ptr<KvCache>(new KvCache(nullptr));
  cache->impl_ = std::make_unique<Impl>(cache.get(), std::move(shape), identity, std::move(options), clock,
                                        std::move(policy));
  const Impl& impl = *cache->impl_;
  // Less than this cannot run a single sequence past its second block.
  uint64_t least =
      impl.metadata_bytes + impl.TenantCost("") + impl.SequenceCost(Impl::TableRows(1)) + 2 * impl.node_cost;
  for (int kind = 0; kind < impl.kinds(); ++kind) {
    least += 2 * impl.pool.Cost(kind, KvForm::kRows);
    if (impl.shape.codec() != nullptr) least += 2 * impl.pool.Cost(kind, impl.shape.FullForm(0));
  }
  if (least > impl.options.limit_bytes) {
    return Fail(ErrorKind::kInvalid,
                "a KV limit of {} holds not even two blocks of this model; give at least {}",
                FormatSize(impl.options.limit_bytes), FormatSize(2 * least));
  }
  return cache;
}

KvCache::KvCache(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
KvCache::~KvCache() = default;

const KvShape& KvCache::shape() const { return impl_->shape; }
uint64_t KvCache::used_bytes() const { return impl_->used_bytes(); }
uint64_t KvCache::limit_bytes() const { return impl_->options.limit_bytes; }

Result<KvCache::Opened> KvCache::Open(const std::string& tenant, std::span<const int32_t> tokens,
                                      const KvRestore* mine) {
  return impl_->Open(tenant, tokens, mine);
}
int64_t KvCache::Probe(const std::string& tenant, std::span<const int32_t> tokens) const {
  const auto at = impl_->tenant_index.find(tenant);
  if (at == impl_->tenant_index.end()) return 0;
  const Impl::Match match = impl_->FindMatch(impl_->root(at->second), tokens);
  return impl_->ReusableRows(match.path, match.rows, std::ssize(tokens));
}
Status KvCache::Reserve(KvSequence& sequence, int64_t rows) { return impl_->Reserve(sequence, rows); }
void KvCache::Publish(KvSequence& sequence, std::span<const int32_t> tokens) {
  impl_->Publish(sequence, tokens);
}
Result<std::unique_ptr<KvSequence>> KvCache::Fork(const KvSequence& sequence) {
  return impl_->Fork(sequence);
}
Status KvCache::Truncate(KvSequence& sequence, int64_t length) { return impl_->Truncate(sequence, length); }
void KvCache::Close(std::unique_ptr<KvSequence> sequence) {
  if (sequence != nullptr) impl_->CloseSequence(*sequence);
}
uint64_t KvCache::Clear(const std::string& tenant) { return impl_->Clear(tenant); }
int64_t KvCache::CachedRows(const std::string& tenant) const { return impl_->CachedRows(tenant); }
KvLeases& KvCache::leases() { return impl_->leases; }
KvEvents& KvCache::events() { return impl_->events; }
std::vector<KvEvent> KvCache::Snapshot(const std::string& tenant, uint64_t& cursor, size_t limit) const {
  return impl_->Snapshot(tenant, cursor, limit);
}
std::vector<KvBlockInfo> KvCache::List(const std::string& tenant, size_t limit) const {
  return impl_->List(tenant, limit);
}

void KvCache::SetTiers(KvTiersOptions tiers) {
  LARDER_CHECK(impl_->tiers == nullptr);
  if (!tiers.tiers.empty()) impl_->tiers = std::make_unique<KvTiers>(*impl_, std::move(tiers));
}
bool KvCache::SetSpace(const std::string& tenant, const SpaceId& space) {
  return impl_->SetSpace(tenant, space);
}
void KvCache::Forget(const std::string& tenant) {
  if (const auto space = impl_->spaces.find(tenant); space != impl_->spaces.end()) {
    impl_->wiped.insert(space->second);
    if (impl_->tiers != nullptr) impl_->tiers->TellCleared(tenant);
    impl_->spaces.erase(space);
  }
  impl_->Retire(tenant);
  impl_->pool.Trim({});
}
std::shared_ptr<KvRestore> KvCache::Restore(const std::string& tenant, std::span<const int32_t> tokens,
                                            std::function<double(int64_t, int64_t)> recompute_ms,
                                            ReadPriority priority, bool whole) {
  if (impl_->tiers == nullptr) return nullptr;
  const auto index = impl_->TenantFor(tenant);
  if (!index) return nullptr;
  auto restore = impl_->tiers->Begin(*index, tokens, std::move(recompute_ms), priority, whole);
  if (restore == nullptr) impl_->DropTenantIfUnused(*index);
  return restore;
}
std::vector<Digest> KvCache::Names(const std::string& tenant, std::span<const int32_t> tokens) const {
  const auto space = impl_->spaces.find(tenant);
  Digest parent = impl_->names.Root(
      impl_->name_kind,
      RootText(tenant, space == impl_->spaces.end() ? std::nullopt : std::optional(space->second)));
  std::vector<Digest> names;
  for (; tokens.size() >= kPageTokens; tokens = tokens.subspan(kPageTokens)) {
    names.push_back(parent = impl_->names.Block(parent, tokens.first(kPageTokens)));
  }
  return names;
}
int64_t KvCache::Extend(KvSequence& sequence, KvRestore& restore) {
  LARDER_CHECK(sequence.length_ == sequence.capacity_ && sequence.length_ == restore.gap_end());
  impl_->tiers->CloseGap(restore, *sequence.path_[Impl::BlocksFor(sequence.length_) - 1]);
  return impl_->ExtendByHits(sequence, restore.tokens());
}
bool KvCache::PollTiers() { return impl_->tiers != nullptr && impl_->tiers->Poll(); }
bool KvCache::RoomComing() const { return impl_->tiers != nullptr && impl_->tiers->RoomComing(); }
int64_t KvCache::RowsBeingWritten() const {
  return impl_->tiers == nullptr ? 0 : impl_->tiers->RowsBeingWritten();
}
void KvCache::FlushTiers() {
  if (impl_->tiers != nullptr) impl_->tiers->Flush();
}

Status KvCache::CheckInvariants() const { return impl_->CheckInvariants(); }

KvStats KvCache::stats() const {
  KvStats stats = impl_->totals;
  stats.used_bytes = impl_->used_bytes();
  stats.limit_bytes = impl_->options.limit_bytes;
  stats.block_bytes = impl_->pool.bytes() + impl_->page_run_bytes;
  stats.metadata_bytes = impl_->metadata_bytes - impl_->page_run_bytes;
  stats.sequences = impl_->sequences.size();
  stats.tenants = impl_->tenant_index.size();
  return stats;
}

KvCache::Impl::Match KvCache::Impl::FindMatch(const KvNode& root, std::span<const int32_t> tokens,
                                              const KvRestore* mine) const {
  const auto usable = [mine](const KvNode& node) {
    return node.arriving == nullptr || node.arriving == mine;
  };
  Match match;
  match.last = &root;
  while (match.rows < static_cast<int64_t>(tokens.size()) && !match.last->children.empty()) {
    const auto rest = tokens.subspan(static_cast<size_t>(match.rows));
    KvNode* full = nullptr;
    match.collision = false;
    if (rest.size() >= kPageTokens) {
      const auto chunk = rest.first(kPageTokens);
      full = tree.Find(names.Block(match.last->name, chunk));
      if (full != nullptr && (full->parent != match.last || !std::ranges::equal(full->published(), chunk))) {
        match.collision = true;
        full = nullptr;
      }
    }
    if (full == nullptr) {
      // Unsealed, or sealed without a name because other tokens have it.
      match.next = tree.LongestChild(*match.last, rest);
      if (match.next.child != nullptr && !usable(*match.next.child)) match.next = {};
      if (match.next.rows < kPageTokens) break;
      full = match.next.child;
    }
    if (!usable(*full)) break;
    match.path.push_back(full);
    match.rows += kPageTokens;
    match.last = full;
    match.next = {};
    match.collision = false;
  }
  if (match.next.rows > 0) {
    match.path.push_back(match.next.child);
    match.rows += match.next.rows;
  }
  return match;
}

CacheOutcome KvCache::Impl::Explain(const Match& match, std::span<const int32_t> tokens, int64_t rows) const {
  CacheOutcome outcome;
  outcome.rows_in_memory = rows;
  outcome.token = rows;
  if (rows == static_cast<int64_t>(tokens.size())) return outcome;
  if (rows < match.rows) {
    const int64_t outside = RowsOutsideCodes(match.path, match.rows, std::ssize(tokens));
    outcome.reason = rows < outside ? MissReason::kWindow : MissReason::kCodec;
    return outcome;
  }
  if (match.collision) {
    outcome.reason = MissReason::kCollision;
    return outcome;
  }
  const int64_t last_end = match.last->start() + kPageTokens;  // 0 for a root
  const auto rest = tokens.subspan(static_cast<size_t>(last_end));
  if (const auto when = ghosts.Find(match.last->name, rest, match.next.rows)) {
    outcome.reason = MissReason::kEvicted;
    outcome.policy = std::string(evictor.policy().name());
    outcome.evicted_wall_ms = *when;
    return outcome;
  }
  if (rows > 0 && match.next.child != nullptr && match.next.rows < match.next.child->rows) {
    outcome.reason = MissReason::kDiverged;
    ExplainDivergence(match, tokens, outcome);
    return outcome;
  }
  // Only ever in place of "never seen": whoever hides it from tenants says that instead, and nothing else
  // changes.
  const bool foreign =
      rest.size() >= kPageTokens && tree.FindForeign(*match.last, rest.first(kPageTokens)) != nullptr;
  outcome.reason = foreign ? MissReason::kOtherTenant : MissReason::kNeverSeen;
  return outcome;
}

void KvCache::Impl::ExplainDivergence(const Match& match, std::span<const int32_t> tokens,
                                      CacheOutcome& outcome) const {
  const auto wanted = tokens.subspan(static_cast<size_t>(outcome.token));
  const auto shown = wanted.first(std::min(wanted.size(), kShownTokens));
  outcome.requested.assign(shown.begin(), shown.end());
  size_t from = static_cast<size_t>(match.next.rows);
  for (const KvNode* node = match.next.child; outcome.cached.size() < kShownTokens; from = 0) {
    const auto text = node->published().subspan(from);
    const auto part = text.first(std::min(text.size(), kShownTokens - outcome.cached.size()));
    outcome.cached.insert(outcome.cached.end(), part.begin(), part.end());
    if (node->children.empty()) break;
    node = *node->children.begin();
  }
}

Result<KvCache::Opened> KvCache::Impl::Open(const std::string& tenant, std::span<const int32_t> tokens,
                                            const KvRestore* mine) {
  if (tokens.size() > static_cast<size_t>(std::numeric_limits<int32_t>::max())) {
    return Fail(ErrorKind::kInvalid, "a sequence of {} tokens is longer than positions can count",
                tokens.size());
  }
  LARDER_ASSIGN(const int32_t index, TenantFor(tenant));
  if (tiers != nullptr) tiers->DropAbandoned();
  Match match = FindMatch(root(index), tokens, mine);
  const int64_t rows = ReusableRows(match.path, match.rows, std::ssize(tokens));
  Opened opened{nullptr, Explain(match, tokens, rows)};
  match.path.resize(BlocksFor(rows));

  auto sequence = NewSequence(index, match.path, tokens.first(static_cast<size_t>(rows)));
  if (!sequence) {
    DropTenantIfUnused(index);
    return std::unexpected(std::move(sequence).error());
  }
  opened.sequence = *std::move(sequence);
  Touch(match.path, true);
  if (tiers != nullptr) tiers->Used(match.path);
  totals.hits_rows += static_cast<uint64_t>(rows);
  totals.missed_rows += tokens.size() - static_cast<uint64_t>(rows);
  totals.collisions += match.collision;
  return opened;
}

// A sequence over `tokens`, which `path` has. What it needs is held before room is made for its tables.
Result<std::unique_ptr<KvSequence>> KvCache::Impl::NewSequence(int32_t tenant, std::span<KvNode* const> path,
                                                               std::span<const int32_t> tokens) {
  const int64_t rows = static_cast<int64_t>(tokens.size());
  auto sequence = std::unique_ptr<KvSequence>(new KvSequence(nullptr, &shape, tenant));
  for (int kind = 0; kind < kinds(); ++kind) {
    if (window(kind) == 0) continue;
    sequence->window_start_[static_cast<size_t>(kind)] = WindowStart(rows, window(kind)) / kPageTokens;
  }
  for (size_t i = 0; i < path.size(); ++i) {
    Hold(*path[i]);
    ExtendPath(*sequence, *path[i]);
    for (int kind = 0; kind < kinds(); ++kind) {
      if (static_cast<int64_t>(i) < sequence->window_start_[static_cast<size_t>(kind)]) continue;
      if (window(kind) > 0) HoldWindow(*path[i], kind);
      PointAt(*sequence, i, kind);
    }
  }
  if (auto room = MakeRoom({}, SequenceCost(TableRows(rows))); !room) {
    ReleasePath(*sequence, 0);
    return std::unexpected(std::move(room).error());
  }
  metadata_bytes += SequenceCost(0);
  GrowTables(*sequence, std::max<int64_t>(rows, 1));
  sequence->tokens_.assign(tokens.begin(), tokens.end());
  sequence->length_ = sequence->capacity_ = rows;
  sequence->cache_ = cache;
  sequences.insert(sequence.get());
  ++tenants[static_cast<size_t>(tenant)]->sequences;
  return sequence;
}

Result<std::unique_ptr<KvSequence>> KvCache::Impl::Fork(const KvSequence& sequence) {
  const auto path = std::span(sequence.path_).first(BlocksFor(sequence.length_));
  return NewSequence(sequence.root_, path, sequence.tokens_);
}

void KvCache::Impl::CloseSequence(KvSequence& sequence) {
  const auto path = std::span(sequence.path_).first(BlocksFor(sequence.length_));
  KvNode* tail = path.empty() ? nullptr : path.back();
  Touch(path, false);
  if (tiers != nullptr) {
    // What was refused or dropped meanwhile. That is no further use, and no touch: below, suffixes go before
    // prefixes anyway.
    for (KvNode* node : path) {
      if (node->sealed()) tiers->Keep(*node);
    }
    if (tail != nullptr && !tail->sealed()) tiers->Computed(*tail);
  }
  if (tail != nullptr) AddResume(*tail, static_cast<int>(sequence.length_ - tail->start()));
  leases.Revive(path);
  ReleasePath(sequence, 0);
  if (tail != nullptr) SettleTail(*tail);
  metadata_bytes -= SequenceCost(sequence.table_rows_);
  sequences.erase(&sequence);
  --tenants[static_cast<size_t>(sequence.root_)]->sequences;
  DropTenantIfUnused(sequence.root_);
  sequence.cache_ = nullptr;
}

Result<int32_t> KvCache::Impl::TenantFor(const std::string& name) {
  if (const auto at = tenant_index.find(name); at != tenant_index.end()) return at->second;
  LARDER_TRY(MakeRoom({}, TenantCost(name)));
  auto slot = std::ranges::find_if(tenants, [](const auto& tenant) { return tenant == nullptr; });
  if (slot == tenants.end()) slot = tenants.insert(tenants.end(), nullptr);
  const auto index = static_cast<int32_t>(slot - tenants.begin());
  *slot = std::make_unique<Tenant>();
  (*slot)->name = name;
  KvNode& top = (*slot)->root;
  top.depth = -1;
  top.tenant = index;
  if (const auto space = spaces.find(name); space != spaces.end()) (*slot)->space = space->second;
  top.name = names.Root(name_kind, RootText(name, (*slot)->space));
  tenant_index.emplace(name, index);
  metadata_bytes += TenantCost(name);
  return index;
}

void KvCache::Impl::DropTenantIfUnused(int32_t index) {
  auto& tenant = tenants[static_cast<size_t>(index)];
  if (tenant->retired) ClearBelow(tenant->root);
  if (tenant->sequences > 0 || !tenant->root.children.empty()) return;
  metadata_bytes -= TenantCost(tenant->name);
  if (!tenant->retired) tenant_index.erase(tenant->name);
  tenant.reset();
}

// A tenant whose names began without a space, or with another one, begins anew.
bool KvCache::Impl::SetSpace(const std::string& tenant, const SpaceId& space) {
  if (wiped.contains(space)) return false;
  const auto [at, added] = spaces.emplace(tenant, space);
  if (!added && at->second == space) return true;
  if (!added) {
    wiped.insert(std::exchange(at->second, space));  // by another server
    if (tiers != nullptr) tiers->TellCleared(tenant);
  }
  Retire(tenant);
  return true;
}

void KvCache::Impl::Retire(const std::string& tenant) {
  const auto at = tenant_index.find(tenant);
  if (at == tenant_index.end()) return;
  const int32_t index = at->second;
  tenants[static_cast<size_t>(index)]->retired = true;
  tenant_index.erase(at);
  DropTenantIfUnused(index);
}

uint64_t KvCache::Impl::Clear(const std::string& tenant) {
  uint64_t dropped = 0;
  for (size_t i = 0; i < tenants.size(); ++i) {
    if (tenants[i] == nullptr || (!tenant.empty() && tenants[i]->name != tenant)) continue;
    quiet_events = !tenants[i]->retired;
    dropped += ClearBelow(tenants[i]->root);
    if (std::exchange(quiet_events, false)) TellCleared(*tenants[i]);
    DropTenantIfUnused(static_cast<int32_t>(i));
  }
  pool.Trim({});
  return dropped;
}

uint64_t KvCache::Impl::ClearBelow(KvNode& top) {
  leases.EndAll(top.tenant);
  std::vector<KvNode*> order = {&top};
  for (size_t i = 0; i < order.size(); ++i) {
    const auto& children = order[i]->children;
    order.insert(order.end(), children.begin(), children.end());
  }
  const uint64_t before = totals.blocks;
  for (size_t i = order.size(); i-- > 1;) {  // children before their parents
    KvNode& node = *order[i];
    if (node.holders == 0) {
      FreeNode(node);
      continue;
    }
    for (int kind = 0; kind < kinds(); ++kind) {
      if (KindBytes(node, kind) == 0 || evictor.Held(node, kind)) continue;
      TellRemoved(node, 1u << kind);
      pool.Return(kind, TakeBlock(node, kind));
    }
    evictor.Update(node);
  }
  return before - totals.blocks;
}

}  // namespace larder
