// Stored chunks: keys and values of a text that was run alone behind a declared prefix, to stand in for rows
// of prompts that have the text somewhere else. A chunk is approximate wherever it is used, so it has a name
// of its own, and none of its rows is ever found under a block's name.
//
// Keys are stored un-rotated, 16 bits an element (or floats, as the cache has them), so that they can be
// rotated once to any position. Pages come out of the cache's limit; at most half of it is for chunks, and
// within that the chunk goes first that was not used for longest and that nobody holds. A chunk belongs to
// one tenant and is found by nobody else.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/hash.h"
#include "base/result.h"
#include "kv/lanes.h"
#include "kv/names.h"
#include "kv/reuse/chunk_index.h"
#include "kv/shape.h"

namespace larder {

class StoredChunk {
 public:
  StoredChunk(const KvShape* shape, PageSource* pages, Digest name, std::string tenant, int64_t prefix_rows,
              std::vector<int32_t> tokens);
  ~StoredChunk();
  StoredChunk(const StoredChunk&) = delete;
  StoredChunk& operator=(const StoredChunk&) = delete;

  const Digest& name() const { return name_; }
  const std::string& tenant() const { return tenant_; }
  const std::vector<int32_t>& tokens() const { return tokens_; }
  int64_t rows() const { return std::ssize(tokens_); }
  int64_t prefix_rows() const { return prefix_rows_; }  // that it was run behind
  uint64_t bytes() const { return pages_.size() * shape_->page_bytes(); }

  // One row of a lane, [head_dim] each, the key un-rotated. From several threads for different rows.
  void Write(int layer, int kv_head, int64_t row, const float* k, const float* v);
  void Read(int layer, int kv_head, int64_t row, float* k, float* v) const;

 private:
  friend class ChunkStore;
  Status TakePages();
  std::byte* PageOf(int layer, int kv_head, int64_t row) const;

  const KvShape* shape_;
  PageSource* source_;
  Digest name_;
  std::string tenant_;
  int64_t prefix_rows_;
  std::vector<int32_t> tokens_;
  std::vector<std::byte*> pages_;  // [lane][page]
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
};

// One thread at a time, the engine's. Outlives the chunks that it made.
class ChunkStore {
 public:
  static constexpr double kShare = 0.5;  // of the cache's limit

  // `pages`: of the cache's budget, whose limit is `cache_bytes`.
  ChunkStore(const KvShape* shape, const KvIdentity& identity, std::unique_ptr<PageSource> pages,
             uint64_t cache_bytes);

  // What a chunk of these tokens, run behind these, is called.
  Digest Name(const std::string& tenant, std::span<const int32_t> prefix,
              std::span<const int32_t> tokens) const;
  // kInvalid: shorter than a window. kExhausted: it could never be stored.
  Status Check(int64_t tokens) const;
  // A chunk to be written; found from Finish on. kExhausted: others hold the room.
  Result<std::shared_ptr<StoredChunk>> Begin(const std::string& tenant, std::span<const int32_t> prefix,
                                             std::span<const int32_t> tokens);
  // Unless its tenant was forgotten meanwhile.
  void Finish(const std::shared_ptr<StoredChunk>& chunk);
  bool Has(const Digest& name) const { return by_name_.contains(name); }
  uint64_t BytesFor(int64_t tokens) const { return PagesFor(tokens) * shape_->page_bytes(); }

  // Chunks in a prompt, ascending, without overlaps. Holding a span keeps its chunk.
  std::vector<ChunkSpan> Match(const std::string& tenant, std::span<const int32_t> prompt);

  // Drops the chunk that was not used for longest. false: all are held, or there is none.
  bool DropOldest();
  void Forget(const std::string& tenant);  // what is held ends with its holder; "": of all
  ChunkStats stats() const;

 private:
  // Counts what chunks hold, those included that were dropped while somebody held them.
  class CountedPages final : public PageSource {
   public:
    explicit CountedPages(std::unique_ptr<PageSource> source) : source_(std::move(source)) {}
    Result<std::byte*> Take() override;
    void Return(std::byte* page) override;
    uint64_t taken() const { return taken_; }

   private:
    std::unique_ptr<PageSource> source_;
    uint64_t taken_ = 0;
  };
  void Drop(uint64_t number);
  uint64_t PagesFor(int64_t tokens) const;

  const KvShape* shape_;
  NameChain names_;
  CountedPages pages_;
  const uint64_t limit_bytes_;
  std::map<uint64_t, std::shared_ptr<StoredChunk>> chunks_;  // by number
  std::map<Digest, uint64_t> by_name_;
  std::map<std::string, ChunkIndex> indexes_;  // by tenant
  std::map<std::string, uint64_t> forgotten_;  // by tenant: when
  uint64_t clock_ = 0;                         // of uses, and of numbers
  ChunkStats stats_;
};

}  // namespace larder
