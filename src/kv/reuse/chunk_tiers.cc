#include "kv/reuse/chunk_tiers.h"

#include <algorithm>
#include <chrono>
#include <numeric>
#include <thread>
#include <utility>

#include "kv/reuse/chunk_record.h"

namespace larder {
namespace {

constexpr size_t kMostListed = 4096;  // chunks of a tenant that a tier is asked for
constexpr int64_t kListMs = 10'000, kReadMs = 60'000;

// Names in a tier begin with the tenant's space, so that a wiped tenant begins anew.
Digest InSpace(std::string_view what, const SpaceId& space, const Digest& of) {
  return FieldHasher()
      .Add("larder", what)
      .Add("space", std::as_bytes(std::span(space)))
      .Add("of", of)
      .Finish();
}
Digest RecordName(const SpaceId& space, const Digest& chunk) {
  return InSpace("kv-chunk-record", space, chunk);
}

// The parent of all chunks of a space.
Digest ListName(const SpaceId& space) { return InSpace("kv-chunk-list", space, {}); }

}  // namespace

void ChunkTiers::Inbox::Post(std::function<void(ChunkTiers&)> answer) {
  const std::lock_guard lock(mutex);
  answers.push_back(std::move(answer));
  if (notify) notify();
}

ChunkTiers::ChunkTiers(const KvShape* shape, int64_t longest, ChunkStore* store, std::vector<Tier*> tiers,
                       uint64_t group_bytes, Clock* clock, std::function<void()> notify)
    : shape_(shape),
      longest_(longest),
      store_(store),
      tiers_(std::move(tiers)),
      group_bytes_(group_bytes),
      clock_(clock) {
  inbox_->notify = std::move(notify);
}

ChunkTiers::~ChunkTiers() {
  for (const auto& [name, read] : reads_) tiers_[read.tier]->Cancel(read.ticket);
  while (busy()) {
    for (Tier* tier : tiers_) tier->Flush();
    if (!Poll()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  const std::lock_guard lock(inbox_->mutex);
  inbox_->notify = nullptr;
}

bool ChunkTiers::Poll() {
  std::vector<std::function<void(ChunkTiers&)>> answers;
  {
    const std::lock_guard lock(inbox_->mutex);
    answers.swap(inbox_->answers);
  }
  for (const auto& answer : answers) answer(*this);
  return !answers.empty();
}

// --- what there is

bool ChunkTiers::SetSpace(const std::string& tenant, const SpaceId& space) {
  const auto known = spaces_.find(tenant);
  if (known != spaces_.end() && known->second.id == space) return false;
  const bool another = known != spaces_.end();
  spaces_[tenant] = {space, tiers_.size()};
  List(tenant);
  return another;
}

void ChunkTiers::List(const std::string& tenant) {
  const SpaceId space = spaces_.at(tenant).id;
  for (Tier* tier : tiers_) {
    tier->Children(ListName(space), kMostListed, clock_->NowNs() + kListMs * 1'000'000,
                   [inbox = inbox_, tenant, space](Result<std::vector<RecordHeader>> headers) {
                     inbox->Post([tenant, space, headers = std::move(headers)](ChunkTiers& tiers) {
                       tiers.TakeListed(tenant, space, headers);
                     });
                   });
  }
}

void ChunkTiers::TakeListed(const std::string& tenant, const SpaceId& space,
                            const Result<std::vector<RecordHeader>>& headers) {
  const auto known = spaces_.find(tenant);
  if (known == spaces_.end() || known->second.id != space) return;  // wiped meanwhile
  --known->second.asked;
  if (!headers) return;
  for (const RecordHeader& header : *headers) {
    auto described = DecodeChunkMetadata(header.metadata);
    if (!described || header.kind != kKvChunkRecord || header.name != RecordName(space, described->name))
      continue;
    if (described->prefix_rows + std::ssize(described->tokens) > longest_) continue;
    store_->Learn(tenant, described->name, described->prefix_rows, std::move(described->tokens));
  }
}

bool ChunkTiers::Listed(const std::string& tenant) const {
  const auto known = spaces_.find(tenant);
  return known == spaces_.end() || known->second.asked == 0;
}

std::optional<Digest> ChunkTiers::RecordOf(const std::string& tenant, const Digest& name) const {
  const auto known = spaces_.find(tenant);
  if (known == spaces_.end()) return std::nullopt;
  return RecordName(known->second.id, name);
}

RecordHeader ChunkTiers::HeaderOf(const StoredChunk& chunk, const SpaceId& space) const {
  RecordHeader header;
  header.name = RecordName(space, chunk.name());
  header.parent = ListName(space);
  header.space = space;
  header.kind = kKvChunkRecord;
  header.metadata = EncodeChunkMetadata(chunk.name(), chunk.prefix_rows(), chunk.tokens());
  const auto layers = static_cast<uint64_t>(shape_->layers());
  const uint64_t layer_bytes = store_->BytesFor(chunk.rows()) / layers;
  const uint64_t each = std::max((group_bytes_ + layer_bytes - 1) / layer_bytes,
                                 (layers + kMaxRecordGroups - 1) / kMaxRecordGroups);
  for (uint64_t first = 0; first < layers; first += each)
    header.group_bytes.push_back(std::min(each, layers - first) * layer_bytes);
  return header;
}

// --- down

void ChunkTiers::Keep(const std::shared_ptr<StoredChunk>& chunk) {
  const auto space = spaces_.find(chunk->tenant());
  if (space == spaces_.end() || !chunk->ready()) return;
  const RecordHeader header = HeaderOf(*chunk, space->second.id);
  if (header.metadata.size() > kMaxRecordMetadata || header.payload_bytes() > kMaxRecordBytes) return;
  RecordPayload payload;
  const std::byte* bytes = chunk->bytes().data();
  for (const uint64_t group : header.group_bytes) {
    payload.groups.emplace_back(bytes, group);
    bytes += group;
  }
  const uint64_t id = next_write_++;
  writes_[id] = {chunk, tiers_.size()};
  for (Tier* tier : tiers_) {
    tier->Put(header, payload, [inbox = inbox_, id](Status status) {
      inbox->Post([id, good = status.has_value()](ChunkTiers& tiers) {
        Write& write = tiers.writes_.at(id);
        if (good) tiers.store_->KeptBelow(*write.chunk);
        if (--write.left == 0) tiers.writes_.erase(id);
      });
    });
  }
}

// --- up

bool ChunkTiers::Read(const std::shared_ptr<StoredChunk>& chunk) {
  if (reads_.contains(chunk->name())) return true;
  if (!spaces_.contains(chunk->tenant()) || !store_->TakeMemory(*chunk)) return false;
  reads_[chunk->name()] = {chunk};
  StartReading(chunk->name());
  return true;
}

// From the tier whose turn it is. A record that is not the expected one in every field is another's.
void ChunkTiers::StartReading(const Digest& name) {
  Reading& reading = reads_.at(name);
  const auto expected =
      std::make_shared<const RecordHeader>(HeaderOf(*reading.chunk, spaces_.at(reading.chunk->tenant()).id));
  const auto arrival = std::make_shared<ChunkArrival>();
  store_->Arriving(*reading.chunk, arrival);
  const auto good = std::make_shared<bool>(true);
  const uint64_t layer_bytes = reading.chunk->bytes().size() / static_cast<uint64_t>(shape_->layers());
  GetCallbacks callbacks;
  callbacks.accept = [expected](size_t, const RecordHeader& header) -> Status {
    if (header.kind == expected->kind && header.metadata == expected->metadata &&
        header.group_bytes == expected->group_bytes)
      return {};
    return Fail(ErrorKind::kConflict, "there is another chunk under this name");
  };
  // The engine hears of every group: whoever waits for the first ones may begin.
  callbacks.group_done = [good, arrival, expected, layer_bytes, inbox = inbox_](
                             uint32_t group, std::span<const Status> items) {
    *good = *good && items.front().has_value();
    if (!*good) return arrival->Fail();
    const auto end = expected->group_bytes.begin() + static_cast<ptrdiff_t>(group) + 1;
    const uint64_t bytes = std::accumulate(expected->group_bytes.begin(), end, uint64_t{0});
    arrival->Bring(static_cast<int>(bytes / layer_bytes));
    inbox->Post([](ChunkTiers&) {});
  };
  callbacks.done = [inbox = inbox_, name, good, arrival] {
    arrival->Fail();  // what is not here now
    inbox->Post([name, good](ChunkTiers& tiers) { tiers.ReadOver(name, *good); });
  };
  reading.ticket = tiers_[reading.tier]->Get(
      {{.name = expected->name, .destination = reading.chunk->bytes()}},
      clock_->NowNs() + kReadMs * 1'000'000, ReadPriority::kRequest, std::move(callbacks));
}

void ChunkTiers::ReadOver(const Digest& name, bool good) {
  Reading& reading = reads_.at(name);
  if (!good && reading.tier + 1 < tiers_.size() && spaces_.contains(reading.chunk->tenant())) {
    ++reading.tier;
    return StartReading(name);
  }
  const std::shared_ptr<StoredChunk> chunk = reading.chunk;
  reads_.erase(name);
  if (good) {
    store_->Arrived(*chunk);
  } else {
    store_->Lose(*chunk);
  }
}

}  // namespace larder
