// One prompt's blocks on their way from the tiers into memory. Made by KvCache::Restore; lives on the
// engine's thread.
//
//   finding   which blocks have the tiers? One question to each tier for all names.
//   tails     what follows the last full block found? Its children, by their tokens; of a tier that has more
//             than it tells, whole tails of this text by their names.
//   windows   have the tiers the window blocks of that tail? Only for models with sliding windows.
//   reading   into memory that is taken and charged for the purpose
//   done      what arrived is in the prefix tree and held until this object ends; whoever opens the prompt
//   now
//             finds it there
//
// A prompt that has rows to compute besides may begin when the first groups of layers are here: its blocks
// are in the tree then, marked as arriving, for nobody but their own request, which waits for each layer's
// groups before it computes the layer (WaitForLayer).
//
// A read that fails costs its block: what came before it is used, what came after it is kept aside and joins
// the tree when somebody has computed the missing block (KvCache::Extend). If that shows only after the
// prompt has begun, it lets go, finds what came, and restores the rest once more, whole.
//
// Waiting for tiers never takes much longer than computing would. A read that is given up may still be
// written to its destination: that memory stays apart, and charged, until the tier is done with it.
#pragma once

#include <array>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "base/hash.h"
#include "base/memory.h"
#include "kv/shape.h"
#include "store/tier.h"

namespace larder {

struct KvNode;
class KvTiers;

inline constexpr size_t kMaxTiers = 4;

// What computing rows [from, from + rows) of a prompt would take.
using RecomputeMs = std::function<double(int64_t from, int64_t rows)>;

class KvRestore {
 public:
  ~KvRestore();
  KvRestore(const KvRestore&) = delete;
  KvRestore& operator=(const KvRestore&) = delete;

  const std::vector<int32_t>& tokens() const { return tokens_; }
  // Whatever is read for it has been asked for.
  bool asked() const { return joined_ != nullptr ? joined_->asked() : phase_ >= Phase::kReading; }
  // Its blocks are in the tree, though layers are still on their way.
  bool started() const { return started_; }
  // Until layer `index` of its kind is here, of all blocks. false: it will not come; what was computed from
  // it is worthless. From the thread that computes.
  bool WaitForLayer(int kind, int index);
  bool done() const { return joined_ != nullptr ? joined_->done() : phase_ == Phase::kDone; }
  // Rows that came from a tier, by its index.
  int64_t rows(size_t tier) const { return rows_[tier]; }
  // Rows were there, but a tier was too slow or failed, or computing them was estimated to be faster.
  bool slow() const { return slow_; }
  // It has started, and some layers did not come: its blocks are worthless from the first of these on.
  bool broken() const { return broken_; }
  // Where computing should stop to let KvCache::Extend go on: the end of the first block that did not arrive
  // while later ones did. 0: there is no such.
  int64_t gap_end() const { return gap_end_; }
  // Somebody else is reading the first block that this prompt misses: when done, ask again.
  bool joined() const { return joined_ != nullptr; }

 private:
  friend class KvTiers;
  // How far the reads are, for who computes beside them.
  struct Progress {
    std::mutex mutex;
    std::condition_variable changed;
    bool failed = false;           // guarded by mutex, as all below
    std::vector<uint32_t> groups;  // by reading: so many are final; all when it is over
  };
  enum class Phase : uint8_t { kFinding, kTails, kWindows, kReading, kDone };

  struct Block {
    Digest name;                                           // in the chain of the cache's names
    std::array<int8_t, kMaxKvKinds> tier{-1, -1, -1, -1};  // by kind: who has it; -1: nobody
    std::array<AlignedBuffer, kMaxKvKinds> memory;         // by kind: where it is read to
  };
  // Reads from one tier.
  struct Item {
    size_t block;
    int kind;
    Digest name, parent;
    std::vector<int32_t> tokens;
    std::vector<uint64_t> group_bytes;
  };
  struct Reading {
    size_t tier = 0, number = 0;
    uint64_t ticket = 0;
    bool tail = false;  // only the blocks of the tail, which are wanted whole before anything begins
    std::vector<Item> items;
    std::vector<Status> status;  // by item; written by the tier's thread until all groups are told
    uint64_t bytes = 0;
    int64_t begin_ns = 0, end_ns = 0;
    // The tier's thread's: groups of the longest record that was accepted, and whether that many are told.
    uint32_t groups = 1;
    bool told = false;
    bool over = false;   // all groups are told
    bool ended = false;  // and the tier touches no destination any more
  };

  KvRestore(KvTiers* tiers, int32_t tenant, std::span<const int32_t> tokens)
      : tiers_(tiers), tenant_(tenant), tokens_(tokens.begin(), tokens.end()) {}

  KvTiers* tiers_;  // null once the cache is gone
  const int32_t tenant_;
  const std::vector<int32_t> tokens_;
  RecomputeMs recompute_ms_;
  ReadPriority priority_ = ReadPriority::kRequest;
  bool whole_ = false;  // it never starts early
  Phase phase_ = Phase::kFinding;
  KvNode* held_ = nullptr;       // the deepest full node of the text in memory, later the last that landed
  std::vector<KvNode*> path_;    // up to it
  int64_t memory_rows_ = 0;      // usable before
  int64_t rows_after_path_ = 0;  // that memory has of the text behind path_
  int64_t wanted_rows_ = 0;      // to resume after
  std::vector<Block> blocks_;    // from block 0 of the text on; the last may be a tail
  std::vector<int32_t> tail_tokens_;           // of that tail; empty: there is none
  int64_t tail_rows_ = 0;                      // of them that the text has, too
  uint8_t more_children_ = 0;                  // bit t: tier t may have more than it told
  std::vector<Digest> registered_;             // names in KvTiers::reading_
  std::vector<std::pair<size_t, int>> asked_;  // block and kind of each name in the question on its way
  int answers_left_ = 0;
  int64_t asked_ns_ = 0, answered_ns_ = 0;  // of that question; its last answer so far
  double waited_ms_ = 0;                    // for answers to those before
  std::vector<std::shared_ptr<Reading>> readings_;
  std::shared_ptr<Progress> progress_ = std::make_shared<Progress>();
  int layers_per_group_ = 1;
  std::vector<KvNode*> landed_;  // while arriving
  bool started_ = false, broken_ = false;
  std::vector<std::pair<int, AlignedBuffer>> late_;  // kind and destination of reads that failed
  uint64_t charged_metadata_ = 0;
  std::array<int64_t, kMaxTiers> rows_{};
  bool slow_ = false;
  int64_t gap_end_ = 0;
  std::shared_ptr<KvRestore> joined_;
};

}  // namespace larder
