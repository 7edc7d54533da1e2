// Below the cache in memory: tiers (store/tier.h), fastest first. Down: every block when it is sealed, the
// tail of a text when its sequence ends. Up: what a prompt misses in memory, before it is computed
// (restore.h).
//
// Everything here runs on the engine's thread. Tiers answer from threads of their own; their answers wait in
// an inbox until Poll. A block that is being written is held: its bytes do not change and are not copied. A
// tail is copied, since somebody may go on writing behind its rows.
#pragma once

#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "kv/cache.h"
#include "kv/restore.h"
#include "store/admit/policy.h"
#include "store/tier.h"

namespace larder {

// However fast computing is, a tier has that long for an answer: on a busy machine a thread that is woken may
// run this much later, for which a tier that is well must not be given up. Nobody notices it.
inline constexpr double kLeastWaitMs = 10;

struct KvTiersOptions {
  std::vector<Tier*> tiers;  // at most kMaxTiers, fastest first; outlive the cache
  // From a tier's thread: PollTiers has something to do. May be null.
  std::function<void()> notify;
  uint64_t group_bytes = 256 << 10;  // of a group of layers, at least
  // What each tier takes, one of its own for each; null, or none for it: everything. Outlive the cache.
  std::vector<AdmitPolicy*> admit;
};

class KvTiers {
 public:
  KvTiers(KvCache::Impl& cache, KvTiersOptions options);
  // Waits until what was put is written or given up and nothing is being read any more.
  ~KvTiers();
  KvTiers(const KvTiers&) = delete;
  KvTiers& operator=(const KvTiers&) = delete;

  // What the cache tells. A request computed a node: it is sealed, or the request ended with it.
  void Computed(KvNode& node);
  // A request found the path of a text in memory: it and its ancestors stay longer below.
  void Used(std::span<KvNode* const> path);
  // To be written to the tiers that want it, unless it is there.
  void Keep(KvNode& node);

  // To be written by any tier that takes it, where none has it: also what was refused before, or evicted.
  void Offer(std::span<KvNode* const> path);
  // Whether some tier has each of these, as far as they said. A suffix without what comes before it is found
  // by nobody, so ask for whole paths.
  enum class Below : uint8_t {
    kAll,
    kBeingWritten,
    kNotAll
  };  // kNotAll also while what was refused is tried
  Below BelowOf(std::span<KvNode* const> path) const;
  // What the tiers have, and are writing, are not the rows of this node any more: it has more, or goes.
  void RowsChanged(KvNode& node);

  // `parent` is the block that did not arrive, computed by now: what follows it joins the tree.
  void CloseGap(KvRestore& restore, KvNode& parent);
  // `from` is being replaced by `to`, the same block.
  void MoveHolds(KvNode& from, KvNode& to);

  // Null: memory has all there is to find, or this tenant has no space.
  std::shared_ptr<KvRestore> Begin(int32_t tenant, std::span<const int32_t> tokens, RecomputeMs recompute_ms,
                                   ReadPriority priority, bool whole);
  // What restores hold that nobody waits for any more.
  void DropAbandoned();

  // Takes the tiers' answers. Whether there were any.
  bool Poll();
  void Flush();
  // Memory is held that becomes free as the tiers get on: by blocks being written, by reads that nobody waits
  // for any more.
  bool RoomComing() const;
  int64_t RowsBeingWritten() const;

  const std::vector<Tier*>& tiers() const { return options_.tiers; }
  // The first tier from place `from` on that tells what goes, and so can be listed; tiers().size(): none.
  size_t NextTelling(size_t from) const;
  // What the tiers have of the tenant cannot be found any more.
  void TellCleared(const std::string& tenant);
  // Bytes that were taken for reads and belong to no node yet; counted in used_bytes.
  uint64_t landing_bytes() const;
  uint64_t landing_metadata() const;
  // Holds that no sequence has, for the invariants.
  void VisitHolds(const std::function<void(const KvNode&, int kind)>& visit) const;  // kind -1: the node

 private:
  friend class KvRestore;
  using Restore = std::shared_ptr<KvRestore>;

  struct Inbox {
    std::mutex mutex;
    std::vector<std::function<void(KvTiers&)>> answers;  // guarded by mutex
    std::function<void()> notify;
    void Post(std::function<void(KvTiers&)> answer);
  };
  struct Write {
    KvNode* node;         // null: a tail whose rows have changed
    bool held;            // the node is held, and its windows; a tail is not
    uint8_t tiers;        // bit t: tier t is asked to write it
    uint8_t refused = 0;  // tiers that do not have all of it
    uint8_t again = 0;    // of these, those that may be asked again
    uint32_t kinds = 0;   // bit k: has a record of this kind
    int left = 0;         // answers that are missing
  };
  // What a read takes: fixed_ms + bytes / bytes_per_ms.
  struct Rate {
    double bytes_per_ms;
    double fixed_ms;
  };

  // tiers.cc: down
  BlockMeta MetaOf(const KvNode& node) const;
  void CountUse(const KvNode& node);
  uint8_t Wanting(const KvNode& node) const;  // bit t: tier t takes it
  void KeepKind(uint64_t id, Write& write, int kind);
  std::shared_ptr<const AlignedBuffer> CopyTail(const KvNode& node, int kind) const;
  void Written(uint64_t id, int kind, size_t tier, const Status& status);
  void EndWrite(uint64_t id);
  void FlushTouches();
  void HoldChain(KvNode& node);
  void ReleaseChain(KvNode& node);

  // tier_events.cc
  void Listen();
  void TellStored(const Write& write, int kind, size_t tier);
  void TellRemoved(size_t tier, const std::vector<RemovedRecord>& removed);

  // restore.cc, landing.cc: up
  void Find(const Restore& restore, void (KvTiers::*next)(const Restore&));
  int64_t AnswerBy(const KvRestore& restore, double most_ms) const;
  void Asked(KvRestore& restore);
  bool LastAnswer(KvRestore& restore, int64_t at_ns);
  void Found(const Restore& restore, size_t tier, const Result<std::vector<bool>>& here);
  void AskTails(const Restore& restore);
  void TailsFound(const Restore& restore, size_t tier, const Result<std::vector<RecordHeader>>& children);
  void AskOlderTails(const Restore& restore);
  void OlderTailsFound(KvRestore& restore, size_t tier, std::span<const Digest> names,
                       const Result<std::vector<bool>>& here) const;
  size_t FullBlocks(const KvRestore& restore) const;
  int64_t TailRows(const KvRestore& restore) const;
  void TakeTail(KvRestore& restore, size_t tier, const Digest& name, std::vector<int32_t> tokens,
                int64_t rows) const;
  void AskTailWindows(const Restore& restore);
  void Plan(const Restore& restore);
  int64_t Reachable(const KvRestore& restore) const;
  bool Available(const KvRestore& restore, size_t block, int kind) const;
  void Cut(KvRestore& restore, int64_t rows) const;
  bool Wanted(const KvRestore& restore, size_t block, int kind) const;
  bool WorthReading(const KvRestore& restore) const;
  double RecomputeMsOf(const KvRestore& restore) const;
  bool TakeMemory(KvRestore& restore);
  void Read(const Restore& restore);
  void StartReading(const Restore& restore, size_t tier, bool tail);
  void GroupsArrived(const Restore& restore);
  void Arrived(KvRestore& restore);
  void ReadOver(const Restore& restore, KvRestore::Reading& reading);
  void ReadEnded(const Restore& restore, KvRestore::Reading& reading);
  void Land(KvRestore& restore);
  void LandFrom(KvRestore& restore, size_t first, KvNode* parent);
  KvNode* LandNode(KvRestore& restore, KvNode& parent, size_t index);
  void LandKinds(KvRestore& restore, KvNode& node, size_t index);
  void Finish(KvRestore& restore);
  void ReturnMemory(KvRestore& restore);
  void ReturnLate(KvRestore& restore);
  void LetGo(KvRestore& restore);
  void Abandon(KvRestore& restore);
  void DropFailed(KvRestore& restore);
  void Learn(const KvRestore::Reading& reading);
  std::span<const int32_t> TokensOf(const KvRestore& restore, size_t block) const;
  KvForm FormOf(const KvRestore& restore, size_t block) const;  // of its record
  const Digest& ParentName(const KvRestore& restore, size_t block) const;
  Digest RecordName(int kind, const Digest& block) const;

  KvCache::Impl& cache_;
  const KvTiersOptions options_;
  std::shared_ptr<Inbox> inbox_ = std::make_shared<Inbox>();
  std::unordered_map<uint64_t, Write> writes_;
  uint64_t next_write_ = 1;
  std::vector<Digest> touches_;
  int64_t touches_ns_ = 0;
  std::vector<bool> telling_;  // by tier; set once
  std::vector<Rate> rates_;
  uint64_t not_worth_ = 0;  // restores that were estimated to take longer than computing
  std::unordered_map<Digest, std::weak_ptr<KvRestore>, DigestHash> reading_;  // by name, first of all kinds
  std::unordered_set<KvRestore*> restores_;
  std::list<std::shared_ptr<KvRestore>> open_reads_;  // their memory is being written by tiers
};

}  // namespace larder
