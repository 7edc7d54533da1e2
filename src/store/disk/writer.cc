#include "store/disk/writer.h"

#include <algorithm>
#include <chrono>

#include "base/log.h"

namespace larder {
namespace {

constexpr uint64_t kBatchBytes = 32 << 20;         // becomes valid together; so much does not wait
constexpr int64_t kCheckpointNs = 10'000'000'000;  // last uses are on disk after this, at the latest
constexpr uint64_t kKeptBuffer = 16 << 20;

Status GiveUp() { return Fail(ErrorKind::kExhausted, "its memory is wanted before it could be written"); }

}  // namespace

DiskWriter::DiskWriter(DiskCore& core) : core_(core), checkpoint_ns_(core.clock->NowNs()) {
  if (!core_.options.stepped) thread_ = std::thread([this] { Loop(); });
}

DiskWriter::~DiskWriter() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_one();
  if (thread_.joinable()) thread_.join();
  while (WriteBatch()) {
  }
  std::lock_guard lock(core_.write_mutex);
  (void)core_.Checkpoint();
  core_.SealActive();
  core_.Reap();
}

void DiskWriter::Put(RecordHeader header, RecordPayload payload, std::function<void(Status)> done) {
  Pending put{.header = std::move(header), .done = std::move(done)};
  for (const auto& group : payload.groups) put.bytes += group.size();
  put.born = core_.NextSequence();
  put.arrived_ns = core_.clock->NowNs();
  {
    std::lock_guard lock(mutex_);
    if (put.bytes > core_.options.pending_bytes - std::min(pending_bytes_, core_.options.pending_bytes)) {
      put.status = Fail(ErrorKind::kExhausted,
                        "{} bytes wait to be written already; the disk is too slow for more", pending_bytes_);
      put.bytes = 0;
    } else {
      put.payload = std::move(payload);
    }
    pending_bytes_ += put.bytes;
    if (pending_.empty()) poked_ = true;  // the thread waits for longer than this write may
    pending_.push_back(std::move(put));
  }
  wake_.notify_one();
}

void DiskWriter::Hurry() {
  {
    std::lock_guard lock(mutex_);
    if (pending_.empty()) return;
    hurried_ = true;
  }
  wake_.notify_one();
}

void DiskWriter::DropPending(const std::function<void(std::function<void()>)>& tell) {
  auto dropped = std::make_shared<std::deque<Pending>>();
  const uint64_t born = core_.NextSequence();
  {
    std::lock_guard lock(mutex_);
    dropped->swap(pending_);
    for (const Pending& put : *dropped) pending_bytes_ -= put.bytes;
    dropped_born_ = born;
  }
  if (dropped->empty()) return;
  core_.Count([&](TierStats& stats, DiskCounters&) { stats.dropped_writes += dropped->size(); });
  core_.Complain(DiskCore::Trouble::kWrites, "writes are dropped: memory is wanted before they are done");
  tell([dropped] {
    for (Pending& put : *dropped) {
      if (put.done) put.done(put.status ? GiveUp() : std::move(put.status));
    }
  });
}

bool DiskWriter::GivenUp(const Pending& put) {
  std::lock_guard lock(mutex_);
  return put.born <= dropped_born_;
}

void DiskWriter::Poke() {
  {
    std::lock_guard lock(mutex_);
    poked_ = true;
  }
  wake_.notify_one();
}

uint64_t DiskWriter::pending_bytes() const {
  std::lock_guard lock(mutex_);
  return pending_bytes_;
}

bool DiskWriter::Due() const {
  if (pending_.empty()) return false;
  if (stopping_ || hurried_ || flushing_ > 0 ||
      pending_bytes_ >= std::min(kBatchBytes, core_.options.pending_bytes / 2))
    return true;
  // A clock that went back does not keep a write waiting.
  const int64_t waited = core_.clock->NowNs() - pending_.front().arrived_ns;
  return waited < 0 || waited >= core_.options.write_delay_ms * 1'000'000;
}

int64_t DiskWriter::WaitNs() const {
  if (pending_.empty()) return kCheckpointNs / 2;
  const int64_t due = pending_.front().arrived_ns + core_.options.write_delay_ms * 1'000'000;
  return std::max<int64_t>(due - core_.clock->NowNs(), 1'000'000);
}

void DiskWriter::Loop() {
  for (;;) {
    {
      std::unique_lock lock(mutex_);
      wake_.wait_for(lock, std::chrono::nanoseconds(WaitNs()),
                     [this] { return stopping_ || poked_ || flushing_ > 0 || Due(); });
      poked_ = false;
      if (stopping_) return;
      busy_ = true;
    }
    while (WriteBatch()) {
    }
    while (Maintain()) {
      std::lock_guard lock(mutex_);
      if (stopping_ || Due()) break;
    }
    std::lock_guard lock(mutex_);
    busy_ = false;
    if (pending_.empty()) {
      flushing_ = 0;
      idle_.notify_all();
    }
  }
}

void DiskWriter::Flush() {
  if (core_.options.stepped) {
    {
      std::lock_guard lock(mutex_);
      ++flushing_;
    }
    while (WriteBatch()) {
    }
    std::lock_guard lock(mutex_);
    flushing_ = 0;
    return;
  }
  std::unique_lock lock(mutex_);
  ++flushing_;
  wake_.notify_one();
  idle_.wait(lock, [this] { return pending_.empty() && !busy_; });
}

// Also cleans, when nothing waits to be written.
bool DiskWriter::Maintain() {
  bool cleaned = false;
  std::vector<RemovedRecord> departed;
  {
    std::lock_guard lock(core_.write_mutex);
    const int64_t waited = core_.clock->NowNs() - checkpoint_ns_;
    if (core_.CheckpointDue() || waited < 0 || waited >= kCheckpointNs) {
      checkpoint_ns_ = core_.clock->NowNs();
      (void)core_.Checkpoint();
    }
    departed = core_.TakeDeparted();
    if (core_.ReapDue()) core_.Reap();
    cleaned = core_.Clean();
  }
  core_.TellDeparted(std::move(departed));
  return cleaned;
}

bool DiskWriter::Step() {
  const bool wrote = WriteBatch();
  return Maintain() || wrote;
}

// --- a batch

std::vector<DiskWriter::Pending> DiskWriter::TakeBatch() {
  std::vector<Pending> batch;
  uint64_t bytes = 0;
  std::lock_guard lock(mutex_);
  if (!Due()) return batch;
  while (!pending_.empty() && bytes < kBatchBytes) {
    bytes += pending_.front().bytes;
    batch.push_back(std::move(pending_.front()));
    pending_.pop_front();
  }
  if (pending_.empty()) hurried_ = false;
  return batch;
}

bool DiskWriter::WriteBatch() {
  std::vector<Pending> batch = TakeBatch();
  if (batch.empty()) return false;
  std::vector<NewRecord> records;
  std::vector<RemovedRecord> departed;
  {
    std::lock_guard lock(core_.write_mutex);
    WriteRecords(batch, records);
    // Before the batch becomes valid, and told before it is: so a name that went and comes back is told in
    // that order, and one that comes and goes in the other.
    departed = core_.TakeDeparted();
    RecheckKnown(batch);
    core_.Commit(records);
  }
  core_.TellDeparted(std::move(departed));
  Finish(batch, records);
  return true;
}

void DiskWriter::WriteRecords(std::vector<Pending>& batch, std::vector<NewRecord>& records) {
  Written written;
  for (Pending& put : batch) {
    if (put.status) put.status = GivenUp(put) ? GiveUp() : WriteRecord(put, records, written);
    // Its bytes are on their way; the memory is the caller's again.
    put.payload = {};
  }
  if (buffer_.size() > kKeptBuffer) buffer_.Release();
}

Status DiskWriter::WriteRecord(Pending& put, std::vector<NewRecord>& records, Written& written) {
  const RecordHeader& header = put.header;
  const RecordKey key = KeyOf(header.name);
  if (core_.Removed(key, header.space, put.born)) {
    return Fail(ErrorKind::kCancelled, "record {} was removed before it was written", header.name.ShortHex());
  }
  LARDER_ASSIGN(RecordHead head, MakeRecordHead(header, put.payload, kPage, core_.sealer));
  auto known = core_.Compare(key, head.payload_digest);
  if (const auto twin = written.find(key); twin != written.end()) {
    put.record = twin->second;
    known = records[twin->second].entry.digest == head.payload_digest ? DiskCore::Known::kSame
                                                                      : DiskCore::Known::kOther;
  }
  if (known == DiskCore::Known::kOther) {
    put.record = kNone;
    LogError("disk store: record {} is here with another payload; the names or the computation are wrong",
             header.name.ShortHex());
    core_.Count([](TierStats&, DiskCounters& counters) { ++counters.conflicts; });
    return Fail(ErrorKind::kConflict, "record {} is here with another payload", header.name.ShortHex());
  }
  if (known == DiskCore::Known::kSame) return {};
  NewRecord record;
  record.entry = {.type = LogEntryType::kPut,
                  .sealed = head.sealed,
                  .key = key,
                  .parent = ParentKeyOf(header.parent),
                  .digest = head.payload_digest,
                  .born = put.born,
                  .used = put.born,
                  .space = header.space};
  record.status = Encode(head, put, record);
  if (record.segment == nullptr) return record.status;
  put.record = records.size();
  if (record.status) written[key] = put.record;
  records.push_back(std::move(record));
  return {};
}

// Takes room and writes: frame and head on pages of their own, then the groups, each on pages of its own.
Status DiskWriter::Encode(RecordHead& head, const Pending& put, NewRecord& record) {
  std::vector<std::byte> bytes;
  LARDER_TRY(EncodeRecordHead(head, core_.sealer, bytes));  // for its length
  const uint64_t head_pages = PagesFor(kFrameBytes + bytes.size());
  const uint64_t payload_at = head_pages * kPage;
  const uint64_t total = payload_at + std::max(PayloadAreaBytes(head, kPage), kPage);
  buffer_.Reserve(total);
  const auto out = buffer_.first(total);
  uint64_t end = payload_at;
  for (size_t g = 0; g < head.groups.size(); ++g) {
    const uint64_t begin = payload_at + head.groups[g].offset;
    std::fill(out.begin() + static_cast<ptrdiff_t>(end), out.begin() + static_cast<ptrdiff_t>(begin),
              std::byte{});
    end = begin + head.groups[g].bytes;
    LARDER_TRY(
        EncodeGroup(head, g, put.payload.groups[g], out.subspan(begin, head.groups[g].bytes), core_.sealer));
  }
  std::fill(out.begin() + static_cast<ptrdiff_t>(end), out.end(), std::byte{});
  if (head.sealed) {
    bytes.clear();
    LARDER_TRY(EncodeRecordHead(head, core_.sealer, bytes));
  }
  const auto pages = static_cast<uint32_t>(PagesFor(total));
  LARDER_ASSIGN(const DiskCore::Room room, core_.TakeRoom(pages, false));
  record.segment = room.segment;
  record.entry.place = {room.segment->number, room.page, pages, static_cast<uint8_t>(head_pages)};
  Frame frame{.place = record.entry.place,
              .head_bytes = static_cast<uint32_t>(bytes.size()),
              .born = record.entry.born,
              .payload_digest = record.entry.digest,
              .sealed = head.sealed,
              .name = put.header.name,
              .parent = put.header.parent,
              .space = put.header.space};
  core_.EncodeFrameFor(frame, out);
  std::copy(bytes.begin(), bytes.end(), out.begin() + kFrameBytes);
  std::fill(out.begin() + static_cast<ptrdiff_t>(kFrameBytes + bytes.size()),
            out.begin() + static_cast<ptrdiff_t>(payload_at), std::byte{});
  return core_.WriteTo(room.segment, uint64_t{room.page} * kPage, out);
}

// What was here already may have been evicted for a later record of its batch.
void DiskWriter::RecheckKnown(std::vector<Pending>& batch) {
  for (Pending& put : batch) {
    if (!put.status || put.record != kNone) continue;
    if (core_.Compare(KeyOf(put.header.name), 0) != DiskCore::Known::kNew) continue;
    put.status = Fail(ErrorKind::kExhausted, "record {} was here and had to go", put.header.name.ShortHex());
  }
}

void DiskWriter::Finish(std::vector<Pending>& batch, const std::vector<NewRecord>& records) {
  const int64_t now = core_.clock->NowNs();
  uint64_t bytes = 0;
  for (Pending& put : batch) {
    bytes += put.bytes;
    if (put.status && put.record != kNone) put.status = records[put.record].status;
  }
  core_.Count([&](TierStats& stats, DiskCounters&) {
    for (const Pending& put : batch) {
      const bool conflict = !put.status && put.status.error().kind == ErrorKind::kConflict;
      if (!put.status && !conflict) ++stats.dropped_writes;
      if (!put.status && put.status.error().kind == ErrorKind::kIo) ++stats.failures;
      if (put.status) stats.write_ns += static_cast<uint64_t>(std::max<int64_t>(now - put.arrived_ns, 0));
    }
    for (const NewRecord& record : records) {
      if (!record.status) continue;
      ++stats.write_records;
      stats.write_bytes += record.entry.place.pages * kPage;
    }
  });
  for (const Pending& put : batch) {
    const ErrorKind why = put.status ? ErrorKind::kCancelled : put.status.error().kind;
    if (why == ErrorKind::kConflict || why == ErrorKind::kCancelled) continue;
    core_.Complain(DiskCore::Trouble::kWrites,
                   fmt::format("writes are dropped: {}", put.status.error().message));
  }
  {
    std::lock_guard lock(mutex_);
    pending_bytes_ -= bytes;
  }
  for (Pending& put : batch) {
    if (put.done) put.done(std::move(put.status));
  }
}

}  // namespace larder
