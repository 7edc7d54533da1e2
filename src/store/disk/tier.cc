#include <algorithm>

#include "base/log.h"
#include "store/disk/core.h"
#include "store/disk/reader.h"
#include "store/disk/writer.h"

namespace larder {
namespace {

constexpr size_t kQueueDepth = 32;
constexpr size_t kVerifyAtOnce = 64;

class DiskTierImpl final : public DiskTier {
 public:
  DiskTierImpl(std::unique_ptr<DiskCore> core, std::unique_ptr<IoQueue> queue)
      : core_(std::move(core)),
        writer_(*core_),
        reader_(*core_, std::move(queue), [this] { writer_.Poke(); }) {}

  std::string_view name() const override { return "disk"; }

  void Find(std::vector<Digest> names, int64_t deadline_ns, FindDone done) override {
    reader_.Find(core_->Has(names), deadline_ns, std::move(done));
  }
  void Children(const Digest& parent, size_t limit, int64_t deadline_ns, ChildrenDone done) override {
    reader_.Children(parent, limit, deadline_ns, std::move(done));
  }
  uint64_t Get(std::vector<RecordRead> items, int64_t deadline_ns, ReadPriority priority,
               GetCallbacks callbacks) override {
    return reader_.Get(std::move(items), deadline_ns, priority, std::move(callbacks));
  }
  void Cancel(uint64_t ticket) override { reader_.Cancel(ticket); }
  void Put(RecordHeader header, RecordPayload payload, std::function<void(Status)> done) override {
    writer_.Put(std::move(header), std::move(payload), std::move(done));
  }
  void Hurry() override { writer_.Hurry(); }
  void DropPending() override {
    writer_.DropPending([this](std::function<void()> told) { reader_.Run(std::move(told)); });
  }
  void Touch(std::span<const Digest> names) override { core_->Touch(names); }
  Status Pin(const Digest& name, int64_t ttl_ms) override { return core_->Pin(name, ttl_ms); }
  Status Remove(std::span<const Digest> names) override {
    const Status status = core_->Remove(names);
    writer_.Poke();
    return status;
  }
  Status Wipe(const SpaceId& space) override {
    const Status status = core_->Wipe(space);
    writer_.Poke();
    return status;
  }
  void Flush() override { writer_.Flush(); }

  bool ListenForRemovals(RemovalListener listener) override {
    core_->ListenForRemovals(std::move(listener));
    return true;
  }
  std::vector<RecordHeader> List(uint64_t& cursor, size_t limit, const SpaceId* space) override {
    std::vector<RecordHeader> headers;
    if (limit == 0) return headers;
    for (const FoundRecord& found : core_->LocateFrom(cursor, limit, space)) {
      if (auto head = core_->ReadHead(found)) headers.push_back(std::move(head->header));
    }
    return headers;
  }

  TierStats stats() const override {
    TierStats stats = core_->Stats();
    stats.pending_bytes = writer_.pending_bytes();
    return stats;
  }
  DiskCounters counters() const override { return core_->Counters(); }

  Result<DiskReport> Verify() override {
    DiskReport report;
    uint64_t cursor = 0;
    do {
      for (const FoundRecord& found : core_->LocateFrom(cursor, kVerifyAtOnce, nullptr)) {
        ++report.records;
        const auto bytes = VerifyOne(found);
        if (bytes) {
          report.bytes += *bytes;
        } else if (bytes.error().kind == ErrorKind::kCorrupt) {
          ++report.bad;
        } else {
          return std::unexpected(bytes.error());
        }
      }
    } while (cursor != 0);
    return report;
  }

  Status Compact() override {
    writer_.Flush();
    std::lock_guard lock(core_->write_mutex);
    return core_->CompactAll();
  }

  bool Step() override {
    const bool read = reader_.Step();
    return writer_.Step() || read;
  }

 private:
  // Payload bytes of a sound record.
  Result<uint64_t> VerifyOne(const FoundRecord& found) {
    LARDER_ASSIGN(const RecordHead head, core_->ReadHead(found));
    DirectBuffer buffer;
    for (size_t g = 0; g < head.groups.size(); ++g) {
      const StoredGroup& group = head.groups[g];
      const uint64_t padded = PagesFor(group.bytes) * kPage;
      buffer.Reserve(padded);
      const uint64_t offset = (found.place.page + uint64_t{found.place.head_pages}) * kPage + group.offset;
      LARDER_ASSIGN(const size_t got, found.segment->file->Read(offset, buffer.first(padded)));
      Status sound;
      if (got < group.bytes) sound = Fail(ErrorKind::kCorrupt, "the segment ends before the record");
      if (sound) sound = DecodeGroup(head, g, buffer.first(group.bytes), core_->sealer);
      if (!sound) {
        core_->GiveUp(found, sound.error());
        return std::unexpected(sound.error());
      }
    }
    return head.header.payload_bytes();
  }

  // The reader goes first, then the writer, then what both use.
  std::unique_ptr<DiskCore> core_;
  DiskWriter writer_;
  DiskReader reader_;
};

// io_uring needs descriptors of the operating system.
Result<std::unique_ptr<IoQueue>> MakeQueue(const DiskOptions& options, FileSystem* files) {
  if (options.stepped) return MakeThreadQueue(0, kQueueDepth);
  if (options.io != DiskIo::kThreads) {
    LARDER_ASSIGN(const auto probe, files->Open(options.directory + "/LARDER", {}));
    Result<std::unique_ptr<IoQueue>> queue =
        Fail(ErrorKind::kUnsupported, "the files of {} are not the system's", options.directory);
    if (probe->handle() >= 0) queue = MakeUringQueue(kQueueDepth);
    if (queue || options.io == DiskIo::kUring) return queue;
    LogInfo("disk store: {}; {} threads read instead", queue.error().message, options.io_threads);
  }
  return MakeThreadQueue(std::max(options.io_threads, 1), kQueueDepth);
}

}  // namespace

Result<std::unique_ptr<DiskTier>> OpenDiskTier(const DiskOptions& options, FileSystem* files,
                                               const Sealer* sealer, Clock* clock) {
  auto core = std::make_unique<DiskCore>(options, files, sealer, clock);
  LARDER_TRY(core->Open());
  LARDER_ASSIGN(auto queue, MakeQueue(options, files));
  return std::make_unique<DiskTierImpl>(std::move(core), std::move(queue));
}

}  // namespace larder
