#include "larder/throttled_tier.h"

#include <algorithm>
#include <chrono>
#include <utility>

namespace larder {

WorkQueue::~WorkQueue() {
  {
    const std::lock_guard lock(mutex_);
    stopped_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void WorkQueue::Post(std::function<void()> work) {
  {
    const std::lock_guard lock(mutex_);
    queue_.push_back(std::move(work));
  }
  changed_.notify_all();
}

void WorkQueue::Run() {
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [&] { return stopped_ || !queue_.empty(); });
    if (queue_.empty()) return;
    const auto work = std::move(queue_.front());
    queue_.pop_front();
    working_ = true;
    lock.unlock();
    work();
    lock.lock();
    working_ = false;
    changed_.notify_all();
  }
}

void WorkQueue::Wait() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return queue_.empty() && !working_; });
}

void ThrottledTier::Flush() {
  answers_.Wait();
  reads_.Wait();
}

void ThrottledTier::Find(std::vector<Digest> names, int64_t, FindDone done) {
  answers_.Post([this, names = std::move(names), done = std::move(done)] {
    std::vector<bool> here;
    {
      const std::lock_guard lock(mutex_);
      for (const Digest& name : names) here.push_back(records_.contains(name));
    }
    done(std::move(here));
  });
}

void ThrottledTier::Children(const Digest& parent, size_t limit, int64_t, ChildrenDone done) {
  answers_.Post([this, parent, limit, done = std::move(done)] {
    std::vector<RecordHeader> headers;
    {
      const std::lock_guard lock(mutex_);
      for (const auto& [name, record] : records_) {
        if (record->header.parent == parent && headers.size() < limit) headers.push_back(record->header);
      }
    }
    done(std::move(headers));
  });
}

uint64_t ThrottledTier::Get(std::vector<RecordRead> items, int64_t, ReadPriority, GetCallbacks callbacks) {
  reads_.Post([this, items = std::move(items), callbacks = std::move(callbacks)] { Read(items, callbacks); });
  return 1;
}

void ThrottledTier::Read(const std::vector<RecordRead>& items, const GetCallbacks& callbacks) {
  std::vector<std::shared_ptr<const Record>> records;
  std::vector<Status> status(items.size());
  uint32_t first = kMaxRecordGroups, end = 1;
  for (size_t i = 0; i < items.size(); ++i) {
    {
      const std::lock_guard lock(mutex_);
      const auto found = records_.find(items[i].name);
      records.push_back(found == records_.end() ? nullptr : found->second);
    }
    if (records[i] == nullptr) {
      status[i] = Fail(ErrorKind::kNotFound, "no record {}", items[i].name.ShortHex());
    } else {
      status[i] = callbacks.accept(i, records[i]->header);
      end = std::max(end, std::min(items[i].end_group, static_cast<uint32_t>(records[i]->groups.size())));
    }
    first = std::min(first, items[i].first_group);
  }
  const auto begin = std::chrono::steady_clock::now();
  double bytes = 0;
  for (uint32_t group = first; group < end; ++group) {
    for (size_t i = 0; i < items.size(); ++i) {
      if (!status[i] || group < items[i].first_group || group >= records[i]->groups.size()) continue;
      const auto& groups = records[i]->groups;
      size_t at = 0;
      for (uint32_t g = 0; g < group; ++g) at += groups[g].size();
      std::ranges::copy(groups[group], items[i].destination.begin() + static_cast<ptrdiff_t>(at));
      bytes += static_cast<double>(groups[group].size());
    }
    const double rate = rate_;
    if (rate > 0) std::this_thread::sleep_until(begin + std::chrono::duration<double>(bytes / rate));
    callbacks.group_done(group, status);
  }
  callbacks.done();
}

void ThrottledTier::Put(RecordHeader header, RecordPayload payload, std::function<void(Status)> done) {
  if (full_) {
    answers_.Post([done = std::move(done)] {
      if (done) done(Fail(ErrorKind::kExhausted, "the tier takes nothing more"));
    });
    return;
  }
  answers_.Post([this, header = std::move(header), payload = std::move(payload), done = std::move(done)] {
    const auto record = std::make_shared<Record>(header);
    for (const auto& group : payload.groups) record->groups.emplace_back(group.begin(), group.end());
    {
      const std::lock_guard lock(mutex_);
      records_.try_emplace(header.name, record);
    }
    if (done) done({});
  });
}

Status ThrottledTier::Remove(std::span<const Digest> names) {
  const std::lock_guard lock(mutex_);
  for (const Digest& name : names) records_.erase(name);
  return {};
}

Status ThrottledTier::Wipe(const SpaceId& space) {
  const std::lock_guard lock(mutex_);
  std::erase_if(records_, [&](const auto& entry) { return entry.second->header.space == space; });
  return {};
}

// All in one page.
std::vector<RecordHeader> ThrottledTier::List(uint64_t& cursor, size_t, const SpaceId* space) {
  const std::lock_guard lock(mutex_);
  std::vector<RecordHeader> headers;
  for (const auto& [name, record] : records_) {
    if (space == nullptr || record->header.space == *space) headers.push_back(record->header);
  }
  cursor = 0;
  return headers;
}

}  // namespace larder
