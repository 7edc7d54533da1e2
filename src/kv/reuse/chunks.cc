#include "kv/reuse/chunks.h"

#include <algorithm>
#include <utility>

#include "base/params.h"

namespace larder {

StoredChunk::StoredChunk(const KvShape* shape, PageSource* pages, Digest name, std::string tenant,
                         int64_t prefix_rows, std::vector<int32_t> tokens)
    : shape_(shape),
      source_(pages),
      name_(name),
      tenant_(std::move(tenant)),
      prefix_rows_(prefix_rows),
      tokens_(std::move(tokens)) {}

StoredChunk::~StoredChunk() {
  for (std::byte* page : pages_) source_->Return(page);
}

Status StoredChunk::TakePages() {
  const size_t lanes = static_cast<size_t>(shape_->layers()) * static_cast<size_t>(shape_->kv_heads());
  const size_t pages = lanes * static_cast<size_t>((rows() + kPageTokens - 1) / kPageTokens);
  while (pages_.size() < pages) {
    LARDER_ASSIGN(std::byte * page, source_->Take());
    pages_.push_back(page);
  }
  return {};
}

std::byte* StoredChunk::PageOf(int layer, int kv_head, int64_t row) const {
  LARDER_CHECK(row >= 0 && row < rows());
  const int64_t pages_of_lane = (rows() + kPageTokens - 1) / kPageTokens;
  const int64_t lane = int64_t{layer} * shape_->kv_heads() + kv_head;
  return pages_[static_cast<size_t>(lane * pages_of_lane + row / kPageTokens)];
}

void StoredChunk::Write(int layer, int kv_head, int64_t row, const float* k, const float* v) {
  StoreKvRow(shape_->type(), shape_->head_dim(), k, v, PageOf(layer, kv_head, row),
             static_cast<int>(row % kPageTokens));
}

void StoredChunk::Read(int layer, int kv_head, int64_t row, float* k, float* v) const {
  LoadKvRow(shape_->type(), shape_->head_dim(), PageOf(layer, kv_head, row),
            static_cast<int>(row % kPageTokens), k, v);
}

Result<std::byte*> ChunkStore::CountedPages::Take() {
  LARDER_ASSIGN(std::byte * page, source_->Take());
  ++taken_;
  return page;
}

void ChunkStore::CountedPages::Return(std::byte* page) {
  source_->Return(page);
  --taken_;
}

// What a page is charged for lane tables pays for a chunk's tokens, windows and lists, which are smaller.
ChunkStore::ChunkStore(const KvShape* shape, const KvIdentity& identity, std::unique_ptr<PageSource> pages,
                       uint64_t cache_bytes)
    : shape_(shape),
      names_(*shape, identity, nullptr),
      pages_(std::move(pages)),
      limit_bytes_(static_cast<uint64_t>(kShare * static_cast<double>(cache_bytes))) {}

Digest ChunkStore::Name(const std::string& tenant, std::span<const int32_t> prefix,
                        std::span<const int32_t> tokens) const {
  return FieldHasher()
      .Add("larder", std::string_view("kv-chunk"))
      .Add("version", kBlockNameVersion)
      .Add("keys", std::string_view("unrotated"))
      .Add("root", names_.Root(0, tenant))
      .Add("prefix", prefix)
      .Add("tokens", tokens)
      .Finish();
}

uint64_t ChunkStore::PagesFor(int64_t tokens) const {
  const auto lanes = static_cast<uint64_t>(shape_->layers()) * static_cast<uint64_t>(shape_->kv_heads());
  return lanes * static_cast<uint64_t>((tokens + kPageTokens - 1) / kPageTokens);
}

Status ChunkStore::Check(int64_t tokens) const {
  if (tokens < kChunkWindow) {
    return Fail(ErrorKind::kInvalid, "a chunk needs at least {} tokens, this one has {}; give a longer text",
                kChunkWindow, tokens);
  }
  const uint64_t bytes = BytesFor(tokens);
  if (bytes > limit_bytes_) {
    return Fail(ErrorKind::kInvalid,
                "a chunk of {} tokens takes {}, and {} of the cache are for chunks; cut it, or give the cache "
                "more memory",
                tokens, FormatSize(bytes), FormatSize(limit_bytes_));
  }
  return {};
}

Result<std::shared_ptr<StoredChunk>> ChunkStore::Begin(const std::string& tenant,
                                                       std::span<const int32_t> prefix,
                                                       std::span<const int32_t> tokens) {
  LARDER_TRY(Check(std::ssize(tokens)));
  const uint64_t most = limit_bytes_ / shape_->page_bytes();
  while (pages_.taken() + PagesFor(std::ssize(tokens)) > most) {
    if (!DropOldest()) return Fail(ErrorKind::kExhausted, "the room for chunks is held by running requests");
  }
  auto chunk =
      std::make_shared<StoredChunk>(shape_, &pages_, Name(tenant, prefix, tokens), tenant, std::ssize(prefix),
                                    std::vector<int32_t>(tokens.begin(), tokens.end()));
  // Where there is no room, blocks that nobody holds have gone already; older chunks are next.
  while (!chunk->TakePages()) {
    if (!DropOldest()) return Fail(ErrorKind::kExhausted, "the cache's memory is held by running requests");
  }
  chunk->begun_ = ++clock_;
  return chunk;
}

void ChunkStore::Finish(const std::shared_ptr<StoredChunk>& chunk) {
  if (Has(chunk->name())) return;  // somebody else was faster
  for (const std::string& tenant : {chunk->tenant(), std::string()}) {
    const auto forgotten = forgotten_.find(tenant);
    if (forgotten != forgotten_.end() && forgotten->second > chunk->begun_) return;
  }
  chunk->number_ = chunk->last_use_ = ++clock_;
  chunks_[chunk->number_] = chunk;
  by_name_[chunk->name()] = chunk->number_;
  indexes_[chunk->tenant()].Add(chunk->number_, chunk->tokens(), &chunk->name());
  ++stats_.stored;
}

std::vector<ChunkSpan> ChunkStore::Match(const std::string& tenant, std::span<const int32_t> prompt) {
  std::vector<ChunkSpan> spans;
  const auto index = indexes_.find(tenant);
  if (index == indexes_.end()) return spans;
  for (const ChunkMatch& match : index->second.Find(prompt)) {
    const auto& chunk = chunks_.at(match.chunk);
    chunk->last_use_ = ++clock_;
    spans.push_back({chunk, match.begin, match.rows, match.first});
    ++stats_.matches;
    stats_.matched_tokens += static_cast<uint64_t>(match.rows);
  }
  return spans;
}

bool ChunkStore::DropOldest() {
  const StoredChunk* oldest = nullptr;
  for (const auto& [number, chunk] : chunks_) {
    if (chunk.use_count() > 1) continue;
    if (oldest == nullptr || chunk->last_use_ < oldest->last_use_) oldest = chunk.get();
  }
  if (oldest == nullptr) return false;
  ++stats_.evicted;
  Drop(oldest->number_);
  return true;
}

void ChunkStore::Drop(uint64_t number) {
  const std::shared_ptr<StoredChunk> chunk = chunks_.at(number);
  const auto index = indexes_.find(chunk->tenant());
  index->second.Remove(number);
  if (index->second.empty()) indexes_.erase(index);
  by_name_.erase(chunk->name());
  chunks_.erase(number);
}

void ChunkStore::Forget(const std::string& tenant) {
  forgotten_[tenant] = ++clock_;
  std::vector<uint64_t> numbers;
  for (const auto& [number, chunk] : chunks_) {
    if (tenant.empty() || chunk->tenant() == tenant) numbers.push_back(number);
  }
  for (const uint64_t number : numbers) Drop(number);
}

ChunkStats ChunkStore::stats() const {
  ChunkStats stats = stats_;
  stats.chunks = chunks_.size();
  for (const auto& [number, chunk] : chunks_) stats.tokens += static_cast<uint64_t>(chunk->rows());
  stats.bytes = pages_.taken() * shape_->page_bytes();
  stats.limit_bytes = limit_bytes_;
  return stats;
}

}  // namespace larder
