#include "kv/reuse/chunk_tiers.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <thread>
#include <utility>

#include "kv/reuse/chunk_record.h"
#include "kv/tiers.h"

namespace larder {
namespace {

constexpr size_t kMostListed = 4096;  // chunks of a tenant that a tier is asked for
// A list may take that long, in the background; after a failure the next one is asked for no sooner.
constexpr int64_t kListMs = 10'000;
constexpr double kNewShare = 0.3;  // of a new measurement in the logarithm of what lists take
// A read may take that long, however fast computing is, since a chunk that is given up is forgotten; and no
// longer than that, however slow.
constexpr double kLeastReadMs = 100, kMostReadMs = 60'000;
constexpr double kLeastListMs = 0.05;  // of an estimate: two threads are woken

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
      clock_(clock),
      list_ms_(tiers_.size()) {
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
  spaces_[tenant] = {space, std::vector<List>(tiers_.size())};
  for (size_t tier = 0; tier < tiers_.size(); ++tier) AskList(tenant, tier);
  return another;
}

void ChunkTiers::AskList(const std::string& tenant, size_t tier) {
  Space& of = spaces_.at(tenant);
  of.lists[tier] = {.state = List::State::kAsked, .asked_ns = clock_->NowNs()};
  tiers_[tier]->Children(
      ListName(of.id), kMostListed, of.lists[tier].asked_ns + kListMs * 1'000'000,
      [inbox = inbox_, clock = clock_, tenant, space = of.id,
       tier](Result<std::vector<RecordHeader>> headers) {
        inbox->Post([tenant, space, tier, at_ns = clock->NowNs(), headers = std::move(headers)](
                        ChunkTiers& tiers) { tiers.TakeListed(tenant, space, tier, at_ns, headers); });
      });
}

void ChunkTiers::TakeListed(const std::string& tenant, const SpaceId& space, size_t tier, int64_t at_ns,
                            const Result<std::vector<RecordHeader>>& headers) {
  const auto known = spaces_.find(tenant);
  if (known == spaces_.end() || known->second.id != space) return;  // wiped meanwhile
  List& list = known->second.lists[tier];
  list.state = headers ? List::State::kTold : List::State::kFailed;
  if (headers || headers.error().kind == ErrorKind::kSlow)
    LearnListTime(tier, static_cast<double>(at_ns - list.asked_ns) / 1e6, headers.has_value());
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
  return known == spaces_.end() || std::ranges::none_of(known->second.lists, [](const List& list) {
           return list.state == List::State::kAsked;
         });
}

// Of a list that is still to come (not `whole`) only the least time is known.
void ChunkTiers::LearnListTime(size_t tier, double ms, bool whole) {
  double& estimate = list_ms_[tier];
  ms = std::max(ms, kLeastListMs);
  if (!whole || estimate == 0) {
    estimate = std::max(estimate, ms);
  } else {
    estimate *= std::pow(ms / estimate, kNewShare);
  }
}

std::optional<int64_t> ChunkTiers::WaitForLists(const std::string& tenant, double recompute_ms) {
  const auto known = spaces_.find(tenant);
  if (known == spaces_.end()) return std::nullopt;
  const double limit_ms = std::clamp(recompute_ms, kLeastWaitMs, static_cast<double>(kListMs));
  const int64_t now_ns = clock_->NowNs();
  std::optional<int64_t> until_ns;
  for (size_t tier = 0; tier < tiers_.size(); ++tier) {
    List& list = known->second.lists[tier];
    if (list.state == List::State::kFailed && now_ns - list.asked_ns >= kListMs * 1'000'000)
      AskList(tenant, tier);
    if (list.state != List::State::kAsked) continue;
    const int64_t due_ns = list.asked_ns + static_cast<int64_t>(limit_ms * 1e6);
    if (now_ns >= due_ns) {
      LearnListTime(tier, static_cast<double>(now_ns - list.asked_ns) / 1e6, false);
    } else if (list_ms_[tier] <= limit_ms) {
      until_ns = std::max(until_ns.value_or(due_ns), due_ns);
    }
  }
  return until_ns;
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

int64_t ChunkTiers::rows_being_written() const {
  int64_t rows = 0;
  for (const auto& [id, write] : writes_) rows += write.chunk->rows();
  return rows;
}

// --- up

bool ChunkTiers::Want(const std::shared_ptr<StoredChunk>& chunk) {
  if (reads_.contains(chunk->name())) return true;
  if (!spaces_.contains(chunk->tenant()) || !store_->TakeMemory(*chunk)) return false;
  reads_[chunk->name()] = {chunk};
  wanted_.push_back(chunk->name());
  return true;
}

void ChunkTiers::ReadWanted(double limit_ms) {
  for (const Digest& name : wanted_)
    reads_.at(name).limit_ms = std::clamp(limit_ms, kLeastReadMs, kMostReadMs);
  if (!wanted_.empty()) StartReading(std::exchange(wanted_, {}), 0);
}

namespace {

// One record of several that are read together.
struct Incoming {
  RecordHeader expected;
  std::shared_ptr<ChunkArrival> arrival = std::make_shared<ChunkArrival>();
  uint64_t layer_bytes = 0, bytes = 0;  // of a layer, and of the groups so far
  bool good = true;

  // From the tier's thread.
  void Take(uint32_t group, bool came) {
    if (group >= expected.group_bytes.size() || !good) return;
    good = came;
    if (!came) return arrival->Fail();
    bytes += expected.group_bytes[group];
    arrival->Bring(static_cast<int>(bytes / layer_bytes));
  }
};

}  // namespace

// A record that is not the expected one in every field is another's. The engine hears of every group, since
// whoever waits for the first ones may begin.
void ChunkTiers::StartReading(const std::vector<Digest>& names, size_t tier) {
  const auto incoming = std::make_shared<std::vector<Incoming>>();
  std::vector<RecordRead> items;
  for (const Digest& name : names) {
    StoredChunk& chunk = *reads_.at(name).chunk;
    Incoming& one = incoming->emplace_back();
    one.expected = HeaderOf(chunk, spaces_.at(chunk.tenant()).id);
    one.layer_bytes = chunk.bytes().size() / static_cast<uint64_t>(shape_->layers());
    store_->Arriving(chunk, one.arrival);
    items.push_back({.name = one.expected.name, .destination = chunk.bytes()});
  }
  GetCallbacks callbacks;
  callbacks.accept = [incoming](size_t item, const RecordHeader& header) -> Status {
    const RecordHeader& expected = (*incoming)[item].expected;
    if (header.kind == expected.kind && header.metadata == expected.metadata &&
        header.group_bytes == expected.group_bytes)
      return {};
    return Fail(ErrorKind::kConflict, "there is another chunk under this name");
  };
  callbacks.group_done = [incoming, inbox = inbox_](uint32_t group, std::span<const Status> status) {
    for (size_t i = 0; i < incoming->size(); ++i) (*incoming)[i].Take(group, status[i].has_value());
    inbox->Post([](ChunkTiers&) {});
  };
  callbacks.done = [inbox = inbox_, names, incoming] {
    for (const Incoming& one : *incoming) one.arrival->Fail();  // what is not here now
    inbox->Post([names, incoming](ChunkTiers& tiers) {
      for (size_t i = 0; i < names.size(); ++i) tiers.ReadOver(names[i], (*incoming)[i].good);
    });
  };
  const auto limit_ns = static_cast<int64_t>(reads_.at(names.front()).limit_ms * 1e6);
  const uint64_t ticket = tiers_[tier]->Get(std::move(items), clock_->NowNs() + limit_ns,
                                            ReadPriority::kRequest, std::move(callbacks));
  for (const Digest& name : names) {
    reads_.at(name).tier = tier;
    reads_.at(name).ticket = ticket;
  }
}

void ChunkTiers::ReadOver(const Digest& name, bool good) {
  Reading& reading = reads_.at(name);
  if (!good && reading.tier + 1 < tiers_.size() && spaces_.contains(reading.chunk->tenant())) {
    return StartReading({name}, reading.tier + 1);
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
