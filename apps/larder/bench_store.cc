// larder bench store: the disk tier beside the bare disk, beside caches without a store, and beside its own
// writes; and how long many records take to be found again. A round measures everything once; the medians of
// the rounds count.
#include <fmt/core.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <future>
#include <thread>

#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "kv/block_record.h"
#include "kv/tiers.h"
#include "larder/bench_figures.h"
#include "larder/bench_folder.h"
#include "larder/bench_raw_disk.h"
#include "larder/bench_rocksdb.h"
#include "larder/terminal.h"
#include "store/disk/disk_tier.h"

namespace larder {
namespace {

// The blocks of the default model: 30 layers, 3 KV heads of 64, sixteen bits.
constexpr int kLayers = 30, kKvHeads = 3, kHeadDim = 64;
constexpr size_t kDepth = 32;                    // of the tier's reads, and so of the bare ones
constexpr size_t kRestoreBlocks = 128;           // read together: a prompt of 8192 tokens
constexpr double kEngineTokensPerSecond = 1600;  // prefill of the default model: what the engine writes
constexpr uint64_t kMostPending = 128 << 20;     // bytes; of a faster writer the tier would lose blocks
constexpr size_t kPiecesOfPage = 8;              // K and V of 16 tokens each, as paged caches keep them
constexpr uint64_t kMebibyte = 1 << 20;          // read kMebibyteDepth at once: Tutti's yardstick
constexpr size_t kMebibyteDepth = 4;
constexpr int kFileThreads = 4;
constexpr double kMb = 1e6;

// Blocks of one shape under names made of numbers. All have the same payload.
class Blocks {
 public:
  static Result<Blocks> Create() {
    LARDER_ASSIGN(const KvShape shape,
                  KvShape::Create(std::vector<int>(kLayers, 0), kKvHeads, kHeadDim, KvType::kI16));
    return Blocks(BlockGroupBytes(shape, 0, KvForm::kRows, KvTiersOptions().group_bytes),
                  shape.BlockBytes(0));
  }

  uint64_t bytes() const { return bytes_; }
  std::span<const uint64_t> groups() const { return groups_; }
  std::span<const std::byte> payload() const { return noise_.first(bytes_); }
  static Digest NameOf(uint64_t number) { return FieldHasher().Add("block", number).Finish(); }

  void Put(Tier& tier, uint64_t number, std::atomic<uint64_t>& failed) const {
    RecordHeader header{.name = NameOf(number), .kind = kKvBlockRecord};
    if (number > 0) header.parent = NameOf(number - 1);
    header.metadata = EncodeBlockMetadata(std::vector<int32_t>(kPageTokens, 7));
    header.group_bytes = groups_;
    RecordPayload payload;
    uint64_t at = 0;
    for (const uint64_t group : groups_) {
      payload.groups.push_back(noise_.first(at + group).subspan(at));
      at += group;
    }
    tier.Put(std::move(header), std::move(payload), [&failed](Status status) { failed += !status; });
  }

 private:
  Blocks(std::vector<uint64_t> groups, uint64_t bytes)
      : groups_(std::move(groups)), bytes_(bytes), noise_(NoiseBuffer(bytes)) {}
  std::vector<uint64_t> groups_;
  uint64_t bytes_;
  DirectBuffer noise_;
};

enum class WritePace { kEngine, kFast };  // as the engine computes them; as the tier takes them

// Writes new blocks until it is destroyed.
class BlockWrites {
 public:
  BlockWrites(const Blocks& blocks, DiskTier& tier, uint64_t first, WritePace pace)
      : tier_(tier), thread_([&blocks, &tier, first, pace, this] {
          const double block_s = kPageTokens / kEngineTokensPerSecond;
          auto next = std::chrono::steady_clock::now();
          for (uint64_t number = first; !stop_; ++number) {
            blocks.Put(tier, number, failed_);
            next += std::chrono::nanoseconds(static_cast<int64_t>(block_s * 1e9));
            if (pace == WritePace::kEngine) std::this_thread::sleep_until(next);
            while (!stop_ && tier.stats().pending_bytes > kMostPending)
              std::this_thread::sleep_for(std::chrono::milliseconds(1));
          }
        }) {}
  ~BlockWrites() {
    stop_ = true;
    thread_.join();
    tier_.Flush();  // what is put still answers here
  }

 private:
  DiskTier& tier_;
  std::atomic<bool> stop_ = false;
  std::atomic<uint64_t> failed_ = 0;
  std::thread thread_;
};

// Everything that moves blocks, in one directory.
class BlockBench {
 public:
  BlockBench(const BenchFolder& folder, size_t count, Blocks blocks)
      : folder_(folder), count_(count), blocks_(std::move(blocks)) {}

  Status Prepare() {
    DiskOptions options;
    options.directory = folder_ / "store";
    options.limit_bytes = uint64_t{1} << 40;
    LARDER_ASSIGN(tier_, OpenDiskTier(options, RealFileSystem(), nullptr, &clock_));
    options.directory = folder_ / "pushing";
    options.writes_yield = false;
    LARDER_ASSIGN(pushing_, OpenDiskTier(options, RealFileSystem(), nullptr, &clock_));
    for (DiskTier* tier : {tier_.get(), pushing_.get()})
      if (const auto put = PutBlocks(*tier, 0, count_); !put) return std::unexpected(put.error());
    next_ = count_;
    LARDER_ASSIGN(blobs_, OpenBlobFiles(folder_ / "rocksdb"));
    if (blobs_ != nullptr)
      if (const auto put = PutBlobs(count_); !put) return std::unexpected(put.error());
    LARDER_ASSIGN(raw_, RawFile::Create(folder_ / "raw", count_ * PaddedGroups()));
    LARDER_ASSIGN(files_, FilePerBlock::Create(folder_ / "files", count_, blocks_.bytes()));
    for (size_t i = 0; i < kRestoreBlocks; ++i) {
      destinations_.emplace_back(kLayers * kPiecesOfPage * PieceBytes(kPiecesOfPage));
      std::memset(destinations_.back().data(), 0, destinations_.back().size());
    }
    return {};
  }

  bool direct() const { return raw_->direct(); }
  bool has_blobs() const { return blobs_ != nullptr; }
  uint64_t bytes() const { return count_ * blocks_.bytes(); }
  uint64_t raw_mebibytes() const { return raw_->bytes() / kMebibyte; }
  std::span<const uint64_t> groups() const { return blocks_.groups(); }
  double write_rate() const {
    return kEngineTokensPerSecond / kPageTokens * static_cast<double>(blocks_.bytes()) / kMb;
  }

  // Seconds each. All read into the same memory as restoring, which no cache of the processor holds.
  Result<double> BareMebibytes() const {
    std::vector<RawRead> reads;
    for (uint64_t at = 0; at + kMebibyte <= raw_->bytes(); at += kMebibyte)
      reads.push_back({at, kMebibyte, destinations_[reads.size() % kRestoreBlocks].data()});
    return raw_->Read(reads, kMebibyteDepth);
  }

  Result<double> BareReads() const {
    std::vector<RawRead> reads;
    uint64_t at = 0;
    for (size_t block = 0; block < count_; ++block) {
      std::byte* to = destinations_[block % kRestoreBlocks].data();
      for (const uint64_t group : blocks_.groups()) {
        reads.push_back({at, PagesFor(group) * kDirectAlign, to});
        at += reads.back().bytes;
        to += reads.back().bytes;
      }
    }
    return raw_->Read(reads, kDepth);
  }

  // One read a layer and block (pieces 1), or as many as a paged cache has, layer after layer; of a part of
  // the blocks. Each piece has pages of its own, so that direct reads need no copy. Every call reads another
  // part of the file, as restoring does: a few blocks read again and again would come from a hypervisor's
  // cache.
  Result<double> LayerReads(size_t pieces, size_t blocks) {
    const uint64_t piece = PieceBytes(pieces), block_bytes = kLayers * pieces * piece;
    const uint64_t parts = std::max<uint64_t>(1, raw_->bytes() / (blocks * block_bytes));
    const uint64_t begin = turn_++ % parts * blocks * block_bytes;
    std::vector<RawRead> reads;
    for (uint64_t l = 0; l < kLayers; ++l) {
      for (size_t block = 0; block < blocks; ++block) {
        for (size_t p = 0; p < pieces; ++p) {
          const uint64_t at = (l * pieces + p) * piece;
          reads.push_back(
              {begin + block * block_bytes + at, piece, destinations_[block % kRestoreBlocks].data() + at});
        }
      }
    }
    return raw_->ReadSingly(reads);
  }

  Result<double> FileReads(int threads) const { return files_->ReadAll(threads, destinations_); }

  Result<double> Restore() { return RestoreAll(*tier_); }

  // With writes that let it pass, or push in.
  Result<double> RestoreBesideWrites(bool yield, WritePace pace) {
    DiskTier& tier = yield ? *tier_ : *pushing_;
    tier.Flush();
    const BlockWrites writes(blocks_, tier, next_, pace);
    next_ += uint64_t{1} << 32;
    std::this_thread::sleep_for(std::chrono::seconds(1));  // until they are under way
    return RestoreAll(tier);
  }

  // Requests and system calls for the first `blocks` blocks.
  Result<std::pair<double, double>> CallsOfRestore(size_t blocks) {
    const DiskCounters before = tier_->counters();
    LARDER_TRY(RestoreFrom(*tier_, 0, blocks));
    const DiskCounters after = tier_->counters();
    return std::pair(static_cast<double>(after.reads - before.reads),
                     static_cast<double>(after.read_calls - before.read_calls));
  }

  Result<double> PutSome(size_t count) {
    LARDER_ASSIGN(const double seconds, PutBlocks(*tier_, next_, count));
    next_ += count;
    return seconds;
  }

  // In the same groups as restoring.
  Result<double> BlobReads(size_t threads) {
    const Stopwatch watch;
    for (size_t first = 0; first < count_; first += kRestoreBlocks) {
      std::vector<Digest> names;
      std::vector<std::span<std::byte>> to;
      for (size_t i = 0; i < std::min(kRestoreBlocks, count_ - first); ++i) {
        names.push_back(Blocks::NameOf(first + i));
        to.push_back(destinations_[i].first(blocks_.bytes()));
      }
      LARDER_TRY(GetBlobs(names, to, threads));
    }
    return watch.WallSeconds();
  }

  Result<double> PutBlobs(size_t count) {
    const Stopwatch watch;
    for (size_t i = 0; i < count; ++i)
      LARDER_TRY(blobs_->Put(Blocks::NameOf(next_blob_++), blocks_.payload()));
    LARDER_TRY(blobs_->Flush());
    return watch.WallSeconds();
  }

  Result<double> BareWrites(size_t count) const {
    LARDER_ASSIGN(const auto file, RawFile::Create(folder_ / "written", count * blocks_.bytes()));
    return file->write_seconds();
  }

 private:
  Result<double> PutBlocks(DiskTier& tier, uint64_t first, size_t count) const {
    std::atomic<uint64_t> failed = 0;
    const Stopwatch watch;
    for (size_t i = 0; i < count; ++i) {
      blocks_.Put(tier, first + i, failed);
      if (tier.stats().pending_bytes > kMostPending) tier.Flush();
    }
    tier.Flush();
    const double seconds = watch.WallSeconds();
    if (failed > 0) return Fail(ErrorKind::kIo, "{} of {} blocks could not be written", failed.load(), count);
    return seconds;
  }

  Status GetBlobs(std::span<const Digest> names, std::span<const std::span<std::byte>> to, size_t threads) {
    std::vector<Status> statuses(threads);
    std::vector<std::thread> pool;
    for (size_t t = 0; t < threads; ++t) {
      const size_t first = names.size() * t / threads, end = names.size() * (t + 1) / threads;
      pool.emplace_back([&, t, first, end] {
        statuses[t] = blobs_->Get(names.subspan(first, end - first), to.subspan(first, end - first));
      });
    }
    for (std::thread& thread : pool) thread.join();
    for (Status& status : statuses) LARDER_TRY(std::move(status));
    return {};
  }

  uint64_t PaddedGroups() const {
    uint64_t pages = 0;
    for (const uint64_t group : blocks_.groups()) pages += PagesFor(group);
    return pages * kDirectAlign;
  }
  uint64_t PieceBytes(size_t pieces) const {
    return PagesFor(blocks_.bytes() / kLayers / pieces) * kDirectAlign;
  }
  static uint64_t PagesFor(uint64_t bytes) { return (bytes + kDirectAlign - 1) / kDirectAlign; }

  Result<double> RestoreAll(DiskTier& tier) {
    double seconds = 0;
    for (size_t first = 0; first < count_; first += kRestoreBlocks) {
      LARDER_ASSIGN(const double part, RestoreFrom(tier, first, std::min(kRestoreBlocks, count_ - first)));
      seconds += part;
    }
    return seconds;
  }

  Result<double> RestoreFrom(DiskTier& tier, size_t first, size_t count) {
    std::vector<RecordRead> reads;
    for (size_t i = 0; i < count; ++i)
      reads.push_back(
          {.name = Blocks::NameOf(first + i), .destination = destinations_[i].first(blocks_.bytes())});
    const auto done = std::make_shared<std::promise<void>>();
    Status status;
    GetCallbacks callbacks;
    callbacks.group_done = [&status](uint32_t, std::span<const Status> items) {
      for (const Status& item : items)
        if (!item) status = item;
    };
    callbacks.done = [done] { done->set_value(); };
    const Stopwatch watch;
    tier.Get(std::move(reads), INT64_MAX, ReadPriority::kRequest, std::move(callbacks));
    done->get_future().wait();
    const double seconds = watch.WallSeconds();
    LARDER_TRY(status);
    return seconds;
  }

  const BenchFolder& folder_;
  const size_t count_;
  const Blocks blocks_;
  SystemClock clock_;
  std::unique_ptr<DiskTier> tier_, pushing_;  // the other one's writes do not let reads pass
  std::unique_ptr<RawFile> raw_;
  std::unique_ptr<FilePerBlock> files_;
  std::unique_ptr<BlobFiles> blobs_;  // null: not built in
  std::vector<DirectBuffer> destinations_;
  uint64_t next_ = 0, next_blob_ = 0;  // the next block's number
  uint64_t turn_ = 0;                  // of LayerReads
};

constexpr char kLayerReads[] = "a read per block and layer";
constexpr char kPieceReads[] = "a read per 16 tokens, layer, K or V";

struct Measured {
  std::string what;
  double mb = 0;  // moved each time
  std::function<Result<double>()> run;
  std::string to;  // what its ratio is: to which other, and what is wanted
  size_t other = 0;
  bool slower = false;  // the other's time over this one's, else this one's over the other's
  std::vector<double> seconds = {};
};

std::vector<Measured> MeasuredRows(BlockBench& bench, size_t count) {
  const size_t few = std::max<size_t>(count / 8, 1), some = std::max<size_t>(count / 4, 1);
  const double all_mb = static_cast<double>(bench.bytes()) / kMb, mb = all_mb / static_cast<double>(count);
  const double mebibytes_mb = static_cast<double>(bench.raw_mebibytes() * kMebibyte) / kMb;
  const double few_mb = mb * static_cast<double>(few), some_mb = mb * static_cast<double>(some);
  // Places in the list.
  enum { kBare, kRestore = 2, kBeside, kBesideFast = 5, kBareWrites = 11, kPuts };
  std::vector<Measured> rows = {
      {"bare reads", all_mb, [&bench] { return bench.BareReads(); }, "", kBare},
      {"bare reads of 1 MiB, 4 at once", mebibytes_mb, [&bench] { return bench.BareMebibytes(); },
       "restore's share of it, >= 0.85", kRestore},
      {"restore", all_mb, [&bench] { return bench.Restore(); }, "share of bare reads, >= 0.85", kBare, true},
      {"restore beside writes", all_mb,
       [&bench] { return bench.RestoreBesideWrites(true, WritePace::kEngine); },
       "times as long as restore, <= 1.15", kRestore},
      {"restore beside writes that push in", all_mb,
       [&bench] { return bench.RestoreBesideWrites(false, WritePace::kEngine); },
       "times as long as beside writes that yield", kBeside},
      {"restore beside fast writes", all_mb,
       [&bench] { return bench.RestoreBesideWrites(true, WritePace::kFast); },
       "times as long as restore, <= 1.15", kRestore},
      {"restore beside fast writes that push in", all_mb,
       [&bench] { return bench.RestoreBesideWrites(false, WritePace::kFast); },
       "times as long as beside writes that yield, >= 1.5", kBesideFast},
      {"a file per block", all_mb, [&bench] { return bench.FileReads(1); }, "times as long as restore",
       kRestore},
      {fmt::format("a file per block, {} threads", kFileThreads), all_mb,
       [&bench] { return bench.FileReads(kFileThreads); }, "times as long as restore", kRestore},
      {kLayerReads, few_mb, [&bench, few] { return bench.LayerReads(1, few); },
       "times as long as restore, >= 5", kRestore},
      {kPieceReads, few_mb, [&bench, few] { return bench.LayerReads(kPiecesOfPage, few); },
       "times as long as restore", kRestore},
      {"bare writes", some_mb, [&bench, some] { return bench.BareWrites(some); }, "", kBare},
      {"puts", some_mb, [&bench, some] { return bench.PutSome(some); }, "share of bare writes", kBareWrites,
       true},
  };
  if (bench.has_blobs()) {
    rows.push_back({"RocksDB's blob files", all_mb, [&bench] { return bench.BlobReads(1); },
                    "times as long as restore", kRestore});
    rows.push_back({fmt::format("RocksDB's blob files, {} threads", kFileThreads), all_mb,
                    [&bench] { return bench.BlobReads(kFileThreads); }, "times as long as restore",
                    kRestore});
    rows.push_back({"RocksDB's puts, no log", some_mb, [&bench, some] { return bench.PutBlobs(some); },
                    "times as long as puts", kPuts});
  }
  return rows;
}

// Of restores of so many blocks, by rounds.
struct RestoreCalls {
  size_t blocks;
  std::vector<double> requests = {}, calls = {};
};

void AddCallRows(const std::vector<RestoreCalls>& restores, FigureReport& report) {
  const auto add = [&](const std::string& what, size_t blocks, const std::vector<double>& requests,
                       const std::vector<double>& calls) {
    std::vector<double> per_layer = calls;
    for (double& n : per_layer) n /= kLayers;
    report.rows.push_back(
        {.labels = {{"what", what}, {"blocks", std::to_string(blocks)}},
         .values = {SingleValue("requests", SpreadOf(requests).median, 0), SpreadValue("calls", calls, 0),
                    SpreadValue("calls_per_layer", per_layer, 1)},
         .warning = {}});
  };
  for (const RestoreCalls& restore : restores) {
    add("restore", restore.blocks, restore.requests, restore.calls);
    for (const size_t pieces : {size_t{1}, kPiecesOfPage}) {
      const std::vector<double> one_by_one = {static_cast<double>(restore.blocks * kLayers * pieces)};
      add(pieces == 1 ? kLayerReads : kPieceReads, restore.blocks, one_by_one, one_by_one);
    }
  }
}

Status MeasureBlocks(const BenchSettings& settings, const BenchFolder& folder, FigureReport& report,
                     FigureReport& calls) {
  LARDER_ASSIGN(Blocks blocks, Blocks::Create());
  const auto count = static_cast<size_t>(settings.blocks);
  BlockBench bench(folder, count, std::move(blocks));
  LARDER_TRY(bench.Prepare());
  std::vector<Measured> rows = MeasuredRows(bench, count);
  std::vector<RestoreCalls> restores = {{kRestoreBlocks / 4}, {kRestoreBlocks}};
  ProgressBar bar("measuring");
  for (int64_t round = 0; round <= settings.rounds; ++round) {
    for (size_t i = 0; i < rows.size(); ++i) {
      bar.Update(static_cast<double>(round * static_cast<int64_t>(rows.size()) + static_cast<int64_t>(i)) /
                 static_cast<double>((settings.rounds + 1) * static_cast<int64_t>(rows.size())));
      LARDER_ASSIGN(const double seconds, rows[i].run());
      if (round > 0) rows[i].seconds.push_back(seconds);
    }
    for (RestoreCalls& restore : restores) {
      LARDER_ASSIGN(const auto counted, bench.CallsOfRestore(restore.blocks));
      restore.requests.push_back(counted.first);
      restore.calls.push_back(counted.second);
    }
  }
  bar.Clear();
  AddCallRows(restores, calls);
  std::string sizes;
  for (const uint64_t bytes : bench.groups()) sizes += fmt::format("{}{}", sizes.empty() ? "" : ", ", bytes);
  if (!bench.has_blobs()) report.note += "\nRocksDB: not built in; install librocksdb-dev and build again.";
  const double mb = static_cast<double>(bench.bytes()) / kMb / static_cast<double>(count);
  report.subject = fmt::format("{} blocks of {:.2f} MB in {} groups ({} bytes), {}, writes at {:.0f} MB/s",
                               count, mb, bench.groups().size(), sizes,
                               bench.direct() ? "direct I/O" : "NO direct I/O: the page cache is measured",
                               bench.write_rate());
  for (const Measured& row : rows) {
    const auto pace = [&](const Measured& m) { return SpreadOf(m.seconds).median / m.mb; };
    const double ratio = pace(row) / pace(rows[row.other]);
    report.rows.push_back({.labels = {{"what", row.what}, {"ratio_is", row.to}},
                           .values = {RateOf("mb_per_s", row.seconds, row.mb, 0),
                                      SingleValue("ratio", row.slower ? 1 / ratio : ratio)},
                           .warning = {}});
  }
  return {};
}

// --- many small records

constexpr uint64_t kSmallBytes = 4096;

Status PutSmall(DiskTier& tier, int64_t count) {
  const DirectBuffer noise = NoiseBuffer(kSmallBytes);
  std::atomic<uint64_t> failed = 0;
  for (int64_t i = 0; i < count; ++i) {
    RecordHeader header{.name = Blocks::NameOf(static_cast<uint64_t>(i))};
    if (i > 0) header.parent = Blocks::NameOf(static_cast<uint64_t>(i - 1));
    header.group_bytes = {kSmallBytes};
    tier.Put(std::move(header), {.groups = {noise.first(kSmallBytes)}},
             [&failed](Status status) { failed += !status; });
    if (i % 8192 == 8191) tier.Flush();
  }
  tier.Flush();
  if (failed > 0) return Fail(ErrorKind::kIo, "{} records could not be written", failed.load());
  return {};
}

Status MeasureRecovery(const BenchSettings& settings, const BenchFolder& folder, int64_t count,
                       FigureReport& report) {
  SystemClock clock;
  DiskOptions options;
  options.directory = folder / fmt::format("records-{}", count);
  options.limit_bytes = uint64_t{1} << 40;
  std::vector<double> seconds;
  double put_seconds = 0, index_bytes = 0, allocated_bytes = 0;
  {
    LARDER_ASSIGN(const auto tier, OpenDiskTier(options, RealFileSystem(), nullptr, &clock));
    const Stopwatch watch;
    LARDER_TRY(PutSmall(*tier, count));
    put_seconds = watch.WallSeconds();
  }
  for (int64_t round = 0; round < settings.rounds; ++round) {
    LARDER_ASSIGN(const auto names, RealFileSystem()->List(options.directory));
    for (const std::string& name : names) DropFromPageCache(options.directory + "/" + name);
    // Not what is resident: a process that held more before gives back little of it.
    const double before = static_cast<double>(AllocatedBytes());
    const Stopwatch watch;
    LARDER_ASSIGN(const auto tier, OpenDiskTier(options, RealFileSystem(), nullptr, &clock));
    seconds.push_back(watch.WallSeconds());
    if (const uint64_t found = tier->stats().records; found != static_cast<uint64_t>(count))
      return Fail(ErrorKind::kCorrupt, "{} of {} records were found again", found, count);
    index_bytes = static_cast<double>(tier->counters().index_bytes);
    allocated_bytes = static_cast<double>(AllocatedBytes()) - before;
  }
  const auto records = static_cast<double>(count);
  report.rows.push_back({.labels = {{"records", std::to_string(count)}},
                         .values = {SpreadValue("recovery_s", seconds, 3),
                                    SingleValue("index_bytes_per_record", index_bytes / records, 1),
                                    SingleValue("allocated_bytes_per_record", allocated_bytes / records, 1),
                                    SingleValue("puts_per_s", records / put_seconds, 0)},
                         .warning = {}});
  return {};
}

}  // namespace

Status BenchStore(const BenchSettings& settings) {
  SetLogLevel(LogLevel::kWarn);
  LARDER_ASSIGN(const auto counts, ParseNumbers(settings.records, 1, int64_t{1} << 30));
  LARDER_ASSIGN(const auto folder, BenchFolder::Create(settings.disk));
  FigureReport moving;
  moving.what = "store";
  moving.rounds = settings.rounds;
  moving.note =
      "bare: the same request sizes, 32 at once, without a store. restore: groups of 128 blocks (8192 "
      "tokens), "
      "verified.\nWrites beside it yield to it, or push in; fast: as many as the tier takes. a read per ...: "
      "one "
      "synchronous read after the\nother on one thread, each straight to its place, not verified. Reads go "
      "past "
      "the page cache of this system; a hypervisor may\nhave one of its own.";
  FigureReport calls;
  calls.what = "store calls";
  calls.rounds = settings.rounds + 1;
  calls.subject = fmt::format("reading blocks of {} layers", kLayers);
  calls.note =
      "requests, calls: to and into the operating system. Requests are one a block for its head and one a "
      "group "
      "of layers,\nhowever many layers there are; a call of the store hands over what is free to go and "
      "waits. "
      "Wanted: 2 calls a layer";
  LARDER_TRY(MeasureBlocks(settings, *folder, moving, calls));
  moving.Print(settings.json);
  if (!settings.json) fmt::print("\n");
  calls.Print(settings.json);
  folder->Empty();
  FigureReport recovery;
  recovery.what = "store recovery";
  recovery.rounds = settings.rounds;
  recovery.subject = fmt::format("records of {} bytes, the catalog not in the page cache", kSmallBytes);
  recovery.note = "wanted: 100000 records in less than a second, at most 128 bytes of memory a record";
  for (const int64_t count : counts) {
    LARDER_TRY(MeasureRecovery(settings, *folder, count, recovery));
    folder->Empty();
  }
  if (!settings.json) fmt::print("\n");
  recovery.Print(settings.json);
  return {};
}

}  // namespace larder
