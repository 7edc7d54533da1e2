// Leases: what keeps a text in memory while nobody runs on it. Pins, retention after a request and guards of
// prefetched texts are one mechanism.
//
// A lease belongs to the end of a chain: a node and, because only leaves are ever evicted, all of its
// ancestors. It has a holder, who may end it by name, and it expires.
//   hard  its blocks are held like a running sequence's, window blocks for its end included. All hard leases
//         together stay within a budget; what does not fit is clipped, from the end. When nothing else runs
//         and room is needed they give way, lowest priority first, and go on as soft ones.
//   soft  its blocks are still candidates, but of a later class than all that have none, higher priorities
//         last (node.h, EvictKey). When its last block is evicted after all, the lease goes on with what is
//         left before it.
//
// Expiry is lazy: looked at when room is needed, and once a step. No operation makes a lease last longer than
// it was granted for.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <tuple>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/hash.h"
#include "kv/cache.h"

namespace larder {

struct KvNode;

enum class LeaseKind : uint8_t {
  kTurn,      // the end of a program's turn: its next turn supersedes it
  kRetained,  // a request asked for its text to stay
  kPinned,    // a control call
  kFetched,   // brought into memory before anybody asked for it
};
std::string_view LeaseKindName(LeaseKind kind);  // "turn", "retained", "pinned", "fetched"

inline constexpr int64_t kMostLeaseMs = int64_t{30} * 24 * 3600 * 1000;
inline constexpr int64_t kDefaultLeaseMs = 5 * 60 * 1000;
inline constexpr int32_t kDefaultLeasePriority = 35;
inline constexpr int32_t kMostLeasePriority = 100;

struct LeaseTerms {
  std::string holder;  // "": nobody in particular
  LeaseKind kind = LeaseKind::kPinned;
  int64_t ttl_ms = kDefaultLeaseMs;          // cut to 1..kMostLeaseMs
  int32_t priority = kDefaultLeasePriority;  // cut to 0..kMostLeasePriority
  bool hard = false;
};

struct LeaseGrant {
  int64_t rows = 0;    // covered from the text's beginning; 0: nothing
  std::string reason;  // why fewer than were asked for; "" where it is all
};

// What a control call is about: one of a text, a full block by its name, or the ends of a holder's leases.
struct KvTarget {
  std::vector<int32_t> tokens;
  std::optional<Digest> block;
  std::string holder;
};

struct KvLeaseInfo {
  std::string tenant, holder;
  LeaseKind kind;
  bool hard;
  int32_t priority;
  int64_t rows, ttl_ms;  // what is left of it
};

// What a lease is after a restart: it covers the text up to a full block, known by its name.
struct SavedLease {
  std::string tenant, holder;
  LeaseKind kind;
  int32_t priority;
  int64_t ttl_ms;  // left
  Digest block;
};

struct KvLeaseStats {
  uint64_t leases = 0, hard = 0;  // now
  uint64_t hard_bytes = 0, hard_limit_bytes = 0;
  // Since the start. Clipped ones are granted, too; evicted: the last block of a soft one went.
  uint64_t granted = 0, clipped = 0, refused = 0, expired = 0, superseded = 0, broken = 0, evicted = 0;
};

class KvLeases {
 public:
  KvLeases(KvCache::Impl& cache, double hard_share);
  KvLeases(const KvLeases&) = delete;
  KvLeases& operator=(const KvLeases&) = delete;

  // --- for those who use the cache

  // Covers what memory has of the target. The holder's leases of the same kind at the same or earlier places
  // of the text end where they want no more than this one; it is not added where one wants more already.
  LeaseGrant Take(const std::string& tenant, const KvTarget& target, const LeaseTerms& terms);
  LeaseGrant Take(const KvSequence& sequence, int64_t rows, const LeaseTerms& terms);

  // Ends the leases of a holder, or those that end where what memory has of a text ends, or at a block.
  // Returns the rows of the longest.
  int64_t End(const std::string& tenant, const KvTarget& target);
  // Ends them, and drops from the target's end on what nobody holds, no other text shares and no other lease
  // covers. Returns rows dropped.
  int64_t Drop(const std::string& tenant, const KvTarget& target);
  // The same, of texts that a tier has from their beginning on, so that nothing is lost. The others stay and
  // are offered to the tiers, and leases end only if something can go.
  struct Demoted {
    int64_t rows = 0;    // dropped
    bool waits = false;  // a text stays because it is being written below
  };
  Demoted Demote(const std::string& tenant, const KvTarget& target);
  // The holder's next turn has come: what of its turns' leases the new prompt does not continue loses its
  // protection.
  void Follow(const std::string& tenant, std::string_view holder, std::span<const int32_t> tokens);
  // The holder's program is over: its turns' leases end.
  void Finish(const std::string& tenant, std::string_view holder);

  void Expire();
  std::vector<KvLeaseInfo> List(const std::string& tenant, size_t limit) const;  // "": of all
  KvLeaseStats stats() const;

  // Changes with every lease that begins or ends.
  uint64_t version() const { return version_; }
  // At most `limit`, those that last longest.
  std::vector<SavedLease> Save(size_t limit) const;
  // They come into force, soft, when their block is next used.
  void Remember(std::vector<SavedLease> leases);

  // --- for the cache

  // Whoever ends at `node` is taken off it, holds included, and put on another node of the same depth.
  std::vector<uint64_t> Detach(KvNode& node);
  void Attach(const std::vector<uint64_t>& leases, KvNode& node);
  void Move(KvNode& from, KvNode& to) { Attach(Detach(from), to); }
  // Its block of this kind takes so many bytes less.
  void Shrunk(const KvNode& node, int kind, uint64_t bytes);
  // The node is about to be evicted: its leases go on at its parent.
  void Shrink(KvNode& node);
  void EndAll(int32_t tenant);
  // One hard lease becomes soft. false: there is none.
  bool BreakOne();
  // A path that was used: remembered leases at its blocks begin.
  void Revive(std::span<KvNode* const> path);

  uint64_t bytes() const { return bytes_; }  // counted in the cache's metadata
  uint64_t hard_bytes() const { return hard_bytes_; }
  // For the checker: holds as of KvTiers::VisitHolds, and what the class of each end should be.
  void VisitHolds(const std::function<void(const KvNode&, int kind)>& visit) const;
  void VisitEnds(const std::function<void(const KvNode&, int32_t soft_class)>& visit) const;

 private:
  struct Lease {
    uint64_t id;
    int32_t tenant;
    KvNode* end;
    int64_t rows;
    LeaseTerms terms;
    int64_t expires_ns;
  };
  using HolderKey = std::pair<int32_t, std::string>;
  using Path = std::vector<KvNode*>;

  // Part of a text in memory: nodes of rows [0, rows), which can be resumed after.
  struct Found {
    Path path;
    int64_t rows;
    int64_t asked;  // of the whole target
  };

  // lease_targets.cc
  int32_t TenantOf(const std::string& name) const;  // -1: has nothing here
  std::vector<Found> Resolve(int32_t tenant, const KvTarget& target) const;
  Found FoundAt(KvNode& end, int64_t rows) const;
  std::vector<uint64_t> Matching(int32_t tenant, const KvTarget& target) const;
  std::set<KvNode*> Ends(int32_t tenant, const KvTarget& target) const;
  int64_t DropEnds(int32_t tenant, const KvTarget& target, std::set<KvNode*> ends, bool only_below);
  int64_t DropTail(KvNode& end, std::set<KvNode*>& ends, bool only_below);

  // leases.cc
  bool Charge(const LeaseTerms& terms);
  void Refund(const LeaseTerms& terms);
  LeaseGrant Grant(int32_t tenant, const Found& found, const LeaseTerms& terms);
  LeaseGrant Refuse(std::string reason);
  bool MakesWay(const Lease& lease);
  int64_t AffordableRows(std::span<KvNode* const> path, int64_t rows) const;
  uint64_t HardCost(std::span<KvNode* const> path, int64_t rows) const;
  uint64_t HardLimit() const;
  void Erase(uint64_t id);
  int64_t EraseAll(const std::vector<uint64_t>& ids);
  void Put(Lease& lease, KvNode& end);
  void Lift(Lease& lease);
  void ShortenTo(Lease& lease, KvNode& node);
  void ChangeHolds(const Lease& lease, int by);
  void ChangeNode(KvNode& node, int by);
  void ChangeWindow(KvNode& node, int kind, int by);
  void Classify(KvNode& node);
  std::vector<uint64_t> IdsOf(int32_t tenant, std::string_view holder) const;
  std::vector<uint64_t> IdsAt(const KvNode& node) const;
  static Path PathTo(KvNode& end);
  static uint64_t CostOf(const LeaseTerms& terms);

  KvCache::Impl& cache_;
  const double hard_share_;
  uint64_t next_id_ = 1, version_ = 0;
  uint64_t bytes_ = 0, hard_bytes_ = 0;
  std::unordered_map<uint64_t, Lease> leases_;
  std::set<std::pair<int64_t, uint64_t>> by_expiry_;
  std::set<std::tuple<int32_t, int64_t, uint64_t>> breaking_;  // hard ones: priority, expiry, id
  std::multimap<HolderKey, uint64_t> by_holder_;
  std::unordered_multimap<const KvNode*, uint64_t> by_end_;
  struct Remembered {
    SavedLease lease;
    int64_t expires_ns;
  };
  std::unordered_multimap<Digest, Remembered, DigestHash> remembered_;
  int64_t remembered_until_ns_ = 0;  // the first of them expires then
  KvLeaseStats totals_{};
};

}  // namespace larder
