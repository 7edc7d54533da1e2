#include "memory_tier.h"

#include <algorithm>
#include <cstring>
#include <iterator>
#include <map>

namespace larder {

bool MemoryTier::DeliverAll(std::mt19937* random) {
  std::vector<Waiting> waiting;
  {
    const std::lock_guard lock(mutex_);
    waiting.swap(waiting_);
  }
  const auto due = [](const Waiting& one) { return one.due == nullptr || one.due(); };
  const auto later = std::stable_partition(waiting.begin(), waiting.end(), due);
  {
    const std::lock_guard lock(mutex_);
    waiting_.insert(waiting_.begin(), std::move_iterator(later), std::move_iterator(waiting.end()));
  }
  waiting.erase(later, waiting.end());
  if (random != nullptr) std::shuffle(waiting.begin(), waiting.end(), *random);
  for (const Waiting& one : waiting) one.answer();
  return !waiting.empty();
}

void MemoryTier::Later(std::function<void()> answer, std::function<bool()> due) {
  const std::lock_guard lock(mutex_);
  waiting_.push_back({std::move(answer), std::move(due), nullptr});
}

void MemoryTier::DropPending() {
  const std::lock_guard lock(mutex_);
  for (Waiting& one : waiting_) {
    if (one.given_up == nullptr) continue;
    one = {std::exchange(one.given_up, nullptr), nullptr, nullptr};
    ++dropped;
  }
}

std::function<bool()> MemoryTier::After(Clock* clock, int64_t deadline_ns) {
  return [clock, deadline_ns] { return clock->NowNs() >= deadline_ns; };
}

void MemoryTier::Cancel(uint64_t ticket) {
  const std::lock_guard lock(mutex_);
  cancelled_.insert(ticket);
}

bool MemoryTier::Cancelled(uint64_t ticket) {
  const std::lock_guard lock(mutex_);
  return cancelled_.contains(ticket);
}

void MemoryTier::DeliverOne(size_t place) {
  std::function<void()> answer;
  {
    const std::lock_guard lock(mutex_);
    if (place >= waiting_.size()) return;
    answer = std::move(waiting_[place].answer);
    waiting_.erase(waiting_.begin() + static_cast<ptrdiff_t>(place));
  }
  answer();
}

void MemoryTier::Find(std::vector<Digest> names, int64_t deadline_ns, FindDone done) {
  if (silent != nullptr) {
    return Later([done = std::move(done)] { done(Fail(ErrorKind::kSlow, "silent")); },
                 After(silent, deadline_ns));
  }
  Later([this, names = std::move(names), done = std::move(done)] {
    if (dead) return done(Fail(ErrorKind::kUnavailable, "dead"));
    std::vector<bool> here;
    for (const Digest& name : names) here.push_back(records_->by_name.contains(name.Hex()));
    done(std::move(here));
  });
}

void MemoryTier::Children(const Digest& parent, size_t limit, int64_t deadline_ns, ChildrenDone done) {
  if (silent != nullptr) {
    return Later([done = std::move(done)] { done(Fail(ErrorKind::kSlow, "silent")); },
                 After(silent, deadline_ns));
  }
  Later([this, parent, limit, done = std::move(done)] {
    if (dead) return done(Fail(ErrorKind::kUnavailable, "dead"));
    std::vector<const MemoryRecords::Record*> found;
    for (const auto& [name, record] : records_->by_name) {
      if (record.header.parent == parent) found.push_back(&record);
    }
    std::ranges::sort(found, [](const auto* a, const auto* b) { return a->number > b->number; });
    std::vector<RecordHeader> headers;
    for (const auto* record : found) {
      if (headers.size() < limit) headers.push_back(record->header);
    }
    done(std::move(headers));
  });
}

// Group by group, each when it is delivered.
struct MemoryTier::Reading {
  uint64_t ticket;
  bool silent;
  std::vector<RecordRead> items;
  GetCallbacks callbacks;
  std::vector<Status> status;
  std::vector<const MemoryRecords::Record*> records;
  uint32_t groups = 1;
};

void MemoryTier::ReadGroup(const std::shared_ptr<Reading>& reading, uint32_t group) {
  for (size_t i = 0; i < reading->items.size(); ++i) {
    const RecordRead& item = reading->items[i];
    if (group == 0) {
      const auto at = records_->by_name.find(item.name.Hex());
      if (at == records_->by_name.end()) {
        reading->status[i] = Fail(ErrorKind::kNotFound, "gone");
      } else if (reading->status[i] = reading->callbacks.accept(i, at->second.header); reading->status[i]) {
        reading->records[i] = &at->second;
        reading->groups =
            std::max(reading->groups, static_cast<uint32_t>(at->second.header.group_bytes.size()));
      }
    }
    if (!reading->status[i]) continue;
    if (Cancelled(reading->ticket)) {
      reading->status[i] = Fail(ErrorKind::kCancelled, "cancelled");
    } else if (dead || slow || reading->silent) {
      reading->status[i] = Fail(dead ? ErrorKind::kIo : ErrorKind::kSlow, "no answer");
    } else {
      reading->status[i] = CopyGroup(*reading, i, group);
    }
  }
  ++groups_told_;
  reading->callbacks.group_done(group, reading->status);
  if (group + 1 < reading->groups) {
    Later([this, reading, group] { ReadGroup(reading, group + 1); });
  } else if (hanging) {
    Later([reading] { reading->callbacks.done(); }, [this] { return !hanging; });
  } else {
    reading->callbacks.done();
  }
}

Status MemoryTier::CopyGroup(const Reading& reading, size_t index, uint32_t group) {
  const MemoryRecords::Record& record = *reading.records[index];
  const RecordRead& item = reading.items[index];
  if (record.payload.size() != item.destination.size()) return Fail(ErrorKind::kConflict, "another size");
  const auto& groups = record.header.group_bytes;
  if (group >= groups.size()) return {};
  size_t offset = 0;
  for (uint32_t g = 0; g < group; ++g) offset += groups[g];
  // Bytes may arrive and still be refused.
  std::memcpy(item.destination.data() + offset, record.payload.data() + offset, groups[group]);
  const bool last = group + 1 == groups.size();
  if ((last || group == corrupt_group) && corrupt.contains(item.name.Hex()))
    return Fail(ErrorKind::kCorrupt, "flipped");
  if (!last) return {};
  ++read_records;
  return {};
}

uint64_t MemoryTier::Get(std::vector<RecordRead> items, int64_t deadline_ns, ReadPriority,
                         GetCallbacks callbacks) {
  last_deadline_ns = deadline_ns;
  const uint64_t ticket = ++gets;
  for (const RecordRead& item : items) asked.push_back(item.name);
  const size_t count = items.size();
  auto reading = std::make_shared<Reading>(Reading{ticket, silent != nullptr, std::move(items),
                                                   std::move(callbacks), std::vector<Status>(count),
                                                   std::vector<const MemoryRecords::Record*>(count)});
  std::function<bool()> due;
  if (silent != nullptr) {
    due = [this, ticket, over = After(silent, deadline_ns)] { return over() || Cancelled(ticket); };
  }
  Later([this, reading = std::move(reading)] { ReadGroup(reading, 0); }, std::move(due));
  return ticket;
}

void MemoryTier::Put(RecordHeader header, RecordPayload payload, std::function<void(Status)> done) {
  const std::lock_guard lock(mutex_);
  auto& put = waiting_.emplace_back();
  put.due = [this] { return !stalled; };
  put.given_up = [done] { done(Fail(ErrorKind::kExhausted, "memory is wanted")); };
  put.answer = [this, header = std::move(header), payload = std::move(payload), done = std::move(done)] {
    if (dead || full) return done(Fail(dead ? ErrorKind::kIo : ErrorKind::kExhausted, "refused"));
    MemoryRecords::Record record{header, {}, ++records_->next};
    for (const auto& group : payload.groups) {
      record.payload.insert(record.payload.end(), group.begin(), group.end());
    }
    const auto at = records_->by_name.find(header.name.Hex());
    if (at == records_->by_name.end()) {
      records_->by_name[header.name.Hex()] = std::move(record);
    } else if (at->second.payload != record.payload) {
      ++conflicts;
      return done(Fail(ErrorKind::kConflict, "another payload"));
    }
    done({});
  };
}

Status MemoryTier::Remove(std::span<const Digest> names) {
  for (const Digest& name : names) Evict(name);
  return {};
}

void MemoryTier::Evict(const Digest& name, bool named) {
  const auto at = records_->by_name.find(name.Hex());
  if (at == records_->by_name.end()) return;
  RemovedRecord gone{.name = name, .space = at->second.header.space};
  if (!named) gone.name.reset();
  records_->by_name.erase(at);
  Later([this, gone] {
    if (listener_) listener_({gone});
  });
}

Status MemoryTier::Wipe(const SpaceId& space) {
  std::erase_if(records_->by_name, [&](const auto& entry) { return entry.second.header.space == space; });
  return {};
}

// A cursor is the number of the last record listed.
std::vector<RecordHeader> MemoryTier::List(uint64_t& cursor, size_t limit, const SpaceId* space) {
  std::map<uint64_t, const RecordHeader*> later;
  for (const auto& [name, record] : records_->by_name) {
    if (record.number > cursor && (space == nullptr || record.header.space == *space))
      later.emplace(record.number, &record.header);
  }
  std::vector<RecordHeader> headers;
  for (const auto& [number, header] : later) {
    if (headers.size() == limit) return headers;
    headers.push_back(*header);
    cursor = number;
  }
  cursor = 0;
  return headers;
}

}  // namespace larder
