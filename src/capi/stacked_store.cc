#include "capi/stacked_store.h"

#include <algorithm>
#include <future>
#include <numeric>
#include <set>
#include <utility>

#include "base/file_system.h"
#include "base/log.h"
#include "store/trust.h"

namespace larder {
namespace {

// The answer of a call that answers through a callback. Shared with the callback, which may still be in
// set_value when Wait returns.
template <class T>
class Answer {
 public:
  std::function<void(T)> callback() {
    return [promise = promise_](T value) { promise->set_value(std::move(value)); };
  }
  T Wait() { return promise_->get_future().get(); }

 private:
  std::shared_ptr<std::promise<T>> promise_ = std::make_shared<std::promise<T>>();
};

// What becomes of a put, told when the last reference goes: those of the tiers' payloads and callbacks.
class PutOutcome {
 public:
  explicit PutOutcome(std::shared_ptr<const void> owner, std::function<void(Status)> done)
      : owner_(std::move(owner)), done_(std::move(done)) {}
  ~PutOutcome() {
    owner_.reset();
    if (!done_) return;
    if (conflict_) failure_ = std::unexpected(*std::move(conflict_));
    done_(committed_ && !conflict_ ? Status() : failure_);
  }
  PutOutcome(const PutOutcome&) = delete;
  PutOutcome& operator=(const PutOutcome&) = delete;

  void Note(Status status) {
    const std::lock_guard lock(mutex_);
    if (status) {
      committed_ = true;
    } else if (status.error().kind == ErrorKind::kConflict) {
      conflict_ = std::move(status).error();
    } else if (failure_) {
      failure_ = std::move(status);
    }
  }

 private:
  std::shared_ptr<const void> owner_;
  const std::function<void(Status)> done_;
  std::mutex mutex_;
  bool committed_ = false;
  Status failure_;
  std::optional<Error> conflict_;
};

Status CheckRead(const RecordRead& read, const SpaceId& space, const RecordHeader& header) {
  if (header.space != space)
    return Fail(ErrorKind::kNotFound, "record {} is another tenant's", header.name.ShortHex());
  if (header.payload_bytes() != read.destination.size())
    return Fail(ErrorKind::kInvalid, "record {} has {} bytes and its destination {}", header.name.ShortHex(),
                header.payload_bytes(), read.destination.size());
  return {};
}

}  // namespace

Result<std::unique_ptr<StackedStore>> StackedStore::Open(const StackedOptions& options) {
  if (options.disk.directory.empty() && options.redis.url.empty())
    return Fail(ErrorKind::kInvalid, "a store needs a disk directory, a Redis URL, or both");
  std::unique_ptr<StackedStore> store(new StackedStore);
  LARDER_TRY(CheckKeyIsOutside(options.store_key_file, options.disk.directory));
  const bool on_disk = !options.disk.directory.empty();
  if (on_disk) LARDER_TRY(RealFileSystem()->MakeDirectory(options.disk.directory));
  KeyringOptions ring{.ring_file = options.keyring_file, .store_key_file = options.store_key_file};
  if (ring.ring_file.empty() && on_disk) ring.ring_file = options.disk.directory + "/keyring";
  ring.redis = options.redis;
  ring.replaced = [store = store.get()](const std::string&, const SpaceId& old) {
    store->replaced_.Add(old);
  };
  LARDER_ASSIGN(store->keyring_, OpenKeyring(ring));
  const Sealer* sealer = store->keyring_->sealer();
  if (on_disk) {
    LARDER_ASSIGN(store->disk_, OpenDiskTier(options.disk, RealFileSystem(), sealer, &store->clock_));
    store->tiers_.push_back(store->disk_.get());
  }
  if (!options.redis.url.empty()) {
    LARDER_ASSIGN(store->redis_, OpenRedisTier(options.redis, sealer, &store->clock_));
    store->tiers_.push_back(store->redis_.get());
  }
  return store;
}

// The disk goes first: a get that falls through to Redis is started by the disk's thread.
StackedStore::~StackedStore() {
  disk_.reset();
  redis_.reset();
}

Result<SpaceId> StackedStore::SpaceOf(const std::string& tenant) {
  replaced_.WipeFrom(disk_.get());
  return keyring_->SpaceOf(tenant);
}

// --- looking

std::vector<StackedStore::Place> StackedStore::Match(const std::vector<Digest>& names, int64_t deadline_ns) {
  std::vector<Place> places(names.size(), kNowhere);
  std::vector<size_t> left(names.size());
  std::iota(left.begin(), left.end(), size_t{0});
  for (Tier* tier : tiers_) {
    if (left.empty()) break;
    std::vector<Digest> asked;
    for (const size_t i : left) asked.push_back(names[i]);
    Answer<Result<std::vector<bool>>> answer;
    tier->Find(std::move(asked), deadline_ns, answer.callback());
    const auto here = answer.Wait();
    if (!here) continue;
    std::vector<size_t> missing;
    for (size_t k = 0; k < left.size(); ++k) {
      if ((*here)[k]) {
        places[left[k]] = tier == disk_.get() ? kDisk : kRedis;
      } else {
        missing.push_back(left[k]);
      }
    }
    left = std::move(missing);
  }
  return places;
}

// A get that takes nothing: headers come on the way.
std::vector<std::optional<RecordHeader>> StackedStore::Describe(const std::vector<Digest>& names,
                                                                const SpaceId& space, int64_t deadline_ns) {
  std::vector<std::optional<RecordHeader>> headers(names.size());
  for (Tier* tier : tiers_) {
    std::vector<RecordRead> reads;
    std::vector<size_t> asked;
    for (size_t i = 0; i < names.size(); ++i) {
      if (headers[i]) continue;
      asked.push_back(i);
      reads.push_back({.name = names[i]});
    }
    if (reads.empty()) break;
    Answer<bool> answer;
    GetCallbacks callbacks;
    callbacks.accept = [&headers, &asked](size_t item, const RecordHeader& header) -> Status {
      headers[asked[item]] = header;
      return Fail(ErrorKind::kCancelled, "only its header is wanted");
    };
    callbacks.done = [ended = answer.callback()] { ended(true); };
    tier->Get(std::move(reads), deadline_ns, ReadPriority::kRequest, std::move(callbacks));
    answer.Wait();
  }
  for (auto& header : headers) {
    if (header && header->space != space) header.reset();
  }
  return headers;
}

std::vector<RecordHeader> StackedStore::Children(const Digest& parent, size_t limit, const SpaceId& space,
                                                 int64_t deadline_ns) {
  std::vector<RecordHeader> children;
  std::set<Digest> names;
  for (Tier* tier : tiers_) {
    Answer<Result<std::vector<RecordHeader>>> answer;
    tier->Children(parent, limit, deadline_ns, answer.callback());
    auto found = answer.Wait();
    if (!found) continue;
    for (RecordHeader& header : *found) {
      if (header.space == space && children.size() < limit && names.insert(header.name).second)
        children.push_back(std::move(header));
    }
  }
  return children;
}

// --- reading and writing

uint64_t StackedStore::Get(std::vector<RecordRead> items, const SpaceId& space, int64_t deadline_ns,
                           ReadPriority priority, GetCallbacks callbacks) {
  StackedGet::Plan plan{.tiers = tiers_, .items = items, .deadline_ns = deadline_ns, .priority = priority};
  const uint64_t ticket = ++last_ticket_;
  plan.callbacks.accept = [items = std::move(items), space, accept = std::move(callbacks.accept)](
                              size_t item, const RecordHeader& header) -> Status {
    LARDER_TRY(CheckRead(items[item], space, header));
    return accept ? accept(item, header) : Status();
  };
  plan.callbacks.group_done = std::move(callbacks.group_done);
  plan.callbacks.done = [this, ticket, done = std::move(callbacks.done)] {
    {
      const std::lock_guard lock(mutex_);
      gets_.erase(ticket);
    }
    if (done) done();
  };
  const auto get = std::make_shared<StackedGet>(std::move(plan));
  {
    const std::lock_guard lock(mutex_);
    gets_.emplace(ticket, get);
  }
  get->Start();
  return ticket;
}

bool StackedStore::Cancel(uint64_t ticket) {
  std::shared_ptr<StackedGet> get;
  {
    const std::lock_guard lock(mutex_);
    const auto it = gets_.find(ticket);
    if (it != gets_.end()) get = it->second.lock();
  }
  if (get) get->Cancel();
  return get != nullptr;
}

void StackedStore::Put(const RecordHeader& header, RecordPayload payload, std::function<void(Status)> done) {
  const auto outcome = std::make_shared<PutOutcome>(std::move(payload.owner), std::move(done));
  payload.owner = outcome;
  for (Tier* tier : tiers_)
    tier->Put(header, payload, [outcome](Status status) { outcome->Note(std::move(status)); });
}

void StackedStore::Flush() {
  for (Tier* tier : tiers_) tier->Flush();
}

// --- keeping and removing

template <class Call>
Status StackedStore::InAll(Call call) {
  Status first;
  for (Tier* tier : tiers_) {
    Status status = call(*tier);
    if (first) first = std::move(status);
  }
  return first;
}

void StackedStore::Touch(std::span<const Digest> names) {
  for (Tier* tier : tiers_) tier->Touch(names);
}

Status StackedStore::Pin(const Digest& name, int64_t ttl_ms) {
  if (!disk_)
    return Fail(ErrorKind::kUnsupported, "only the disk tier pins; open the store with a directory");
  return disk_->Pin(name, ttl_ms);
}

Status StackedStore::Remove(std::span<const Digest> names) {
  return InAll([&](Tier& tier) { return tier.Remove(names); });
}

Status StackedStore::Wipe(const std::string& tenant) {
  LARDER_ASSIGN(const SpaceId space, SpaceOf(tenant));
  const bool sealed = keyring_->sealer() != nullptr;
  if (sealed) LARDER_TRY(keyring_->Forget(tenant));
  LARDER_TRY(InAll([&](Tier& tier) { return tier.Wipe(space); }));
  if (!sealed) LARDER_TRY(keyring_->Forget(tenant));
  return {};
}

Result<TierStats> StackedStore::Stats(Place place) const {
  const Tier* tier = place == kDisk ? disk_.get() : place == kRedis ? redis_.get() : nullptr;
  if (tier == nullptr) return Fail(ErrorKind::kNotFound, "the store was opened without this tier");
  return tier->stats();
}

}  // namespace larder
