// What control calls name - a text, a block, a holder - as paths of the prefix tree.
#include <algorithm>
#include <iterator>
#include <map>
#include <set>

#include "kv/cache_impl.h"
#include "kv/leases.h"

namespace larder {

int32_t KvLeases::TenantOf(const std::string& name) const {
  const auto at = cache_.tenant_index.find(name);
  return at == cache_.tenant_index.end() ? -1 : at->second;
}

KvLeases::Found KvLeases::FoundAt(KvNode& end, int64_t rows) const {
  Path path = PathTo(end);
  const int64_t usable = cache_.UsableRows(path, rows);
  path.resize(KvCache::Impl::BlocksFor(usable));
  return {std::move(path), usable, rows};
}

std::vector<KvLeases::Found> KvLeases::Resolve(int32_t tenant, const KvTarget& target) const {
  std::vector<Found> found;
  if (tenant < 0) return found;
  if (target.block) {
    KvNode* node = cache_.tree.Find(*target.block);
    if (node != nullptr && node->tenant == tenant)
      found.push_back(FoundAt(*node, node->start() + node->rows));
  } else if (!target.holder.empty()) {
    std::map<uint64_t, const Lease*> longest;  // by the end's id: several may end there
    for (const uint64_t id : IdsOf(tenant, target.holder)) {
      const Lease*& best = longest[leases_.at(id).end->id];
      if (best == nullptr || best->rows < leases_.at(id).rows) best = &leases_.at(id);
    }
    for (const auto& [node, lease] : longest) found.push_back(FoundAt(*lease->end, lease->rows));
  } else {
    KvCache::Impl::Match match = cache_.FindMatch(cache_.root(tenant), target.tokens);
    const int64_t usable = cache_.UsableRows(match.path, match.rows);
    match.path.resize(KvCache::Impl::BlocksFor(usable));
    found.push_back({std::move(match.path), usable, static_cast<int64_t>(target.tokens.size())});
  }
  return found;
}

LeaseGrant KvLeases::Take(const std::string& tenant, const KvTarget& target, const LeaseTerms& terms) {
  // Paying may evict, so what there is to cover is looked up again afterwards.
  const size_t parts = std::max<size_t>(1, Resolve(TenantOf(tenant), target).size());
  for (size_t paid = 0; paid < parts; ++paid) {
    if (Charge(terms)) continue;
    while (paid-- > 0) Refund(terms);
    return Refuse("there is no room for another lease");
  }
  const int32_t index = TenantOf(tenant);
  std::vector<Found> found = Resolve(index, target);
  if (found.empty()) found.push_back({{}, 0, 0});
  LeaseGrant all;
  for (size_t part = 0; part < parts; ++part) {
    if (part >= found.size()) {
      Refund(terms);
      continue;
    }
    LeaseGrant grant = Grant(index, found[part], terms);
    all.rows += grant.rows;
    if (all.reason.empty()) all.reason = std::move(grant.reason);
  }
  return all;
}

// Leases that end exactly there, so that unpinning a text leaves the pin of its beginning.
std::vector<uint64_t> KvLeases::Matching(int32_t tenant, const KvTarget& target) const {
  if (tenant >= 0 && !target.holder.empty()) return IdsOf(tenant, target.holder);
  std::vector<uint64_t> ids;
  for (const Found& found : Resolve(tenant, target)) {
    if (found.rows > 0) std::ranges::copy(IdsAt(*found.path.back()), std::back_inserter(ids));
  }
  return ids;
}

int64_t KvLeases::End(const std::string& tenant, const KvTarget& target) {
  return EraseAll(Matching(TenantOf(tenant), target));
}

// Of a text that ends inside a block, that block belongs to others as well.
std::set<KvNode*> KvLeases::Ends(int32_t tenant, const KvTarget& target) const {
  std::set<KvNode*> ends;
  for (const Found& found : Resolve(tenant, target)) {
    if (found.rows > 0 && found.path.back()->start() + found.path.back()->rows <= found.rows) {
      ends.insert(found.path.back());
    }
  }
  return ends;
}

int64_t KvLeases::Drop(const std::string& tenant, const KvTarget& target) {
  const int32_t index = TenantOf(tenant);
  return index < 0 ? 0 : DropEnds(index, target, Ends(index, target), false);
}

KvLeases::Demoted KvLeases::Demote(const std::string& tenant, const KvTarget& target) {
  const int32_t index = TenantOf(tenant);
  if (index < 0) return {};
  Demoted demoted;
  std::set<KvNode*> ends = Ends(index, target);
  std::erase_if(ends, [&](KvNode* end) {
    const Path path = PathTo(*end);
    cache_.tiers->Offer(path);
    const KvTiers::Below below = cache_.tiers->BelowOf(path);
    demoted.waits |= below == KvTiers::Below::kBeingWritten;
    return end->holders > 0 || below != KvTiers::Below::kAll;
  });
  if (!ends.empty()) demoted.rows = DropEnds(index, target, std::move(ends), true);
  return demoted;
}

int64_t KvLeases::DropEnds(int32_t tenant, const KvTarget& target, std::set<KvNode*> ends, bool only_below) {
  EraseAll(Matching(tenant, target));
  int64_t rows = 0;
  while (!ends.empty()) rows += DropTail(*ends.extract(ends.begin()).value(), ends, only_below);
  cache_.DropTenantIfUnused(tenant);
  return rows;
}

// Takes what it drops out of `ends`.
int64_t KvLeases::DropTail(KvNode& end, std::set<KvNode*>& ends, bool only_below) {
  int64_t rows = 0;
  KvNode* node = &end;
  const auto goes = [&](const KvNode& at) {
    return !cache_.IsRoot(at) && at.holders == 0 && at.children.empty() && at.lease_ends == 0 &&
           (!only_below || at.below != 0);
  };
  while (goes(*node)) {
    KvNode& parent = *node->parent;
    rows += node->rows;
    ends.erase(node);
    cache_.FreeNode(*node);
    cache_.evictor.Update(parent);
    node = &parent;
  }
  return rows;
}

}  // namespace larder
