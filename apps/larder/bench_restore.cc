// larder bench restore: the first token of a prompt that was seen before, by where its rows are: nowhere
// (cold), in memory, on disk after a restart, in Redis after a restart of a server without a disk.
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

struct Place {
  std::string name;
  std::vector<double> first_ms, decode_ms;
  BusyWatch busy;
};

class RestoreBench {
 public:
  RestoreBench(const BenchSettings& settings, std::vector<int32_t> prompt, uint64_t bytes_per_token,
               const BenchFolder* folder)
      : settings_(settings), prompt_(std::move(prompt)), bytes_per_token_(bytes_per_token), folder_(folder) {}

  // What places there are: "cold", "memory", "disk" and, with a Redis, "redis".
  std::vector<Place> Places(int threads) const {
    std::vector<Place> places;
    for (const char* name : {"cold", "memory", "disk", "redis"}) {
      if (std::string_view(name) == "redis" && settings_.redis.empty()) continue;
      places.push_back({name, {}, {}, BusyWatch(threads)});
    }
    return places;
  }

  // A server computes and stores the prompt, and is asked again; then new ones are, that have only a tier.
  Status Round(bool keep, std::vector<Place>& places, std::vector<double>& raw_ms) {
    folder_->Empty();
    {
      LARDER_ASSIGN(const auto tiers, OpenTiers(true, !settings_.redis.empty()));
      LARDER_ASSIGN(const auto engine, Start(tiers));
      LARDER_TRY(Ask(*engine, keep, places[0]));
      LARDER_TRY(Ask(*engine, keep, places[1]));
      for (const auto& tier : tiers) tier->Flush();
    }
    if (keep) {
      LARDER_ASSIGN(const double ms, RawDiskMs());
      raw_ms.push_back(ms);
    }
    for (size_t place = 2; place < places.size(); ++place) {
      const bool disk = places[place].name == "disk";
      LARDER_ASSIGN(const auto tiers, OpenTiers(disk, !disk));
      LARDER_ASSIGN(const auto engine, Start(tiers));
      LARDER_TRY(Ask(*engine, keep, places[place]));
    }
    return {};
  }

 private:
  Result<std::vector<std::unique_ptr<Tier>>> OpenTiers(bool disk, bool redis) {
    std::vector<std::unique_ptr<Tier>> tiers;
    if (disk) {
      const DiskOptions options{.directory = (*folder_ / "store"), .limit_bytes = kDiskLimit};
      LARDER_ASSIGN(auto tier, OpenDiskTier(options, RealFileSystem(), nullptr, &clock_));
      tiers.push_back(std::move(tier));
    }
    if (redis) {
      LARDER_ASSIGN(auto tier, OpenRedisTier({.url = settings_.redis, .ttl_ms = 600'000}, nullptr, &clock_));
      tiers.push_back(std::move(tier));
    }
    return tiers;
  }

  Result<std::unique_ptr<Engine>> Start(const std::vector<std::unique_ptr<Tier>>& tiers) {
    LARDER_ASSIGN(auto model, settings_.flags.Load());
    EngineOptions options;
    options.cache.limit_bytes = KvLimitOrDefault(0);
    options.keyring = &keyring_;
    for (const auto& tier : tiers) options.tiers.push_back(tier.get());
    return Engine::Create(std::move(model), options, &clock_);
  }

  Status Ask(Engine& engine, bool keep, Place& place) {
    Request request;
    // Redis outlives a round; each round has rows of its own there.
    request.tenant =
        fmt::format("{} {} {}", getpid(), prompt_.size(), place.name == "cold" ? ++rounds_ : rounds_);
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
    int64_t rows = place == "cold" ? sink.report.recomputed : sink.report.read_memory;
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
  int64_t rounds_ = 0;
};

}  // namespace

Status BenchRestore(const BenchSettings& settings) {
  LARDER_ASSIGN(auto model, settings.flags.Load());
  LARDER_ASSIGN(const auto lengths, settings.Lengths("512,end", model->spec().context, kDecoded));
  FigureReport report = BeginReport("restore", *model, settings);
  report.threads = model->pool().threads();
  report.rounds = settings.rounds;
  report.note =
      "first_ms: from the request to its first token; decode_ms: each further token; to_cold: how much "
      "sooner "
      "than cold.\nto_limit: the first token, to 1.3 x reading as many bytes from a plain file beside the "
      "store + 2 further "
      "tokens";
  const int64_t vocabulary = model->tokenizer().size();
  const uint64_t bytes_per_token = model->kv_shape().BytesPerToken();
  model.reset();
  LARDER_ASSIGN(const auto folder, BenchFolder::Create(settings.disk.empty() ? "." : settings.disk));
  ProgressBar bar("measuring");
  for (const int64_t length : lengths) {
    RestoreBench bench(settings, FillerTokens(length, vocabulary, 1), bytes_per_token, folder.get());
    std::vector<Place> places = bench.Places(report.threads);
    std::vector<double> raw_ms;
    for (int64_t round = 0; round <= settings.rounds; ++round) {
      bar.Update(static_cast<double>(round) / static_cast<double>(settings.rounds + 1));
      LARDER_TRY(bench.Round(round > 0, places, raw_ms));
    }
    const double cold_ms = SpreadOf(places[0].first_ms).median;
    for (const Place& place : places) {
      const Spread first = SpreadOf(place.first_ms), decode = SpreadOf(place.decode_ms);
      const bool disk = place.name == "disk";
      const double limit_ms = 1.3 * (disk ? SpreadOf(raw_ms).median : 0) + 2 * decode.median;
      report.rows.push_back(
          {.labels = {{"length", std::to_string(length)}, {"rows_from", place.name}},
           .values = {SpreadValue("first_ms", place.first_ms), SpreadValue("decode_ms", place.decode_ms),
                      SingleValue("to_cold", cold_ms / first.median, 1),
                      SingleValue("raw_ms", disk ? SpreadOf(raw_ms).median : 0, 1),
                      SingleValue("to_limit", disk ? first.median / limit_ms : 0, 2)},
           .warning = place.busy.Warning()});
    }
  }
  bar.Clear();
  report.Print(settings.json);
  return {};
}

}  // namespace larder
