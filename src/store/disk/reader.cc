#include "store/disk/reader.h"

#include <algorithm>

namespace larder {

DiskReader::DiskReader(DiskCore& core, std::unique_ptr<IoQueue> queue, std::function<void()> freed)
    : core_(core), queue_(std::move(queue)), freed_(std::move(freed)) {
  operations_.resize(std::min(kDepth, queue_->depth()));
  for (size_t i = operations_.size(); i-- > 0;) free_operations_.push_back(i);
  staging_.resize(kStagingBuffers);
  for (size_t i = staging_.size(); i-- > 0;) free_staging_.push_back(i);
  if (!core_.options.stepped) thread_ = std::thread([this] { Loop(); });
}

DiskReader::~DiskReader() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  if (core_.options.stepped) {
    Loop();
  } else {
    queue_->Wake();
    thread_.join();
  }
}

void DiskReader::Post(std::unique_ptr<ReadJob> job) {
  {
    std::lock_guard lock(mutex_);
    inbox_.push_back(std::move(job));
  }
  if (!core_.options.stepped) queue_->Wake();
}

void DiskReader::Find(std::vector<bool> here, int64_t deadline_ns, Tier::FindDone done) {
  auto job = std::make_unique<ReadJob>(core_, deadline_ns, ReadPriority::kPrefetch);
  job->answer = [here = std::move(here), done = std::move(done)](Result<bool> ok) mutable {
    if (ok) {
      done(std::move(here));
    } else {
      done(std::unexpected(ok.error()));
    }
  };
  Post(std::move(job));
}

void DiskReader::Run(std::function<void()> work) {
  auto job = std::make_unique<ReadJob>(core_, INT64_MAX, ReadPriority::kPrefetch);
  job->answer = [work = std::move(work)](const Result<bool>&) { work(); };
  Post(std::move(job));
}

void DiskReader::Children(const Digest& parent, size_t limit, int64_t deadline_ns, Tier::ChildrenDone done) {
  auto job = std::make_unique<ReadJob>(core_, deadline_ns, ReadPriority::kRequest);
  job->children = std::move(done);
  job->parent = parent;
  for (FoundRecord& found : core_.LocateChildren(parent, limit)) {
    job->items.emplace_back().found = std::move(found);
  }
  Post(std::move(job));
}

uint64_t DiskReader::Get(std::vector<RecordRead> items, int64_t deadline_ns, ReadPriority priority,
                         GetCallbacks callbacks) {
  auto job = std::make_unique<ReadJob>(core_, deadline_ns, priority);
  job->get = std::move(callbacks);
  std::vector<Digest> names;
  for (const RecordRead& item : items) names.push_back(item.name);
  std::vector<FoundRecord> found = core_.Locate(names);
  for (size_t i = 0; i < items.size(); ++i) {
    ReadJob::Item& item = job->items.emplace_back();
    item.read = items[i];
    item.read.end_group = std::min<uint32_t>(item.read.end_group, kMaxRecordGroups);
    item.read.first_group = std::min(item.read.first_group, item.read.end_group);
    item.found = std::move(found[i]);
  }
  uint64_t ticket;
  {
    std::lock_guard lock(mutex_);
    ticket = job->ticket = ++last_ticket_;
  }
  Post(std::move(job));
  return ticket;
}

void DiskReader::Cancel(uint64_t ticket) {
  {
    std::lock_guard lock(mutex_);
    cancels_.push_back(ticket);
  }
  if (!core_.options.stepped) queue_->Wake();
}

// Whether to go on.
bool DiskReader::TakeInbox() {
  std::vector<std::unique_ptr<ReadJob>> inbox;
  std::vector<uint64_t> cancels;
  {
    std::lock_guard lock(mutex_);
    inbox.swap(inbox_);
    cancels.swap(cancels_);
    ending_ = stopping_;
  }
  for (auto& job : inbox) {
    // A deadline that is over counts before anything is read.
    if (job->deadline_ns > core_.clock->NowNs()) job->Begin();
    jobs_.push_back(std::move(job));
  }
  for (const uint64_t ticket : cancels) {
    for (const auto& job : jobs_) {
      if (job->ticket == ticket) job->Close({ErrorKind::kCancelled, "the read was cancelled"});
    }
  }
  return !ending_ || !jobs_.empty();
}

void DiskReader::Expire() {
  const int64_t now = core_.clock->NowNs();
  for (const auto& job : jobs_) {
    if (job->deadline_ns <= now) job->Close({ErrorKind::kSlow, "the disk did not answer in time"});
    if (ending_) job->Close({ErrorKind::kCancelled, "the disk tier is closing"});
  }
}

int64_t DiskReader::TimeoutNs() {
  const int64_t now = core_.clock->NowNs();
  int64_t least = -1;
  for (const auto& job : jobs_) {
    if (job->closed() || job->deadline_ns == INT64_MAX) continue;
    const int64_t left = std::max<int64_t>(job->deadline_ns - now, 1);
    least = least < 0 ? left : std::min(least, left);
  }
  return least;
}

size_t DiskReader::AnswersToWaitFor() const {
  size_t least = IoQueue::kMostAtLeast;
  bool more = false;
  for (const auto& job : jobs_) {
    if (job->in_flight > 0) least = std::min(least, job->AnswersToWaitFor());
    more |= job->has_more();
  }
  const size_t in_flight = operations_.size() - free_operations_.size();
  return std::max<size_t>(std::min(least, more ? in_flight / 2 : in_flight), 1);
}

// --- issuing

void DiskReader::AddRead(File* file, uint64_t offset, Operation operation, std::vector<IoRead>& reads) {
  const size_t number = free_operations_.back();
  free_operations_.pop_back();
  ++operation.job->in_flight;
  reads.push_back({.file = file, .offset = offset, .to = operation.to, .token = number});
  operations_[number] = operation;
}

bool DiskReader::IssuePiece(ReadJob& job, std::vector<IoRead>& reads) {
  const ReadJob::Piece& piece = job.pieces[job.next_piece];
  File* file = job.items[piece.item].found.segment->file.get();
  Operation operation{.job = &job, .piece = job.next_piece, .to = piece.to};
  if (file->direct() && (!IsDirectAligned(piece.to.data()) || piece.to.size() % kPage != 0)) {
    if (free_staging_.empty()) return false;
    operation.staging = free_staging_.back();
    free_staging_.pop_back();
    staging_[operation.staging].Reserve(kReadPiece);
    operation.to = staging_[operation.staging].first(PagesFor(piece.to.size()) * kPage);
  }
  AddRead(file, piece.offset, operation, reads);
  ++job.next_piece;
  return true;
}

void DiskReader::IssueJob(ReadJob& job, std::vector<IoRead>& reads) {
  if (job.closed()) return;
  for (; job.next_head < job.items.size() && !free_operations_.empty(); ++job.next_head) {
    ReadJob::Item& item = job.items[job.next_head];
    if (item.found.segment == nullptr) continue;
    const uint64_t bytes = item.found.place.head_pages * kPage;
    item.head_bytes.Reserve(bytes);
    AddRead(item.found.segment->file.get(), item.found.place.page * kPage,
            {.job = &job, .head = job.next_head, .to = item.head_bytes.first(bytes)}, reads);
  }
  while (job.heads_known() && job.next_piece < job.pieces.size() && !free_operations_.empty()) {
    if (!IssuePiece(job, reads)) break;
  }
}

void DiskReader::Issue() {
  std::vector<IoRead> reads;
  bool waited_for = false;
  for (const auto& job : jobs_) {
    if (job->priority != ReadPriority::kRequest) continue;
    IssueJob(*job, reads);
    // One that is over already has nothing whose arrival would bring the prefetches their turn.
    waited_for |= !job->closed() && !job->finished();
  }
  for (const auto& job : jobs_) {
    if (job->priority == ReadPriority::kPrefetch && !waited_for) IssueJob(*job, reads);
  }
  if (reads.empty()) return;
  queue_->Start(reads);
  core_.Count([&](TierStats&, DiskCounters& counters) {
    counters.reads += reads.size();
    ++counters.read_batches;
  });
}

// --- answers

// A short read is tried once more, in the old way: the end of the file, or an interruption.
Status DiskReader::Complete(const Operation& operation, File* file, uint64_t offset, uint64_t needed,
                            IoDone& done) {
  if (done.bytes && *done.bytes < needed) done.bytes = file->Read(offset, operation.to);
  if (done.bytes && *done.bytes < needed)
    return Fail(ErrorKind::kCorrupt, "the segment ends before the record");
  if (!done.bytes) {
    core_.Count([](TierStats& stats, DiskCounters&) { ++stats.failures; });
    core_.Complain(DiskCore::Trouble::kReads,
                   fmt::format("a read failed and finds nothing: {}", done.bytes.error().message));
    return std::unexpected(done.bytes.error());
  }
  return {};
}

void DiskReader::Handle(IoDone& done) {
  const Operation operation = operations_[done.token];
  free_operations_.push_back(done.token);
  ReadJob& job = *operation.job;
  --job.in_flight;
  if (operation.head != kNone) {
    ReadJob::Item& item = job.items[operation.head];
    const uint64_t offset = item.found.place.page * kPage;
    const Status read =
        job.closed() ? Status()
                     : Complete(operation, item.found.segment->file.get(), offset, operation.to.size(), done);
    job.HeadArrived(operation.head, read);
    return;
  }
  const ReadJob::Piece& piece = job.pieces[operation.piece];
  if (!job.closed()) {
    const FoundRecord& found = job.items[piece.item].found;
    const Status read = Complete(operation, found.segment->file.get(), piece.offset, piece.to.size(), done);
    if (read && operation.staging != kNone) {
      std::copy_n(operation.to.begin(), piece.to.size(), piece.to.begin());
    }
    job.PieceArrived(operation.piece, read);
  }
  if (operation.staging != kNone) free_staging_.push_back(operation.staging);
}

void DiskReader::DropFinished() {
  bool any = false;
  for (auto& job : jobs_) {
    if (!job->finished()) continue;
    job->Finish();
    job.reset();
    any = true;
  }
  if (!any) return;
  std::erase(jobs_, nullptr);
  if (core_.ReapDue()) freed_();
}

void DiskReader::Round(int64_t timeout_ns) {
  std::vector<IoDone> done;
  queue_->Wait(timeout_ns, AnswersToWaitFor(), done);
  // Before the answers: what arrived after the deadline is late.
  Expire();
  for (IoDone& one : done) Handle(one);
  core_.Count([&](TierStats&, DiskCounters& counters) { counters.read_calls = queue_->system_calls(); });
  DropFinished();
}

void DiskReader::Loop() {
  while (TakeInbox()) {
    Expire();
    Issue();
    DropFinished();
    if (ending_ && jobs_.empty()) continue;
    Round(core_.options.stepped ? 0 : TimeoutNs());
  }
}

bool DiskReader::Step() {
  TakeInbox();
  if (jobs_.empty()) return false;
  Expire();
  Issue();
  DropFinished();
  if (!jobs_.empty()) Round(0);
  return true;
}

}  // namespace larder
