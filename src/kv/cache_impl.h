// The inside of KvCache. Private to src/kv: cache.cc opens and closes, sequence.cc writes, resume.cc knows
// windows, forms.cc codes, budget.cc makes room, list.cc shows, check.cc verifies.
#pragma once

#include <algorithm>
#include <array>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <unordered_set>
#include <vector>

#include "kv/cache.h"
#include "kv/events.h"
#include "kv/evictor.h"
#include "kv/ghosts.h"
#include "kv/leases.h"
#include "kv/names.h"
#include "kv/node.h"
#include "kv/pool.h"
#include "kv/tiers.h"
#include "kv/tree.h"

namespace larder {

struct KvCache::Impl {
  struct Tenant {
    std::string name;
    KvNode root;
    int64_t sequences = 0;         // and restores
    std::optional<SpaceId> space;  // whose records in the tiers are this tenant's
    bool retired = false;          // its space was wiped: only what runs still sees it
  };
  // One resident block per kind, before it belongs to a node.
  using BlockSet = std::array<AlignedBuffer, kMaxKvKinds>;

  // How far a text is known.
  struct Match {
    std::vector<KvNode*> path;
    int64_t rows = 0;              // of the text that path covers; the last node may have more
    const KvNode* last = nullptr;  // where the walk ended: the root or the last node matched in full
    KvTree::Agreement next;        // among its children, the one that agrees longest with the rest
    bool collision = false;        // a name was found there whose tokens are others
  };

  Impl(KvCache* cache, KvShape shape, const KvIdentity& identity, KvCacheOptions options, Clock* clock,
       std::unique_ptr<EvictPolicy> policy);
  ~Impl();

  // cache.cc
  Result<Opened> Open(const std::string& tenant, std::span<const int32_t> tokens, const KvRestore* mine);
  // Nodes that are arriving are only found by their own restore, `mine`.
  Match FindMatch(const KvNode& root, std::span<const int32_t> tokens, const KvRestore* mine = nullptr) const;
  CacheOutcome Explain(const Match& match, std::span<const int32_t> tokens, int64_t rows) const;
  void ExplainDivergence(const Match& match, std::span<const int32_t> tokens, CacheOutcome& outcome) const;
  Result<std::unique_ptr<KvSequence>> NewSequence(int32_t tenant, std::span<KvNode* const> path,
                                                  std::span<const int32_t> tokens);
  Result<std::unique_ptr<KvSequence>> Fork(const KvSequence& sequence);
  void CloseSequence(KvSequence& sequence);
  Result<int32_t> TenantFor(const std::string& name);
  void DropTenantIfUnused(int32_t index);
  bool SetSpace(const std::string& tenant, const SpaceId& space);
  void Retire(const std::string& tenant);
  uint64_t Clear(const std::string& tenant);
  uint64_t ClearBelow(KvNode& top);

  // sequence.cc
  Status Reserve(KvSequence& sequence, int64_t rows);
  Result<std::vector<BlockSet>> TakeForRows(uint64_t rows, int64_t first_full, int64_t full,
                                            uint64_t metadata);
  void GrowTables(KvSequence& sequence, int64_t rows);
  void CopyTail(KvSequence& sequence, BlockSet blocks);
  void AppendBlock(KvSequence& sequence, BlockSet blocks);
  void Publish(KvSequence& sequence, std::span<const int32_t> tokens);
  void Seal(KvSequence& sequence, size_t index);
  void MoveOver(KvNode& own, KvNode& other);
  void AdvanceWindows(KvSequence& sequence);
  int64_t ExtendByHits(KvSequence& sequence, std::span<const int32_t> tokens);
  void RewindWindows(KvSequence& sequence, int64_t length);
  Status Truncate(KvSequence& sequence, int64_t length);
  // Lets go of blocks [from, end) of the path, last first; unpublished ones are freed.
  void ReleasePath(KvSequence& sequence, size_t from);

  // forms.cc
  void PointAt(KvSequence& sequence, size_t index, int kind) const;
  void PointAway(KvSequence& sequence, size_t index, int kind) const;
  void ExtendPath(KvSequence& sequence, KvNode& node) const;
  void ShortenPath(KvSequence& sequence) const;
  void PointAllAt(const KvNode& node);
  void AddCodes(KvNode& node, BlockSet codes);
  void TurnIntoCodes(KvNode& node);
  bool EndsInside(const KvNode& node) const;
  void SettleAside(KvNode& node);
  int64_t RowsOutsideCodes(std::span<KvNode* const> path, int64_t rows, int64_t asked) const;
  int64_t ReusableRows(std::span<KvNode* const> path, int64_t rows, int64_t asked) const;

  // resume.cc
  int64_t UsableRows(std::span<KvNode* const> path, int64_t rows) const;
  void AddResume(KvNode& node, int rows);
  void RemoveResume(KvNode& node);
  void CountWindow(KvNode& node, int rows, int by);
  bool WindowsComplete(const KvNode& node, int rows) const;
  void Touch(std::span<KvNode* const> path, bool use);
  void Supersede(KvNode& node);
  void SettleTail(KvNode& node);
  void InheritResume(KvNode& from, KvNode& to);

  // budget.cc
  uint64_t used_bytes() const { return pool.bytes() + metadata_bytes; }
  // Room for blocks and `metadata` bytes, evicting if that helps; else nothing changes.
  Status MakeRoom(const BlockCounts& blocks, uint64_t metadata);  // ends pins rather than failing alone
  Status MakeRoomFor(const BlockCounts& blocks, uint64_t metadata);
  bool EvictOne();
  Result<BlockSet> TakeBlocks(KvForm form);  // one of each kind
  void ReturnBlocks(BlockSet blocks);
  KvNode& NewNode(int32_t tenant, int32_t depth, BlockSet blocks);
  void FreeNode(KvNode& node, bool evicted = false);
  void PutBlock(KvNode& node, int kind, AlignedBuffer block);
  AlignedBuffer TakeBlock(KvNode& node, int kind);
  void Hold(KvNode& node);
  void Release(KvNode& node);
  void HoldWindow(KvNode& node, int kind);
  void ReleaseWindow(KvNode& node, int kind);
  uint64_t KindBytes(const KvNode& node, int kind) const;  // 0 if not resident
  uint64_t SequenceCost(int64_t table_rows) const;
  uint64_t TenantCost(const std::string& name) const;
  struct PageRuns;  // the budget of private pages

  // list.cc
  std::vector<KvBlockInfo> List(const std::string& tenant, size_t limit) const;
  KvBlockInfo Describe(const KvNode& node) const;

  // snapshot.cc
  uint32_t ResidentKinds(const KvNode& node) const;  // bit k: the block of kind k
  void TellStored(const KvNode& node, uint32_t kinds);
  void TellRemoved(const KvNode& node, uint32_t kinds);
  void TellCleared(const Tenant& tenant);
  std::vector<KvEvent> Snapshot(const std::string& tenant, uint64_t& cursor, size_t limit) const;
  int64_t CachedRows(const std::string& tenant) const;

  // check.cc
  struct Checker;
  Status CheckInvariants();

  static size_t BlocksFor(int64_t rows) {
    return static_cast<size_t>((rows + kPageTokens - 1) / kPageTokens);
  }
  static int64_t TableRows(int64_t rows) { return (std::max<int64_t>(rows, 1) + 255) / 256 * 256; }
  int kinds() const { return static_cast<int>(shape.kinds().size()); }
  int window(int kind) const { return shape.kinds()[static_cast<size_t>(kind)].window; }
  KvNode& root(int32_t tenant) { return tenants[static_cast<size_t>(tenant)]->root; }
  bool IsRoot(const KvNode& node) const { return node.depth < 0; }

  KvCache* cache;
  const KvShape shape;
  const KvCacheOptions options;
  Clock* clock;
  NameChain names;
  BlockPool pool;
  KvTree tree;
  Evictor evictor;
  GhostList ghosts;
  KvEvents events;
  bool quiet_events = false;  // while a tenant is cleared: one event tells it all
  KvLeases leases;
  int name_kind = 0;  // whose chain the index uses: the kind that sees everything, if there is one
  std::vector<std::unique_ptr<Tenant>> tenants;  // null: free for another
  std::map<std::string, int32_t> tenant_index;
  std::map<std::string, SpaceId> spaces;  // of tenants, also of those that have nothing here
  std::set<SpaceId> wiped;
  std::unordered_set<KvSequence*> sequences;
  uint64_t node_cost;
  uint64_t metadata_bytes = 0;
  uint64_t unheld_bytes = 0;  // blocks nobody holds, and nodes nobody holds: what evicting could free
  uint64_t counter = 0;       // of touches
  uint64_t next_id = 0;
  uint64_t page_run_bytes = 0;     // part of metadata_bytes: runs of private pages
  std::unique_ptr<KvTiers> tiers;  // null: memory is all
  KvStats totals{};                // counters that only grow, and blocks, sealed_blocks, held_blocks, nodes
};

}  // namespace larder
