// Stored chunks below memory: what was computed is written to every tier as a derived object under a name of
// its own, found again after a restart, and read when a prompt wants it. docs/formats/kv-chunks.md has the
// record to the byte.
//
// Everything here runs on the engine's thread. Tiers answer from threads of their own; their answers wait in
// an inbox until Poll. A chunk that is being written or read is held. Who wants one that is being read may
// use its layers as they come (StoredChunk::WaitForLayer).
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "kv/reuse/chunks.h"
#include "store/tier.h"

namespace larder {

class ChunkTiers {
 public:
  // `notify`, from a tier's thread: Poll has something to do; may be null. `store` and `tiers` outlive this.
  // `longest`: rows that a chunk and its prefix may have together.
  ChunkTiers(const KvShape* shape, int64_t longest, ChunkStore* store, std::vector<Tier*> tiers,
             uint64_t group_bytes, Clock* clock, std::function<void()> notify);
  ~ChunkTiers();  // waits until what was put is written or given up and nothing is being read any more
  ChunkTiers(const ChunkTiers&) = delete;
  ChunkTiers& operator=(const ChunkTiers&) = delete;

  // Where the tenant's records belong. The first time, and with another space, the tiers are asked what they
  // have of it. Whether there was another before.
  bool SetSpace(const std::string& tenant, const SpaceId& space);
  // The tenant's space was wiped: nothing more is written to it or read from it.
  void Forget(const std::string& tenant) { spaces_.erase(tenant); }
  // Whether no tier is being asked any more what it has of the tenant.
  bool Listed(const std::string& tenant) const;
  // Until when a request of the tenant may wait for what the tiers have; nothing: it need not. Since they
  // were asked no longer than computing would take (`recompute_ms`), and not for a tier whose lists are known
  // to take longer. What comes later is known to later requests. A tier that failed is asked again.
  std::optional<int64_t> WaitForLists(const std::string& tenant, double recompute_ms);
  // What the tenant's chunk of this name is called in the tiers; nothing: they have none of the tenant.
  std::optional<Digest> RecordOf(const std::string& tenant, const Digest& name) const;
  // Writes a chunk that is ready, if its tenant has a space.
  void Keep(const std::shared_ptr<StoredChunk>& chunk);
  // A chunk that is not ready is to be read, unless it is already. false: there is no room for it now.
  bool Want(const std::shared_ptr<StoredChunk>& chunk);
  // Begins to read what is wanted, all of it together: the first layers of all chunks come before the later
  // ones of any. `limit_ms`: what computing instead would take; a read that takes longer fails.
  void ReadWanted(double limit_ms);

  bool Poll();  // takes the tiers' answers; whether there were any
  // Memory is held that becomes free as the tiers get on.
  bool busy() const { return !writes_.empty() || !reads_.empty(); }
  int64_t rows_being_written() const;

 private:
  struct Inbox {
    std::mutex mutex;
    std::vector<std::function<void(ChunkTiers&)>> answers;  // guarded by mutex
    std::function<void()> notify;
    void Post(std::function<void(ChunkTiers&)> answer);
  };
  // What a tier has of a tenant.
  struct List {
    enum class State : uint8_t { kAsked, kTold, kFailed } state = State::kAsked;
    int64_t asked_ns = 0;
  };
  struct Space {
    SpaceId id{};
    std::vector<List> lists;  // by tier
  };
  struct Write {
    std::shared_ptr<StoredChunk> chunk;
    size_t left;  // tiers that have not answered
  };
  struct Reading {
    std::shared_ptr<StoredChunk> chunk;
    double limit_ms = 0;
    size_t tier = 0;
    uint64_t ticket = 0;
  };

  RecordHeader HeaderOf(const StoredChunk& chunk, const SpaceId& space) const;
  void AskList(const std::string& tenant, size_t tier);
  void TakeListed(const std::string& tenant, const SpaceId& space, size_t tier, int64_t at_ns,
                  const Result<std::vector<RecordHeader>>& headers);
  void LearnListTime(size_t tier, double ms, bool whole);
  void StartReading(const std::vector<Digest>& names, size_t tier);
  void ReadOver(const Digest& name, bool good);

  const KvShape* shape_;
  const int64_t longest_;
  ChunkStore* store_;
  const std::vector<Tier*> tiers_;
  const uint64_t group_bytes_;
  Clock* clock_;
  std::shared_ptr<Inbox> inbox_ = std::make_shared<Inbox>();
  std::map<std::string, Space> spaces_;  // by tenant
  std::vector<double> list_ms_;          // by tier: what its lists take; 0: not known
  std::map<uint64_t, Write> writes_;
  std::map<Digest, Reading> reads_;  // by the chunk's name
  std::vector<Digest> wanted_;       // of reads_, those that have not begun
  uint64_t next_write_ = 1;
};

}  // namespace larder
