// A get over tiers that lie one below the other: what the nearest does not have is read from the next.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "store/tier.h"

namespace larder {

// Tier::Get's promises hold for the whole: groups in order, each when it is final in all items, up to the
// last that an item has; an item that is nowhere has its first only, or those it said an end for. An item
// goes to the next tier if this one has nothing to show for it, that is, if it ends without having been
// accepted; for an item that was accepted its tier has the last word, so that no destination ever has two
// writers.
class StackedGet : public std::enable_shared_from_this<StackedGet> {
 public:
  struct Plan {
    std::vector<Tier*> tiers;  // nearest first; outlive this
    std::vector<RecordRead> items;
    int64_t deadline_ns = 0;
    ReadPriority priority = ReadPriority::kRequest;
    GetCallbacks callbacks;
  };

  explicit StackedGet(Plan plan);
  StackedGet(const StackedGet&) = delete;
  StackedGet& operator=(const StackedGet&) = delete;

  void Start();
  void Cancel();

 private:
  struct Pass {  // a get of one tier
    size_t tier = 0;
    std::vector<size_t> items;
    uint64_t ticket = 0;
    uint32_t next = 0;  // groups before are final
    bool ended = false;
  };

  // All REQUIRE mutex_.
  void StartPass(size_t tier, std::vector<size_t> items);
  void Note(size_t pass, uint32_t group, std::span<const Status> statuses);
  void Report();
  std::vector<Status>& StatusesOf(uint32_t group);

  Status OnAccept(size_t item, const RecordHeader& header);
  void OnGroup(size_t pass, uint32_t group, std::span<const Status> statuses);
  void OnDone(size_t pass);

  const Plan plan_;
  std::mutex mutex_;  // also held in callbacks but the last, so that they come one at a time and in order
  std::vector<Pass> passes_;
  std::vector<uint32_t> ends_;                 // by item: of the groups that are told
  std::vector<size_t> pass_of_;                // by item: the pass that decides
  std::vector<char> accepted_;                 // by item
  std::vector<std::vector<Status>> statuses_;  // by group, from first_ on; by item
  uint32_t first_ = kMaxRecordGroups, next_ = 0;
  bool cancelled_ = false;
};

}  // namespace larder
