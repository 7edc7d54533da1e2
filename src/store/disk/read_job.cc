#include "store/disk/read_job.h"

#include <algorithm>
#include <numeric>
#include <utility>

namespace larder {

ReadJob::ReadJob(DiskCore& core, int64_t deadline_ns, ReadPriority priority)
    : deadline_ns(deadline_ns), priority(priority), core_(core), started_ns_(core.clock->NowNs()) {
  if (priority == ReadPriority::kRequest) core_.RequestReadStarted();
}

ReadJob::~ReadJob() {
  if (priority == ReadPriority::kRequest) core_.RequestReadEnded();
}

void ReadJob::Begin() {
  for (Item& item : items) {
    if (item.found.segment == nullptr) {
      item.status = Fail(ErrorKind::kNotFound, "record {} is not on the disk", item.read.name.ShortHex());
    } else {
      ++heads_left;
    }
  }
  if (heads_left == 0) Plan();
}

// --- heads

Status ReadJob::Accept(size_t index) {
  Item& item = items[index];
  auto head = core_.DecodeHead(item.found, item.head_bytes.first(item.found.place.head_pages * kPage));
  if (!head) {
    core_.GiveUp(item.found, head.error());
    return std::unexpected(head.error());
  }
  item.head = *std::move(head);
  item.known = true;
  if (children) return {};
  const RecordHeader& header = item.head.header;
  if (header.name != item.read.name) {
    return Fail(ErrorKind::kNotFound, "record {} is not on the disk", item.read.name.ShortHex());
  }
  if (get.accept) LARDER_TRY(get.accept(index, header));
  if (header.payload_bytes() != item.read.destination.size()) {
    return Fail(ErrorKind::kInvalid, "record {} has {} bytes and its destination {}", header.name.ShortHex(),
                header.payload_bytes(), item.read.destination.size());
  }
  return {};
}

void ReadJob::HeadArrived(size_t index, const Status& read) {
  --heads_left;
  if (closed_) return;
  Item& item = items[index];
  item.status = read ? Accept(index) : read;
  if (!read && read.error().kind == ErrorKind::kCorrupt) core_.GiveUp(item.found, read.error());
  item.head_bytes.Release();
  if (heads_left == 0) Plan();
}

// --- groups

void ReadJob::PlanItem(size_t index) {
  Item& item = items[index];
  const auto& groups = item.head.groups;
  const uint64_t payload = (item.found.place.page + uint64_t{item.found.place.head_pages}) * kPage;
  for (uint32_t g = item.read.first_group; g < item.end_group;) {
    Piece piece{.item = index, .first_group = g, .end_group = g + 1, .offset = payload + groups[g].offset};
    uint64_t bytes = groups[g].bytes;
    // Whole pages in a row are one read.
    while (piece.end_group < item.end_group && bytes % kPage == 0 &&
           groups[piece.end_group].offset == groups[g].offset + bytes &&
           bytes + groups[piece.end_group].bytes <= kReadTogether) {
      bytes += groups[piece.end_group++].bytes;
    }
    const auto whole = item.read.destination.subspan(item.offsets[g], bytes);
    for (uint64_t at = 0; at < bytes; at += kReadPiece) {
      piece.to = whole.subspan(at, std::min(kReadPiece, bytes - at));
      pieces.push_back(piece);
      piece.offset += kReadPiece;
      for (uint32_t part = piece.first_group; part < piece.end_group; ++part) {
        ++groups_[part - first_group_].left[index];
      }
    }
    g = piece.end_group;
  }
}

void ReadJob::Plan() {
  planned_ = true;
  if (children || answer) {
    ended_ = true;
    return;
  }
  first_group_ = kMaxRecordGroups;
  for (Item& item : items) {
    const uint32_t first = item.read.first_group, asked = item.read.end_group;
    first_group_ = std::min(first_group_, first);
    item.end_group = item.known ? std::min<uint32_t>(asked, static_cast<uint32_t>(item.head.groups.size()))
                     : asked < kMaxRecordGroups ? asked
                                                : first + 1;
    end_group_ = std::max(end_group_, item.end_group);
  }
  next_report_ = first_group_;
  if (end_group_ > first_group_) groups_.resize(end_group_ - first_group_);
  for (Group& group : groups_) {
    group.left.resize(items.size());
    group.statuses.resize(items.size());
  }
  for (size_t i = 0; i < items.size(); ++i) {
    Item& item = items[i];
    if (!item.status) {
      for (Group& group : groups_) group.statuses[i] = item.status;
      continue;
    }
    uint64_t offset = 0;
    for (const StoredGroup& group : item.head.groups) {
      item.offsets.push_back(offset);
      offset += group.bytes;
    }
    PlanItem(i);
    // Groups without bytes have arrived.
    for (uint32_t g = item.read.first_group; g < item.end_group; ++g) {
      Group& group = groups_[g - first_group_];
      if (group.left[i] == 0) GroupArrived(item, g, group.statuses[i]);
    }
  }
  for (Group& group : groups_) {
    group.items_left = static_cast<size_t>(
        std::count_if(group.left.begin(), group.left.end(), [](uint32_t n) { return n > 0; }));
  }
  std::stable_sort(pieces.begin(), pieces.end(),
                   [](const Piece& a, const Piece& b) { return a.first_group < b.first_group; });
  Report();
}

void ReadJob::GroupArrived(Item& item, uint32_t group, Status& status) {
  if (!status) return;
  const uint64_t bytes = item.head.groups[group].bytes;
  status =
      DecodeGroup(item.head, group, item.read.destination.subspan(item.offsets[group], bytes), core_.sealer);
  if (!status) {
    core_.GiveUp(item.found, status.error());
    return;
  }
  core_.Count([&](TierStats& stats, DiskCounters&) { stats.read_bytes += bytes; });
}

void ReadJob::PieceArrived(size_t index, const Status& read) {
  if (closed_) return;
  const Piece& piece = pieces[index];
  if (!read && read.error().kind == ErrorKind::kCorrupt) core_.GiveUp(items[piece.item].found, read.error());
  for (uint32_t g = piece.first_group; g < piece.end_group; ++g) {
    Group& group = groups_[g - first_group_];
    Status& status = group.statuses[piece.item];
    if (!read && status) status = read;
    if (--group.left[piece.item] > 0) continue;
    GroupArrived(items[piece.item], g, status);
    --group.items_left;
  }
  Report();
}

void ReadJob::Report() {
  while (next_report_ < end_group_ && groups_[next_report_ - first_group_].items_left == 0) {
    if (get.group_done) get.group_done(next_report_, groups_[next_report_ - first_group_].statuses);
    ++next_report_;
  }
  if (next_report_ >= end_group_) ended_ = true;
}

size_t ReadJob::AnswersToWaitFor() const {
  if (closed_ || ended_) return in_flight;
  if (!planned_) return heads_left;
  const std::vector<uint32_t>& left = groups_[next_report_ - first_group_].left;
  const size_t pieces_left = std::accumulate(left.begin(), left.end(), size_t{0});
  return pieces_left - pieces_left / 4;
}

void ReadJob::Close(const Error& why) {
  if (closed_ || ended_) return;
  uint64_t missing = 0;
  outcome_ = std::unexpected(why);
  if (!planned_) {
    for (Item& item : items) {
      // Also items that were accepted: none of their groups will come.
      if (item.status) item.status = outcome_;
    }
    missing = items.size();
    Plan();
  }
  closed_ = true;
  for (Group& group : groups_) {
    for (size_t i = 0; i < items.size(); ++i) {
      if (group.left[i] == 0) continue;
      group.statuses[i] = outcome_;
      ++missing;
    }
    group.items_left = 0;
  }
  if (why.kind == ErrorKind::kSlow) {
    core_.Count([&](TierStats& stats, DiskCounters&) { stats.slow_reads += missing; });
    if (missing > 0)
      core_.Complain(DiskCore::Trouble::kLateReads, fmt::format("{} parts were not read in time", missing));
  }
  if (children || answer) {
    Answer();
  } else {
    Report();
  }
  ended_ = true;
}

// To a question without a destination; once.
void ReadJob::Answer() {
  if (std::exchange(answered_, true)) return;
  if (answer) return answer(outcome_ ? Result<bool>(true) : Result<bool>(std::unexpected(outcome_.error())));
  if (!outcome_) return children(std::unexpected(outcome_.error()));
  std::vector<RecordHeader> headers;
  for (Item& item : items) {
    if (item.status && item.known && item.head.header.parent == parent)
      headers.push_back(std::move(item.head.header));
  }
  children(std::move(headers));
}

void ReadJob::Finish() {
  if (answer || children) {
    Answer();
  } else {
    uint64_t whole = 0;
    for (size_t i = 0; i < items.size(); ++i) {
      whole += items[i].status && std::all_of(groups_.begin(), groups_.end(), [i](const Group& group) {
                 return group.statuses[i].has_value();
               });
    }
    const auto took = static_cast<uint64_t>(std::max<int64_t>(core_.clock->NowNs() - started_ns_, 0));
    core_.Count([&](TierStats& stats, DiskCounters&) {
      stats.read_records += whole;
      stats.read_ns += took * whole;
    });
    if (get.done) get.done();
  }
  // Segments are let go before anybody looks whether they are free.
  items.clear();
}

}  // namespace larder
