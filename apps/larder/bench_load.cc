// larder bench load: from nothing to a server that listens. Weights packed anew, packed and kept, and mapped
// from what was kept, with both files in the page cache and without.
#include <array>
#include <filesystem>

#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "engine/engine.h"
#include "larder/bench_figures.h"
#include "larder/bench_folder.h"
#include "larder/terminal.h"
#include "serve/engine_backend.h"
#include "serve/server.h"

namespace larder {
namespace {

namespace fs = std::filesystem;

enum Start { kPacked, kKept, kMapped, kMappedCold, kStarts };
constexpr std::array<const char*, kStarts> kNames = {"packed", "packed and kept", "mapped",
                                                     "mapped, files cold"};

struct Sample {
  double load_ms, ready_ms, resident_mib;
};

Result<Sample> Measure(const BenchSettings& settings, const PackedOptions& packed) {
  Sample sample;
  const uint64_t resident = ResidentBytes();
  const Stopwatch watch;
  LARDER_ASSIGN(auto model, settings.flags.LoadWith(packed));
  sample.load_ms = watch.WallSeconds() * 1e3;
  EngineOptions options;
  options.cache.limit_bytes = KvLimitOrDefault(0);
  SystemClock clock;
  LARDER_ASSIGN(const auto engine, Engine::Create(std::move(model), options, &clock));
  LARDER_ASSIGN(const auto backend, EngineBackend::Create(engine.get(), ""));
  ServeOptions serve;
  serve.port = 0;
  LARDER_ASSIGN(const auto server, Server::Create(backend.get(), serve));
  sample.ready_ms = watch.WallSeconds() * 1e3;
  sample.resident_mib = (static_cast<double>(ResidentBytes()) - static_cast<double>(resident)) / (1 << 20);
  return sample;
}

}  // namespace

Status BenchLoad(const BenchSettings& settings) {
  SetLogLevel(LogLevel::kWarn);  // not a line for every start
  LARDER_ASSIGN(const auto folder, BenchFolder::Create(fs::temp_directory_path().string()));
  PackedOptions kept = settings.flags.Packed();
  kept.folders = {folder->path()};
  kept.least_bytes = 0;
  std::array<std::vector<double>, kStarts> load_ms, ready_ms, resident_mib;
  ProgressBar bar("measuring");
  for (int64_t round = 0; round <= settings.rounds; ++round) {
    bar.Update(static_cast<double>(round) / static_cast<double>(settings.rounds + 1));
    folder->Empty();
    for (int start = 0; start < kStarts; ++start) {
      if (start == kMappedCold) {
        DropFromPageCache(settings.flags.model);
        for (const auto& entry : fs::directory_iterator(folder->path())) DropFromPageCache(entry.path());
      }
      LARDER_ASSIGN(const Sample sample, Measure(settings, start == kPacked ? PackedOptions{} : kept));
      if (round == 0) continue;
      load_ms[static_cast<size_t>(start)].push_back(sample.load_ms);
      ready_ms[static_cast<size_t>(start)].push_back(sample.ready_ms);
      resident_mib[static_cast<size_t>(start)].push_back(sample.resident_mib);
    }
  }
  bar.Clear();
  LARDER_ASSIGN(const auto model, settings.flags.LoadWith({}));
  FigureReport report = BeginReport("load", *model, settings);
  report.threads = model->pool().threads();
  report.note =
      "load: the model alone; ready: until the server listens. resident_mib: memory that the process has "
      "more\n"
      "than before; of mapped weights all processes share one copy";
  for (size_t start = 0; start < kStarts; ++start) {
    report.rows.push_back(
        {.labels = {{"weights", kNames[start]}},
         .values = {SpreadValue("load_ms", load_ms[start], 0), SpreadValue("ready_ms", ready_ms[start], 0),
                    SpreadValue("resident_mib", resident_mib[start], 0)},
         .warning = {}});
  }
  report.Print(settings.json);
  return {};
}

}  // namespace larder
