#include "store/transfer.h"

#include <condition_variable>
#include <future>
#include <memory>
#include <mutex>
#include <span>
#include <utility>
#include <vector>

namespace larder {
namespace {

constexpr uint64_t kTogetherBytes = 32 << 20;  // read or written at once
constexpr size_t kListed = 256;

// The parts of a payload that lie one after another.
std::vector<std::span<const std::byte>> GroupsOf(const RecordHeader& header,
                                                 std::span<const std::byte> payload) {
  std::vector<std::span<const std::byte>> groups;
  for (const uint64_t bytes : header.group_bytes) {
    groups.push_back(payload.first(bytes));
    payload = payload.subspan(bytes);
  }
  return groups;
}

// Records that are read together.
struct ReadBatch {
  std::vector<RecordHeader> headers;
  std::vector<std::vector<std::byte>> payloads;
  uint64_t bytes = 0;
};

// Why each of them could not be read, or ok.
std::vector<Status> Read(Tier& tier, ReadBatch& batch) {
  std::vector<Status> outcomes(batch.headers.size());
  std::vector<RecordRead> reads;
  for (size_t i = 0; i < batch.headers.size(); ++i) {
    batch.payloads.emplace_back(batch.headers[i].payload_bytes());
    reads.push_back({.name = batch.headers[i].name, .destination = batch.payloads[i]});
  }
  const auto done = std::make_shared<std::promise<void>>();
  GetCallbacks callbacks;
  callbacks.group_done = [&outcomes](uint32_t, std::span<const Status> items) {
    for (size_t i = 0; i < items.size(); ++i)
      if (!items[i] && outcomes[i]) outcomes[i] = items[i];
  };
  callbacks.done = [done] { done->set_value(); };
  tier.Get(std::move(reads), INT64_MAX, ReadPriority::kPrefetch, std::move(callbacks));
  done->get_future().wait();
  return outcomes;
}

Status Export(Tier& tier, ReadBatch& batch, ArchiveWriter& archive, TransferReport& report) {
  const std::vector<Status> outcomes = Read(tier, batch);
  for (size_t i = 0; i < outcomes.size(); ++i) {
    if (!outcomes[i]) {
      // Damage is counted by the tier. Removed or evicted since it was listed: then it is not here.
      const ErrorKind kind = outcomes[i].error().kind;
      if (kind == ErrorKind::kCorrupt || kind == ErrorKind::kNotFound) continue;
      return outcomes[i];
    }
    LARDER_TRY(archive.Add(batch.headers[i], {.groups = GroupsOf(batch.headers[i], batch.payloads[i])}));
    ++report.records;
    report.bytes += batch.payloads[i].size();
  }
  return {};
}

Status ExportAll(Tier& tier, ArchiveWriter& archive, TransferReport& report) {
  ReadBatch batch;
  uint64_t cursor = 0;
  do {
    for (RecordHeader& header : tier.List(cursor, kListed, nullptr)) {
      batch.bytes += header.payload_bytes();
      batch.headers.push_back(std::move(header));
      if (batch.bytes < kTogetherBytes) continue;
      LARDER_TRY(Export(tier, batch, archive, report));
      batch = {};
    }
  } while (cursor != 0);
  return batch.headers.empty() ? Status() : Export(tier, batch, archive, report);
}

// Puts on their way. Shared with the tier's thread.
struct Puts {
  std::mutex mutex;
  std::condition_variable idle;
  uint64_t left = 0;
  TransferReport report;

  void Done(uint64_t bytes, Status status) {
    std::lock_guard lock(mutex);
    if (status) {
      ++report.records;
      report.bytes += bytes;
    } else if (status.error().kind == ErrorKind::kConflict) {
      ++report.conflicts;
    } else {
      ++report.refused;
      if (report.status) report.status = std::move(status);
    }
    if (--left == 0) idle.notify_all();
  }
  void Wait(Tier& tier) {
    tier.Flush();
    std::unique_lock lock(mutex);
    idle.wait(lock, [this] { return left == 0; });
  }
};

void Import(ArchiveItem item, Tier& tier, Puts& puts) {
  const auto payload = std::make_shared<const std::vector<std::byte>>(std::move(item.payload));
  RecordPayload parts{.groups = GroupsOf(item.header, *payload), .owner = payload};
  {
    std::lock_guard lock(puts.mutex);
    ++puts.left;
  }
  tier.Put(std::move(item.header), std::move(parts),
           [&puts, bytes = payload->size()](Status status) { puts.Done(bytes, std::move(status)); });
}

}  // namespace

TransferReport ExportRecords(Tier& tier, ArchiveWriter& archive) {
  TransferReport report;
  const uint64_t bad_before = tier.stats().bad_records;
  report.status = ExportAll(tier, archive, report);
  report.damaged = tier.stats().bad_records - bad_before;
  return report;
}

TransferReport ImportRecords(ArchiveReader& archive, Tier& tier,
                             const std::function<void(const ArchiveItem&)>& unsound) {
  Puts puts;
  uint64_t damaged = 0, no_key = 0, waiting = 0;
  Status ended;
  for (;;) {
    Result<std::optional<ArchiveItem>> item = archive.Next();
    if (!item) ended = std::unexpected(item.error());
    if (!item || !*item) break;
    if ((*item)->status) {
      waiting += (*item)->payload.size();
      Import(std::move(**item), tier, puts);
    } else {
      ((*item)->status.error().kind == ErrorKind::kNotFound ? no_key : damaged) +=
          (*item)->end - (*item)->first;
      unsound(**item);
    }
    if (waiting < kTogetherBytes) continue;
    puts.Wait(tier);
    waiting = 0;
  }
  puts.Wait(tier);
  TransferReport report = std::move(puts.report);
  report.damaged = damaged;
  report.no_key = no_key;
  if (!ended) report.status = ended;
  return report;
}

}  // namespace larder
