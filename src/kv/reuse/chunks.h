// Stored chunks: keys and values of a text that was run alone behind a declared prefix, to stand in for rows
// of prompts that have the text somewhere else. A chunk is approximate wherever it is used, so it has a name
// of its own, and none of its rows is ever found under a block's name.
//
// Keys are stored un-rotated, 16 bits an element (or floats, as the cache has them), so that they can be
// rotated once to any position. Memory comes out of the room for what is derived (kv/derived.h). What a tier
// below has stays known by its tokens, without memory, and is read again when it is wanted
// (kv/reuse/chunk_tiers.h). A chunk belongs to one tenant and is found by nobody else.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/hash.h"
#include "base/memory.h"
#include "base/result.h"
#include "kv/derived.h"
#include "kv/names.h"
#include "kv/reuse/chunk_index.h"
#include "kv/shape.h"

namespace larder {

// What all chunks of a store take together, those included that were dropped while somebody held them.
struct ChunkBytes {
  DerivedRoom* room = nullptr;
  uint64_t memory = 0;  // for rows
  uint64_t tables = 0;
};

// How far the reading of a chunk is, for who computes beside it. Layers come from the first on.
class ChunkArrival {
 public:
  void Bring(int layers);  // so many are here
  void Fail();             // no more will come
  bool Has(int layer) const;
  bool Wait(int layer);  // until it is here; false: it will not come

 private:
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  int layers_ = 0;       // guarded by mutex_
  bool failed_ = false;  // guarded by mutex_
};

class StoredChunk {
 public:
  ~StoredChunk();
  StoredChunk(const StoredChunk&) = delete;
  StoredChunk& operator=(const StoredChunk&) = delete;

  const Digest& name() const { return name_; }
  const std::string& tenant() const { return tenant_; }
  const std::vector<int32_t>& tokens() const { return tokens_; }
  int64_t rows() const { return std::ssize(tokens_); }
  int64_t prefix_rows() const { return prefix_rows_; }  // that it was run behind
  bool ready() const { return ready_; }                 // its rows are here and final
  bool lost() const { return lost_; }                   // nobody has its rows any more
  // A chunk that is being read may be used layer by layer, from the engine's thread: whether its rows of this
  // layer are here and final, and waiting for them. false: they will not come.
  bool HasLayer(int layer) const { return ready_ || (arrival_ != nullptr && arrival_->Has(layer)); }
  bool WaitForLayer(int layer) const { return ready_ || (arrival_ != nullptr && arrival_->Wait(layer)); }

  // One row of a lane, [head_dim] each, the key un-rotated. From several threads for different rows.
  // REQUIRES: it has memory.
  void Write(int layer, int kv_head, int64_t row, const float* k, const float* v);
  void Read(int layer, int kv_head, int64_t row, float* k, float* v) const;
  // Pages of rows, by layer, KV head and place; empty: not in memory.
  std::span<std::byte> bytes() { return {data_.data(), data_.size()}; }

 private:
  friend class ChunkStore;
  StoredChunk() = default;
  std::byte* PageOf(int layer, int kv_head, int64_t row);

  const KvShape* shape_ = nullptr;
  ChunkBytes* taken_ = nullptr;
  Digest name_;
  std::string tenant_;
  int64_t prefix_rows_ = 0;
  std::vector<int32_t> tokens_;
  AlignedBuffer data_;
  bool ready_ = false, lost_ = false;
  bool kept_below_ = false;
  std::shared_ptr<ChunkArrival> arrival_;  // while it is being read
  uint64_t begun_ = 0, number_ = 0, last_use_ = 0;
};

// A part of a prompt that a chunk has rows for.
struct ChunkSpan {
  std::shared_ptr<const StoredChunk> chunk;
  int64_t begin, rows;  // of the prompt
  int64_t first;        // row of the chunk at `begin`
};

struct ChunkStats {
  uint64_t chunks = 0, tokens = 0, bytes = 0, limit_bytes = 0;
  uint64_t stored = 0, evicted = 0;  // so far
  uint64_t matches = 0, matched_tokens = 0;
  uint64_t below = 0, restored = 0;  // known but not in memory; read from below so far
};

// A chunk as lists have it.
struct ChunkListing {
  Digest name;
  int64_t tokens = 0, prefix_tokens = 0;
  uint64_t bytes = 0;  // of its rows, wherever they are
  bool in_memory = false;
  bool below = false;  // a tier has said that it has it
  bool held = false;   // by a request, or on its way to or from a tier
};

// One thread at a time, the engine's. Outlives the chunks that it made.
class ChunkStore final : public DerivedStore {
 public:
  static constexpr uint64_t kTablesShare =
      16;  // one part in so many of the room: chunks without memory are known

  ChunkStore(const KvShape* shape, const KvIdentity& identity, DerivedRoom* room);
  ~ChunkStore() override;

  // What a chunk of these tokens, run behind these, is called.
  Digest Name(const std::string& tenant, std::span<const int32_t> prefix,
              std::span<const int32_t> tokens) const;
  // kInvalid: shorter than a window, or it could never be stored.
  Status Check(int64_t tokens) const;
  // A chunk to be written; found from Finish on. kExhausted: others hold the room.
  Result<std::shared_ptr<StoredChunk>> Begin(const std::string& tenant, std::span<const int32_t> prefix,
                                             std::span<const int32_t> tokens);
  // Unless its tenant was forgotten meanwhile.
  void Finish(const std::shared_ptr<StoredChunk>& chunk);
  bool Has(const Digest& name) const { return by_name_.contains(name); }
  std::shared_ptr<StoredChunk> Find(const Digest& name) const;  // null: not here
  uint64_t BytesFor(int64_t tokens) const;
  // Chunks of the tenant by their names, from behind `after` (nothing: from the first) on.
  std::vector<ChunkListing> List(const std::string& tenant, const std::optional<Digest>& after,
                                 size_t limit) const;

  // Removes a chunk of the tenant; who holds it keeps it. false: it has none of this name.
  bool Remove(const std::string& tenant, const Digest& name);

  // Chunks in a prompt, ascending, without overlaps. Holding a span keeps its chunk. Those that are not ready
  // are to be read from below.
  std::vector<ChunkSpan> Match(const std::string& tenant, std::span<const int32_t> prompt);

  std::optional<uint64_t> OldestUse() const override;
  void DropOldest() override;  // its memory, and the chunk with it unless it is kept below
  void Clear(const std::string& tenant) override;
  void Drop(const std::string& tenant) override;
  ChunkStats stats() const;

  // --- for those below (kv/reuse/chunk_tiers.h)
  // A tier has this chunk. Nothing if it is known already, or there is no room to know it.
  void Learn(const std::string& tenant, const Digest& name, int64_t prefix_rows, std::vector<int32_t> tokens);
  Status TakeMemory(StoredChunk& chunk);  // for a chunk that is to be read; kExhausted
  // It is being read; again, if that failed and somebody else is asked.
  void Arriving(StoredChunk& chunk, std::shared_ptr<ChunkArrival> arrival) {
    chunk.arrival_ = std::move(arrival);
  }
  void Arrived(StoredChunk& chunk);  // it was read
  void Lose(StoredChunk& chunk);     // it could not be read
  void KeptBelow(StoredChunk& chunk) { chunk.kept_below_ = true; }

 private:
  Result<std::shared_ptr<StoredChunk>> Make(const std::string& tenant, const Digest& name,
                                            int64_t prefix_rows, std::vector<int32_t> tokens);
  void Index(const std::shared_ptr<StoredChunk>& chunk);
  void ReturnMemory(StoredChunk& chunk);
  StoredChunk* Oldest() const;
  void Erase(uint64_t number);

  const KvShape* shape_;
  NameChain names_;
  ChunkBytes taken_;
  std::map<uint64_t, std::shared_ptr<StoredChunk>> chunks_;  // by number
  std::map<Digest, uint64_t> by_name_;
  std::map<std::string, ChunkIndex> indexes_;  // by tenant
  ChunkStats stats_;
};

}  // namespace larder
