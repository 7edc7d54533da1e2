#include "kv/leases.h"

#include <algorithm>
#include <limits>

#include "kv/cache_impl.h"

namespace larder {
namespace {

// Entries in five indexes, and allocator headers.
constexpr uint64_t kIndexBytes = 384;
// What all leases may take together, as a share of the cache.
constexpr uint64_t kMetadataShare = 64;
constexpr char kNoRoom[] = "there is no room for another lease";

int32_t SoftClass(const LeaseTerms& terms) { return terms.hard ? 0 : 1 + terms.priority; }

bool WantsNoMore(const LeaseTerms& a, int64_t a_expires_ns, const LeaseTerms& b, int64_t b_expires_ns) {
  return a.hard <= b.hard && a.priority <= b.priority && a_expires_ns <= b_expires_ns;
}

LeaseTerms Cut(LeaseTerms terms) {
  terms.ttl_ms = std::clamp<int64_t>(terms.ttl_ms, 1, kMostLeaseMs);
  terms.priority = std::clamp<int32_t>(terms.priority, 0, kMostLeasePriority);
  return terms;
}

}  // namespace

std::string_view LeaseKindName(LeaseKind kind) {
  switch (kind) {
    case LeaseKind::kTurn:
      return "turn";
    case LeaseKind::kRetained:
      return "retained";
    case LeaseKind::kPinned:
      return "pinned";
    case LeaseKind::kFetched:
      return "fetched";
  }
  return "unknown";
}

KvLeases::KvLeases(KvCache::Impl& cache, double hard_share)
    : cache_(cache), hard_share_(std::clamp(hard_share, 0.0, 1.0)) {}

uint64_t KvLeases::CostOf(const LeaseTerms& terms) {
  return sizeof(Lease) + sizeof(Remembered) + 2 * terms.holder.size() + kIndexBytes;
}

uint64_t KvLeases::HardLimit() const {
  return static_cast<uint64_t>(hard_share_ * static_cast<double>(cache_.options.limit_bytes));
}

// --- beginning

// Pays for a lease before its blocks are looked up: making room may evict.
bool KvLeases::Charge(const LeaseTerms& terms) {
  const uint64_t cost = CostOf(terms);
  Expire();
  if (bytes_ + cost > cache_.options.limit_bytes / kMetadataShare) return false;
  if (!cache_.MakeRoom({}, cost)) return false;
  bytes_ += cost;
  cache_.metadata_bytes += cost;
  return true;
}

void KvLeases::Refund(const LeaseTerms& terms) {
  bytes_ -= CostOf(terms);
  cache_.metadata_bytes -= CostOf(terms);
}

LeaseGrant KvLeases::Refuse(std::string reason) {
  ++totals_.refused;
  return {0, std::move(reason)};
}

LeaseGrant KvLeases::Take(const KvSequence& sequence, int64_t rows, const LeaseTerms& terms) {
  if (!Charge(terms)) return Refuse(kNoRoom);
  rows = std::clamp<int64_t>(rows, 0, sequence.length_);
  const auto path = std::span(sequence.path_).first(KvCache::Impl::BlocksFor(rows));
  const int64_t usable = cache_.UsableRows(path, rows);
  const auto kept = path.first(KvCache::Impl::BlocksFor(usable));
  return Grant(sequence.root_, {{kept.begin(), kept.end()}, usable, rows}, terms);
}

// Of a lease that was charged.
LeaseGrant KvLeases::Grant(int32_t tenant, const Found& found, const LeaseTerms& asked) {
  const LeaseTerms terms = Cut(asked);
  if (found.rows == 0) {
    Refund(terms);
    return Refuse("nothing of it is in memory");
  }
  LeaseGrant grant{found.rows, ""};
  if (found.rows < found.asked) {
    grant.reason = fmt::format("only {} of {} tokens are in memory", found.rows, found.asked);
  }
  if (terms.hard) grant.rows = AffordableRows(found.path, found.rows);
  if (grant.rows == 0) {
    Refund(terms);
    return Refuse(fmt::format("pins may take {} of memory, and that is used up", FormatSize(HardLimit())));
  }
  if (grant.rows < found.rows) {
    grant.reason = fmt::format("pins may take {} of memory; the first {} of {} tokens fit",
                               FormatSize(HardLimit()), grant.rows, found.asked);
  }
  ++totals_.granted;
  totals_.clipped += !grant.reason.empty();
  KvNode& end = *found.path[KvCache::Impl::BlocksFor(grant.rows) - 1];
  Lease lease{0, tenant, &end, grant.rows, terms, cache_.clock->NowNs() + terms.ttl_ms * 1'000'000};
  if (!MakesWay(lease)) {
    Refund(terms);
    return grant;
  }
  lease.id = next_id_++;
  by_expiry_.emplace(lease.expires_ns, lease.id);
  by_holder_.emplace(HolderKey(tenant, terms.holder), lease.id);
  if (terms.hard) breaking_.emplace(terms.priority, lease.expires_ns, lease.id);
  Put(leases_.emplace(lease.id, lease).first->second, end);
  ++version_;
  return grant;
}

// Ends what a new lease makes superfluous; false if it is superfluous itself.
bool KvLeases::MakesWay(const Lease& lease) {
  std::vector<uint64_t> over;
  for (const KvNode* node = lease.end; !cache_.IsRoot(*node); node = node->parent) {
    if (node->lease_ends == 0) continue;
    for (const uint64_t id : IdsAt(*node)) {
      const Lease& other = leases_.at(id);
      if (other.terms.kind != lease.terms.kind || other.terms.holder != lease.terms.holder) continue;
      if (WantsNoMore(other.terms, other.expires_ns, lease.terms, lease.expires_ns)) {
        over.push_back(id);
      } else if (node == lease.end && other.rows >= lease.rows &&
                 WantsNoMore(lease.terms, lease.expires_ns, other.terms, other.expires_ns)) {
        return false;
      }
    }
  }
  EraseAll(over);
  return true;
}

// What holding rows [0, rows) would add to what is held for leases already.
uint64_t KvLeases::HardCost(std::span<KvNode* const> path, int64_t rows) const {
  uint64_t bytes = 0;
  const size_t blocks = KvCache::Impl::BlocksFor(rows);
  for (int kind = 0; kind < cache_.kinds(); ++kind) {
    const int window = cache_.window(kind);
    const auto k = static_cast<size_t>(kind);
    const size_t first = window > 0 ? static_cast<size_t>(WindowStart(rows, window) / kPageTokens) : 0;
    for (size_t i = first; i < blocks; ++i) {
      const int32_t leased = window > 0 ? path[i]->slots[k].leased : path[i]->leased;
      if (leased == 0) bytes += cache_.KindBytes(*path[i], kind);
    }
  }
  for (size_t i = 0; i < blocks; ++i) bytes += path[i]->leased == 0 ? cache_.node_cost : 0;
  return bytes;
}

// The most rows, at the end of a block if not all, that the budget has room for.
int64_t KvLeases::AffordableRows(std::span<KvNode* const> path, int64_t rows) const {
  const uint64_t limit = HardLimit();
  while (rows > 0 && hard_bytes_ + HardCost(path, rows) > limit) {
    const int64_t shorter = (rows - 1) / kPageTokens * kPageTokens;
    rows = cache_.UsableRows(path.first(KvCache::Impl::BlocksFor(shorter)), shorter);
  }
  return rows;
}

// --- ends and holds

void KvLeases::Put(Lease& lease, KvNode& end) {
  lease.end = &end;
  by_end_.emplace(&end, lease.id);
  ++end.lease_ends;
  if (lease.terms.hard) ChangeHolds(lease, 1);
  Classify(end);
}

void KvLeases::Lift(Lease& lease) {
  KvNode& end = *lease.end;
  if (lease.terms.hard) ChangeHolds(lease, -1);
  const auto [begin, stop] = by_end_.equal_range(&end);
  by_end_.erase(std::find_if(begin, stop, [&](const auto& entry) { return entry.second == lease.id; }));
  --end.lease_ends;
  Classify(end);
}

// To an ancestor. A hard one keeps its blocks, so it never comes to this.
void KvLeases::ShortenTo(Lease& lease, KvNode& node) {
  LARDER_CHECK(!lease.terms.hard);
  Lift(lease);
  lease.rows = std::min(lease.rows, node.start() + node.rows);
  Put(lease, node);
  ++version_;
}

void KvLeases::ChangeHolds(const Lease& lease, int by) {
  for (KvNode* node = lease.end; !cache_.IsRoot(*node); node = node->parent) {
    ChangeNode(*node, by);
    for (int kind = 0; kind < cache_.kinds(); ++kind) {
      const int window = cache_.window(kind);
      if (window > 0 && node->depth >= WindowStart(lease.rows, window) / kPageTokens)
        ChangeWindow(*node, kind, by);
    }
  }
}

void KvLeases::ChangeNode(KvNode& node, int by) {
  uint64_t bytes = cache_.node_cost;
  for (int kind = 0; kind < cache_.kinds(); ++kind) {
    if (cache_.window(kind) == 0) bytes += cache_.KindBytes(node, kind);
  }
  if (by > 0) {
    if (node.leased++ == 0) hard_bytes_ += bytes;
    cache_.Hold(node);
  } else {
    if (--node.leased == 0) hard_bytes_ -= bytes;
    cache_.Release(node);
  }
}

void KvLeases::Shrunk(const KvNode& node, int kind, uint64_t bytes) {
  const bool window = cache_.window(kind) > 0;
  if ((window ? node.slots[static_cast<size_t>(kind)].leased : node.leased) > 0) hard_bytes_ -= bytes;
}

void KvLeases::ChangeWindow(KvNode& node, int kind, int by) {
  KvNode::Slot& slot = node.slots[static_cast<size_t>(kind)];
  if (by > 0) {
    if (slot.leased++ == 0) hard_bytes_ += cache_.KindBytes(node, kind);
    cache_.HoldWindow(node, kind);
  } else {
    if (--slot.leased == 0) hard_bytes_ -= cache_.KindBytes(node, kind);
    cache_.ReleaseWindow(node, kind);
  }
}

void KvLeases::Classify(KvNode& node) {
  int32_t best = 0;
  for (const uint64_t id : IdsAt(node)) best = std::max(best, SoftClass(leases_.at(id).terms));
  if (best == node.lease_class) return;
  node.lease_class = best;
  cache_.evictor.Update(node);
}

// --- ending

void KvLeases::Erase(uint64_t id) {
  const auto at = leases_.find(id);
  Lease& lease = at->second;
  Lift(lease);
  by_expiry_.erase({lease.expires_ns, id});
  if (lease.terms.hard) breaking_.erase({lease.terms.priority, lease.expires_ns, id});
  const auto [begin, stop] = by_holder_.equal_range(HolderKey(lease.tenant, lease.terms.holder));
  by_holder_.erase(std::find_if(begin, stop, [&](const auto& entry) { return entry.second == id; }));
  Refund(lease.terms);
  leases_.erase(at);
  ++version_;
}

int64_t KvLeases::EraseAll(const std::vector<uint64_t>& ids) {
  int64_t rows = 0;
  for (const uint64_t id : ids) {
    rows = std::max(rows, leases_.at(id).rows);
    Erase(id);
  }
  return rows;
}

void KvLeases::Expire() {
  const int64_t now_ns = cache_.clock->NowNs();
  while (!by_expiry_.empty() && by_expiry_.begin()->first <= now_ns) {
    Erase(by_expiry_.begin()->second);
    ++totals_.expired;
  }
  if (remembered_.empty() || now_ns < remembered_until_ns_) return;
  remembered_until_ns_ = std::numeric_limits<int64_t>::max();
  for (auto at = remembered_.begin(); at != remembered_.end();) {
    if (at->second.expires_ns > now_ns) {
      remembered_until_ns_ = std::min(remembered_until_ns_, at->second.expires_ns);
      ++at;
      continue;
    }
    Refund({.holder = at->second.lease.holder});
    at = remembered_.erase(at);
    ++totals_.expired;
    ++version_;
  }
}

void KvLeases::EndAll(int32_t tenant) {
  std::vector<uint64_t> ids;
  for (const auto& [id, lease] : leases_) {
    if (lease.tenant == tenant) ids.push_back(id);
  }
  EraseAll(ids);
}

bool KvLeases::BreakOne() {
  if (breaking_.empty()) return false;
  Lease& lease = leases_.at(std::get<2>(*breaking_.begin()));
  breaking_.erase(breaking_.begin());
  ChangeHolds(lease, -1);
  lease.terms.hard = false;
  Classify(*lease.end);
  ++totals_.broken;
  return true;
}

// --- turns

void KvLeases::Follow(const std::string& tenant, std::string_view holder, std::span<const int32_t> tokens) {
  const int32_t index = TenantOf(tenant);
  if (index < 0) return;
  for (const uint64_t id : IdsOf(index, holder)) {
    Lease& lease = leases_.at(id);
    if (lease.terms.kind != LeaseKind::kTurn) continue;
    const Path path = PathTo(*lease.end);
    size_t same = 0;
    for (; same < path.size(); ++same) {
      const auto begin = static_cast<size_t>(path[same]->start());
      const auto rows =
          static_cast<size_t>(std::min<int64_t>(path[same]->rows, lease.rows - path[same]->start()));
      if (tokens.size() < begin + rows) break;
      if (!std::ranges::equal(tokens.subspan(begin, rows), path[same]->published().first(rows))) break;
    }
    if (same == path.size()) continue;
    ++totals_.superseded;
    if (same == 0) {
      Erase(id);
    } else {
      ShortenTo(lease, *path[same - 1]);
    }
  }
}

void KvLeases::Finish(const std::string& tenant, std::string_view holder) {
  const int32_t index = TenantOf(tenant);
  if (index < 0) return;
  std::vector<uint64_t> turns = IdsOf(index, holder);
  std::erase_if(turns, [this](uint64_t id) { return leases_.at(id).terms.kind != LeaseKind::kTurn; });
  totals_.superseded += turns.size();
  EraseAll(turns);
}

// --- what the cache does to ends

std::vector<uint64_t> KvLeases::Detach(KvNode& node) {
  if (node.lease_ends == 0) return {};
  std::vector<uint64_t> ids = IdsAt(node);
  for (const uint64_t id : ids) Lift(leases_.at(id));
  return ids;
}

void KvLeases::Attach(const std::vector<uint64_t>& leases, KvNode& node) {
  for (const uint64_t id : leases) Put(leases_.at(id), node);
}

void KvLeases::Shrink(KvNode& node) {
  if (node.lease_ends == 0) return;
  for (const uint64_t id : IdsAt(node)) {
    if (cache_.IsRoot(*node.parent)) {
      Erase(id);
      ++totals_.evicted;
    } else {
      ShortenTo(leases_.at(id), *node.parent);
    }
  }
}

void KvLeases::Revive(std::span<KvNode* const> path) {
  if (remembered_.empty()) return;
  Expire();
  for (size_t i = 0; i < path.size() && !remembered_.empty(); ++i) {
    const auto [begin, stop] = remembered_.equal_range(path[i]->name);
    if (!path[i]->indexed || begin == stop) continue;
    const int64_t rows = static_cast<int64_t>(i + 1) * kPageTokens;
    if (cache_.UsableRows(path.first(i + 1), rows) < rows) continue;
    std::vector<Remembered> found;
    for (auto at = begin; at != stop; ++at) found.push_back(at->second);
    remembered_.erase(begin, stop);
    const auto covered = path.first(i + 1);
    for (const auto& [lease, expires_ns] : found) {
      const int64_t left_ms = (expires_ns - cache_.clock->NowNs()) / 1'000'000;
      Grant(path[i]->tenant, {{covered.begin(), covered.end()}, rows, rows},
            {.holder = lease.holder, .kind = lease.kind, .ttl_ms = left_ms, .priority = lease.priority});
    }
  }
}

// --- showing, saving

std::vector<KvLeaseInfo> KvLeases::List(const std::string& tenant, size_t limit) const {
  std::vector<KvLeaseInfo> out;
  const int64_t now_ns = cache_.clock->NowNs();
  for (const auto& [expires_ns, id] : by_expiry_) {
    const Lease& lease = leases_.at(id);
    const std::string& owner = cache_.tenants[static_cast<size_t>(lease.tenant)]->name;
    if (expires_ns <= now_ns || (!tenant.empty() && owner != tenant)) continue;
    if (out.size() == limit) break;
    out.push_back({owner, lease.terms.holder, lease.terms.kind, lease.terms.hard, lease.terms.priority,
                   lease.rows, (expires_ns - now_ns) / 1'000'000});
  }
  return out;
}

KvLeaseStats KvLeases::stats() const {
  KvLeaseStats stats = totals_;
  stats.leases = leases_.size();
  stats.hard = breaking_.size();
  stats.hard_bytes = hard_bytes_;
  stats.hard_limit_bytes = HardLimit();
  return stats;
}

std::vector<SavedLease> KvLeases::Save(size_t limit) const {
  std::vector<SavedLease> out;
  const int64_t now_ns = cache_.clock->NowNs();
  for (auto at = by_expiry_.rbegin(); at != by_expiry_.rend() && out.size() < limit; ++at) {
    const Lease& lease = leases_.at(at->second);
    const KvNode* block = lease.end;
    while (!cache_.IsRoot(*block) && !block->indexed) block = block->parent;
    if (cache_.IsRoot(*block) || lease.expires_ns <= now_ns) continue;
    out.push_back({cache_.tenants[static_cast<size_t>(lease.tenant)]->name, lease.terms.holder,
                   lease.terms.kind, lease.terms.priority, (lease.expires_ns - now_ns) / 1'000'000,
                   block->name});
  }
  for (const auto& [name, remembered] : remembered_) {
    if (out.size() == limit) break;
    if (remembered.expires_ns <= now_ns) continue;
    out.push_back(remembered.lease);
    out.back().ttl_ms = (remembered.expires_ns - now_ns) / 1'000'000;
  }
  return out;
}

void KvLeases::Remember(std::vector<SavedLease> leases) {
  const int64_t now_ns = cache_.clock->NowNs();
  if (remembered_.empty()) remembered_until_ns_ = std::numeric_limits<int64_t>::max();
  for (SavedLease& lease : leases) {
    lease.ttl_ms = std::min(lease.ttl_ms, kMostLeaseMs);
    if (lease.ttl_ms <= 0 || !Charge({.holder = lease.holder})) continue;
    const int64_t expires_ns = now_ns + lease.ttl_ms * 1'000'000;
    remembered_until_ns_ = std::min(remembered_until_ns_, expires_ns);
    const Digest block = lease.block;
    remembered_.emplace(block, Remembered{std::move(lease), expires_ns});
  }
}

// --- for the checker

void KvLeases::VisitHolds(const std::function<void(const KvNode&, int)>& visit) const {
  for (const auto& [id, lease] : leases_) {
    if (!lease.terms.hard) continue;
    for (const KvNode* node = lease.end; !cache_.IsRoot(*node); node = node->parent) {
      visit(*node, -1);
      for (int kind = 0; kind < cache_.kinds(); ++kind) {
        const int window = cache_.window(kind);
        if (window > 0 && node->depth >= WindowStart(lease.rows, window) / kPageTokens) visit(*node, kind);
      }
    }
  }
}

void KvLeases::VisitEnds(const std::function<void(const KvNode&, int32_t)>& visit) const {
  for (const auto& [id, lease] : leases_) visit(*lease.end, SoftClass(lease.terms));
}

// --- indexes

std::vector<uint64_t> KvLeases::IdsOf(int32_t tenant, std::string_view holder) const {
  std::vector<uint64_t> ids;
  const auto [begin, stop] = by_holder_.equal_range(HolderKey(tenant, holder));
  for (auto at = begin; at != stop; ++at) ids.push_back(at->second);
  return ids;
}

std::vector<uint64_t> KvLeases::IdsAt(const KvNode& node) const {
  std::vector<uint64_t> ids;
  if (node.lease_ends == 0) return ids;
  const auto [begin, stop] = by_end_.equal_range(&node);
  for (auto at = begin; at != stop; ++at) ids.push_back(at->second);
  return ids;
}

KvLeases::Path KvLeases::PathTo(KvNode& end) {
  Path path;
  for (KvNode* node = &end; node->depth >= 0; node = node->parent) path.push_back(node);
  std::ranges::reverse(path);
  return path;
}

}  // namespace larder
