#include "capi/stacked_get.h"

#include <algorithm>
#include <numeric>
#include <utility>

namespace larder {
namespace {

// A late or cancelled read is not made sooner by asking further down.
bool MayBeBelow(const Error& error) {
  return error.kind != ErrorKind::kSlow && error.kind != ErrorKind::kCancelled;
}

}  // namespace

StackedGet::StackedGet(Plan plan)
    : plan_(std::move(plan)), pass_of_(plan_.items.size()), accepted_(plan_.items.size()) {
  for (const RecordRead& item : plan_.items) {
    first_ = std::min(first_, item.first_group);
    ends_.push_back(item.end_group < kMaxRecordGroups ? item.end_group : item.first_group + 1);
  }
  next_ = first_;
}

void StackedGet::Start() {
  std::vector<size_t> all(plan_.items.size());
  std::iota(all.begin(), all.end(), size_t{0});
  const std::lock_guard lock(mutex_);
  StartPass(0, std::move(all));
}

void StackedGet::Cancel() {
  const std::lock_guard lock(mutex_);
  cancelled_ = true;
  for (const Pass& pass : passes_) {
    if (!pass.ended) plan_.tiers[pass.tier]->Cancel(pass.ticket);
  }
}

void StackedGet::StartPass(size_t tier, std::vector<size_t> items) {
  const size_t number = passes_.size();
  std::vector<RecordRead> reads;
  for (const size_t item : items) {
    pass_of_[item] = number;
    reads.push_back(plan_.items[item]);
  }
  passes_.push_back({.tier = tier, .items = items});
  GetCallbacks callbacks;
  callbacks.accept = [self = shared_from_this(), items = std::move(items)](
                         size_t i, const RecordHeader& header) { return self->OnAccept(items[i], header); };
  callbacks.group_done = [self = shared_from_this(), number](uint32_t group,
                                                             std::span<const Status> statuses) {
    self->OnGroup(number, group, statuses);
  };
  callbacks.done = [self = shared_from_this(), number] { self->OnDone(number); };
  Pass& pass = passes_.back();
  pass.ticket =
      plan_.tiers[tier]->Get(std::move(reads), plan_.deadline_ns, plan_.priority, std::move(callbacks));
  if (cancelled_) plan_.tiers[tier]->Cancel(pass.ticket);
}

Status StackedGet::OnAccept(size_t item, const RecordHeader& header) {
  const std::lock_guard lock(mutex_);
  accepted_[item] = 1;
  ends_[item] = std::min(plan_.items[item].end_group, static_cast<uint32_t>(header.group_bytes.size()));
  return plan_.callbacks.accept ? plan_.callbacks.accept(item, header) : Status();
}

std::vector<Status>& StackedGet::StatusesOf(uint32_t group) {
  const size_t index = group - first_;
  if (statuses_.size() <= index) statuses_.resize(index + 1);
  if (statuses_[index].empty()) statuses_[index].resize(plan_.items.size());
  return statuses_[index];
}

void StackedGet::Note(size_t pass, uint32_t group, std::span<const Status> statuses) {
  const size_t next_tier = passes_[pass].tier + 1;
  std::vector<size_t> below;
  for (size_t i = 0; i < statuses.size(); ++i) {
    const size_t item = passes_[pass].items[i];
    const RecordRead& read = plan_.items[item];
    if (pass_of_[item] != pass || group < read.first_group || group >= read.end_group) continue;
    if (next_tier < plan_.tiers.size() && !accepted_[item] && !statuses[i] &&
        MayBeBelow(statuses[i].error())) {
      below.push_back(item);
    } else {
      StatusesOf(group)[item] = statuses[i];
    }
  }
  passes_[pass].next = group + 1;
  if (!below.empty()) StartPass(next_tier, std::move(below));
}

void StackedGet::OnGroup(size_t pass, uint32_t group, std::span<const Status> statuses) {
  const std::lock_guard lock(mutex_);
  Note(pass, group, statuses);
  Report();
}

// Up to the first group that some tier still works on.
void StackedGet::Report() {
  for (;; ++next_) {
    bool any = false;
    for (const Pass& pass : passes_) {
      if (pass.next <= next_ && !pass.ended) return;
      any |= pass.next > next_;
    }
    if (!any) return;
    std::vector<Status>& statuses = StatusesOf(next_);
    const bool told = next_ < std::ranges::max(ends_);
    if (told && plan_.callbacks.group_done) plan_.callbacks.group_done(next_, statuses);
    statuses = {};
  }
}

void StackedGet::OnDone(size_t pass) {
  {
    const std::lock_guard lock(mutex_);
    passes_[pass].ended = true;
    Report();
    if (!std::ranges::all_of(passes_, &Pass::ended)) return;
  }
  if (plan_.callbacks.done) plan_.callbacks.done();
}

}  // namespace larder
