#include "kv/reuse/chunks.h"

#include <algorithm>
#include <utility>

#include "base/params.h"
#include "kv/pool.h"

namespace larder {
namespace {

// Tokens, windows of the index, names and lists of a chunk, in memory or not.
uint64_t TableBytes(int64_t tokens) {
  constexpr uint64_t kFixed = 1024, kWindow = 96;
  const auto n = static_cast<uint64_t>(tokens);
  return kFixed + n * sizeof(int32_t) + n / static_cast<uint64_t>(kChunkWindow) * kWindow;
}

int64_t PagesOf(int64_t tokens) { return (tokens + kPageTokens - 1) / kPageTokens; }

}  // namespace

void ChunkArrival::Bring(int layers) {
  const std::lock_guard lock(mutex_);
  layers_ = layers;
  changed_.notify_all();
}

void ChunkArrival::Fail() {
  const std::lock_guard lock(mutex_);
  failed_ = true;
  changed_.notify_all();
}

bool ChunkArrival::Has(int layer) const {
  const std::lock_guard lock(mutex_);
  return layers_ > layer;
}

bool ChunkArrival::Wait(int layer) {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return failed_ || layers_ > layer; });
  return layers_ > layer;
}

StoredChunk::~StoredChunk() {
  taken_->room->Refund(TableBytes(rows()));
  taken_->tables -= TableBytes(rows());
  if (data_.size() == 0) return;
  taken_->room->Refund(AllocationCost(data_.size()));
  taken_->room->Return(data_.size());
  taken_->memory -= data_.size();
}

std::byte* StoredChunk::PageOf(int layer, int kv_head, int64_t row) {
  LARDER_CHECK(row >= 0 && row < rows() && data_.size() > 0);
  const int64_t lane = int64_t{layer} * shape_->kv_heads() + kv_head;
  const int64_t page = lane * PagesOf(rows()) + row / kPageTokens;
  return data_.data() + static_cast<size_t>(page) * shape_->page_bytes();
}

void StoredChunk::Write(int layer, int kv_head, int64_t row, const float* k, const float* v) {
  StoreKvRow(shape_->type(), shape_->head_dim(), k, v, PageOf(layer, kv_head, row),
             static_cast<int>(row % kPageTokens));
}

void StoredChunk::Read(int layer, int kv_head, int64_t row, float* k, float* v) const {
  LoadKvRow(shape_->type(), shape_->head_dim(), const_cast<StoredChunk*>(this)->PageOf(layer, kv_head, row),
            static_cast<int>(row % kPageTokens), k, v);
}

ChunkStore::ChunkStore(const KvShape* shape, const KvIdentity& identity, DerivedRoom* room)
    : shape_(shape), names_(*shape, identity, nullptr), taken_{.room = room} {
  room->Add(this);
}

ChunkStore::~ChunkStore() { taken_.room->Remove(this); }

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

uint64_t ChunkStore::BytesFor(int64_t tokens) const {
  const auto lanes = static_cast<uint64_t>(shape_->layers()) * static_cast<uint64_t>(shape_->kv_heads());
  return lanes * static_cast<uint64_t>(PagesOf(tokens)) * shape_->page_bytes();
}

Status ChunkStore::Check(int64_t tokens) const {
  if (tokens < kChunkWindow) {
    return Fail(ErrorKind::kInvalid, "a chunk needs at least {} tokens, this one has {}; give a longer text",
                kChunkWindow, tokens);
  }
  const uint64_t bytes = BytesFor(tokens);
  if (bytes > taken_.room->limit_bytes()) {
    return Fail(
        ErrorKind::kInvalid,
        "a chunk of {} tokens takes {}, and {} of the cache are for chunks; cut it, or give the cache "
        "more memory",
        tokens, FormatSize(bytes), FormatSize(taken_.room->limit_bytes()));
  }
  return {};
}

// Without memory for its rows.
Result<std::shared_ptr<StoredChunk>> ChunkStore::Make(const std::string& tenant, const Digest& name,
                                                      int64_t prefix_rows, std::vector<int32_t> tokens) {
  LARDER_TRY(Check(std::ssize(tokens)));
  const uint64_t tables = TableBytes(std::ssize(tokens));
  LARDER_TRY(taken_.room->Charge(tables));
  std::shared_ptr<StoredChunk> chunk(new StoredChunk);
  chunk->shape_ = shape_;
  chunk->taken_ = &taken_;
  taken_.tables += tables;
  chunk->name_ = name;
  chunk->tenant_ = tenant;
  chunk->prefix_rows_ = prefix_rows;
  chunk->tokens_ = std::move(tokens);
  chunk->begun_ = taken_.room->Tick();
  return chunk;
}

Result<std::shared_ptr<StoredChunk>> ChunkStore::Begin(const std::string& tenant,
                                                       std::span<const int32_t> prefix,
                                                       std::span<const int32_t> tokens) {
  LARDER_ASSIGN(auto chunk, Make(tenant, Name(tenant, prefix, tokens), std::ssize(prefix),
                                 std::vector<int32_t>(tokens.begin(), tokens.end())));
  LARDER_TRY(TakeMemory(*chunk));
  return chunk;
}

Status ChunkStore::TakeMemory(StoredChunk& chunk) {
  const uint64_t bytes = BytesFor(chunk.rows());
  LARDER_TRY(taken_.room->Take(bytes));
  const Status status = [&]() -> Status {
    LARDER_TRY(taken_.room->Charge(AllocationCost(bytes)));
    auto data = AlignedBuffer::Allocate(bytes, LargePages::kNo);
    if (!data) {
      taken_.room->Refund(AllocationCost(bytes));
      return std::unexpected(data.error());
    }
    chunk.data_ = *std::move(data);
    return {};
  }();
  if (!status) {
    taken_.room->Return(bytes);
    return status;
  }
  taken_.memory += bytes;
  return {};
}

void ChunkStore::ReturnMemory(StoredChunk& chunk) {
  chunk.ready_ = false;
  if (chunk.data_.size() == 0) return;
  taken_.room->Refund(AllocationCost(chunk.data_.size()));
  taken_.room->Return(chunk.data_.size());
  taken_.memory -= chunk.data_.size();
  chunk.data_.Reset();
}

void ChunkStore::Index(const std::shared_ptr<StoredChunk>& chunk) {
  chunk->number_ = chunk->last_use_ = taken_.room->Tick();
  chunks_[chunk->number_] = chunk;
  by_name_[chunk->name()] = chunk->number_;
  indexes_[chunk->tenant()].Add(chunk->number_, chunk->tokens(), &chunk->name());
}

void ChunkStore::Finish(const std::shared_ptr<StoredChunk>& chunk) {
  if (taken_.room->ForgottenSince(chunk->tenant(), chunk->begun_)) return;
  const auto known = by_name_.find(chunk->name());
  if (known != by_name_.end()) {
    if (chunks_.at(known->second)->ready()) return;  // somebody else was faster
    Erase(known->second);
  }
  chunk->ready_ = true;
  Index(chunk);
  ++stats_.stored;
}

std::shared_ptr<StoredChunk> ChunkStore::Find(const Digest& name) const {
  const auto known = by_name_.find(name);
  return known == by_name_.end() ? nullptr : chunks_.at(known->second);
}

std::vector<ChunkListing> ChunkStore::List(const std::string& tenant, const std::optional<Digest>& after,
                                           size_t limit) const {
  std::vector<ChunkListing> listed;
  for (auto it = after ? by_name_.upper_bound(*after) : by_name_.begin();
       it != by_name_.end() && listed.size() < limit; ++it) {
    const std::shared_ptr<StoredChunk>& chunk = chunks_.at(it->second);
    if (chunk->tenant() != tenant) continue;
    listed.push_back({.name = chunk->name(),
                      .tokens = chunk->rows(),
                      .prefix_tokens = chunk->prefix_rows(),
                      .bytes = BytesFor(chunk->rows()),
                      .in_memory = chunk->ready(),
                      .below = chunk->kept_below_,
                      .held = chunk.use_count() > 1});
  }
  return listed;
}

bool ChunkStore::Remove(const std::string& tenant, const Digest& name) {
  const auto chunk = Find(name);
  if (chunk == nullptr || chunk->tenant() != tenant) return false;
  Erase(chunk->number_);
  return true;
}

void ChunkStore::Learn(const std::string& tenant, const Digest& name, int64_t prefix_rows,
                       std::vector<int32_t> tokens) {
  if (const auto known = Find(name)) return KeptBelow(*known);
  if (taken_.tables > taken_.room->limit_bytes() / kTablesShare) return;
  auto chunk = Make(tenant, name, prefix_rows, std::move(tokens));
  if (!chunk) return;
  (*chunk)->kept_below_ = true;
  Index(*chunk);
}

void ChunkStore::Arrived(StoredChunk& chunk) {
  chunk.arrival_ = nullptr;
  chunk.ready_ = true;
  ++stats_.restored;
}

void ChunkStore::Lose(StoredChunk& chunk) {
  chunk.arrival_ = nullptr;
  ReturnMemory(chunk);
  chunk.lost_ = true;
  if (Has(chunk.name()) && by_name_.at(chunk.name()) == chunk.number_) Erase(chunk.number_);
}

std::vector<ChunkSpan> ChunkStore::Match(const std::string& tenant, std::span<const int32_t> prompt) {
  std::vector<ChunkSpan> spans;
  const auto index = indexes_.find(tenant);
  if (index == indexes_.end()) return spans;
  for (const ChunkMatch& match : index->second.Find(prompt)) {
    const auto& chunk = chunks_.at(match.chunk);
    chunk->last_use_ = taken_.room->Tick();
    spans.push_back({chunk, match.begin, match.rows, match.first});
    ++stats_.matches;
    stats_.matched_tokens += static_cast<uint64_t>(match.rows);
  }
  return spans;
}

StoredChunk* ChunkStore::Oldest() const {
  StoredChunk* oldest = nullptr;
  for (const auto& [number, chunk] : chunks_) {
    if (chunk.use_count() > 1 || !chunk->ready()) continue;
    if (oldest == nullptr || chunk->last_use_ < oldest->last_use_) oldest = chunk.get();
  }
  return oldest;
}

std::optional<uint64_t> ChunkStore::OldestUse() const {
  const StoredChunk* oldest = Oldest();
  return oldest == nullptr ? std::nullopt : std::optional(oldest->last_use_);
}

void ChunkStore::DropOldest() {
  StoredChunk* oldest = Oldest();
  LARDER_CHECK(oldest != nullptr);
  ++stats_.evicted;
  if (oldest->kept_below_ && taken_.tables <= taken_.room->limit_bytes() / kTablesShare) {
    ReturnMemory(*oldest);
  } else {
    Erase(oldest->number_);
  }
}

void ChunkStore::Erase(uint64_t number) {
  const std::shared_ptr<StoredChunk> chunk = chunks_.at(number);
  const auto index = indexes_.find(chunk->tenant());
  index->second.Remove(number);
  if (index->second.empty()) indexes_.erase(index);
  by_name_.erase(chunk->name());
  chunks_.erase(number);
}

void ChunkStore::Clear(const std::string& tenant) {
  std::vector<std::shared_ptr<StoredChunk>> chunks;
  for (const auto& [number, chunk] : chunks_) {
    if (tenant.empty() || chunk->tenant() == tenant) chunks.push_back(chunk);
  }
  for (const auto& chunk : chunks) {
    const bool held = chunk.use_count() > 2;  // by others than the map and this list
    if (!chunk->kept_below_) {
      Erase(chunk->number_);
    } else if (!held) {
      ReturnMemory(*chunk);
    }
  }
}

void ChunkStore::Drop(const std::string& tenant) {
  std::vector<uint64_t> numbers;
  for (const auto& [number, chunk] : chunks_) {
    if (tenant.empty() || chunk->tenant() == tenant) numbers.push_back(number);
  }
  for (const uint64_t number : numbers) Erase(number);
}

ChunkStats ChunkStore::stats() const {
  ChunkStats stats = stats_;
  stats.chunks = chunks_.size();
  for (const auto& [number, chunk] : chunks_) {
    stats.tokens += static_cast<uint64_t>(chunk->rows());
    stats.below += chunk->ready() ? 0 : 1;
  }
  stats.bytes = taken_.memory;
  stats.limit_bytes = taken_.room->limit_bytes();
  return stats;
}

}  // namespace larder
