// larder bench restore: the first token of a prompt that was seen before, by where its rows are: nowhere
// (cold), in memory, on disk after a restart, in Redis after a restart of a server without a disk. And cold
// without anything below memory: what asking in vain and storing costs.
#include <unistd.h>

#include <algorithm>
#include <condition_variable>
#include <cstring>
#include <mutex>

#include "engine/engine.h"
#include "larder/bench_figures.h"
#include "larder/bench_folder.h"
#include "larder/bench_raw_disk.h"
#include "larder/session.h"
#include "larder/terminal.h"
#include "store/disk/disk_tier.h"
#include "store/redis/redis_tier.h"

namespace larder {
namespace {

constexpr uint64_t kDiskLimit = uint64_t{4} << 30;
constexpr uint64_t kPiece = 1 << 20;
constexpr size_t kDepth = 32;
constexpr int64_t kDecoded = 3;  // tokens of an answer

// When the first and the last token came.
struct TimingSink final : RequestSink {
  std::mutex mutex;
  std::condition_variable over;
  Stopwatch watch;
  double first_s = 0, last_s = 0;
  bool done = false;
  CacheReport report;
  std::vector<int32_t> tokens;
  Status status;

  void OnPromptLogprobs(std::vector<TokenOutput>) override {}
  void OnToken(TokenOutput out) override {
    last_s = watch.WallSeconds();
    if (tokens.empty()) first_s = last_s;
    tokens.push_back(out.token);
  }
  void OnChoiceEnd(ChoiceEnd) override {}
  void OnFinish(const Usage&, const CacheReport& r) override {
    report = r;
    End({});
  }
  void OnError(const Error& error) override { End(std::unexpected(error)); }
  void End(Status outcome) {
    std::lock_guard lock(mutex);
    status = std::move(outcome);
    done = true;
    over.notify_one();
  }
};

// Spaces without a file: the same in every process.
class FixedSpaces final : public Keyring {
 public:
  Result<SpaceId> SpaceOf(const std::string& tenant) override {
    const Digest digest = FieldHasher().Add("bench", std::string_view(tenant)).Finish();
    SpaceId space;
    std::copy_n(digest.bytes.begin(), space.size(), space.begin());
    return space;
  }
  Result<SpaceId> Forget(const std::string& tenant) override { return SpaceOf(tenant); }
  std::vector<std::pair<std::string, SpaceId>> Spaces() const override { return {}; }
  const Sealer* sealer() const override { return nullptr; }
  KeyringStats stats() const override { return {}; }
};

enum PlaceIndex : size_t { kUntiered, kCold, kMemory, kDisk, kRedis };

struct Place {
  std::string name;
  std::vector<double> first_ms, decode_ms;
  BusyWatch busy;
};

// What lies below memory; either may be null.
struct Below {
  std::unique_ptr<DiskTier> disk;
  std::unique_ptr<Tier> redis;

  std::vector<Tier*> tiers() const {
    std::vector<Tier*> all;
    if (disk != nullptr) all.push_back(disk.get());
    if (redis != nullptr) all.push_back(redis.get());
    return all;
  }
};

// Beside the first tokens from the disk.
struct DiskFigures {
  std::vector<double> raw_ms;        // reading as many bytes past the store
  std::vector<double> reads, calls;  // requests and system calls of the store's queue
};

class RestoreBench {
 public:
  RestoreBench(const BenchSettings& settings, std::vector<int32_t> prompt, uint64_t bytes_per_token,
               const BenchFolder* folder)
      : settings_(settings), prompt_(std::move(prompt)), bytes_per_token_(bytes_per_token), folder_(folder) {}

  // By PlaceIndex; kRedis only with a Redis.
  std::vector<Place> Places(int threads) const {
    std::vector<Place> places;
    for (const char* name : {"cold, no tiers", "cold", "memory", "disk", "redis"}) {
      if (places.size() == kRedis && settings_.redis.empty()) break;
      places.push_back({name, {}, {}, BusyWatch(threads)});
    }
    return places;
  }

  // A server computes and stores the prompt, and is asked again; then new ones are, that have only a tier.
  // One that has none computes it in turn before and behind the first. Round 0 warms.
  Status Round(int64_t round, std::vector<Place>& places, DiskFigures& disk) {
    folder_->Empty();
    round_ = round;
    const bool keep = round > 0;
    if (round % 2 == 0) LARDER_TRY(AskNew({}, keep, places[kUntiered]));
    {
      LARDER_ASSIGN(const Below below, OpenBelow(true, !settings_.redis.empty()));
      LARDER_ASSIGN(const auto engine, Start(below));
      LARDER_TRY(Ask(*engine, keep, places[kCold]));
      LARDER_TRY(Ask(*engine, keep, places[kMemory]));
      for (Tier* tier : below.tiers()) tier->Flush();
    }
    if (round % 2 == 1) LARDER_TRY(AskNew({}, keep, places[kUntiered]));
    if (keep) {
      LARDER_ASSIGN(const double ms, RawDiskMs());
      disk.raw_ms.push_back(ms);
    }
    LARDER_ASSIGN(const Below below, OpenBelow(true, false));
    LARDER_TRY(AskNew(below, keep, places[kDisk]));
    if (keep) {
      const DiskCounters counters = below.disk->counters();
      disk.reads.push_back(static_cast<double>(counters.reads));
      disk.calls.push_back(static_cast<double>(counters.read_calls));
    }
    if (places.size() <= kRedis) return {};
    LARDER_ASSIGN(const Below redis, OpenBelow(false, true));
    return AskNew(redis, keep, places[kRedis]);
  }

 private:
  Result<Below> OpenBelow(bool disk, bool redis) {
    Below below;
    if (disk) {
      const DiskOptions options{.directory = (*folder_ / "store"), .limit_bytes = kDiskLimit};
      LARDER_ASSIGN(below.disk, OpenDiskTier(options, RealFileSystem(), nullptr, &clock_));
    }
    if (redis) {
      LARDER_ASSIGN(below.redis,
                    OpenRedisTier({.url = settings_.redis, .ttl_ms = 600'000}, nullptr, &clock_));
    }
    return below;
  }

  Result<std::unique_ptr<Engine>> Start(const Below& below) {
    LARDER_ASSIGN(auto model, settings_.flags.Load());
    EngineOptions options;
    options.cache.limit_bytes = KvLimitOrDefault(0);
    options.keyring = &keyring_;
    options.tiers = below.tiers();
    return Engine::Create(std::move(model), options, &clock_);
  }

  // Asks a server that was started for it.
  Status AskNew(const Below& below, bool keep, Place& place) {
    LARDER_ASSIGN(const auto engine, Start(below));
    return Ask(*engine, keep, place);
  }

  Status Ask(Engine& engine, bool keep, Place& place) {
    Request request;
    // Redis outlives a round; each round has rows of its own there.
    request.tenant = fmt::format("{} {} {}", getpid(), prompt_.size(), round_);
    request.prompt = prompt_;
    request.max_tokens = kDecoded;
    request.sampling.temperature = 0;
    request.ignore_eos = true;
    const auto sink = std::make_shared<TimingSink>();
    const double busy = SystemBusySeconds();
    const Stopwatch watch;
    LARDER_TRY(engine.Submit(std::move(request), sink));
    {
      std::unique_lock lock(sink->mutex);
      sink->over.wait(lock, [&] { return sink->done; });
    }
    LARDER_TRY(sink->status);
    LARDER_TRY(Check(place.name, *sink));
    if (!keep) return {};
    place.first_ms.push_back(sink->first_s * 1e3);
    place.decode_ms.push_back((sink->last_s - sink->first_s) * 1e3 / static_cast<double>(kDecoded - 1));
    place.busy.Add(watch.WallSeconds(), watch.CpuSeconds(), SystemBusySeconds() - busy);
    return {};
  }

  // A fast wrong answer, or one from somewhere else, is no figure.
  Status Check(const std::string& place, const TimingSink& sink) {
    if (answer_.empty()) answer_ = sink.tokens;
    if (sink.tokens != answer_) return Fail(ErrorKind::kCorrupt, "{}: another answer than the first", place);
    int64_t rows = place.starts_with("cold") ? sink.report.recomputed : sink.report.read_memory;
    for (const auto& [tier, read] : sink.report.read_tiers) rows = tier == place ? read : rows;
    if (rows + 1 < static_cast<int64_t>(prompt_.size())) {
      return Fail(ErrorKind::kIo, "only {} of {} rows came from {}", rows, prompt_.size(), place);
    }
    return {};
  }

  // Reading as many bytes as the prompt has of KV, past the store, in pieces as large and as many at once as
  // the tier's.
  Result<double> RawDiskMs() {
    const uint64_t pieces = (prompt_.size() * bytes_per_token_ + kPiece - 1) / kPiece;
    LARDER_ASSIGN(const auto file, RawFile::Create(*folder_ / "raw", pieces * kPiece));
    const DirectBuffer place(pieces * kPiece);
    std::memset(place.data(), 0, place.size());  // no page faults while the time runs
    std::vector<RawRead> reads;
    for (uint64_t i = 0; i < pieces; ++i) reads.push_back({i * kPiece, kPiece, place.data() + i * kPiece});
    LARDER_ASSIGN(const double seconds, file->Read(reads, kDepth));
    return seconds * 1e3;
  }

  const BenchSettings& settings_;
  const std::vector<int32_t> prompt_;
  const uint64_t bytes_per_token_;
  const BenchFolder* const folder_;
  SystemClock clock_;
  FixedSpaces keyring_;
  std::vector<int32_t> answer_;
  int64_t round_ = 0;
};

// How much longer than without tiers, round by round.
std::vector<double> ToUntiered(const Place& place, const Place& untiered) {
  std::vector<double> ratios;
  for (size_t i = 0; i < place.first_ms.size(); ++i)
    ratios.push_back(place.first_ms[i] / untiered.first_ms[i]);
  return ratios;
}

void AddRows(int64_t length, const std::vector<Place>& places, const DiskFigures& figures,
             FigureReport& report) {
  const double cold_ms = SpreadOf(places[kCold].first_ms).median, raw_ms = SpreadOf(figures.raw_ms).median;
  for (const Place& place : places) {
    const Spread first = SpreadOf(place.first_ms), decode = SpreadOf(place.decode_ms);
    const bool disk = &place == &places[kDisk];
    const double limit_ms = 1.3 * raw_ms + 2 * decode.median;
    report.rows.push_back(
        {.labels = {{"length", std::to_string(length)}, {"rows_from", place.name}},
         .values = {SpreadValue("first_ms", place.first_ms), SpreadValue("decode_ms", place.decode_ms),
                    SingleValue("to_cold", cold_ms / first.median, 1),
                    SpreadValue("to_no_tiers", ToUntiered(place, places[kUntiered]), 3),
                    SingleValue("raw_ms", disk ? raw_ms : 0, 1),
                    SingleValue("to_limit", disk ? first.median / limit_ms : 0, 2),
                    SingleValue("reads", disk ? SpreadOf(figures.reads).median : 0, 0),
                    SingleValue("read_calls", disk ? SpreadOf(figures.calls).median : 0, 0)},
         .warning = place.busy.Warning()});
  }
}

}  // namespace

Status BenchRestore(const BenchSettings& settings) {
  LARDER_ASSIGN(auto model, settings.flags.Load());
  LARDER_ASSIGN(const auto lengths, settings.Lengths("512,end", model->spec().context, kDecoded));
  FigureReport report = BeginReport("restore", *model, settings);
  report.threads = model->pool().threads();
  report.rounds = settings.rounds;
  report.note = fmt::format(
      "first_ms: from the request to its first token; decode_ms: each further token; to_cold: how much "
      "sooner "
      "than cold;\nto_no_tiers: first token to that without anything below memory, by rounds; wanted of "
      "cold: "
      "<= 1.03. to_limit: first token\nto 1.3 x reading as many bytes from a plain file beside the store + 2 "
      "further tokens. reads, read_calls: requests and\nsystem calls of the disk's queue, for blocks of {} "
      "tokens of all {} layers",
      kPageTokens, model->spec().layers.size());
  const int64_t vocabulary = model->tokenizer().size();
  const uint64_t bytes_per_token = model->kv_shape().BytesPerToken();
  model.reset();
  LARDER_ASSIGN(const auto folder, BenchFolder::Create(settings.disk.empty() ? "." : settings.disk));
  ProgressBar bar("measuring");
  for (const int64_t length : lengths) {
    RestoreBench bench(settings, FillerTokens(length, vocabulary, 1), bytes_per_token, folder.get());
    std::vector<Place> places = bench.Places(report.threads);
    DiskFigures disk;
    for (int64_t round = 0; round <= settings.rounds; ++round) {
      bar.Update(static_cast<double>(round) / static_cast<double>(settings.rounds + 1));
      LARDER_TRY(bench.Round(round, places, disk));
    }
    AddRows(length, places, disk, report);
  }
  bar.Clear();
  report.Print(settings.json);
  return {};
}

}  // namespace larder
