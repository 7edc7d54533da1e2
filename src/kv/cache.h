// The KV cache in memory: a tree of blocks, shared by content.
//
// Invariants
//  - A node stands for up to 64 tokens after its parent's; it holds one block of memory per kind of layer.
//  Its first
//    `rows` rows are published: final, immutable, visible to every sequence. Exactly one sequence may append
//    to a node (its writer); a node with 64 rows is sealed and has no writer.
//  - A sealed node is found by its name: SHA-256 chain over identity, tenant, kind, parent and tokens. A hit
//  counts only
//    after tokens and parent were compared. Unsealed nodes and partial matches are found among the parent's
//    children.
//  - What a sequence can reach is held (pinned) until it is closed or truncated; held blocks are never
//  evicted.
//  - used_bytes() counts block memory, nodes, index and sequence tables, and never exceeds limit_bytes():
//  room is made
//    before memory is taken.
//  - Nothing a tenant stored is reachable through another tenant's root.
//  - With a codec, a full block is codes, made once from its rows, which are given up when no sequence ends
//  inside
//    it any more. Rows in the middle of codes cannot be gone on from: they are computed again, at most 64.
//
// One thread at a time (the engine's). Attention reads pages concurrently, but only between two calls.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/hash.h"
#include "base/result.h"
#include "kv/lanes.h"
#include "kv/outcome.h"
#include "kv/row_store.h"
#include "kv/shape.h"
#include "store/evict/policy.h"
#include "store/tier.h"

namespace larder {

class KvCache;
class KvEvents;
class KvLeases;
class KvRestore;
class RunBudget;
enum class EventTier : uint8_t;
struct KvEvent;
struct KvNode;
struct KvTiersOptions;

// A running sequence's hold on the cache. Made by KvCache::Open or Fork, ended by KvCache::Close; the cache
// outlives it.
class KvSequence final : public RowStore {
 public:
  ~KvSequence() override;  // closes itself if nobody did

  int64_t length() const { return length_; }      // rows present: [0, length)
  int64_t capacity() const { return capacity_; }  // rows that may be written: [length, capacity)
  const std::vector<int32_t>& tokens() const { return tokens_; }  // of the rows present
  const std::string& tenant() const;

  // Entries = capacity(): rows that are being written in this step are visible to attention's mask by
  // position.
  int64_t Entries(int layer, int kv_head) const override;
  KvPage Page(int layer, int kv_head, int64_t page, std::byte* scratch) const override;

  // The page that row `position` in [length, capacity) of a lane is to be written to; slot = position % 64.
  std::byte* WritablePage(int layer, int kv_head, int64_t position) override;

  // With a codec (kv/codec/codec.h), pages are what a row in the last block reads: that one's rows, codes of
  // all before. Rows of other blocks read through views of their own, and pages are made on the way.
  bool MakesTiles() const override { return shape_->codec() != nullptr; }
  TileSource Source(int layer, int kv_head, int64_t page) const override;
  void CompletePage(int layer, int kv_head, int64_t page) override;
  // REQUIRES: the block of `position` has its rows: it is not full, or it is being written.
  const TileProvider* ViewFor(int64_t position) override;

 private:
  friend class KvCache;
  friend class KvLeases;
  // What rows of one block read.
  class View final : public TileProvider {
   public:
    View(const KvSequence* sequence, int64_t block) : sequence_(sequence), block_(block) {}
    int64_t Entries(int layer, int kv_head) const override;
    bool MakesTiles() const override { return true; }
    TileSource Source(int layer, int kv_head, int64_t page) const override;
    KvPage Page(int layer, int kv_head, int64_t page, std::byte* scratch) const override;

   private:
    const KvSequence* sequence_;
    int64_t block_;
  };
  // Null: let go of. Codes of pages before `block`, rows of it.
  const std::byte* At(int64_t block, int layer, int kv_head, int64_t page) const;
  TileSource SourceFor(int64_t block, int layer, int kv_head, int64_t page) const;
  KvPage PageFor(int64_t block, int layer, int kv_head, int64_t page, std::byte* scratch) const;
  int64_t LastBlock() const { return (capacity_ - 1) / kPageTokens; }

  KvSequence(KvCache* cache, const KvShape* shape, int32_t root);
  KvCache* cache_;  // null once closed
  const KvShape* shape_;
  int32_t root_;  // of which tenant
  int64_t length_ = 0, capacity_ = 0;
  std::vector<int32_t> tokens_;
  std::vector<KvNode*> path_;
  // [kind][block index], null where a window has passed. With a codec: rows, null where only codes are.
  std::vector<std::vector<std::byte*>> blocks_;
  std::vector<std::vector<std::byte*>>
      codes_;                          // with a codec, else empty; null where none are or will be made
  std::vector<View> views_;            // with a codec: [block index], as many as were ever asked for
  std::vector<int64_t> window_start_;  // [kind] first block still held
  int64_t table_rows_ = 0;             // rows the tables above have memory for
};

struct KvCacheOptions {
  uint64_t limit_bytes = 1ull << 30;
  std::string policy = "lru";
  int64_t resume_stride = 512;     // C of design.md: a complete window is kept before every multiple of this
  int64_t ghosts = 65536;          // names of evicted blocks that are remembered, to explain misses
  int64_t events = 8192;           // last events that are remembered (kv/events.h)
  double hard_lease_share = 0.25;  // of the limit: what pins may hold together (kv/leases.h)
  // Tests weaken the name to plant collisions; null: the full digest.
  std::function<Digest(const Digest&)> weaken_name;
};

struct KvStats {
  uint64_t used_bytes, limit_bytes, block_bytes, metadata_bytes;
  uint64_t blocks, sealed_blocks, held_blocks, nodes, sequences, tenants;
  uint64_t hits_rows, missed_rows, evicted_blocks, copied_rows, deduplicated_blocks, collisions;
};

// Blocks that a sequence holds.
struct HeldBlocks {
  uint64_t bytes = 0;
  uint64_t alone = 0;  // that nobody else holds
};

struct KvBlockInfo {
  std::string name, parent, tenant;
  int32_t depth, rows;
  bool sealed;
  int64_t holders, children;
  uint64_t bytes, uses, last_use;
  std::vector<std::string> kinds;  // of which blocks are resident
  std::vector<int32_t> tokens;
};

class KvCache {
 public:
  static Result<std::unique_ptr<KvCache>> Create(KvShape shape, const KvIdentity& identity,
                                                 KvCacheOptions options, Clock* clock);
  ~KvCache();

  const KvShape& shape() const;

  struct Opened {
    std::unique_ptr<KvSequence> sequence;  // length() rows are reusable, capacity() == length()
    CacheOutcome outcome;
  };
  // Finds and holds the longest usable prefix of `tokens` that is cached for `tenant`. All of it may be a
  // hit: who needs logits runs the last row again without writing it. kExhausted when not even the tables
  // fit.
  // `mine`: the restore that brought its rows, whose layers may still be arriving.
  Result<Opened> Open(const std::string& tenant, std::span<const int32_t> tokens,
                      const KvRestore* mine = nullptr);
  // The same look-up without holding or touching anything: rows that Open would find now.
  int64_t Probe(const std::string& tenant, std::span<const int32_t> tokens) const;

  // Makes rows [length, length + rows) writable: takes memory (evicting what nobody holds), copies the shared
  // rows of a partly shared block. kExhausted: not possible while others hold what they hold; the sequence is
  // unchanged.
  Status Reserve(KvSequence& sequence, int64_t rows);
  // Rows [length, length + tokens.size()) have been written for these tokens: they become immutable and
  // shareable. Full blocks are sealed; a block that somebody else sealed meanwhile replaces ours, for
  // everybody who holds ours: pages are to be asked for again after it. REQUIRES: within capacity.
  void Publish(KvSequence& sequence, std::span<const int32_t> tokens);
  // Another sequence over the same rows, sharing all of them.
  Result<std::unique_ptr<KvSequence>> Fork(const KvSequence& sequence);
  // Forgets rows from `length` on (they stay cached if published). REQUIRES: length <= sequence.length().
  // kInvalid where a window layer has already let go of rows that the shorter sequence needs.
  Status Truncate(KvSequence& sequence, int64_t length);
  // Lets go of everything; the rows stay cached, the end counts as a resume point.
  void Close(std::unique_ptr<KvSequence> sequence);

  // What lies below memory (kv/tiers.h). At most once, before the first sequence.
  void SetTiers(KvTiersOptions tiers);
  // The tenant's space (store/sealer.h): its names begin with it, its records belong to it, and without one
  // it lives in memory only. Another space than before retires what the tenant has here. false: the space was
  // wiped or replaced before, and who comes with it is late; nothing has changed.
  bool SetSpace(const std::string& tenant, const SpaceId& space);
  // The tenant's space is being wiped: drops what nobody holds; what is held goes when it is let go, and
  // nothing of it is found or written any more.
  void Forget(const std::string& tenant);
  // Begins to bring from below what memory lacks of this prompt; when it is done(), Open finds it. Keep it
  // until then. `recompute_ms(from, rows)` is what computing them would cost; null: read in any case.
  // `whole`: it does not start before all layers are here. Answers null if there is nothing to bring.
  std::shared_ptr<KvRestore> Restore(const std::string& tenant, std::span<const int32_t> tokens,
                                     std::function<double(int64_t, int64_t)> recompute_ms,
                                     ReadPriority priority = ReadPriority::kRequest, bool whole = false);
  // Names of the full blocks of a text, as the tiers know them, whether they are here or not.
  std::vector<Digest> Names(const std::string& tenant, std::span<const int32_t> tokens) const;
  // At the end of the block that did not arrive (restore.gap_end()), computed and published by now: takes the
  // later blocks that did arrive into the sequence. Answers how many rows that are.
  int64_t Extend(KvSequence& sequence, KvRestore& restore);
  // Takes what the tiers have answered meanwhile; whether there was anything.
  bool PollTiers();
  // Whether room will come without anybody closing anything: PollTiers will bring it.
  bool RoomComing() const;
  int64_t RowsBeingWritten() const;  // whose memory is held until tiers have them
  void FlushTiers();                 // what was put before is written or given up when it returns

  KvStats stats() const;
  HeldBlocks Held(const KvSequence& sequence) const;
  std::vector<KvBlockInfo> List(const std::string& tenant, size_t limit) const;
  // Drops everything nobody holds, of one tenant or (empty) of all; their leases end. Returns blocks dropped.
  uint64_t Clear(const std::string& tenant);
  int64_t CachedRows(const std::string& tenant) const;  // in memory

  // What keeps texts in memory while nobody runs on them.
  KvLeases& leases();
  // What has happened to blocks. Reading it is for any thread.
  KvEvents& events();
  // The full blocks that are in memory now, of one tenant or (empty) of all, as stored events without a
  // number: at most `limit` from `cursor` (0 first) on, which is set to where the next call goes on, 0 at the
  // end.
  std::vector<KvEvent> Snapshot(const std::string& tenant, uint64_t& cursor, size_t limit) const;
  // The same for what tiers have, which their List tells: a record as a stored event, if it is a full block
  // of the kind that names are of; from any thread.
  std::optional<KvEvent> StoredEvent(const RecordHeader& header, EventTier tier,
                                     const std::string& tenant) const;
  // Of the tiers that tell what goes the first one from place `from` on; the number of tiers: there is none.
  // From any thread once SetTiers was called.
  size_t NextTellingTier(size_t from) const;
  std::map<SpaceId, std::string> Spaces() const;  // tenants by their space
  uint64_t used_bytes() const;
  uint64_t limit_bytes() const;

  // Pages for private lane tables (kv/lanes.h), counted in this cache's budget in runs of 16. The cache
  // outlives it, and it outlives the tables that took pages from it.
  std::unique_ptr<PageSource> MakePageSource();
  // The same budget for others in kv (kv/page_source.h). The cache outlives it.
  std::unique_ptr<RunBudget> MakeBudget();

  // Walks everything and checks the invariants above; the error says which one is broken. For tests and debug
  // builds.
  Status CheckInvariants() const;

 private:
  friend class KvSequence;
  friend class KvLeases;
  friend class KvTiers;
  friend class KvRestore;
  struct Impl;
  explicit KvCache(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace larder
