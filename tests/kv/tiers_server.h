// A cache over scripted tiers, for tests.
#pragma once

#include <memory>
#include <vector>

#include "kv/block_record.h"
#include "kv/events.h"
#include "kv/leases.h"
#include "kv/tiers.h"
#include "kv_fixture.h"
#include "memory_tier.h"

namespace larder {

inline constexpr SpaceId kSpaceA = {1}, kSpaceB = {2};

// A cache with tiers below it; "restarting" gives a new one over the same records.
class Server {
 public:
  explicit Server(std::vector<MemoryRecords*> records, KvSetup setup = {}, SpaceId space = kSpaceA,
                  std::vector<AdmitPolicy*> admit = {})
      : world_(std::make_unique<KvWorld>(std::move(setup))) {
    KvTiersOptions options;
    options.admit = std::move(admit);
    options.group_bytes = 1;  // each layer a group
    for (size_t i = 0; i < records.size(); ++i) {
      tiers_.push_back(std::make_unique<MemoryTier>(records[i], i == 0 ? "disk" : "redis"));
      tiers_.back()->tells = i == 0;
      options.tiers.push_back(tiers_.back().get());
    }
    world_->cache().SetSpace("a", space);
    world_->cache().SetSpace("b", kSpaceB);
    world_->cache().SetTiers(std::move(options));
  }
  ~Server() {
    world_.reset();  // before its tiers
  }

  KvWorld& world() { return *world_; }
  KvCache& cache() { return world_->cache(); }
  MemoryTier& tier(size_t i = 0) { return *tiers_[i]; }

  bool Deliver(std::mt19937* random = nullptr) {
    bool any = false;
    for (const auto& tier : tiers_) any |= tier->DeliverAll(random);
    return cache().PollTiers() || any;
  }

  struct Seen {
    int64_t length = 0, from_first = 0, from_second = 0;
    bool slow = false;
  };
  // Restores, opens, computes what is missing, closes; what was found.
  Seen Run(const std::string& tenant, std::span<const int32_t> tokens,
           std::function<double(int64_t, int64_t)> recompute_ms = nullptr) {
    Seen seen;
    const auto restore = cache().Restore(tenant, tokens, std::move(recompute_ms));
    while (restore != nullptr && !restore->done()) EXPECT_TRUE(Deliver());
    EXPECT_TRUE(world_->Sound());
    if (restore != nullptr) {
      seen = {0, restore->rows(0), restore->rows(1), restore->slow()};
    }
    seen.length = world_->Run(tenant, tokens);
    EXPECT_TRUE(world_->Sound());
    return seen;
  }

  void Settle() {
    while (Deliver()) {
    }
    EXPECT_TRUE(world_->Sound());
  }

 private:
  std::vector<std::unique_ptr<MemoryTier>> tiers_;
  std::unique_ptr<KvWorld> world_;
};

}  // namespace larder
