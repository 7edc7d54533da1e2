// What the tiers have, as events: told while it changes, and record by record for who has missed something.
//
// Only blocks of the kind that names are of are told of: from the name of another kind's record nobody finds
// the block.
#include "kv/block_record.h"
#include "kv/cache_impl.h"
#include "kv/tiers.h"

namespace larder {

void KvTiers::Listen() {
  for (size_t tier = 0; tier < options_.tiers.size(); ++tier) {
    telling_.push_back(options_.tiers[tier]->ListenForRemovals([inbox = inbox_,
                                                                tier](std::vector<RemovedRecord> removed) {
      inbox->Post([tier, removed = std::move(removed)](KvTiers& tiers) { tiers.TellRemoved(tier, removed); });
    }));
  }
}

size_t KvTiers::NextTelling(size_t from) const {
  while (from < telling_.size() && !telling_[from]) ++from;
  return std::min(from, telling_.size());
}

// What is here already is told as well: a reader may have missed it, and hearing it twice does no harm.
void KvTiers::TellStored(const Write& write, int kind, size_t tier) {
  if (!write.held || kind != cache_.name_kind) return;
  const KvNode& node = *write.node;
  const auto& tenant = *cache_.tenants[static_cast<size_t>(node.tenant)];
  if (tenant.retired) return;
  cache_.events.Stored(EventTierOf(options_.tiers[tier]->name()), tenant.name, node.name, node.parent->name,
                       node.published(), 1u << kind);
}

void KvTiers::TellRemoved(size_t tier, const std::vector<RemovedRecord>& removed) {
  std::map<SpaceId, const std::string*> owners;
  for (const auto& [tenant, space] : cache_.spaces) owners[space] = &tenant;
  for (const RemovedRecord& record : removed) {
    const auto owner = owners.find(record.space);
    if (owner == owners.end()) continue;  // wiped, which was told at once, or not ours
    if (record.name) {
      if (KvNode* node = cache_.tree.Find(*record.name)) node->below &= static_cast<uint8_t>(~(1u << tier));
      cache_.events.Removed(EventTierOf(options_.tiers[tier]->name()), *owner->second, *record.name,
                            1u << cache_.name_kind);
    } else {
      cache_.events.Lost(*owner->second);
    }
  }
}

void KvTiers::TellCleared(const std::string& tenant) {
  for (const Tier* tier : options_.tiers) cache_.events.Cleared(EventTierOf(tier->name()), tenant);
}

std::optional<KvEvent> KvCache::StoredEvent(const RecordHeader& header, EventTier tier,
                                            const std::string& tenant) const {
  if (header.kind != kKvBlockRecord || header.parent == Digest{}) return std::nullopt;
  auto tokens = DecodeBlockMetadata(header.metadata);
  if (!tokens || tokens->size() != kPageTokens) return std::nullopt;
  return KvEvent{.tier = tier,
                 .tenant = tenant,
                 .name = header.name,
                 .parent = header.parent,
                 .kinds = 1u << impl_->name_kind,
                 .rows = kPageTokens,
                 .tokens = *std::move(tokens)};
}

size_t KvCache::NextTellingTier(size_t from) const {
  return impl_->tiers == nullptr ? 0 : impl_->tiers->NextTelling(from);
}

std::map<SpaceId, std::string> KvCache::Spaces() const {
  std::map<SpaceId, std::string> owners;
  for (const auto& [tenant, space] : impl_->spaces) owners[space] = tenant;
  return owners;
}

}  // namespace larder
