// What is here no longer, for who listens. The index knows only half of a name; the rest is read from the
// frame before the segment goes, one page for a record, and only if somebody listens.
#include <utility>

#include "store/disk/core.h"

namespace larder {

void DiskCore::ListenForRemovals(RemovalListener listener) {
  std::lock_guard listening(listener_mutex_);
  listener_ = std::move(listener);
  std::lock_guard lock(mutex_);
  listened_ = listener_ != nullptr;
  departed_.clear();
  named_.clear();
}

void DiskCore::NoteDeparture(uint32_t slot) {
  if (listened_) departed_.push_back({FoundAt(slot), index_.SpaceOf(slot)});
}

RemovedRecord DiskCore::NameOf(const Departed& departed, const DirectBuffer& page) const {
  const FoundRecord& record = departed.record;
  RemovedRecord removed{.name = std::nullopt, .space = departed.space};
  const auto got = record.segment->file->Read(record.place.page * kPage, page.first(kPage));
  if (!got || *got < kPage) return removed;
  const auto frame = DecodeFrame(page.first(kPage), store_);
  if (frame && KeyOf(frame->name) == record.key) removed.name = frame->name;
  return removed;
}

void DiskCore::NameDeparted() {
  std::vector<Departed> departed;
  {
    std::lock_guard lock(mutex_);
    departed = std::exchange(departed_, {});
  }
  if (departed.empty()) return;
  const DirectBuffer page(kPage);
  std::vector<RemovedRecord> named;
  for (const Departed& one : departed) named.push_back(NameOf(one, page));
  std::lock_guard lock(mutex_);
  if (listened_) named_.insert(named_.end(), named.begin(), named.end());
}

std::vector<RemovedRecord> DiskCore::TakeDeparted() {
  NameDeparted();
  std::lock_guard lock(mutex_);
  return std::exchange(named_, {});
}

void DiskCore::TellDeparted(std::vector<RemovedRecord> departed) {
  if (departed.empty()) return;
  std::lock_guard lock(listener_mutex_);
  if (listener_) listener_(std::move(departed));
}

}  // namespace larder
